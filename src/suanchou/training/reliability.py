"""Reliability: failures, checkpoints and restarts of a plan's job, and the goodput that follows, as a tree of Estimates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from suanchou.errors import Infeasible, SpecError
from suanchou.estimate import Estimate, Grade, total, worst_grade
from suanchou.model.parameters import parameter_count
from suanchou.training.defaults import Default, default
from suanchou.training.goodput import best_interval_s, daly_interval_s, goodput_frac, wall_shares, young_interval_s
from suanchou.training.problem import Problem

__all__ = ["Groups", "Reliability", "checkpoint_byte", "goodput_estimate"]

HOUR_S = 3600.0
DAY_S = 86_400.0
LEAST_FRAC = 0.01
"""A job that advances less than this share of the time is refused: it hardly ever ends."""

Groups = Sequence[tuple[Problem, int]]
"""Machines of one job, with the ranks it has on each."""

_EXACT = "exact for independent failures at a constant rate; after Daly 2006, with the lag of asynchronous writes added"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """What the user knows of failures and checkpoints; ``None`` takes the default of ``reliability.yaml``.

    Parameters
    ----------
    node_mtbf_s : mean time between failures of one node.
    checkpoint_interval_s : work between two checkpoints; by default the best one.
    checkpoint_byte_per_s : rate at which the whole job writes and reads a checkpoint.
    restart_s : from a failure until the job reads its checkpoint: detection, rescheduling, start.
    asynchronous : whether checkpoints are written behind the steps.
    """

    node_mtbf_s: float | None = None
    checkpoint_interval_s: float | None = None
    checkpoint_byte_per_s: float | None = None
    restart_s: float | None = None
    asynchronous: bool = True

    def __post_init__(self) -> None:
        for where, value in (
            ("--node-mtbf", self.node_mtbf_s),
            ("--checkpoint-interval", self.checkpoint_interval_s),
            ("--checkpoint-bandwidth", self.checkpoint_byte_per_s),
        ):
            if value is not None and not value > 0:
                raise SpecError("zero is not possible here", where=where, hint="give more than zero, or leave it out")


class _Drivers(NamedTuple):
    """What decides the goodput, besides the job."""

    node_mtbf_s: float
    byte_per_s: float
    restart_s: float
    stall_s: float
    slowdown_frac: float
    planned_per_s: float


class _Times(NamedTuple):
    """What follows from the drivers, in seconds."""

    mtbf_s: float
    write_s: float
    cost_s: float
    lag_s: float
    recovery_s: float
    interval_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A plan as checkpoints see it; ``n_node`` nodes like those of the first group."""

    byte: float
    n_node: float
    n_rank: float
    to_host_byte_per_s: float
    step_s: float
    asynchronous: bool
    interval_s: float | None

    def times(self, d: _Drivers) -> _Times:
        """Seconds of everything; the best interval is a whole number of steps, and no shorter than a write takes."""
        mtbf_s, write_s = d.node_mtbf_s / self.n_node, self.byte / d.byte_per_s
        if self.asynchronous:
            copy_s = self.byte / (self.n_rank * self.to_host_byte_per_s)
            cost_s, lag_s = max(d.stall_s, copy_s) + d.slowdown_frac * write_s, write_s
        else:
            cost_s, lag_s = write_s, 0.0
        wanted = float(best_interval_s(cost_s, mtbf_s)) if self.interval_s is None else self.interval_s
        interval_s = max(wanted, lag_s)
        if self.interval_s is None:
            interval_s = max(1, round(interval_s / self.step_s)) * self.step_s
        return _Times(mtbf_s, write_s, cost_s, lag_s, d.restart_s + write_s, interval_s)

    def share(self, d: _Drivers) -> float:
        """The goodput."""
        t = self.times(d)
        share = goodput_frac(t.interval_s, cost_s=t.cost_s, mtbf_s=t.mtbf_s, recovery_s=t.recovery_s, lag_s=t.lag_s)
        return float(share) * (1.0 - self.planned_frac(d, t))

    @staticmethod
    def planned_frac(d: _Drivers, t: _Times) -> float:
        """Share of wall time that planned stops take."""
        return min(1.0, d.planned_per_s * t.recovery_s)


def checkpoint_byte(problem: Problem) -> float:
    """A checkpoint of what is trained: weights and optimizer states of every parameter once, as the stack keeps them."""
    per_parameter = problem.stack.weight_byte + problem.stack.optimizer_byte
    return float(parameter_count(problem.work.arch)) * problem.trained_frac * per_parameter


