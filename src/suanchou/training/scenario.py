"""Scenario: what ``suanchou plan`` is asked, as written on the command line or in a YAML file, and the answer to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from suanchou.errors import SpecError
from suanchou.estimate import Estimate
from suanchou.machine import cluster
from suanchou.machine.cluster import Cluster
from suanchou.model.source import find_model
from suanchou.training.mixed import MixedPlan, plan_mixed
from suanchou.training.plan import Plan, plan
from suanchou.training.problem import Problem
from suanchou.training.question import problem_on
from suanchou.training.reliability import Reliability
from suanchou.training.schedule import SCHEDULES
from suanchou.training.strategy import LAYOUT_FIELDS
from suanchou.training.workload import Objective
from suanchou.units import parse

__all__ = ["Scenario", "plan_for", "plan_on", "problem_for", "reliability_of", "resolved", "scenario_from_file"]

_PINS = {name: name for name in LAYOUT_FIELDS if name != "schedule"} | {"virtual_stages": "virtual"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A planning question. Amounts are text with units (``15T``, ``2万亿``, ``90 days``); what is left out takes its default.

    Parameters
    ----------
    model : catalogue name, ``config.json`` or model folder.
    on : machines, as ``--on`` takes them; several groups make a mixed fleet.
    tokens : training tokens.
    seq, batch : tokens per sequence; sequences per step.
    dtype : ``bf16``, ``fp16`` or ``fp8`` (also tries fp8 linear layers); the accelerator's usual one by default.
    stack : software stack by name.
    objective : ``time``, ``money``, ``energy`` or ``accelerators``.
    deadline : longest wall time.
    goodput : share of wall time that advances the model; it wins over the next five, from which it is computed otherwise.
    node_mtbf : mean time between failures of a node.
    checkpoint_interval : work between two checkpoints.
    checkpoint_bandwidth : rate at which the whole job writes a checkpoint.
    restart : time from a failure until the job reads its checkpoint.
    checkpoint : ``async`` (written behind the steps) or ``sync``.
    usd_per_hour : rent of one accelerator.
    pin : layout degrees to keep, for example ``{tp: 8}``.
    schedule : pipeline schedule to keep, by name; any that the stack has by default.
    offload : whether plans may keep states in host memory; by default only where nothing fits otherwise.
    rivals : how many losing plans to show.
    exhaustive : price every strategy, not only those that can win.
    link : what joins the groups of a mixed fleet, as ``--link`` takes it.
    """

    model: str
    on: tuple[str, ...]
    tokens: str
    kind: Literal["training-plan"] = "training-plan"
    version: Literal[1] = 1
    seq: int | None = None
    batch: int | None = None
    dtype: str | None = None
    stack: str | None = None
    objective: str = "time"
    deadline: str | None = None
    goodput: float | None = None
    node_mtbf: str | None = None
    checkpoint_interval: str | None = None
    checkpoint_bandwidth: str | None = None
    restart: str | None = None
    checkpoint: str | None = None
    usd_per_hour: float | None = None
    region: str | None = None
    pin: Mapping[str, int] = field(default_factory=dict)
    schedule: str | None = None
    offload: bool | None = None
    rivals: int = 5
    exhaustive: bool = False
    link: str | None = None

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise SpecError(
                f"unknown objective {self.objective!r}", where="--objective", hint=f"one of {', '.join(get_args(Objective))}"
            )
        if self.dtype not in (None, "bf16", "fp16", "fp8"):
            raise SpecError(f"training in {self.dtype!r} is not known", where="--dtype", hint="bf16, fp16 or fp8")
        if self.goodput is not None and not 0 < self.goodput <= 1:
            raise SpecError(f"{self.goodput:g} is not a share", where="--goodput", hint="above 0, at most 1")
        if self.checkpoint not in (None, "async", "sync"):
            raise SpecError(f"no checkpoints are {self.checkpoint!r}", where="--checkpoint", hint="async or sync")
        if self.usd_per_hour is not None and not self.usd_per_hour > 0:
            raise SpecError(f"{self.usd_per_hour:g} is not a rent", where="--usd-per-hour", hint="a positive amount per hour")
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise SpecError(
                f"unknown pipeline schedule {self.schedule!r}", where="--schedule", hint=f"one of {', '.join(SCHEDULES)}"
            )
        for name, value in (("--seq", self.seq), ("--batch", self.batch), ("--rivals", self.rivals + 1)):
            if value is not None and not 1 <= value <= 10**9:
                raise SpecError(f"{value} is not a possible size", where=name, hint="from 1 to 1000000000")
        for name, degree in self.pin.items():
            if name not in _PINS:
                raise SpecError(f"cannot pin {name!r}", where="--pin", hint=f"one of {', '.join(_PINS)}")
            if degree < 0:
                raise SpecError(f"{degree} is not a degree", where=f"--pin {name}", hint="0 or more")

    @property
    def layout_pins(self) -> dict[str, int]:
        """The pins by the names of layout fields."""
        return {_PINS[name]: degree for name, degree in self.pin.items()}


def scenario_from_file(path: Path, overrides: tuple[str, ...] = ()) -> Scenario:
    """Read a scenario file; ``overrides`` are texts ``a.b=c``.

    Raises
    ------
    SpecError : anything wrong with the file, with the path of each field.
    """
    from suanchou import spec

    return spec.load(path, Scenario, overrides=overrides)


