"""The answer of ``suanchou plan`` on a mixed fleet as tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from suanchou.i18n import N_, _, language
from suanchou.report.plan import CAUSES, VERDICTS, with_interval
from suanchou.report.report import Column, Report, Table
from suanchou.training.defaults import default
from suanchou.training.mixed import LeftOut, MixedPlan, MixedRival
from suanchou.training.mixed_fleet import Member, Mix, Part
from suanchou.training.search import TIE_FRAC
from suanchou.units import fmt

__all__ = ["mixed_report"]

_DEFINITIONS = ("TP", "PP", "DP", "EP", "CP", "SP", "ZeRO", "MFU", "goodput", "micro-batch", "GB", "GiB", "dense peak")
_CAUSES = CAUSES | {
    "cross_send": N_("sends between groups"),
    "cross_reduce": N_("gradient reduction between groups"),
}


def _text(value: float, unit: str) -> str:
    return fmt(value, unit, lang=language())


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _kind(mix: Mix) -> str:
    """The plan in words: how which groups work together."""
    if mix.variant == "pipeline":
        return _("pipeline {groups}").format(groups=" → ".join(mix.letters))
    if mix.variant == "data":
        return _("data-parallel {groups}").format(groups=" + ".join(mix.letters))
    return _("{group} alone").format(group=mix.letters[0])


def _runs(values: Sequence[int]) -> str:
    """Layers of consecutive stages: ``8 x 9``, ``3 x 11, 10``."""
    counted = [(value, len(list(same))) for value, same in itertools.groupby(values)]
    return ", ".join(f"{count} x {value}" if count > 1 else f"{value}" for value, count in counted)


def _fits(part: Part) -> str:
    capacity = part.problem.memory_byte
    if part.needed_byte > capacity:
        return "does not fit"
    return "tight" if part.memory_byte > default("tight_frac").value * capacity else "fits"


def _verdict(mix: Mix) -> str:
    """The worst of the groups' verdicts."""
    order = list(VERDICTS)
    return max((_fits(part) for part in mix.parts), key=order.index)


def _fleet_table(plan: MixedPlan) -> Table:
    parts = {part.member.letter: part for part in plan.best.parts}
    rows = []
    for member in plan.fleet.members:
        part = parts.get(member.letter)
        if part is None:
            rows.append((member.letter, member.name, _("left out"), "", "", "", ""))
            continue
        rows.append(
            (
                member.letter,
                member.name,
                part.strategy.label,
                _runs(part.layers),
                f"{part.sequences:,}",
                _share(min(part.busy_s / plan.step_s, 1.0)),
                f"{part.memory_byte / 2**30:.1f} / {part.problem.memory_byte / 2**30:.0f}",
            )
        )
    return Table(
        title=N_("What each group does"),
        columns=(
            Column(name=N_("group"), align="left"),
            Column(name=N_("accelerators"), align="left"),
            Column(name=N_("plan"), align="left"),
            Column(name=N_("layers per stage"), align="left"),
            Column(name=N_("sequences")),
            Column(name=N_("busy")),
            Column(name=N_("memory"), unit="GiB"),
        ),
        rows=tuple(rows),
        note=_("Every group works on all sequences, on its own layers. Memory is that of its fullest stage.")
        if plan.best.variant == "pipeline"
        else _("Every group holds the whole model and works on its own sequences. Memory is that of its fullest stage."),
    )


def _plan_table(plan: MixedPlan) -> Table:
    u, run = plan.estimate["utilisation"], {child.name: child for child in plan.estimate.children}

    def amount(name: str, unit: str) -> str:
        return _text(run[name].value, unit) if name in run else _("unknown")

    rows = [
        (_("kind"), _kind(plan.best)),
        (_("step time"), with_interval(plan.estimate["step"], "s")),
        (_("MFU"), _share(u["mfu"].value)),
        (_("tokens per second and accelerator"), f"{u['token_rate'].value:,.0f}"),
        (_("wall time"), _text(plan.estimate["time"].value, "s")),
        (_("accelerator-hours"), amount("card_hours", "card_h")),
        (_("energy"), amount("energy", "j")),
        (_("carbon"), f"{run['carbon'].value / 1000:,.4g} t CO2e" if "carbon" in run else _("unknown")),
        (_("money"), amount("money", "usd")),
    ]
    return Table(
        title=N_("Best plan"),
        columns=(Column(name=N_("what"), align="left"), Column(name=N_("value"), align="left")),
        rows=tuple(rows),
    )