def _node_mtbf(problem: Problem, given: float | None) -> Default:
    """Of one node: that of its accelerators, which all must work."""
    if given is not None:
        return Default(name="node_mtbf", value=given, source="given by --node-mtbf", grade="exact")
    one = default("accelerator_mtbf_h")
    scale = HOUR_S * problem.accelerator.dies / problem.node.n_accelerator
    return replace(one, name="node_mtbf", value=one.value * scale, low=_times(one.low, scale), high=_times(one.high, scale))


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _bandwidth(groups: Groups, given: float | None) -> Default:
    """Of the whole job: what its processes write, its nodes send and its file system takes, whichever is least."""
    if given is not None:
        return Default(name="checkpoint_bandwidth", value=given, source="given by --checkpoint-bandwidth", grade="exact")
    process, storage = default("checkpoint_process_byte_per_s"), default("checkpoint_storage_byte_per_s")
    n_rank = sum(n for _problem, n in groups)
    ports = [(each.node.nic_byte_per_s, max(1.0, n / each.node.n_accelerator)) for each, n in groups]
    sent = sum(math.inf if one is None else one * n_node for one, n_node in ports)

    def least(end: str) -> float:
        return float(min(n_rank * getattr(process, end), getattr(storage, end), sent))

    return replace(
        process,
        name="checkpoint_bandwidth",
        value=least("value"),
        low=least("low"),
        high=least("high"),
        source=f"{process.source}; {storage.source}",
    )


def _restart(given: float | None) -> Default:
    if given is not None:
        return Default(name="restart", value=given, source="given by --restart", grade="exact")
    parts = default("detection_s"), default("restart_s")
    return Default(
        name="restart",
        value=sum(part.value for part in parts),
        low=sum(part.low or part.value for part in parts),
        high=sum(part.high or part.value for part in parts),
        source="; ".join(f"{part.value:g} s: {part.source}" for part in parts),
        grade="assumed",
    )


_LARGER_IS_BETTER = ("node_mtbf_s", "byte_per_s")


def _range(job: _Job, drivers: _Drivers, known: Mapping[str, Default]) -> tuple[float | None, float | None]:
    """Ends of the goodput's range: the effects of every driver's own range, added as independent ones are (root of squares)."""
    middle = job.share(drivers)
    squares = {"low": 0.0, "high": 0.0}
    for name, one in known.items():
        for end, other in (("low", "high"), ("high", "low")):
            worse_end = end if name in _LARGER_IS_BETTER else other
            value = getattr(one, worse_end)
            if value is not None:
                squares[end] += (job.share(drivers._replace(**{name: value})) - middle) ** 2
    if not any(squares.values()):
        return None, None
    return max(LEAST_FRAC, middle - squares["low"] ** 0.5), min(1.0, middle + squares["high"] ** 0.5)


def goodput_estimate(
    problem: Problem,
    step_s: float,
    n_rank: int,
    *,
    given: float | None = None,
    reliability: Reliability | None = None,
    peers: Groups = (),
) -> Estimate:
    """The goodput of a job of ``n_rank`` ranks and ``step_s`` per step, down to failure rates and checkpoint sizes.

    ``given`` is taken as it is. ``peers`` are other machines in the same job with their ranks: their failures stop it too, and
    they help to write checkpoints. The range is that of the drivers.

    Raises
    ------
    Infeasible : failures come so often that the job hardly advances.
    """
    if given is not None:
        return Default(name="goodput", value=given, source="given by --goodput", grade="exact").estimate("frac")
    known = reliability or Reliability()
    groups = ((problem, n_rank), *peers)
    mtbf, rate = _node_mtbf(problem, known.node_mtbf_s), _bandwidth(groups, known.checkpoint_byte_per_s)
    restart, stop = _restart(known.restart_s), default("planned_stop_per_day")
    planned = replace(stop, value=stop.value / DAY_S, low=_times(stop.low, 1 / DAY_S), high=_times(stop.high, 1 / DAY_S))
    ranged = {
        "node_mtbf_s": mtbf,
        "byte_per_s": rate,
        "restart_s": restart,
        "stall_s": default("checkpoint_stall_s"),
        "slowdown_frac": default("checkpoint_slowdown_frac"),
        "planned_per_s": planned,
    }
    drivers = _Drivers(**{name: one.value for name, one in ranged.items()})
    job = _Job(
        byte=checkpoint_byte(problem),
        n_node=sum(n / each.node.n_accelerator * mtbf.value / _node_mtbf(each, known.node_mtbf_s).value for each, n in groups),
        n_rank=sum(n for _problem, n in groups),
        to_host_byte_per_s=problem.host_link_byte_per_s,
        step_s=step_s,
        asynchronous=known.asynchronous,
        interval_s=known.checkpoint_interval_s,
    )
    share = job.share(drivers)
    if share < LEAST_FRAC:
        raise Infeasible(
            f"failures every {drivers.node_mtbf_s / job.n_node:.3g} s leave the job {100 * share:.2g} % of the time",
            where="--node-mtbf",
            hint="more reliable nodes, fewer of them, a quicker restart or quicker checkpoints",
        )
    low, high = _range(job, drivers, ranged)
    grade = worst_grade(*(one.grade for one in ranged.values()))
    return _tree(problem, job, drivers, ranged, low=low, high=high, grade=grade)


