"""Search: price every strategy at once, keep the best, and count why the others were refused.

Layouts (TP, CP, PP, DP, EP, interleaving, micro-batch, SP, fp8) form one axis; ZeRO, recomputation and offload are three
more and broadcast behind it. A chunk of layouts crossed with all options is masked by memory, priced and reduced to its
best, so memory stays bounded however large the space is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from suanchou.i18n import N_
from suanchou.model.operators import Num
from suanchou.training.layer_time import LayerTime, layer_time
from suanchou.training.memory import STAGES, ActivationTable, activation_table, host_byte, stage_memory, stage_needed
from suanchou.training.problem import Problem
from suanchou.training.strategy import LAYOUT_FIELDS, Options, Strategy, layouts
from suanchou.training.time import step_time, step_total_s

__all__ = ["TIE_FRAC", "Candidate", "Found", "Tables", "lower_bound_s", "needed_memory", "peak_memory", "search", "tables"]

CHUNK = 100_000
"""Candidates priced at once: about twenty arrays of this length live at the same time."""

LAYER_KEY = ("tp", "cp", "ep", "micro_batch", "sp", "ulysses", "fp8")

TIE_FRAC = 0.03
"""Plans whose step times differ by less are equal: no model tells them apart. The simplest is taken.

One third is spent among the options of a layout, the rest among layouts.
"""


class Candidate(NamedTuple):
    """One feasible strategy with what ranked it."""

    strategy: Strategy
    step_s: float
    memory_byte: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search saw: the best candidate of every layout that beats the rest, the frontier and the refusals."""

    best: tuple[Candidate, ...]
    frontier: tuple[Candidate, ...]
    n_candidate: int
    n_feasible: int
    n_priced: int
    refused: Counter[str]
    interrupted: bool = False


class Tables(NamedTuple):
    """Layer prices and activation bytes, one entry per layout."""

    time: LayerTime
    activation: ActivationTable


def tables(problem: Problem, layout: Strategy) -> Tables:
    """Price the layers of 1-D ``layout``; layouts that differ only in stages share the work on a layer's time."""
    key = np.stack([np.asarray(getattr(layout, name), dtype=float) for name in LAYER_KEY])
    unique, where = np.unique(key, axis=1, return_inverse=True)
    distinct = Strategy(**dict(zip(LAYER_KEY, unique, strict=True)))

    def spread(values: Num) -> NDArray[np.float64]:
        return np.broadcast_to(np.asarray(values, dtype=float), (unique.shape[1],))[where.ravel()]

    times = layer_time(problem, distinct)
    whole = np.asarray(layout.tp).shape
    acts = (np.broadcast_to(np.asarray(values, dtype=float), whole) for values in activation_table(problem, layout))
    return Tables(LayerTime(*map(spread, times)), ActivationTable(*acts))


def _rows(table: Tables, chosen: NDArray[np.intp]) -> Tables:
    return Tables(
        LayerTime(*(np.asarray(values)[chosen] for values in table.time)),
        ActivationTable(*(np.asarray(values)[chosen] for values in table.activation)),
    )


def _column(table: Tables, chosen: NDArray[np.intp] | slice) -> Tables:
    """Rows of a table, shaped to broadcast behind the option axes."""

    def rows(values: Num) -> NDArray[np.float64]:
        return np.asarray(values)[chosen].reshape(-1, 1, 1, 1)

    return Tables(LayerTime(*map(rows, table.time)), ActivationTable(*map(rows, table.activation)))


def peak_memory(problem: Problem, s: Strategy, acts: ActivationTable) -> Num:
    """Expected memory of the fullest stage."""
    return _fullest(stage_memory(problem, s, acts, stage).total for stage in STAGES)


def needed_memory(problem: Problem, s: Strategy, acts: ActivationTable) -> Num:
    """Memory of the fullest stage once the allocator has given back what it can: what must fit."""
    return _fullest(stage_needed(problem, s, acts, stage) for stage in STAGES)


