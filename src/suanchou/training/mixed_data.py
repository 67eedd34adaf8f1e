"""Data-parallel groups: every group trains whole replicas, and gets as many of a step's sequences as its speed deserves.

``step = max over groups of their own step + all-reduce of the gradients over the cross-fleet link``. A group's step grows in a
straight line with its micro-batches, so a few strategies per group, found by searches near its share, price every share.
All groups wait for the slowest rank of them all, so every group's own step counts the ranks of the others;
``deal`` then finds the integer shares with the quickest slowest group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from suanchou.model.operators import Num
from suanchou.training.explain import fullest_stage, step_parts
from suanchou.training.memory import stage_memory
from suanchou.training.mixed_fleet import Fleet, Member, Mix, Part, Space
from suanchou.training.mixed_stages import band
from suanchou.training.pipeline import stage_layers
from suanchou.training.price import tables_of
from suanchou.training.problem import Problem
from suanchou.training.search import needed_memory
from suanchou.training.strategy import Strategy
from suanchou.training.time import stage_time, step_time

__all__ = ["Curve", "DataSearch", "deal"]

WINDOW = 2048
"""Shares of one group looked at, nearest to what its speed deserves. Batches up to this size are dealt exactly."""

ROUNDS = 2
KEEP = 6


class Curve(NamedTuple):
    """What one group needs for its possible shares: sequences, ascending, seconds, and which strategy."""

    sequences: NDArray[np.int64]
    seconds: NDArray[np.float64]
    which: NDArray[np.intp]


def _nearest(sums: NDArray[np.int64], ideal: float) -> NDArray[np.intp]:
    """Indices of at most ``WINDOW`` of them, nearest to ``ideal``, ascending."""
    if len(sums) <= WINDOW:
        return np.arange(len(sums))
    return np.sort(np.argsort(np.abs(sums - ideal), kind="stable")[:WINDOW])


def deal(curves: Sequence[Curve], batch: int) -> tuple[int, ...] | None:
    """One index into each curve so that the sequences add up to ``batch`` and the slowest group is as quick as can be.

    Exact by dynamic programming over partial sums, as long as the curves and the sums have at most ``WINDOW`` entries; else
    over those nearest to the ideal. ``None`` where no shares add up.
    """
    sums, cost = np.asarray(curves[0].sequences), np.asarray(curves[0].seconds)
    steps: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for position, curve in enumerate(curves[1:], start=1):
        total = (sums[:, None] + curve.sequences[None, :]).ravel()
        worst = np.maximum(cost[:, None], curve.seconds[None, :]).ravel()
        keep = np.flatnonzero(total == batch if position == len(curves) - 1 else total < batch)
        keep = keep[np.lexsort((worst[keep], total[keep]))]
        _unique, first = np.unique(total[keep], return_index=True)
        keep = keep[first]
        keep = keep[_nearest(total[keep], batch * (position + 1) / len(curves))]
        if not len(keep):
            return None
        before, own = np.divmod(keep, len(curve.sequences))
        steps.append((before, own))
        sums, cost = total[keep], worst[keep]
    if len(curves) == 1:
        hit = np.flatnonzero(sums == batch)
        return (int(hit[0]),) if len(hit) else None
    chosen, at = [], 0
    for before, own in reversed(steps):
        chosen.append(int(own[at]))
        at = int(before[at])
    return (at, *reversed(chosen))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A strategy's step time over its share: ``base + per`` for every ``unit`` sequences; up to ``most`` sequences.

    Both hold the seconds of the step but for waiting for slower ranks, and those of them in which ranks drift apart.
    """

    strategy: Strategy
    unit: int
    base: NDArray[np.float64]
    per: NDArray[np.float64]
    most: int


