"""Price of a pipeline through several groups: layers dealt to its stages, its step by cause, and the sends between groups."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from suanchou.cost.kernels import element_byte
from suanchou.model.operators import Num
from suanchou.training.communication import send_s
from suanchou.training.explain import step_parts
from suanchou.training.mixed_fleet import Fleet, Member, Mix, Part, drift_frac
from suanchou.training.mixed_stages import Band, Place, band, deal_layers, place_memory, tail
from suanchou.training.price import tables_of
from suanchou.training.search import Tables
from suanchou.training.strategy import Strategy
from suanchou.training.time import StepTime, stage_time

__all__ = ["Key", "cross_sends_s", "evaluate", "place_of"]

Key = tuple[int, int]
"""DP and micro-batch, which all groups share."""


class _Stages(NamedTuple):
    """The stages of one group in a pipeline: seconds per layer and beyond, and bytes that must fit by stage and layers."""

    per_layer: float
    extra: NDArray[np.float64]
    needed: NDArray[np.float64]


def place_of(i: int, n: int) -> Place:
    """Where stage ``i`` of ``n`` stands."""
    return "first" if i == 0 else "last" if i == n - 1 else "middle"


def _stages(member: Member, s: Strategy, table: Tables, start: int, n: int) -> _Stages:
    """Stages ``start`` to ``start + pp`` of ``n``; ``needed[i, l - 1]`` are the bytes of the i-th with ``l`` layers."""
    problem, t, acts = member.problem, table.time, table.activation
    per_layer = _number(stage_time(problem, s, t, acts, 1.0, (0.0, 0.0)).total)
    embedding, head = _number(t.embedding), _number(t.head) + _number(t.head_tensor)
    layers = np.arange(1, problem.n_layer - n + 2, dtype=float)
    places = [place_of(start + i, n) for i in range(int(s.pp))]
    extra = np.array([{"first": embedding, "middle": 0.0, "last": head}[place] for place in places])
    needed = np.empty((len(places), len(layers)))
    for place in dict.fromkeys(places):
        at = np.flatnonzero([place == other for other in places])
        depth = (n - start - at).astype(float)[:, None]
        memory = place_memory(problem, s, acts, place, depth=depth, layers=layers[None, :])
        needed[at] = np.broadcast_to(memory.needed(problem.stack), (len(at), len(layers)))
    return _Stages(per_layer, extra, needed)


def evaluate(
    fleet: Fleet, members: Sequence[Member], strategies: Sequence[Strategy], layers: Sequence[int] | None = None
) -> Mix | None:
    """Price a pipeline; layers are dealt for the quickest slowest stage unless given. ``None`` where they do not fit."""
    n = sum(int(s.pp) for s in strategies)
    starts = [sum(int(s.pp) for s in strategies[:i]) for i in range(len(strategies))]
    found = [tables_of(member.problem, s) for member, s in zip(members, strategies, strict=True)]
    stages = [
        _stages(member, s, table, start, n) for member, s, table, start in zip(members, strategies, found, starts, strict=True)
    ]
    cost = [stage.per_layer for stage, s in zip(stages, strategies, strict=True) for _ in range(int(s.pp))]
    extra = np.concatenate([stage.extra for stage in stages])
    caps = [
        int(np.count_nonzero(row <= member.problem.memory_byte))
        for member, stage in zip(members, stages, strict=True)
        for row in stage.needed
    ]
    dealt = tuple(layers) if layers is not None else deal_layers(cost, list(extra), caps, members[0].problem.n_layer)
    if dealt is None:
        return None
    return _assemble(fleet, members, strategies, found, starts, dealt, np.array(cost) * np.array(dealt) + extra)


def _assemble(
    fleet: Fleet,
    members: Sequence[Member],
    strategies: Sequence[Strategy],
    found: list[Tables],
    starts: list[int],
    layers: tuple[int, ...],
    seconds: NDArray[np.float64],
) -> Mix:
    n, m = len(layers), _number(strategies[0].micro_batches(members[0].problem.work))
    slowest = int(np.argmax(seconds))
    ends = (1.0 if slowest == 0 else 0.0, 1.0 if slowest == n - 1 else 0.0)
    at = max(i for i, start in enumerate(starts) if start <= slowest)
    problem, s, table = members[at].problem, strategies[at], found[at]
    stage = stage_time(problem, s, table.time, table.activation, float(layers[slowest]), ends)
    parts, tails = [], []
    for i, (member, strategy, start) in enumerate(zip(members, strategies, starts, strict=True)):
        own = slice(start, start + int(strategy.pp))
        after = tail(
            member.problem,
            strategy,
            *found[i],
            float(max(layers[own])),
            first=i == 0,
            last=i == len(members) - 1,
        )
        tails.append(after)
        memory = [_memory(member, strategy, found[i], j, n, layers[j]) for j in range(own.start, own.stop)]
        fullest = max(memory, key=operator.attrgetter("needed"))
        parts.append(
            Part(
                member=member,
                problem=member.problem,
                strategy=strategy,
                layers=layers[own],
                stage_s=tuple(float(value) for value in seconds[own]),
                memory_byte=fullest.expected,
                needed_byte=fullest.needed,
                high_byte=fullest.high,
                busy_s=m * float(seconds[own].max()) + _tail_s(after),
            )
        )
    inside, cross = _sends_s(fleet, members, strategies, m, float(seconds.max()))
    longest = max(tails, key=_tail_s)
    work_s = m * float(seconds.max()) + float(seconds.sum() - seconds.max())
    step = StepTime(
        micro_batches=m,
        slowest=stage,
        bubble=float(seconds.sum() - seconds.max()),
        pipeline_send=inside,
        gradient_reduce=longest.gradient_reduce,
        parameter_gather=longest.parameter_gather,
        optimizer=longest.optimizer,
        straggler=drift_frac(members) * work_s,
        host_step=longest.host_step,
    )
    causes = step_parts(step) | {"cross_send": cross}
    return Mix(variant="pipeline", parts=tuple(parts), step_s=math.fsum(causes.values()), causes=causes)


def _tail_s(step: StepTime) -> float:
    return _number(step.gradient_reduce) + _number(step.parameter_gather) + _number(step.optimizer) + _number(step.host_step)


def _memory(member: Member, s: Strategy, table: Tables, i: int, n: int, layers: int) -> Band:
    place = place_of(i, n)
    memory = place_memory(member.problem, s, table.activation, place, depth=float(n - i), layers=float(layers))
    return band(member.problem, memory)


def cross_sends_s(fleet: Fleet, members: Sequence[Member], key: Key, pps: Sequence[int]) -> tuple[float, float]:
    """Seconds of sends between groups: of one micro-batch through all boundaries and back, and one way over the slowest."""
    work = members[0].problem.work
    byte = float(key[0] * key[1]) * work.seq * work.arch.d_model * element_byte(work.dtype)
    ends = [(member.index, member.n_rank / pp) for member, pp in zip(members, pps, strict=True)]
    seconds = [fleet.link.send_s(byte, left, right) for left, right in itertools.pairwise(ends)]
    return 2.0 * math.fsum(seconds), max(seconds)


def _sends_s(
    fleet: Fleet, members: Sequence[Member], strategies: Sequence[Strategy], m: float, slowest_s: float
) -> tuple[float, float]:
    """Exposed sends inside groups and between them.

    Fill and drain pass every boundary once each way. In steady state the stacks' share of every micro-batch's two sends is
    exposed, at the slowest boundary; what hides may still take longer than the slowest stage, and then the link sets the pace.
    """
    exposed = 1.0 - min(member.problem.stack.overlap_pipeline for member in members)
    inside, steady = 0.0, 0.0
    for member, s in zip(members, strategies, strict=True):
        fill, one_more = _number(send_s(member.problem, s, 0.0)), _number(send_s(member.problem, s, 1.0))
        inside, steady = inside + fill, max(steady, one_more - fill)
    key = (int(strategies[0].dp), int(strategies[0].micro_batch))
    fill, one = cross_sends_s(fleet, members, key, [int(s.pp) for s in strategies])
    extra = m * max(exposed * 2.0 * one - steady, 0.0) + m * (1.0 - exposed) * max(one - slowest_s, 0.0)
    return inside + m * steady, fill + extra


def _number(value: Num) -> float:
    return float(np.asarray(value).reshape(-1)[0])