def _step_table(plan: MixedPlan) -> Table:
    rows = [
        (_(_CAUSES[name]), _text(seconds, "s"), _share(seconds / plan.step_s))
        for name, seconds in plan.best.causes.items()
        if seconds > 0
    ]
    rows.append((_("all"), _text(plan.step_s, "s"), _share(1.0)))
    notes = {
        "pipeline": _("The slowest stage sets the pace."),
        "data": _("Of the group that waits least."),
        "alone": "",
    }
    return Table(
        title=N_("Step time"),
        columns=(Column(name=N_("part"), align="left"), Column(name=N_("value")), Column(name=N_("share"))),
        rows=tuple(rows),
        note=notes[plan.best.variant],
    )


def _causes(why: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{_(_CAUSES[name])} {100 * share:+.1f} %" for name, share in why)


def _loses(plan: MixedPlan, rival: MixedRival) -> str:
    if abs(rival.slower_frac) < TIE_FRAC and plan.objective == "time":
        return _("a tie within {share:.0%}").format(share=TIE_FRAC)
    return _causes(rival.why)


def _rival_table(plan: MixedPlan) -> Table:
    rows = [("1", _kind(plan.best), _leaves(plan, plan.best), _text(plan.step_s, "s"), "", _("best"))]
    for i, rival in enumerate(plan.rivals, start=2):
        slower = f"{100 * rival.slower_frac:+.1f} %"
        mix = rival.mix
        rows.append((str(i), _kind(mix), _leaves(plan, mix), _text(mix.step_s, "s"), slower, _loses(plan, rival)))
    return Table(
        title=N_("Plans compared"),
        columns=(
            Column(name="#"),
            Column(name=N_("plan"), align="left"),
            Column(name=N_("leaves out"), align="left"),
            Column(name=N_("step")),
            Column(name=N_("slower")),
            Column(name=N_("why it loses"), align="left"),
        ),
        rows=tuple(rows),
        note="; ".join(_refusal(kind, reason) for kind, reason in plan.refused.items()),
        main=True,
    )


def _refusal(kind: str, reason: str) -> str:
    names = {"data": _("no data-parallel plan"), "pipeline": _("no pipeline")}
    what = names.get(kind) or _("no plan for {group} alone").format(group=kind)
    return f"{what}: {_(reason)}" if reason else what


def _leaves(plan: MixedPlan, mix: Mix) -> str:
    return ", ".join(member.letter for member in plan.fleet.members if member.letter not in mix.letters)


def _group_text(member: Member) -> str:
    return f"{member.letter} ({member.name})"


def _left_out_text(plan: MixedPlan, left: LeftOut) -> str:
    who = _group_text(left.member)
    if left.rival is None:
        return _("Leave out {group}: no plan with it fits or comes near.").format(group=who)
    slower = left.rival.slower_frac
    if abs(slower) < TIE_FRAC:
        return _("Leave out {group}: with it a step takes {share:+.1%}, a tie within {tie:.0%}.").format(
            group=who, share=slower, tie=TIE_FRAC
        )
    if slower < 0:
        return _("Leave out {group}: it makes a step {share:.1%} shorter, but the objective is not time.").format(
            group=who, share=-slower
        )
    return _("Leave out {group}: with it a step takes {share:.1%} longer ({why}).").format(
        group=who, share=slower, why=_causes(left.rival.why) or _("no single cause")
    )


def _headline(plan: MixedPlan) -> str:
    best = plan.best
    text = _("{model} on {fleet}: {days}, {kind}, MFU {mfu}; {verdict}. Limited by {limit}.").format(
        model=plan.fleet.members[0].problem.work.arch.name,
        fleet=" + ".join(_group_text(member) for member in plan.fleet.members if member.letter in best.letters),
        days=_text(plan.estimate["time"].value, "s"),
        kind=_kind(best),
        mfu=_share(plan.estimate["utilisation"].value),
        verdict=_(VERDICTS[_verdict(best)]),
        limit=", ".join(f"{_(_CAUSES[name])} {100 * share:.0f} %" for name, share in plan.limit),
    )
    lines = [text, *(_left_out_text(plan, left) for left in plan.left_out)]
    alone = [rival for rival in plan.rivals if rival.mix.variant == "alone"]
    if len(best.parts) > 1 and alone:
        nearest = min(alone, key=lambda rival: rival.mix.step_s)
        if nearest.slower_frac > 0:
            text = _("{group} alone would take {share:.0%} longer.")
            lines.append(text.format(group=nearest.mix.letters[0], share=nearest.slower_frac))
    return " ".join(lines)


def mixed_report(plan: MixedPlan, *, inputs: Mapping[str, Any], scenario: Mapping[str, Any]) -> Report:
    """Tables and JSON of a mixed plan."""
    sources = dict.fromkeys(source for _path, node in plan.estimate.walk() for source in node.sources)
    return Report(
        kind="mixed-training-plan",
        inputs=inputs,
        result=_result(plan),
        estimate=plan.estimate,
        headline=_headline(plan),
        tables=(_fleet_table(plan), _plan_table(plan), _step_table(plan), _rival_table(plan)),
        assumptions=plan.assumptions,
        warnings=plan.warnings,
        sources=tuple(sources),
        definitions=_DEFINITIONS,
        scenario=scenario,
    )


def _why(why: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"cause": name, "of_step_frac": share} for name, share in why]


