"""Mixed explanation: a plan over several groups as a tree of Estimates, and what the whole run takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from suanchou.cost.spread import widest
from suanchou.estimate import Estimate, Grade, total, worst_grade
from suanchou.model.flop import flop_per_token
from suanchou.model.operators import Num
from suanchou.training.explain import MEMORY_NAMES, explain_step
from suanchou.training.mixed_fleet import Fleet, Mix, Part
from suanchou.training.mixed_price import place_of
from suanchou.training.mixed_stages import band, place_memory
from suanchou.training.price import price, tables_of
from suanchou.training.reliability import Reliability
from suanchou.training.run import run_estimates

__all__ = ["group_name", "mixed_estimate", "run_of"]

_CAUSES = {
    "pipeline_bubble": "sum of stage times - slowest stage, one micro-batch each",
    "pipeline_send": "sends between stages of one group that compute does not hide",
    "cross_send": "sends between groups that compute does not hide, at the rate of the link",
    "gradient_reduce": "gradients over DP inside the group that takes longest after the last micro-batch",
    "parameter_gather": "updated weights inside that group",
    "optimizer": "optimizer step of that group",
    "straggler": "spread * sqrt(2 ln ranks of all groups) of the stages' time and the bubble: all wait for the slowest",
    "host_step": "work of that group's host once per step, from its stack",
}


def group_name(part: Part) -> str:
    """The path component of a group."""
    return f"group_{part.member.letter.lower()}"


def run_of(
    mix: Mix, goodput: float | None, reliability: Reliability | None, usd_per_accelerator_h: float | None
) -> tuple[Estimate, ...]:
    """Wall time of the whole run; card-hours, energy, carbon and money as sums over the groups used.

    What one group lacks the data for is left out.
    """
    runs: list[tuple[Part, dict[str, Estimate]]] = []
    for part in mix.parts:
        whole = part.member.alone if mix.variant == "alone" else part.member.problem
        peers = [(other.member.problem, other.member.n_rank) for other in mix.parts if other is not part]
        found = run_estimates(
            whole,
            mix.step_s,
            part.member.n_rank,
            goodput=runs[0][1]["time"]["goodput"] if runs else goodput,  # one job has one goodput
            reliability=reliability,
            usd_per_accelerator_h=usd_per_accelerator_h,
            peers=peers,
        )
        runs.append((part, {estimate.name: estimate for estimate in found}))
    first = runs[0][1]
    if len(runs) == 1:
        return tuple(first.values())
    out = [first["time"]]
    for name, estimate in first.items():
        if name != "time" and all(name in run for _part, run in runs):
            children = tuple(replace(run[name], name=group_name(part)) for part, run in runs)
            lows, highs = [child.low for child in children], [child.high for child in children]
            out.append(total(name, estimate.unit, children, low=_sum(lows), high=_sum(highs)))
    return tuple(out)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def mixed_estimate(
    fleet: Fleet,
    mix: Mix,
    *,
    goodput: float | None,
    reliability: Reliability | None = None,
    usd_per_accelerator_h: float | None,
) -> Estimate:
    """The tree ``training`` of a plan: step, memory, utilisation, groups and the run."""
    run = run_of(mix, goodput, reliability, usd_per_accelerator_h)
    if mix.variant == "pipeline":
        step, memory = _pipeline_step(fleet, mix), _memory(mix, [_stage_memory(mix, i) for i in range(len(mix.parts))])
    else:
        priced = [price(part.problem, part.strategy) for part in mix.parts]
        memory = _memory(
            mix, [replace(each.memory, name=group_name(part)) for each, part in zip(priced, mix.parts, strict=True)]
        )
        step = priced[0].step if mix.variant == "alone" else _data_step(fleet, mix)
    low, high = widest(part.problem.family for part in mix.parts)
    step = replace(step, low=step.value * low, high=step.value * high)
    return Estimate(
        name="training",
        value=run[0].value,
        unit="s",
        formula="wall time of the whole run",
        children=(step, memory, _utilisation(mix), _groups(mix), *run),
    )


def _grade(part: Part) -> Grade:
    return "assumed" if part.problem.eff.assumed else "derived"


def _data_step(fleet: Fleet, mix: Mix) -> Estimate:
    groups = []
    for part in mix.parts:
        table = tables_of(part.problem, part.strategy)
        tree = explain_step(part.problem, part.strategy, table.time, table.activation)
        groups.append(replace(tree, name=group_name(part)))
    link, seconds = fleet.link, mix.causes["cross_reduce"]
    n = len(mix.parts)
    cross = Estimate(
        name="cross_reduce",
        value=seconds,
        unit="s",
        formula=(
            f"2 * ({n} - 1) / {n} * {fleet.reduced_byte:.6g} byte of gradients over the slowest group's "
            f"{min(link.rate(part.member.index, part.member.n_rank) for part in mix.parts):.6g} byte/s"
        ),
        sources=link.sources,
        assumptions=(link.note,),
        grade="assumed",
    )
    return Estimate(
        name="step",
        value=mix.step_s,
        unit="s",
        formula=f"max({', '.join(group.name for group in groups)}) + cross_reduce",
        grade=worst_grade(*(group.grade for group in groups), cross.grade),
        children=(*groups, cross),
    )


def _pipeline_step(fleet: Fleet, mix: Mix) -> Estimate:
    slowest = max(mix.parts, key=lambda part: max(part.stage_s))
    stage = 1 + slowest.stage_s.index(max(slowest.stage_s))
    m = slowest.micro_batches
    children = tuple(
        Estimate(
            name=name,
            value=seconds,
            unit="s",
            formula=_CAUSES.get(name, "")
            or f"{m} micro-batches * {seconds / m:.6g} s on stage {stage} of {group_name(slowest)}, the slowest",
            sources=fleet.link.sources if name == "cross_send" else (),
            assumptions=(fleet.link.note,) if name == "cross_send" else (),
            grade="assumed" if name == "cross_send" else _grade(slowest),
        )
        for name, seconds in mix.causes.items()
    )
    return total("step", "s", children)


def _groups(mix: Mix) -> Estimate:
    """Per group the seconds of a step in which it does not wait for others, and its stages."""
    children = []
    for part in mix.parts:
        stages = tuple(
            Estimate(
                name=f"stage_{i + 1}",
                value=seconds,
                unit="s",
                formula=f"{layers} layers, one micro-batch forward and backward",
                grade=_grade(part),
            )
            for i, (layers, seconds) in enumerate(zip(part.layers, part.stage_s, strict=True))
        )
        children.append(
            Estimate(
                name=group_name(part),
                value=part.busy_s,
                unit="s",
                formula=f"{part.member.name}, {part.strategy.label}: {part.busy_s / mix.step_s:.1%} of the step",
                grade=_grade(part),
                children=stages,
            )
        )
    return Estimate(
        name="groups",
        value=max(child.value for child in children),
        unit="s",
        formula="the group that waits least",
        grade=worst_grade(*(child.grade for child in children)),
        children=tuple(children),
    )


def _memory(mix: Mix, groups: Sequence[Estimate]) -> Estimate:
    """Memory of every group; the value is that of the group that fills its accelerators most."""
    shares = [part.memory_byte / part.problem.memory_byte for part in mix.parts]
    at = int(np.argmax(shares))
    return Estimate(
        name="memory",
        value=groups[at].value,
        unit="byte",
        formula=f"{groups[at].name}, {shares[at]:.1%} of its memory",
        grade=groups[at].grade,
        low=groups[at].low,
        high=groups[at].high,
        children=tuple(groups),
    )


def _stage_memory(mix: Mix, index: int) -> Estimate:
    """Memory of the fullest stage of one group of a pipeline."""
    part = mix.parts[index]
    start, n = sum(len(other.layers) for other in mix.parts[:index]), sum(len(other.layers) for other in mix.parts)
    acts = tables_of(part.problem, part.strategy).activation
    found = []
    for i, layers in enumerate(part.layers, start=start):
        memory = place_memory(part.problem, part.strategy, acts, place_of(i, n), depth=float(n - i), layers=float(layers))
        found.append((band(part.problem, memory), i, layers, memory))
    taken, i, layers, memory = max(found, key=lambda item: item[0].needed)
    where = f"stage {i + 1} of {n}: {layers} layers, up to {min(n - i, part.micro_batches)} micro-batches in flight"
    children = tuple(
        Estimate(name=name, value=_number(value), unit="byte", formula=where)
        for name, value in zip(MEMORY_NAMES, memory, strict=True)
    )
    return total(group_name(part), "byte", children, formula=f"sum over {where}", low=taken.needed, high=taken.high)


def _utilisation(mix: Mix) -> Estimate:
    work = (mix.parts[0].member.alone if mix.variant == "alone" else mix.parts[0].member.problem).work
    model = flop_per_token(work.arch, work.seq, mtp=bool(work.arch.mtp))
    peak = 0.0
    for part in mix.parts:
        dtype = part.problem.work.low_dtype if part.strategy.fp8 else part.problem.work.dtype
        peak += part.problem.accelerator.peak(dtype) * part.member.n_rank
    rate = work.batch_token / mix.step_s
    mfu = Estimate(
        name="mfu",
        value=model.value * rate / peak,
        unit="frac",
        formula=f"{model.value:.6g} model (causal) FLOP per token * {rate:.6g} tokens/s / {peak:.6g} FLOP/s of all groups used",
        sources=tuple(dict.fromkeys(source for part in mix.parts for source in part.problem.accelerator.sources)),
    )
    return Estimate(
        name="utilisation",
        value=mfu.value,
        unit="frac",
        formula="model FLOP utilisation, causal attention counted once",
        children=(
            mfu,
            Estimate(
                name="token_rate",
                value=rate / mix.n_rank,
                unit="token/s",
                formula=f"{work.batch_token} tokens / {mix.step_s:.6g} s / {mix.n_rank} ranks",
            ),
            replace(model, name="model_flop_per_token"),
        ),
    )


def _number(value: Num) -> float:
    return float(np.asarray(value).reshape(-1)[0])