def reliability_of(scenario: Scenario) -> Reliability:
    """What a scenario says of failures and checkpoints.

    Raises
    ------
    SpecError : an amount that is none.
    """

    def amount(text: str | None, unit: str, where: str) -> float | None:
        return None if text is None else parse(text, unit, where=where)

    return Reliability(
        node_mtbf_s=amount(scenario.node_mtbf, "s", "--node-mtbf"),
        checkpoint_interval_s=amount(scenario.checkpoint_interval, "s", "--checkpoint-interval"),
        checkpoint_byte_per_s=amount(scenario.checkpoint_bandwidth, "byte/s", "--checkpoint-bandwidth"),
        restart_s=amount(scenario.restart, "s", "--restart"),
        asynchronous=scenario.checkpoint != "sync",
    )


def plan_for(scenario: Scenario, *, progress: Callable[[int, int], None] | None = None) -> Plan | MixedPlan:
    """Answer a scenario: a Plan on machines of one kind, a MixedPlan on several groups.

    Raises
    ------
    SpecError, MissingData, Infeasible : as :func:`suanchou.training.plan.plan` and
        :func:`suanchou.training.mixed.plan_mixed`.
    """
    machines = cluster(scenario.on, region=scenario.region)
    if len(machines.groups) == 1:
        return plan_on(scenario, machines, progress=progress)
    if scenario.schedule not in (None, "1f1b"):
        raise SpecError("a mixed fleet runs 1F1B", where="--schedule", hint="leave it out")
    if scenario.exhaustive:
        raise SpecError("a mixed fleet is not searched exhaustively", where="--exhaustive", hint="leave it out")
    return plan_mixed(cluster=machines, link=scenario.link, **_asked(scenario, progress))


def plan_on(scenario: Scenario, machines: Cluster, *, progress: Callable[[int, int], None] | None = None) -> Plan:
    """The best plan of a scenario on machines of one kind, which stand in for its own.

    Raises
    ------
    SpecError : several kinds of machine, or a link between groups where there is one.
    SpecError, MissingData, Infeasible : as :func:`suanchou.training.plan.plan`.
    """
    if len(machines.groups) != 1:
        names = ", ".join(group.node.id for group in machines.groups)
        raise SpecError(
            f"this takes one kind of machine, not {names}",
            where="--on",
            hint="give one --on; a plan without --sweep or --what-if takes several",
        )
    if scenario.link is not None:
        raise SpecError("one group has no link to another", where="--link", hint="give --on more than once, or leave it out")
    return plan(cluster=machines, exhaustive=scenario.exhaustive, schedule=scenario.schedule, **_asked(scenario, progress))


def _asked(scenario: Scenario, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
    """What both planners are asked, apart from the machines."""
    fp8 = scenario.dtype == "fp8"
    return {
        "arch": find_model(scenario.model).architecture,
        "token": parse(scenario.tokens, "1", where="--tokens"),
        "seq": scenario.seq,
        "global_batch": scenario.batch,
        "dtype": None if fp8 else scenario.dtype,
        "fp8": fp8,
        "stack": scenario.stack,
        "objective": scenario.objective,
        "deadline_s": None if scenario.deadline is None else parse(scenario.deadline, "s", where="--deadline"),
        "goodput": scenario.goodput,
        "reliability": reliability_of(scenario),
        "usd_per_accelerator_h": scenario.usd_per_hour,
        "fixed": scenario.layout_pins,
        "offload": scenario.offload,
        "keep": scenario.rivals,
        "progress": progress,
    }


def problem_for(scenario: Scenario, n_rank: int) -> Problem:
    """The problem that the strategies of ``n_rank`` ranks in the answer to a scenario were priced for.

    Raises
    ------
    SpecError, MissingData : as :func:`suanchou.training.plan.plan`.
    """
    return problem_on(
        find_model(scenario.model).architecture,
        cluster(scenario.on, region=scenario.region),
        n_rank,
        token=parse(scenario.tokens, "1", where="--tokens"),
        seq=scenario.seq,
        global_batch=scenario.batch,
        dtype=None if scenario.dtype == "fp8" else scenario.dtype,
        stack=scenario.stack,
    )


def resolved(scenario: Scenario, answer: Plan | MixedPlan) -> dict[str, Any]:
    """The scenario with every default filled in: it gives the same answer whatever the defaults become.

    Groups of a mixed fleet may differ in data type and stack, so these stay open where the scenario leaves them open.
    """
    goodput = answer.estimate["time"]["goodput"]
    if isinstance(answer, MixedPlan):
        work, site = answer.fleet.members[0].problem.work, answer.fleet.cluster.site
        changes: dict[str, Any] = {"link": answer.fleet.link.text}
    else:
        work, site = answer.problem.work, answer.problem.cluster.site
        changes = {
            "dtype": scenario.dtype or work.dtype,
            "stack": answer.problem.stack.name,
            "offload": answer.offload if scenario.offload is None else scenario.offload,
        }
    full = replace(scenario, seq=work.seq, batch=work.global_batch, region=site.region, **changes)
    return asdict(full) | {"on": list(full.on), "pin": dict(full.pin)} | _reliability(goodput, scenario)


def _reliability(goodput: Estimate, scenario: Scenario) -> dict[str, Any]:
    """The drivers of a goodput, or the goodput where it was given."""
    if not goodput.children:
        return {"goodput": goodput.value}
    return {
        "node_mtbf": f"{goodput['mtbf']['node_mtbf'].value!r} s",
        "checkpoint_interval": f"{goodput['checkpoint_interval'].value!r} s",
        "checkpoint_bandwidth": f"{goodput['checkpoint_write']['checkpoint_bandwidth'].value!r} B/s",
        "restart": f"{goodput['recovery']['restart'].value!r} s",
        "checkpoint": scenario.checkpoint or "async",
    }
