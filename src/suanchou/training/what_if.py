"""What if: one change at a time to the machine, the stack or the job, planned again; which one would help most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from suanchou.errors import SuanchouError
from suanchou.estimate import Estimate
from suanchou.i18n import N_
from suanchou.machine import cluster
from suanchou.machine.cluster import Cluster
from suanchou.machine.server import part_of
from suanchou.model.architecture import MoE
from suanchou.training.explain import step_parts
from suanchou.training.plan import Plan, plan
from suanchou.training.price import tables_of
from suanchou.training.problem import Problem
from suanchou.training.reliability import Reliability
from suanchou.training.run import run_estimates
from suanchou.training.scenario import Scenario, plan_on, reliability_of
from suanchou.training.search import needed_memory
from suanchou.training.stack import Stack
from suanchou.training.strategy import Strategy
from suanchou.training.time import step_time
from suanchou.training.workload import Workload

__all__ = ["CHANGES", "LAYOUT", "LOST", "Change", "Effect", "Outcome", "WhatIf", "run_causes", "what_if"]

LAYOUT = "layout"
"""The cause that a change to another layout is."""
LOST = "lost"
"""The cause that failures, checkpoints and restarts stand for in the days of a run, besides those of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One value of the question multiplied by ``factor``, or set to ``value``.

    Parameters
    ----------
    on : what holds the field: the ``case`` itself, or its ``group``, ``node``, ``scale_up`` tier, ``accelerator`` or ``stack``.
    needs : without which the change means nothing: ``domains`` (several scale-up domains), ``experts``, ``fp8``.
    optional : something that one may also leave, so that it cannot make the run longer.
    """

    name: str
    label: str
    on: Literal["case", "group", "node", "scale_up", "accelerator", "stack"]
    field: str
    factor: float = 1.0
    value: Any = None
    needs: Literal["", "domains", "experts", "fp8"] = ""
    optional: bool = False


CHANGES = (
    Change(name="accelerators", label=N_("twice the accelerators"), on="group", field="n_node", factor=2),
    Change(name="matrix_peak", label=N_("matrix units x 1.5"), on="accelerator", field="peak_flop_per_s", factor=1.5),
    Change(name="memory", label=N_("memory x 1.5"), on="accelerator", field="memory_byte", factor=1.5),
    Change(
        name="memory_bandwidth",
        label=N_("memory bandwidth x 1.5"),
        on="accelerator",
        field="memory_bandwidth_byte_per_s",
        factor=1.5,
    ),
    Change(name="scale_up", label=N_("scale-up link x 2"), on="scale_up", field="bandwidth_byte_per_s", factor=2),
    Change(name="network", label=N_("network x 2"), on="node", field="nic_byte_per_s", factor=2, needs="domains"),
    Change(name="fp8", label=N_("linear layers in fp8"), on="case", field="fp8", value=1, needs="fp8", optional=True),
    Change(
        name="overlap_tensor_parallel",
        label=N_("TP communication behind compute"),
        on="stack",
        field="overlap_tensor_parallel",
        value=1,
        optional=True,
    ),
    Change(
        name="overlap_expert_parallel",
        label=N_("EP communication behind compute"),
        on="stack",
        field="overlap_expert_parallel",
        value=1,
        needs="experts",
        optional=True,
    ),
    Change(
        name="overlap_pipeline",
        label=N_("pipeline sends behind compute"),
        on="stack",
        field="overlap_pipeline",
        value=1,
        optional=True,
    ),
    Change(
        name="zero_bubble",
        label=N_("zero-bubble pipeline schedule"),
        on="stack",
        field="schedules",
        value=("1f1b", "zb-h1"),
        optional=True,
    ),
    Change(name="batch", label=N_("twice the batch"), on="case", field="global_batch", factor=2),
    Change(name="no_failures", label=N_("no failures, no checkpoints"), on="case", field="goodput", value=1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A question with nothing left open."""

    cluster: Cluster
    stack: Stack
    work: Workload
    global_batch: int
    fp8: bool
    goodput: float | None
    reliability: Reliability
    usd_per_accelerator_h: float | None
    fixed: Mapping[str, int]
    schedule: str | None
    offload: bool | None

    @property
    def problem(self) -> Problem:
        """The case as the cost model takes it."""
        return Problem(replace(self.work, global_batch=self.global_batch), self.cluster, self.stack)

    def plan(self) -> Plan:
        """The best plan."""
        return plan(
            self.work.arch,
            self.cluster,
            token=self.work.token,
            seq=self.work.seq,
            global_batch=self.global_batch,
            dtype=self.work.dtype,
            fp8=self.fp8,
            stack=self.stack,
            goodput=self.goodput,
            reliability=self.reliability,
            usd_per_accelerator_h=self.usd_per_accelerator_h,
            fixed=self.fixed,
            schedule=self.schedule,
            offload=self.offload,
            keep=0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A plan and what its run takes. ``causes_s`` are the seconds of the run by cause; they add up to ``time_s``."""

    strategy: Strategy
    step_s: float
    causes_s: Mapping[str, float]
    money_usd: float | None
    energy_j: float | None

    @property
    def time_s(self) -> float:
        """Wall time of the run."""
        return sum(self.causes_s.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one change does.

    Parameters
    ----------
    outcome : the best plan under the change; ``None`` where there is none, and ``refused`` says why.
    kept : the layout as it is, under the change; ``None`` where it does not divide or does not fit.
    """

    change: Change
    outcome: Outcome | None
    kept: Outcome | None = None
    refused: str = ""

    def saved_s(self, base: Outcome, *, kept: bool = False) -> float:
        """Wall time it saves, also with the layout ``kept``; negative where it costs some."""
        one = self.kept if kept else self.outcome
        return 0.0 if one is None else base.time_s - one.time_s

    def moved(self, base: Outcome) -> tuple[str, float]:
        """The cause that gains most from the change, and by which share of the base's wall time (negative: it shrinks).

        Where the change costs time, the cause that it costs most. Causes are those of the layout as it is; where most of the
        gain takes another one, the cause is :data:`LAYOUT`.
        """
        one, saved = self.outcome, self.saved_s(base)
        if one is None:
            return "", 0.0
        if self.kept is not None and replace(one.strategy, fp8=base.strategy.fp8) != base.strategy:
            if self.saved_s(base, kept=True) < saved / 2:
                return LAYOUT, -saved / base.time_s
            one = self.kept
        sign = 1.0 if saved >= 0 else -1.0
        name = max(base.causes_s, key=lambda name: sign * (base.causes_s[name] - one.causes_s[name]))
        return name, (one.causes_s[name] - base.causes_s[name]) / base.time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The answer of :func:`what_if`: the plan as it is, and the effect of every change, the most helpful first."""

    plan: Plan
    base: Outcome
    effects: tuple[Effect, ...]
    interrupted: bool = False


def run_causes(parts: Mapping[str, float], time: Estimate) -> dict[str, float]:
    """Seconds of a whole run by cause: those of a step times the steps, and what failures and checkpoints take."""
    steps = time["steps"].value
    return {name: seconds * steps for name, seconds in parts.items()} | {LOST: time.value * (1.0 - time["goodput"].value)}


def _outcome(case: _Case, strategy: Strategy) -> Outcome:
    """A layout on a case, priced."""
    problem = case.problem
    table = tables_of(problem, strategy)
    parts = step_parts(step_time(problem, strategy, table.time, table.activation))
    step_s = sum(parts.values())
    run = {
        part.name: part
        for part in run_estimates(
            problem,
            step_s,
            int(np.asarray(strategy.n_rank)),
            goodput=case.goodput,
            reliability=case.reliability,
            usd_per_accelerator_h=case.usd_per_accelerator_h,
        )
    }
    return Outcome(
        strategy=strategy,
        step_s=step_s,
        causes_s=run_causes(parts, run["time"]),
        money_usd=run["money"].value if "money" in run else None,
        energy_j=run["energy"].value if "energy" in run else None,
    )


def _same_layout(case: _Case, base: Plan) -> Outcome | None:
    """The base's own layout on the case; ``None`` where it does not divide or does not fit."""
    s, problem = base.strategy, case.problem
    if case.cluster.n_accelerator != base.n_rank or case.global_batch % base.problem.work.global_batch:
        return None
    table = tables_of(problem, s)
    if float(np.max(needed_memory(problem, s, table.activation))) > problem.memory_byte:
        return None
    return _outcome(case, s)


def _base_case(scenario: Scenario, base: Plan) -> _Case:
    """The plan's own question, on the accelerators that it uses."""
    problem = base.problem
    group = problem.cluster.groups[0]
    if base.n_rank < group.node.n_accelerator:
        group = replace(group, node=part_of(group.node, base.n_rank), n_node=1)
    return _Case(
        cluster=replace(problem.cluster, groups=(group,)),
        stack=problem.stack,
        work=problem.work,
        global_batch=problem.work.global_batch,
        fp8=scenario.dtype == "fp8",
        goodput=scenario.goodput,
        reliability=reliability_of(scenario),
        usd_per_accelerator_h=scenario.usd_per_hour,
        fixed=scenario.layout_pins,
        schedule=scenario.schedule,
        offload=base.offload if scenario.offload is None else scenario.offload,
    )


def _means_something(case: _Case, change: Change) -> bool:
    node = case.cluster.groups[0].node
    if change.needs == "domains":
        return case.cluster.n_accelerator > node.scale_up.size
    if change.needs == "experts":
        return any(isinstance(layer.ffn, MoE) for layer in case.work.arch.layers)
    if change.needs == "fp8":
        return "fp8" in node.accelerator.peak_flop_per_s
    return change.on != "scale_up" or node.scale_up.size > 1


def _changed(case: _Case, change: Change) -> _Case | None:
    """The case with one change; ``None`` where it changes nothing or what it changes is unknown."""
    group = case.cluster.groups[0]
    node = group.node
    holder: Any = {
        "case": case,
        "group": group,
        "node": node,
        "scale_up": node.scale_up,
        "accelerator": node.accelerator,
        "stack": case.stack,
    }[change.on]
    old = getattr(holder, change.field)
    new: Any = change.value
    if new is None:
        if old is None:
            return None
        new = (
            {key: rate * change.factor for key, rate in old.items()}
            if isinstance(old, Mapping)
            else type(old)(old * change.factor)
        )
    if new == old or not _means_something(case, change):
        return None
    holder = replace(holder, **{change.field: new})
    if change.on == "case":
        return holder  # type: ignore[no-any-return]
    if change.on == "stack":
        return replace(case, stack=holder)
    if change.on in ("accelerator", "scale_up"):
        node = replace(node, **{change.on: holder})
    elif change.on == "node":
        node = holder
    group = holder if change.on == "group" else replace(group, node=node)
    return replace(case, cluster=replace(case.cluster, groups=(group,)))


def _effect(case: _Case, change: Change, base: Plan, now: Outcome) -> Effect:
    """The change planned again, or the base's layout under it where that is quicker."""
    try:
        found = case.plan()
        best: Outcome | None = _outcome(case, found.strategy)
        refused = ""
    except SuanchouError as error:
        best, refused = None, error.what
    kept = _same_layout(case, base)
    candidates = [one for one in (kept, best, now if change.optional else None) if one is not None]
    if not candidates:
        return Effect(change=change, outcome=None, refused=refused)
    return Effect(change=change, outcome=min(candidates, key=lambda one: one.time_s), kept=kept)


def what_if(scenario: Scenario, *, progress: Callable[[int, int], None] | None = None) -> WhatIf:
    """Plan a scenario, then again with every change of :data:`CHANGES` that means something there, one at a time.

    Each change is planned on as many accelerators as the plan uses, for the shortest time; the plan's own layout stays in the
    running. Prices stay as they are.

    Raises
    ------
    SpecError, MissingData, Infeasible : as :func:`suanchou.training.plan.plan`.
    """
    base = plan_on(scenario, cluster(scenario.on, region=scenario.region))
    case = _base_case(scenario, base)
    now = _outcome(case, base.strategy)
    cases = [(change, changed) for change in CHANGES if (changed := _changed(case, change)) is not None]
    effects: list[Effect] = []
    interrupted = base.found.interrupted
    try:
        for i, (change, changed) in enumerate(cases if not interrupted else []):
            effects.append(_effect(changed, change, base, now))
            if progress:
                progress(i + 1, len(cases))
    except KeyboardInterrupt:
        interrupted = True
    effects.sort(key=lambda one: (one.outcome is None, -one.saved_s(now)))
    return WhatIf(plan=base, base=now, effects=tuple(effects), interrupted=interrupted)
