"""Stages of a pipeline that runs through several groups: how many layers each gets, and what a stage takes.

A stage is priced by the functions that price equal pipelines: a first, middle or last stage of ``l`` layers with ``q - 1``
stages behind it is that of an equal pipeline of ``l`` layers per stage and fitting depth.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from suanchou.cost.collectives import Fabric
from suanchou.cost.efficiency import Efficiency
from suanchou.model.operators import Num
from suanchou.training.layer_time import LayerTime
from suanchou.training.memory import ActivationTable, Memory, stage_memory
from suanchou.training.problem import LayerKind, Problem, ShardSum
from suanchou.training.strategy import Strategy
from suanchou.training.time import StepTime, step_time

__all__ = ["Band", "Place", "Section", "band", "deal_layers", "place_memory", "tail"]

Place = Literal["first", "middle", "last"]


@dataclass(frozen=True)
class Section(Problem):
    """``whole`` with ``layers`` layers in place of the model's (any shape); with embedding and head where said."""

    whole: Problem = field(kw_only=True)
    layers: Num = field(kw_only=True)
    first: bool = field(kw_only=True)
    last: bool = field(kw_only=True)

    @classmethod
    def of(cls, whole: Problem, layers: Num, *, first: bool, last: bool) -> Section:
        """A section of a problem."""
        given = (whole.work, whole.cluster, whole.stack, whole.factors, whole.beside)
        return cls(*given, whole=whole, layers=layers, first=first, last=last)

    @cached_property
    def n_layer(self) -> Num:  # type: ignore[override]  # an array prices many sections at once
        """Layers of the section."""
        return self.layers

    @cached_property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The average layer, once for every way that keys and values are split: a section holds the model's mix of layers."""
        ways = dict.fromkeys(kind.kv_ways for kind in self.whole.kinds)
        return tuple(_average([kind for kind in self.whole.kinds if kind.kv_ways == each]) for each in ways)

    @property
    def averaged(self) -> bool:
        """A section holds the model's mix of layers, not certain ones."""
        return True

    @cached_property
    def ends(self) -> tuple[ShardSum, ShardSum]:
        """Parameters outside layers that the section holds."""
        first, last = self.whole.ends
        return first if self.first else ShardSum(), last if self.last else ShardSum()

    @cached_property
    def tied_copy(self) -> float:
        """The embedding's copy on the last stage."""
        return self.whole.tied_copy if self.last else 0.0

    @cached_property
    def eff(self) -> Efficiency:
        """Efficiency of the accelerator."""
        return self.whole.eff

    @cached_property
    def fabric(self) -> Fabric:
        """The group's network."""
        return self.whole.fabric


def place_memory(problem: Problem, s: Strategy, acts: ActivationTable, place: Place, *, depth: Num, layers: Num) -> Memory:
    """Memory of a stage of ``layers`` layers that has ``depth - 1`` stages behind it; depth is above 1 but for the last.

    Its layers are average ones, whatever stages of an equal pipeline keep beyond that.
    """
    acts = acts._replace(excess_first=0.0, excess_middle=0.0, excess_last=0.0)
    depth = np.asarray(depth, dtype=float)
    pp: Num = {"first": depth, "middle": depth + 1.0, "last": np.full_like(depth, 2.0)}[place]
    section = Section.of(problem, layers * pp, first=True, last=True)
    return stage_memory(section, replace(s, pp=pp, virtual=1.0), acts, place)


def _average(kinds: Sequence[LayerKind]) -> LayerKind:
    share = math.fsum(kind.share for kind in kinds)

    def mean(name: str) -> float:
        return math.fsum(kind.share * getattr(kind.parameters, name) for kind in kinds) / share

    names = ("split", "kv", "replicated", "expert")
    return replace(kinds[0], share=share, parameters=ShardSum(**{name: mean(name) for name in names}))


class Band(NamedTuple):
    """Bytes of one stage: expected, without which it does not fit, and with the allocator at its worst."""

    expected: float
    needed: float
    high: float


def band(problem: Problem, memory: Memory) -> Band:
    """The bytes of one stage that is not an array of them."""
    stack = problem.stack
    expected, needed, high = (
        float(np.asarray(value).reshape(-1)[0])
        for value in (memory.total, memory.needed(stack), memory.high(stack, problem.memory_byte))
    )
    # on a full device the three are one number, but for rounding
    return Band(expected, min(needed, expected), max(high, expected))


def tail(
    problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable, layers: Num, *, first: bool, last: bool
) -> StepTime:
    """Step time of an equal pipeline with ``layers`` layers per stage, of which only what follows the last micro-batch counts:
    gradient reduction, parameter gather and optimizer of a group, of which ``first`` holds the embedding, ``last`` the head.
    """
    zero = 0.0 * np.asarray(t.embedding)
    t = t._replace(
        embedding=t.embedding if first else zero, head=t.head if last else zero, head_tensor=t.head_tensor if last else zero
    )
    section = Section.of(problem, 3.0 * np.asarray(layers), first=first, last=last)
    return step_time(section, replace(s, pp=3.0, virtual=1.0), t, acts)


def deal_layers(
    per_layer_s: Sequence[float], extra_s: Sequence[float], most: Sequence[int], n_layer: int
) -> tuple[int, ...] | None:
    """Layers per stage so that the slowest stage is as quick as possible.

    Stage ``i`` takes ``per_layer_s[i] * layers + extra_s[i]`` and holds from one to ``most[i]`` layers. Exact: the best slowest
    time is one of the times that some stage can take, found by bisection over them. Of the splits that reach it, the one
    whose stages take least in sum, which has the smallest bubble. ``None`` where the layers do not fit.
    """
    cost, extra = np.asarray(per_layer_s, dtype=float), np.asarray(extra_s, dtype=float)
    cap = np.minimum(np.asarray(most, dtype=np.int64), n_layer - len(cost) + 1)
    if (cap < 1).any() or cap.sum() < n_layer:
        return None
    times = np.unique(np.concatenate([e + c * np.arange(1, n + 1) for c, e, n in zip(cost, extra, cap, strict=True)]))

    def held(limit: float) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = np.minimum(cap, np.floor((limit - extra) / cost + 1e-9).astype(np.int64))
        return counts

    low, high = 0, len(times) - 1
    while low < high:
        middle = (low + high) // 2
        counts = held(float(times[middle]))
        low, high = (low, middle) if counts.min() >= 1 and counts.sum() >= n_layer else (middle + 1, high)
    layers = held(float(times[low]))
    spare = int(layers.sum()) - n_layer
    heap = [(-cost[i], -(cost[i] * layers[i] + extra[i]), i) for i in range(len(cost)) if layers[i] > 1]
    heapq.heapify(heap)
    for _ in range(spare):
        _cost, _time, i = heapq.heappop(heap)
        layers[i] -= 1
        if layers[i] > 1:
            heapq.heappush(heap, (-cost[i], -(cost[i] * layers[i] + extra[i]), i))
    return tuple(int(n) for n in layers)