@dataclass(slots=True, kw_only=True)
class DataSearch:
    """Searches data-parallel plans of a fleet; strategies found for one share serve the others."""

    fleet: Fleet
    space: Space
    lines: dict[int, list[_Line]] = field(default_factory=dict)
    tried: set[tuple[int, int]] = field(default_factory=set)

    def best(self, members: Sequence[Member], speed: Sequence[float]) -> Mix | None:
        """The best plan in which exactly ``members`` take part; ``speed`` are their sequences per second by themselves."""
        batch = self.fleet.batch
        shares = [batch * own / math.fsum(speed) for own in speed]
        found: Mix | None = None
        for _round in range(ROUNDS):
            for member, share in zip(members, shares, strict=True):
                self._explore(member, share)
            curves = [self._curve(m, share, m.drift_frac(members)) for m, share in zip(members, shares, strict=True)]
            if not all(len(curve.sequences) for curve in curves):
                return found
            dealt = deal(curves, batch)
            if dealt is None:
                return found
            shares = [float(curve.sequences[i]) for curve, i in zip(curves, dealt, strict=True)]
            chosen = [self.lines[m.index][c.which[i]].strategy for m, c, i in zip(members, curves, dealt, strict=True)]
            mix = self.evaluate(members, chosen, [int(share) for share in shares])
            if found is None or mix.step_s < found.step_s:
                found = mix
        return found

    def evaluate(self, members: Sequence[Member], strategies: Sequence[Strategy], shares: Sequence[int]) -> Mix:
        """The plan in which each member runs its strategy on its share of the sequences."""
        parts, steps = [], []
        for member, strategy, share in zip(members, strategies, shares, strict=True):
            part, step = group_part(member, member.with_batch(share, members), strategy)
            parts.append(part)
            steps.append(step)
        link_s = self.fleet.link.all_reduce_s(self.fleet.reduced_byte, [(m.index, m.n_rank) for m in members])
        slowest = max(range(len(parts)), key=lambda i: parts[i].busy_s)
        return Mix(
            variant="data",
            parts=tuple(replace(part, busy_s=part.busy_s + link_s) for part in parts),
            step_s=parts[slowest].busy_s + link_s,
            causes=steps[slowest] | {"cross_reduce": link_s},
        )

    def _explore(self, member: Member, share: float) -> None:
        """Search strategies of ``member`` for shares near ``share`` that many, some or few degrees of DP divide."""
        n = member.n_rank
        units = dict.fromkeys(unit for unit in (n, n // 8, n // 64, 1) if 1 <= unit <= max(share, 1))
        for batch in dict.fromkeys(max(1, round(share / unit)) * unit for unit in units):
            if batch >= self.fleet.batch or (member.index, batch) in self.tried:
                continue
            self.tried.add((member.index, batch))
            for candidate in member.search(self.space, batch, keep=KEEP).best:
                line = _line(member, candidate.strategy, batch, self.fleet.batch)
                known = self.lines.setdefault(member.index, [])
                if all(line.strategy != other.strategy for other in known):
                    known.append(line)

    def _curve(self, member: Member, share: float, drift_frac: float) -> Curve:
        """The quickest known strategy for every possible share, where ranks wait ``drift_frac`` of it for each other."""
        batch = self.fleet.batch
        best: dict[int, tuple[float, int]] = {}
        for index, line in enumerate(self.lines.get(member.index, ())):
            most = min(line.most, batch - 1) // line.unit
            base_s, per_s = (float(rest + drift_frac * work) for rest, work in (line.base, line.per))
            near = round(share / line.unit)
            for count in range(max(1, near - WINDOW // 2), min(most, near + WINDOW // 2) + 1):
                seconds = base_s + per_s * count
                sequences = count * line.unit
                if sequences not in best or seconds < best[sequences][0]:
                    best[sequences] = (seconds, index)
        order = np.array(sorted(best), dtype=np.int64)
        order = order[_nearest(order, share)]
        return Curve(
            order,
            np.array([best[int(n)][0] for n in order], dtype=float),
            np.array([best[int(n)][1] for n in order], dtype=np.intp),
        )


def _line(member: Member, s: Strategy, batch: int, most: int) -> _Line:
    """The step of ``s`` as a straight line through its steps at ``batch`` and at one unit more."""
    unit = int(s.dp) * int(s.micro_batch) * (int(s.pp) if int(s.virtual) > 1 else 1)
    table = tables_of(member.problem, s)

    def seconds(sequences: int) -> NDArray[np.float64]:
        step = step_time(member.with_batch(sequences), s, table.time, table.activation)
        work = step.micro_batches * step.slowest.total + step.bubble
        return np.array([_number(step.total - step.straggler), _number(work)])

    def fits(sequences: int) -> bool:
        problem = member.with_batch(sequences)
        return _number(needed_memory(problem, s, table.activation)) <= problem.memory_byte

    count = batch // unit
    here, after = seconds(batch), seconds(batch + unit)
    most_fitting = most if fits(max(most // unit, 1) * unit) else batch
    return _Line(strategy=s, unit=unit, base=here - count * (after - here), per=after - here, most=most_fitting)


def group_part(member: Member, problem: Problem, s: Strategy) -> tuple[Part, dict[str, float]]:
    """What a group does that trains whole replicas, and the seconds of its step by cause."""
    table = tables_of(problem, s)
    step = step_time(problem, s, table.time, table.activation)
    layers = _even_layers(problem, s)
    at = np.arange(len(layers))
    stage = stage_time(
        problem,
        s,
        table.time,
        table.activation,
        np.array(layers, dtype=float),
        (np.where(at == 0, 1.0, 0.0), np.where(at == len(layers) - 1, 1.0, 0.0)),
    )
    memory = band(problem, stage_memory(problem, s, table.activation, fullest_stage(problem, s, table.activation)))
    part = Part(
        member=member,
        problem=problem,
        strategy=s,
        layers=layers,
        stage_s=tuple(float(value) for value in np.broadcast_to(stage.total, (len(layers),))),
        memory_byte=memory.expected,
        needed_byte=memory.needed,
        high_byte=memory.high,
        busy_s=_number(step.total),
    )
    return part, step_parts(step)


def _even_layers(problem: Problem, s: Strategy) -> tuple[int, ...]:
    """Layers of every stage of an equal pipeline."""
    if int(s.pp) == 1:
        return (problem.n_layer,)
    split = stage_layers(problem.n_layer, s.pp, s.virtual)
    first, last, between = int(_number(split.first)), int(_number(split.last)), int(s.pp) - 2
    rest = problem.n_layer - first - last
    return (first, *(rest // between + (i < rest % between) for i in range(between)), last)


def _number(value: Num) -> float:
    return float(np.asarray(value).reshape(-1)[0])
