"""The answer of ``suanchou plan`` as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suanchou.estimate import Estimate
from suanchou.i18n import N_, _, language
from suanchou.report.report import Column, Report, Table
from suanchou.training.plan import Plan, Rival
from suanchou.training.schedule import SCHEDULES, schedule_named
from suanchou.training.search import TIE_FRAC, Candidate
from suanchou.training.strategy import Strategy
from suanchou.units import fmt, fmt_byte

__all__ = ["CAUSES", "VERDICTS", "cause_name", "component_name", "plan_report", "with_interval"]

_DEFINITIONS = (
    "TP",
    "PP",
    "DP",
    "EP",
    "CP",
    "SP",
    "ZeRO",
    "MFU",
    "HFU",
    "goodput",
    "MTBF",
    "micro-batch",
    "GB",
    "GiB",
    "dense peak",
)
CAUSES = {
    "forward": N_("forward kernels"),
    "backward": N_("backward kernels"),
    "recompute": N_("recomputation"),
    "tensor_parallel": N_("TP communication"),
    "context_parallel": N_("CP communication"),
    "expert_parallel": N_("EP communication"),
    "embedding_head": N_("embedding, head and loss"),
    "host_transfer": N_("offload transfers"),
    "weight_gather": N_("ZeRO-3 weight gathers"),
    "gradient_pass": N_("passes over gradients"),
    "host_launch": N_("waiting for the host"),
    "pipeline_bubble": N_("pipeline bubble"),
    "pipeline_send": N_("pipeline sends"),
    "gradient_reduce": N_("gradient reduction"),
    "parameter_gather": N_("parameter gather"),
    "optimizer": N_("optimizer step"),
    "straggler": N_("waiting for the slowest rank"),
    "host_step": N_("host work per step"),
    "lost": N_("failures and checkpoints"),
}
_COMPONENTS = {
    "weight": N_("weights"),
    "gradient": N_("gradients"),
    "optimizer": N_("optimizer states"),
    "activation": N_("activations"),
    "head": N_("logits and loss"),
    "working": N_("working memory"),
    "gathered": N_("gathered weights"),
    "communicator": N_("communication buffers"),
    "runtime": N_("runtime"),
    "allocator": N_("allocator"),
}
VERDICTS = {"fits": N_("fits"), "tight": N_("tight"), "does not fit": N_("does not fit")}


def cause_name(name: str) -> str:
    """A cause of step or wall time in words, for translation; a cause without words keeps its name."""
    return CAUSES.get(name, name.replace("_", " "))


def component_name(name: str) -> str:
    """A component of memory in words, for translation."""
    return _COMPONENTS.get(name, name.replace("_", " "))


def _text(value: float, unit: str) -> str:
    return fmt(value, unit, lang=language())


def with_interval(found: Estimate, unit: str) -> str:
    """A value with the interval that nine in ten lie in."""
    if found.low is None or found.high is None:
        return _text(found.value, unit)
    return f"{_text(found.value, unit)} ({_text(found.low, unit)} ... {_text(found.high, unit)})"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _run(plan: Plan, name: str, unit: str) -> str:
    found = next((child for child in plan.estimate.children if child.name == name), None)
    return _("unknown") if found is None else _text(found.value, unit)


def _layout(s: Strategy, dtype: str) -> tuple[tuple[str, str], ...]:
    """The strategy in words, one line per choice that is made."""
    sp = _("with sequence parallelism") if s.sp else ""
    zero = {0: _("off"), 1: "ZeRO-1", 2: "ZeRO-2", 3: "ZeRO-3 (FSDP)"}[int(s.zero)]
    if s.zero and s.shard_domain:
        zero += ", " + _("sharded within a scale-up domain")
    recompute = _("none")
    if s.full_frac:
        recompute = _("full, {share:.0%} of the layers").format(share=float(s.full_frac))
    elif s.selective:
        recompute = _("attention cores")
    offload = [
        name
        for name, on in (
            (_("weights"), s.offload_weight),
            (_("optimizer states"), s.offload_optimizer),
            (_("activations"), s.offload_activation),
        )
        if on
    ]
    degrees = f"TP {s.tp}  CP {s.cp}  PP {s.pp}  DP {s.dp}  EP {s.ep}"
    return (
        (_("parallel degrees"), f"{degrees}  {sp}".rstrip()),
        (_("context parallelism by"), (_("all-to-all (Ulysses)") if s.ulysses else _("ring")) if s.cp != 1 else _("none")),
        (_("pipeline schedule"), SCHEDULES[schedule_named(int(s.schedule))].label if s.pp != 1 else _("none")),
        (_("pipeline chunks per stage"), str(s.virtual)),
        (_("micro-batch"), str(s.micro_batch)),
        (_("data-parallel sharding"), zero),
        (_("recomputation"), recompute),
        (_("offload"), ", ".join(offload) or _("none")),
        (_("linear layers"), "fp8" if s.fp8 else dtype),
    )


def _plan_table(plan: Plan) -> Table:
    u = plan.estimate["utilisation"]
    rows = [
        *_layout(plan.strategy, plan.problem.work.dtype),
        (_("step time"), with_interval(plan.estimate["step"], "s")),
        (_("MFU / HFU"), f"{_share(u['mfu'].value)} / {_share(u['hfu'].value)}"),
        (_("tokens per second and accelerator"), f"{u['token_rate'].value:,.0f}"),
        (_("goodput"), _goodput(plan)),
        (_("wall time"), _text(plan.estimate["time"].value, "s")),
        (_("accelerator-hours"), _run(plan, "card_hours", "card_h")),
        (_("energy"), _run(plan, "energy", "j")),
        (_("carbon"), _carbon(plan)),
        (_("money"), _run(plan, "money", "usd")),
    ]
    return Table(
        title=N_("Best plan"),
        columns=(Column(name=N_("what"), align="left"), Column(name=N_("value"), align="left")),
        rows=tuple(rows),
    )


def _goodput(plan: Plan) -> str:
    """The share, and the checkpoints where they were planned."""
    found = plan.estimate["time"]["goodput"]
    if not found.children:
        return _share(found.value)
    return _("{share} ({low} to {high}); a checkpoint of {size} every {interval}").format(
        share=_share(found.value),
        low=_share(found.value if found.low is None else found.low),
        high=_share(found.value if found.high is None else found.high),
        size=fmt_byte(found["checkpoint"].value),
        interval=_text(found["checkpoint_interval"].value, "s"),
    )


def _carbon(plan: Plan) -> str:
    found = next((child for child in plan.estimate.children if child.name == "carbon"), None)
    return _("unknown") if found is None else f"{found.value / 1000:,.4g} t CO2e"


def _shares(title: str, node: Estimate, names: Mapping[str, str], unit: str, note: str = "") -> Table:
    rows = []
    for child in node.children:
        if child.value <= 0:
            continue
        value = fmt_byte(child.value, binary=True) if unit == "byte" else _text(child.value, unit)
        rows.append((_(names[child.name]), value, _share(child.value / node.value)))
    sum_text = fmt_byte(node.value, binary=True) if unit == "byte" else _text(node.value, unit)
    rows.append((_("all"), sum_text, _share(1.0)))
    columns = (Column(name=N_("part"), align="left"), Column(name=N_("value")), Column(name=N_("share")))
    return Table(title=title, columns=columns, rows=tuple(rows), note=note)


def _memory_note(plan: Plan) -> str:
    memory, capacity = plan.estimate["memory"], plan.problem.memory_byte
    stages = {"first": _("first"), "middle": _("middle"), "last": _("last")}
    return _("{verdict}: {used} of {capacity} ({low} to {high}), on the {stage} pipeline stage, the fullest").format(
        verdict=_(VERDICTS[plan.verdict]),
        used=fmt_byte(memory.value, binary=True),
        capacity=fmt_byte(capacity, binary=True),
        low=fmt_byte(memory.low or memory.value, binary=True),
        high=fmt_byte(memory.high or memory.value, binary=True),
        stage=stages[plan.fullest_stage],
    )


def _rival_table(plan: Plan) -> Table:
    rows = []
    for i, rival in enumerate((None, *plan.rivals)):
        candidate = plan.found.best[0] if rival is None else rival.candidate
        why = _("best") if rival is None else _loses(rival)
        slower = "" if rival is None else f"{100 * rival.slower_frac:+.1f} %"
        rows.append((str(i + 1), candidate.strategy.label, _text(candidate.step_s, "s"), slower, _gib(candidate), why))
    return Table(
        title=N_("Plans compared"),
        columns=(
            Column(name="#"),
            Column(name=N_("plan"), align="left"),
            Column(name=N_("step")),
            Column(name=N_("slower")),
            Column(name=N_("memory"), unit="GiB"),
            Column(name=N_("why it loses"), align="left"),
        ),
        rows=tuple(rows),
        main=True,
    )


def _gib(candidate: Candidate) -> str:
    return f"{candidate.memory_byte / 2**30:.1f}"


def _loses(rival: Rival) -> str:
    if rival.slower_frac < TIE_FRAC:
        return _("a tie within {share:.0%}; the best one is simpler").format(share=TIE_FRAC)
    return ", ".join(f"{_(CAUSES[name])} {100 * share:+.1f} %" for name, share in rival.why)


def _census_table(plan: Plan) -> Table:
    found = plan.found
    rows = [(_("strategies in the space"), f"{found.n_candidate:,}"), (_("priced one by one"), f"{found.n_priced:,}")]
    rows += [(_(reason), f"{count:,}") for reason, count in found.refused.most_common()]
    rows.append((_("feasible among those priced"), f"{found.n_feasible:,}"))
    return Table(
        title=N_("What the search saw"),
        columns=(Column(name=N_("strategies"), align="left"), Column(name=N_("count"))),
        rows=tuple(rows),
    )


def _limit(plan: Plan) -> str:
    return ", ".join(f"{_(CAUSES[name])} {100 * share:.0f} %" for name, share in plan.limit)


def plan_report(plan: Plan, *, inputs: Mapping[str, Any], scenario: Mapping[str, Any]) -> Report:
    """Tables and JSON of a plan."""
    problem = plan.problem
    headline = _("{model} on {n} x {chip}: {days} with {strategy}, MFU {mfu}; {verdict}. Limited by {limit}.").format(
        model=problem.work.arch.name,
        n=f"{plan.n_rank:,}",
        chip=problem.accelerator.name,
        days=_text(plan.estimate["time"].value, "s"),
        strategy=plan.strategy.label,
        mfu=_share(plan.estimate["utilisation"].value),
        verdict=_(VERDICTS[plan.verdict]),
        limit=_limit(plan),
    )
    step, memory = plan.estimate["step"], plan.estimate["memory"]
    sources = dict.fromkeys(source for _path, node in plan.estimate.walk() for source in node.sources)
    return Report(
        kind="training-plan",
        inputs=inputs,
        result=_result(plan),
        estimate=plan.estimate,
        headline=headline,
        tables=(
            _plan_table(plan),
            _shares(N_("Memory per accelerator"), memory, _COMPONENTS, "byte", _memory_note(plan)),
            _shares(N_("Step time"), step, CAUSES, "s"),
            _rival_table(plan),
            _census_table(plan),
        ),
        assumptions=plan.assumptions,
        warnings=plan.warnings,
        sources=tuple(sources),
        definitions=_DEFINITIONS,
        scenario=scenario,
    )


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "label": candidate.strategy.label,
        "strategy": candidate.strategy.to_dict(),
        "step_s": candidate.step_s,
        "memory_byte": candidate.memory_byte,
    }


def _result(plan: Plan) -> dict[str, Any]:
    found = plan.found
    return {
        "label": plan.strategy.label,
        "strategy": plan.strategy.to_dict(),
        "stack": plan.problem.stack.name,
        "n_rank": plan.n_rank,
        "seq": plan.problem.work.seq,
        "global_batch": plan.problem.work.global_batch,
        "token": plan.problem.work.token,
        "step_s": plan.step_s,
        "days": plan.days,
        "mfu": plan.estimate["utilisation"]["mfu"].value,
        "hfu": plan.estimate["utilisation"]["hfu"].value,
        "memory_byte": plan.estimate["memory"].value,
        "memory_capacity_byte": plan.problem.memory_byte,
        "verdict": plan.verdict,
        "limited_by": [{"cause": name, "share_frac": share} for name, share in plan.limit],
        "rivals": [
            _candidate(rival.candidate)
            | {"slower_frac": rival.slower_frac, "why": [{"cause": name, "of_step_frac": share} for name, share in rival.why]}
            for rival in plan.rivals
        ],
        "frontier": [_candidate(candidate) for candidate in found.frontier],
        "search": {
            "n_candidate": found.n_candidate,
            "n_priced": found.n_priced,
            "n_feasible": found.n_feasible,
            "refused": dict(found.refused),
            "interrupted": found.interrupted,
        },
    }
