"""Pipeline over groups: each group holds a run of 1F1B stages with TP, CP and ZeRO of its own; DP and micro-batch are common.

``step = micro-batches * slowest stage + (sum of stages - slowest) + sends + the longest tail of a group``. For 1F1B over
unequal stages that is never too short, and too long by at most what the slowest stage takes beyond those behind it.

For given degrees of DP and stages per group, a budget for the step bounds the time of every stage, and so the layers each
configuration of a group can take in memory and time; the smallest budget under which all layers are taken is found by
bisection. Degrees are visited by a lower bound of the step. What wins is dealt its layers exactly and priced in full.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from suanchou.model.operators import Num
from suanchou.training.communication import send_s
from suanchou.training.mixed_fleet import Fleet, Member, Mix, Space, drift_frac
from suanchou.training.mixed_price import Key, cross_sends_s, evaluate
from suanchou.training.mixed_stages import Place, place_memory, tail
from suanchou.training.search import Tables, tables
from suanchou.training.strategy import LAYOUT_FIELDS, Options, Strategy, layouts
from suanchou.training.time import stage_time

__all__ = ["PipelineSearch"]

ROUNDS = 40
"""Halvings of the step budget: to a relative 1e-9 or so of the first bracket."""


class _Role(NamedTuple):
    """Where a group stands: whether it holds the model's first and last stage."""

    first: bool
    last: bool


class _Costs(NamedTuple):
    """Ways to run stages of a group, as arrays of shape (layouts, options).

    A step takes ``passes * (per_layer * layers + extra) + tail_base + tail_per_layer * layers`` if its slowest stage holds
    ``layers``, and sends: ``extra`` is that of the first stage (``embedding``), of the last one (``head``) or nothing;
    ``tail_base`` holds the sends of fill and drain, ``steady`` are those of every micro-batch.
    """

    per_layer: NDArray[np.float64]
    embedding: NDArray[np.float64]
    head: NDArray[np.float64]
    tail_base: NDArray[np.float64]
    steady: NDArray[np.float64]
    tail_per_layer: NDArray[np.float64]


class _Caps(NamedTuple):
    """Most layers that memory takes on the group's first stage, its fullest, and on the model's last one; as _Costs."""

    cap: NDArray[np.float64]
    last_cap: NDArray[np.float64]


class _Configs(NamedTuple):
    """What a group can do with ``pp`` stages: the rows of costs and caps that fit, flattened, and what they are."""

    costs: _Costs
    caps: _Caps
    burden: NDArray[np.float64]
    row: NDArray[np.intp]
    option: NDArray[np.intp]


class _Rows:
    """The layouts of one member in 1F1B by common degrees (DP, micro-batch), and the quickest layer of each."""

    def __init__(self, member: Member, space: Space) -> None:
        self.member = member
        problem = member.problem
        fp8 = space.fp8 and problem.work.low_dtype in problem.accelerator.peak_flop_per_s
        self.layout, _refused = layouts(problem.work, member.n_rank, fp8=fp8, fixed={**space.fixed, "virtual": 1})
        self.options = Options.build(problem.stack.zero_stages, offload=False)
        self.burden = self.options.burden
        self.groups: dict[Key, NDArray[np.intp]] = {}
        self.quickest: dict[Key, dict[int, float]] = {}
        self.pp = np.asarray(self.layout.pp).astype(int)
        if not self.pp.size:
            return
        self.table = tables(problem, self.layout)
        per_layer = np.asarray(stage_time(problem, self.layout, self.table.time, self.table.activation, 1.0, (0.0, 0.0)).total)
        dp, micro_batch = np.asarray(self.layout.dp).astype(int), np.asarray(self.layout.micro_batch).astype(int)
        order = np.lexsort((self.pp, micro_batch, dp))
        marks = np.stack([dp[order], micro_batch[order]])
        starts = np.flatnonzero(np.any(np.diff(marks, axis=1, prepend=-1), axis=0))
        for start, rows in zip(starts, np.split(order, starts[1:]), strict=True):
            key = (int(marks[0, start]), int(marks[1, start]))
            self.groups[key] = rows
            self.quickest[key] = {int(pp): float(per_layer[rows[self.pp[rows] == pp]].min()) for pp in np.unique(self.pp[rows])}

    def cross(self, key: Key) -> tuple[Strategy, Tables, tuple[int, ...]]:
        """The layouts of ``key`` crossed with all options, their tables to broadcast with, and the shape of both."""
        index = self.groups[key]
        layout = Strategy(**{name: np.asarray(getattr(self.layout, name))[index] for name in LAYOUT_FIELDS})
        table = Tables(*(type(part)(*(np.asarray(v)[index].reshape(-1, 1, 1, 1) for v in part)) for part in self.table))  # type: ignore[arg-type]  # one part is a LayerTime, one an ActivationTable
        return self.options.cross(layout), table, (len(index), *self.options.shape)

    def pick(self, row: int, option: int) -> Strategy:
        """One of them."""
        at = np.array([row])
        layout = Strategy(**{name: np.asarray(getattr(self.layout, name))[at] for name in LAYOUT_FIELDS})
        return self.options.choose(layout, np.array([option])).at((0,), (1,))