def _fullest(stages: Iterable[Num]) -> Num:
    first, *others = stages
    for stage in others:
        first = np.maximum(first, stage)
    return first


def _flat(acts: ActivationTable) -> ActivationTable:
    return ActivationTable(*(np.asarray(values).reshape(-1) for values in acts))


def _take(layout: Strategy, chosen: NDArray[np.intp] | slice) -> Strategy:
    return Strategy(**{name: np.asarray(getattr(layout, name))[chosen] for name in LAYOUT_FIELDS})


def _chunks(n: int, size: int) -> Iterator[slice]:
    step = max(1, CHUNK // size)
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


class _Best(NamedTuple):
    """Per layout: its quickest feasible option, or the simplest of equals."""

    layout: NDArray[np.intp]
    option: NDArray[np.intp]
    step_s: NDArray[np.float64]
    memory: NDArray[np.float64]


def _price(problem: Problem, layout: Strategy, table: Tables, options: Options, refused: Counter[str]) -> tuple[_Best, int]:
    s = options.cross(layout)
    n = np.asarray(layout.tp).shape[0]
    shape = (n, *options.shape)
    fits = np.broadcast_to(needed_memory(problem, s, table.activation) <= problem.memory_byte, shape)
    refused[N_("needs more memory than the accelerator has")] += int(fits.size - np.count_nonzero(fits))
    if options.offload_optimizer.any() and problem.node.host_memory_byte is not None:
        host = np.broadcast_to(host_byte(problem, s, table.activation) <= problem.node.host_memory_byte, shape)
        refused[N_("offload needs more memory than the host has")] += int(np.count_nonzero(fits & ~host))
        fits = fits & host
    step = np.broadcast_to(step_total_s(problem, s, table.time, table.activation), shape)
    flat = np.where(fits, step, np.inf).reshape(n, -1)
    quickest = flat.min(axis=1)
    ok = np.isfinite(quickest)
    equal = flat <= (1.0 + TIE_FRAC / 3) * quickest[:, None]
    option = np.where(equal, options.burden, np.inf).argmin(axis=1)
    rows = np.arange(n)
    quickest = flat[rows, option]
    memory = np.asarray(peak_memory(problem, options.choose(layout, option), _flat(table.activation)))
    return _Best(rows[ok], option[ok], quickest[ok], memory[ok]), int(np.count_nonzero(fits))


def _join(parts: list[_Best]) -> _Best:
    return _Best(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def lower_bound_s(problem: Problem, layout: Strategy, table: Tables) -> NDArray[np.float64]:
    """Step time of each layout if memory were free and data parallelism cost nothing: no option is quicker."""
    step = step_time(problem, layout, table.time, table.activation)
    free = step._replace(gradient_reduce=0.0, parameter_gather=0.0, optimizer=0.0)
    return np.broadcast_to(np.asarray(free.total, dtype=float), np.asarray(layout.tp).shape)


BEATEN = N_("cannot beat the plans shown, even with free memory and free data parallelism")


def search(
    problem: Problem,
    *,
    n_rank: int | None = None,
    fixed: dict[str, int] | None = None,
    options: Options | None = None,
    fp8: bool = False,
    keep: int = 8,
    exhaustive: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Price the whole strategy space and keep the best layouts by step time.

    Layouts are visited by their lower bound; the visit ends where that bound exceeds the worst plan kept, so the best are those
    of an exhaustive search. ``exhaustive`` prices everything all the same, which the frontier and the exact count of
    feasible strategies need. ``fixed`` pins layout fields; ``progress(done, total)`` is called after every chunk. A keyboard
    interrupt returns what was found so far.

    Raises
    ------
    MissingData : the accelerator lacks a needed figure.
    """
    options = options or Options.build(problem.stack.zero_stages)
    ranks, stack = n_rank or problem.cluster.n_accelerator, problem.stack
    layout, refused_layouts = layouts(
        problem.work, ranks, fp8=fp8, fixed=fixed, expert_tensor=stack.expert_tensor, schedules=stack.schedules
    )
    n = int(np.asarray(layout.tp).shape[0])
    refused = Counter({reason: count * options.size for reason, count in refused_layouts.items()})
    walk = _Walk(_Best(*(np.zeros(0, dtype=t) for t in (np.intp, np.intp, float, float))))
    n_candidate = n * options.size + refused.total()
    if n:
        table = tables(problem, layout)
        bound = lower_bound_s(problem, layout, table)
        order = np.argsort(bound, kind="stable")
        layout, table, bound = _take(layout, order), _rows(table, order), bound[order]
        try:
            for part in _chunks(n, options.size):
                if not exhaustive and bound[part.start] > (1.0 + TIE_FRAC) * walk.worst_s(layout, options.burden, keep):
                    refused[BEATEN] += (n - part.start) * options.size
                    break
                best, feasible = _price(problem, _take(layout, part), _column(table, part), options, refused)
                walk.add(best._replace(layout=best.layout + part.start), feasible, (part.stop - part.start) * options.size)
                if progress:
                    progress(part.stop * options.size, n * options.size)
        except KeyboardInterrupt:
            walk.interrupted = True
    best = walk.best

    def candidate(i: int) -> Candidate:
        chosen = options.choose(_take(layout, best.layout[i : i + 1]), best.option[i : i + 1])
        return Candidate(chosen.at((0,), (1,)), float(best.step_s[i]), float(best.memory[i]))

    return Found(
        best=tuple(candidate(i) for i in _rivals(layout, best, options.burden, keep)),
        frontier=tuple(candidate(i) for i in _frontier(best)),
        n_candidate=n_candidate,
        n_feasible=walk.n_feasible,
        n_priced=walk.n_priced,
        refused=+refused,
        interrupted=walk.interrupted,
    )


@dataclass(slots=True)
class _Walk:
    """The state of a search under way."""

    best: _Best
    n_feasible: int = 0
    n_priced: int = 0
    interrupted: bool = False

    def add(self, best: _Best, n_feasible: int, n_priced: int) -> None:
        self.best = _join([self.best, best])
        self.n_feasible += n_feasible
        self.n_priced += n_priced

    def worst_s(self, layout: Strategy, burden: NDArray[np.float64], keep: int) -> float:
        rivals = _rivals(layout, self.best, burden, keep)
        return float(self.best.step_s[rivals].max()) if len(rivals) == keep else np.inf


def _rivals(layout: Strategy, best: _Best, burden: NDArray[np.float64], keep: int) -> list[int]:
    """The best layouts that differ in TP, PP or EP, quickest first; but the simplest of those that tie leads."""
    if not best.step_s.size:
        return []
    order = np.lexsort((best.memory, best.step_s))
    ties = order[best.step_s[order] <= (1.0 + TIE_FRAC * 2 / 3) * best.step_s[order[0]]]
    chosen = best.layout[ties]
    effort = burden[best.option[ties]] + 0.1 * sum(
        np.log2(np.asarray(getattr(layout, name))[chosen]) for name in ("tp", "cp", "pp", "virtual")
    )
    leader = ties[int(np.argmin(effort))]
    seen: set[tuple[float, ...]] = set()
    out: list[int] = []
    for i in (leader, *order):
        key = tuple(float(np.asarray(getattr(layout, name))[best.layout[i]]) for name in ("tp", "pp", "ep"))
        if key in seen:
            continue
        seen.add(key)
        out.append(int(i))
        if len(out) == keep:
            break
    return out


def _frontier(best: _Best, most: int = 200) -> list[int]:
    """Layouts that no other beats in both step time and memory."""
    order = np.lexsort((best.memory, best.step_s))
    lowest = np.minimum.accumulate(best.memory[order])
    first = np.ones(order.shape, dtype=bool)
    first[1:] = best.memory[order][1:] < lowest[:-1]
    return [int(i) for i in order[first][:most]]