def _part(part: Part, mix: Mix) -> dict[str, Any]:
    return {
        "group": part.member.letter,
        "label": part.strategy.label,
        "strategy": part.strategy.to_dict(),
        "dtype": part.problem.work.dtype,
        "stack": part.problem.stack.name,
        "sequences": part.sequences,
        "micro_batches": part.micro_batches,
        "layers": list(part.layers),
        "stage_s": list(part.stage_s),
        "busy_frac": part.busy_s / mix.step_s,
        "memory_byte": part.memory_byte,
        "memory_needed_byte": part.needed_byte,
        "memory_high_byte": part.high_byte,
        "memory_capacity_byte": part.problem.memory_byte,
        "verdict": _fits(part),
    }


def _mix(mix: Mix) -> dict[str, Any]:
    return {
        "variant": mix.variant,
        "groups": list(mix.letters),
        "n_rank": mix.n_rank,
        "step_s": mix.step_s,
        "parts": [_part(part, mix) for part in mix.parts],
    }


def _rival(rival: MixedRival) -> dict[str, Any]:
    return _mix(rival.mix) | {"slower_frac": rival.slower_frac, "why": _why(rival.why)}


def _result(plan: MixedPlan) -> dict[str, Any]:
    link = plan.fleet.link
    return _mix(plan.best) | {
        "fleet": [
            {
                "group": member.letter,
                "accelerator": member.problem.accelerator.id,
                "node": member.problem.node.id,
                "n_node": member.problem.cluster.groups[0].n_node,
                "n_rank": member.n_rank,
                "used": member.letter in plan.best.letters,
            }
            for member in plan.fleet.members
        ],
        "link": {
            "byte_per_s": link.byte_per_s,
            "shared": link.shared,
            "latency_s": link.latency_s,
            "reached_frac": link.frac,
            "assumed": link.assumed,
        },
        "days": plan.days,
        "mfu": plan.estimate["utilisation"]["mfu"].value,
        "memory_frac": plan.best.memory_frac,
        "verdict": _verdict(plan.best),
        "limited_by": [{"cause": name, "share_frac": share} for name, share in plan.limit],
        "left_out": [
            {"group": left.member.letter}
            | (
                {"slower_frac": None, "why": []}
                if left.rival is None
                else {"slower_frac": left.rival.slower_frac, "why": _why(left.rival.why)}
            )
            for left in plan.left_out
        ],
        "rivals": [_rival(rival) for rival in plan.rivals],
        "refused": dict(plan.refused),
        "interrupted": plan.interrupted,
    }