@dataclass(slots=True, kw_only=True)
class PipelineSearch:
    """Searches pipelines of a fleet, one order of groups at a time; costs of a group are kept for other orders."""

    fleet: Fleet
    space: Space
    rows: dict[int, _Rows] = field(default_factory=dict)
    costs: dict[tuple[int, Key, _Role], _Costs] = field(default_factory=dict)
    caps: dict[tuple[int, Key, _Role, int], _Caps] = field(default_factory=dict)
    visited: int = 0

    def best(self, members: Sequence[Member], limit_s: float = math.inf) -> Mix | None:
        """The best pipeline through ``members`` in this order; ``None`` where none fits with a step below ``limit_s``."""
        if self.space.fixed.get("virtual", 1) != 1:
            return None
        for member in members:
            if member.index not in self.rows:
                self.rows[member.index] = _Rows(member, self.space)
        self.caps.clear()
        if len(members) == 2:  # both change their roles with the order: nothing would be used again
            self.costs.clear()
        found: Mix | None = None
        for bound, key, pps in self._visits(members):
            if bound >= limit_s:
                break
            self.visited += 1
            chosen = self._choose(members, key, pps, bound, limit_s)
            mix = None if chosen is None else evaluate(self.fleet, members, chosen)
            if mix is not None and mix.step_s < limit_s:
                found, limit_s = mix, mix.step_s
        return found

    def _visits(self, members: Sequence[Member]) -> list[tuple[float, Key, tuple[int, ...]]]:
        """Common degrees and stages per group, by a lower bound of the step: balanced stages, memory and tails free."""
        rows, n_layer = [self.rows[member.index] for member in members], members[0].problem.n_layer
        exposed = 1.0 - min(member.problem.stack.overlap_pipeline for member in members)
        drift = drift_frac(members)
        out = []
        for key in sorted(set.intersection(*(set(row.quickest) for row in rows))):
            m = self.fleet.batch / (key[0] * key[1])
            for pps in itertools.product(*(row.quickest[key].items() for row in rows)):
                if sum(pp for pp, _cost in pps) > n_layer:
                    continue
                costs = [cost for _pp, cost in pps]
                fill, longest = cross_sends_s(self.fleet, members, key, [pp for pp, _cost in pps])
                stage, least = max(n_layer / sum(pp / cost for pp, cost in pps), *costs), n_layer * min(costs)
                waits = drift * ((m - 1.0) * stage + least)
                slowest = max(stage, (1.0 - exposed) * longest)
                bound = (m - 1.0) * slowest + least + waits + fill + m * exposed * 2.0 * longest
                out.append((bound, key, tuple(pp for pp, _cost in pps)))
        return sorted(out)

    def _choose(
        self, members: Sequence[Member], key: Key, pps: tuple[int, ...], bound: float, limit_s: float
    ) -> list[Strategy] | None:
        """A strategy per group for the smallest step budget below ``limit_s`` under which all layers are taken."""
        n_layer, m = members[0].problem.n_layer, self.fleet.batch / (key[0] * key[1])
        passes, n = (m + sum(pps) - 1.0) * (1.0 + drift_frac(members)), len(pps)
        roles = [_Role(i == 0, i == n - 1) for i in range(n)]
        found = []
        for i, (member, pp, role) in enumerate(zip(members, pps, roles, strict=True)):
            configs = self._configs(member, key, pp, role, sum(pps[i + 1 :]))
            if not len(configs.row):
                return None
            found.append(configs)

        exposed = 1.0 - min(member.problem.stack.overlap_pipeline for member in members)
        fill, longest = cross_sends_s(self.fleet, members, key, pps)
        steady = [m * np.maximum(c.costs.steady, 2.0 * exposed * longest) for c in found]

        def taken(budget: float) -> list[NDArray[np.float64]]:
            return [
                _taken(c, budget - fill - sends, passes, pp, role)
                for c, sends, pp, role in zip(found, steady, pps, roles, strict=True)
            ]

        def enough(budget: float) -> bool:
            return sum(float(layers.max()) for layers in taken(budget)) >= n_layer

        most = sum(float(_most(c, pp, role).max()) for c, pp, role in zip(found, pps, roles, strict=True))
        if most < n_layer:
            return None
        high = min(limit_s, 2.0 * bound)
        while not enough(high):
            if high >= limit_s:
                return None
            high = min(limit_s, 2.0 * high)
        low = 0.0
        for _ in range(ROUNDS):
            middle = (low + high) / 2.0
            low, high = (low, middle) if enough(middle) else (middle, high)
        return self._simplest(members, found, taken(high), n_layer)

    def _simplest(
        self, members: Sequence[Member], found: list[_Configs], taken: list[NDArray[np.float64]], n_layer: int
    ) -> list[Strategy]:
        """Per group, of the configurations that take the layers left to them, the one that asks least of the user."""
        out = []
        most = [float(layers.max()) for layers in taken]
        for i, (member, configs, layers) in enumerate(zip(members, found, taken, strict=True)):
            needed = max(1.0, n_layer - sum(most[:i]) - sum(most[i + 1 :]))
            choice = int(np.argmin(np.where(layers >= needed, configs.burden, np.inf)))
            most[i] = float(layers[choice])
            out.append(self.rows[member.index].pick(int(configs.row[choice]), int(configs.option[choice])))
        return out

    def _configs(self, member: Member, key: Key, pp: int, role: _Role, after: int) -> _Configs:
        """What ``member`` can do with ``pp`` stages that have ``after`` stages behind them."""
        index = member.index
        rows = self.rows[index]
        if (index, key, role) not in self.costs:
            self.costs[index, key, role] = _costs(rows, key, role)
        if (index, key, role, after) not in self.caps:
            self.caps[index, key, role, after] = _caps(rows, key, role, after)
        costs, caps = self.costs[index, key, role], self.caps[index, key, role, after]
        own = (rows.pp[rows.groups[key]] == pp)[:, None]
        at, option = np.nonzero(own & (caps.cap >= 1) & (caps.last_cap >= 1))
        return _Configs(
            _Costs(*(column[at, option] for column in costs)),
            _Caps(*(column[at, option] for column in caps)),
            rows.burden[option],
            rows.groups[key][at],
            option,
        )


