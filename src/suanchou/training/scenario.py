"""Scenario: what ``suanchou plan`` is asked, as written on the command line or in a YAML file, and the answer to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from suanchou.errors import SpecError
from suanchou.machine import cluster
from suanchou.model.source import find_model
from suanchou.training.plan import Plan, plan
from suanchou.training.problem import Problem
from suanchou.training.question import problem_on
from suanchou.training.schedule import SCHEDULES
from suanchou.training.strategy import LAYOUT_FIELDS
from suanchou.training.workload import Objective
from suanchou.units import parse

__all__ = ["Scenario", "plan_for", "problem_for", "resolved", "scenario_from_file"]

_PINS = {name: name for name in LAYOUT_FIELDS if name != "schedule"} | {"virtual_stages": "virtual"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A planning question. Amounts are text with units (``15T``, ``2万亿``, ``90 days``); what is left out takes its default.

    Parameters
    ----------
    model : catalogue name, ``config.json`` or model folder.
    on : machines, as ``--on`` takes them.
    tokens : training tokens.
    seq, batch : tokens per sequence; sequences per step.
    dtype : ``bf16``, ``fp16`` or ``fp8`` (also tries fp8 linear layers); the accelerator's usual one by default.
    stack : software stack by name.
    objective : ``time``, ``money``, ``energy`` or ``accelerators``.
    deadline : longest wall time.
    goodput : share of wall time that advances the model.
    usd_per_hour : rent of one accelerator.
    pin : layout degrees to keep, for example ``{tp: 8}``.
    schedule : pipeline schedule to keep, by name; any that the stack has by default.
    offload : whether plans may keep states in host memory; by default only where nothing fits otherwise.
    rivals : how many losing plans to show.
    exhaustive : price every strategy, not only those that can win.
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
    usd_per_hour: float | None = None
    region: str | None = None
    pin: Mapping[str, int] = field(default_factory=dict)
    schedule: str | None = None
    offload: bool | None = None
    rivals: int = 5
    exhaustive: bool = False

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise SpecError(
                f"unknown objective {self.objective!r}", where="--objective", hint=f"one of {', '.join(get_args(Objective))}"
            )
        if self.dtype not in (None, "bf16", "fp16", "fp8"):
            raise SpecError(f"training in {self.dtype!r} is not known", where="--dtype", hint="bf16, fp16 or fp8")
        if self.goodput is not None and not 0 < self.goodput <= 1:
            raise SpecError(f"{self.goodput:g} is not a share", where="--goodput", hint="above 0, at most 1")
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


def scenario_from_file(path: Path, overrides: tuple[str, ...] = ()) -> Scenario:
    """Read a scenario file; ``overrides`` are texts ``a.b=c``.

    Raises
    ------
    SpecError : anything wrong with the file, with the path of each field.
    """
    from suanchou import spec

    return spec.load(path, Scenario, overrides=overrides)


def plan_for(scenario: Scenario, *, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Answer a scenario.

    Raises
    ------
    SpecError, MissingData, Infeasible : as :func:`suanchou.training.plan.plan`.
    """
    fp8 = scenario.dtype == "fp8"
    return plan(
        find_model(scenario.model).architecture,
        cluster(scenario.on, region=scenario.region),
        token=parse(scenario.tokens, "1", where="--tokens"),
        seq=scenario.seq,
        global_batch=scenario.batch,
        dtype=None if fp8 else scenario.dtype,
        fp8=fp8,
        stack=scenario.stack,
        objective=scenario.objective,  # type: ignore[arg-type]  # checked by Scenario
        deadline_s=None if scenario.deadline is None else parse(scenario.deadline, "s", where="--deadline"),
        goodput=scenario.goodput,
        usd_per_accelerator_h=scenario.usd_per_hour,
        fixed={_PINS[name]: degree for name, degree in scenario.pin.items()},
        schedule=scenario.schedule,
        offload=scenario.offload,
        keep=scenario.rivals,
        exhaustive=scenario.exhaustive,
        progress=progress,
    )


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


def resolved(scenario: Scenario, answer: Plan) -> dict[str, Any]:
    """The scenario with every default filled in: it gives the same answer whatever the defaults become."""
    work = answer.problem.work
    goodput = next(part["goodput"].value for part in answer.estimate.children if part.name == "time")
    full = replace(
        scenario,
        seq=work.seq,
        batch=work.global_batch,
        dtype=scenario.dtype or work.dtype,
        stack=answer.problem.stack.name,
        goodput=goodput,
        region=answer.problem.cluster.site.region,
        offload=answer.offload if scenario.offload is None else scenario.offload,
    )
    return asdict(full) | {"on": list(full.on), "pin": dict(full.pin)}