def _tree(
    problem: Problem,
    job: _Job,
    d: _Drivers,
    known: Mapping[str, Default],
    *,
    low: float | None,
    high: float | None,
    grade: Grade,
) -> Estimate:
    t, share = job.times(d), job.share(d)
    mtbf = _node("mtbf", t.mtbf_s, "s", f"{d.node_mtbf_s:.6g} s per node / {job.n_node:g} nodes", known["node_mtbf_s"])
    stack = problem.stack
    size = Estimate(
        name="checkpoint",
        value=job.byte,
        unit="byte",
        formula=f"{job.byte / (stack.weight_byte + stack.optimizer_byte):.6g} parameters * "
        f"({stack.weight_byte:g} weight + {stack.optimizer_byte:g} optimizer) byte",
    )
    write = _node("checkpoint_write", t.write_s, "s", f"{job.byte:.6g} byte / {d.byte_per_s:.6g} byte/s", known["byte_per_s"])
    return Estimate(
        name="goodput",
        value=share,
        unit="frac",
        formula=f"{t.interval_s:.6g} s * exp(-({t.recovery_s:.6g} + {t.lag_s:.6g}) / M) / (M (exp(({t.interval_s:.6g} + "
        f"{t.cost_s:.6g}) / M) - 1)), M = {t.mtbf_s:.6g} s; less planned stops",
        sources=(_EXACT,),
        grade=grade,
        low=low,
        high=high,
        children=(mtbf, size, write, _cost(job, d, t, known), _interval(job, t), _recovery(t, known), _loss(job, d, t, known)),
    )


def _node(name: str, value: float, unit: str, formula: str, below: Default) -> Estimate:
    """A value computed from one driver."""
    kind = {"node_mtbf": "s", "checkpoint_bandwidth": "byte/s", "restart": "s"}[below.name]
    return Estimate(name=name, value=value, unit=unit, formula=formula, grade=below.grade, children=(below.estimate(kind),))


def _cost(job: _Job, d: _Drivers, t: _Times, known: Mapping[str, Default]) -> Estimate:
    stall, slow = known["stall_s"], known["slowdown_frac"]
    if not job.asynchronous:
        return Estimate(name="checkpoint_cost", value=t.cost_s, unit="s", formula="the job waits for the write")
    copy_s = job.byte / (job.n_rank * job.to_host_byte_per_s)
    return Estimate(
        name="checkpoint_cost",
        value=t.cost_s,
        unit="s",
        formula=f"the longer of a stall of {d.stall_s:g} s and the copy to host memory, {copy_s:.4g} s, + "
        f"{d.slowdown_frac:g} * {t.write_s:.6g} s behind the steps",
        sources=(stall.source, slow.source),
        grade=worst_grade(stall.grade, slow.grade),
    )


def _interval(job: _Job, t: _Times) -> Estimate:
    if job.interval_s is not None:
        how = "given by --checkpoint-interval"
        if t.interval_s > job.interval_s:
            how += f" ({job.interval_s:g} s), but a write takes longer"
    elif t.interval_s <= t.lag_s + job.step_s / 2:
        how = "as short as the write allows: quicker storage would help"
    else:
        how = f"M (1 + W(-exp(-{t.cost_s:.6g} / M - 1))), M = {t.mtbf_s:.6g} s, as whole steps of {job.step_s:.6g} s"
    children = (
        Estimate(
            name="young",
            value=float(young_interval_s(t.cost_s, t.mtbf_s)),
            unit="s",
            formula=f"sqrt(2 * {t.cost_s:.6g} s * {t.mtbf_s:.6g} s)",
            sources=("Young 1974",),
        ),
        Estimate(
            name="daly",
            value=float(daly_interval_s(t.cost_s, t.mtbf_s)),
            unit="s",
            formula="Young's with two more terms in sqrt(cost / 2 M), less the cost",
            sources=("Daly 2006",),
        ),
    )
    return Estimate(name="checkpoint_interval", value=t.interval_s, unit="s", formula=how, sources=(_EXACT,), children=children)


def _recovery(t: _Times, known: Mapping[str, Default]) -> Estimate:
    reload = Estimate(name="reload", value=t.write_s, unit="s", formula="the checkpoint read at the rate it was written")
    return total("recovery", "s", (known["restart_s"].estimate("s"), reload))


def _loss(job: _Job, d: _Drivers, t: _Times, known: Mapping[str, Default]) -> Estimate:
    planned = job.planned_frac(d, t)
    shares = wall_shares(t.interval_s, cost_s=t.cost_s, mtbf_s=t.mtbf_s, recovery_s=t.recovery_s, lag_s=t.lag_s)
    how = {
        "checkpoint": f"{t.cost_s:.6g} s per interval",
        "recovery": f"1 - exp(-{t.recovery_s:.6g} s / {t.mtbf_s:.6g} s)",
        "lost_work": "steps since the newest durable checkpoint, done again",
    }
    parts = [
        Estimate(name=name, value=float(shares[name]) * (1.0 - planned), unit="frac", formula=text)
        for name, text in how.items()
    ]
    stops = Estimate(
        name="planned_stops",
        value=planned,
        unit="frac",
        formula=f"{d.planned_per_s * DAY_S:.4g} per day * {t.recovery_s:.6g} s",
        sources=(known["planned_per_s"].source,),
        grade=known["planned_per_s"].grade,
    )
    return total("loss", "frac", (*parts, stops))