def _flat(values: Num, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.broadcast_to(np.asarray(values, dtype=float), shape).reshape(shape[0], -1)


def _costs(rows: _Rows, key: Key, role: _Role) -> _Costs:
    problem = rows.member.problem
    s, table, shape = rows.cross(key)
    t, acts = table.time, table.activation

    def tail_s(layers: float) -> Num:
        after = tail(problem, s, t, acts, layers, first=role.first, last=role.last)
        return after.gradient_reduce + after.parameter_gather + after.optimizer + after.host_step

    wide = float(problem.n_layer)
    one, all_ = tail_s(1.0), tail_s(wide)
    slope = np.maximum(all_ - one, 0.0) / max(wide - 1.0, 1.0)
    fill = send_s(problem, s, 0.0)
    per_layer = stage_time(problem, s, t, acts, 1.0, (0.0, 0.0)).total
    columns = (per_layer, t.embedding, t.head + t.head_tensor, one - slope + fill, send_s(problem, s, 1.0) - fill, slope)
    return _Costs(*(_flat(column, shape) for column in columns))


def _caps(rows: _Rows, key: Key, role: _Role, after: int) -> _Caps:
    s, table, shape = rows.cross(key)
    depth = np.asarray(s.pp) + after
    most = np.maximum(rows.member.problem.n_layer - depth + 1.0, 1.0)
    start: Place = "first" if role.first else "middle"
    last_cap: Num = np.inf
    if role.last:
        last_cap = _cap(rows.member, s, table, "last", depth, most)
    cap = _cap(rows.member, s, table, start, np.maximum(depth, 2.0), most)
    if role.last:  # a group of one last stage has no other to be full
        cap = np.where(np.asarray(s.pp) == 1, last_cap, cap)
    return _Caps(_flat(cap, shape), _flat(last_cap, shape))


def _cap(member: Member, s: Strategy, table: Tables, place: Place, depth: Num, most: NDArray[np.float64]) -> Num:
    """Most layers, up to ``most``, of a stage that fit in memory: bytes grow with layers in a straight line.

    A line through one layer and ``most`` lies above what ZeRO-3's two gathered layers bend down, so the cap errs on the safe
    side; the exact cap of a plan is found when it is priced.
    """
    problem = member.problem

    def needed(layers: Num) -> Num:
        memory = place_memory(problem, s, table.activation, place, depth=depth, layers=layers)
        return memory.needed(problem.stack)

    one, all_ = needed(1.0), needed(most)
    slope = (all_ - one) / np.maximum(most - 1.0, 1.0)
    within = 1.0 + np.floor((problem.memory_byte - one) / np.maximum(slope, 1e-30))
    return np.where(one <= problem.memory_byte, np.minimum(within, most), 0.0)


def _most(configs: _Configs, pp: int, role: _Role) -> NDArray[np.float64]:
    """Layers that memory takes on ``pp`` stages."""
    return (pp - role.last) * configs.caps.cap + (configs.caps.last_cap if role.last else 0.0)


def _taken(configs: _Configs, budget_s: NDArray[np.float64], passes: float, pp: int, role: _Role) -> NDArray[np.float64]:
    """Layers that each configuration takes if its step may last ``budget_s``, steady sends apart.

    Minus infinity where a stage takes none.
    """
    costs, caps = configs.costs, configs.caps
    per_layer = passes * costs.per_layer + costs.tail_per_layer

    def one(extra: NDArray[np.float64] | float, cap: NDArray[np.float64]) -> NDArray[np.float64]:
        layers = np.minimum(cap, np.floor((budget_s - costs.tail_base - passes * extra) / per_layer + 1e-9))
        return np.where(layers >= 1, layers, -np.inf)

    plain = pp - role.first - role.last
    total = np.zeros(len(configs.row))
    if plain:
        total = total + plain * one(0.0, caps.cap)
    if role.first:
        total = total + one(costs.embedding, caps.cap)
    if role.last:
        total = total + one(costs.head, caps.last_cap)
    return total
