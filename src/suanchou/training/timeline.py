"""Timeline: one step of a priced strategy, operation by operation on every pipeline rank, with bubbles and memory.

The operations come from an event walk of the schedule; each takes the seconds that the closed forms of
:mod:`suanchou.training.time` are made of, so the walk ends when they say, to rounding where they are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from suanchou.cost.kernels import Phase, kernel_s
from suanchou.errors import SpecError
from suanchou.model.operators import Num
from suanchou.training.communication import send_s
from suanchou.training.explain import step_parts
from suanchou.training.memory import ActivationTable, Memory, stage_memory
from suanchou.training.price import tables_of
from suanchou.training.problem import Problem
from suanchou.training.schedule import Op, Run, orders, schedule_named, walk
from suanchou.training.strategy import Strategy
from suanchou.training.time import Pieces, StepTime, layer_pieces, step_time

__all__ = ["COMMUNICATION", "Gap", "Part", "Timeline", "gaps", "stage_sizes", "timeline"]

MOST_OPERATIONS = 2_000_000
"""Operations of a step that are walked; a walk takes about two seconds for a million."""

COMMUNICATION = frozenset(("tensor_parallel", "context_parallel", "expert_parallel", "weight_gather", "host_transfer", "send"))
"""Parts of an operation that are neither kernels nor waits for their launch."""

TAIL = ("pipeline_bubble", "pipeline_send")


class Part(NamedTuple):
    """A share of an operation: a cause, or a kernel by its operator's name."""

    name: str
    seconds: float


class Gap(NamedTuple):
    """Time in which a rank waits."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """One step.

    Parameters
    ----------
    schedule : its name. ``n_stage`` stages along the model, ``micro_batches`` of them run.
    runs : what every pipeline rank ran, in order.
    pipeline_s : end of the last forward or backward. ``step_s``: end of the step.
    tail : what every rank does after the pipeline, in order, with seconds.
    parts : what an operation is made of, by phase and stage. ``kernels``: what the kernels of one layer are, for ``forward``
        and ``backward``.
    memory : bytes on one accelerator of every rank that do not change during the step, or are taken at its fullest moment.
    activation : bytes of activations on every rank over time, as ``(seconds, bytes from then on)``.
    """

    schedule: str
    n_stage: int
    micro_batches: int
    runs: tuple[tuple[Run, ...], ...]
    pipeline_s: float
    step_s: float
    tail: tuple[Part, ...]
    parts: Mapping[tuple[str, int], tuple[Part, ...]]
    kernels: Mapping[str, tuple[Part, ...]]
    memory: tuple[float, ...]
    activation: tuple[tuple[tuple[float, float], ...], ...]

    @property
    def bubble_frac(self) -> float:
        """Share of the time up to the last backward in which ranks wait, averaged over ranks."""
        waits = sum(gap.end_s - gap.start_s for r in range(len(self.runs)) for gap in gaps(self, r))
        return waits / (len(self.runs) * self.pipeline_s)


def gaps(line: Timeline, rank: int) -> Iterator[Gap]:
    """When a rank waits for others: before, between and after its operations, up to the end of the pipeline."""
    clock = 0.0
    for run in line.runs[rank]:
        if run.start_s > clock:
            yield Gap(clock, run.start_s)
        clock = run.end_s
    if line.pipeline_s > clock:
        yield Gap(clock, line.pipeline_s)


def _number(value: Num) -> float:
    return float(np.asarray(value, dtype=float).reshape(-1)[0])


def stage_sizes(n_layer: int, schedule: str, p: int, v: int) -> list[float]:
    """Layers of every stage along the model, as :func:`suanchou.training.pipeline.stage_layers` shares them out.

    Layers left over fall on the middle stages nearest to the end, then on the first one.
    """
    chunks = 2 * p if schedule == "zb-v" else p * v
    if chunks > p:
        short = 1.0 if n_layer % chunks else 0.0
        sizes = [(n_layer + 2.0 * short) / chunks] * chunks
        sizes[0], sizes[-1] = sizes[0] - short, sizes[-1] - short
        return sizes
    base, left = divmod(n_layer, p)
    sizes = [float(base)] * p
    for r in [*reversed(range(1, p - 1)), 0][:left]:
        sizes[r] += 1.0
    return sizes


def timeline(problem: Problem, s: Strategy) -> Timeline:
    """Walk one step of one strategy.

    Raises
    ------
    SpecError : a step of more than two million operations, or micro-batches that are no whole number.
    MissingData : the accelerator lacks a peak, memory or network figure.
    """
    table = tables_of(problem, s)
    t, acts = table.time, table.activation
    name, p, v, m = schedule_named(int(s.schedule)), int(s.pp), int(s.virtual), _number(s.micro_batches(problem.work))
    if m != int(m):
        raise SpecError(
            f"{m:g} micro-batches are no whole number", where="strategy", hint="DP x micro-batch must divide the batch"
        )
    sizes = stage_sizes(problem.n_layer, name, p, v)
    n_operation = len(sizes) * int(m) * (2 if name == "1f1b" else 3)
    if n_operation > MOST_OPERATIONS:
        raise SpecError(
            f"a step of {n_operation} operations is too long to draw", where="--trace", hint="draw it with a smaller --batch"
        )
    pieces = layer_pieces(problem, s, t, acts)
    block_s, hop_s = _sends(problem, s)
    parts = _parts(pieces, sizes, split=name != "1f1b", block_s=block_s)
    seconds = {key: sum(part.seconds for part in found) for key, found in parts.items()}
    last = {0: int(m) - 1} if name != "dualpipe" else {0: int(m) // 2 - 1, 1: int(m) - 1}
    fill = {0: 0} if name != "dualpipe" else {0: 0, 1: int(m) // 2}

    def under_way(op: Op) -> float:
        if op.phase == "F":
            return hop_s if op.micro in fill.values() and op.stage < p else 0.0
        return hop_s if op.phase == "B" and op.micro in last.values() and op.stage < p - 1 else 0.0

    runs = walk(orders(name, p, v, int(m)), len(sizes), lambda op: seconds[op.phase, op.stage], under_way)
    step = step_time(problem, s, t, acts)
    pipeline_s = max(rank[-1].end_s for rank in runs)
    tail = _tail(step)
    memory = [_memory(problem, s, acts, r) for r in range(p)]
    return Timeline(
        schedule=name,
        n_stage=len(sizes),
        micro_batches=int(m),
        runs=tuple(tuple(rank) for rank in runs),
        pipeline_s=pipeline_s,
        step_s=pipeline_s + sum(part.seconds for part in tail),
        tail=tail,
        parts=parts,
        kernels={phase: _kernels(problem, s, phase) for phase in ("forward", "backward")},
        memory=tuple(_number(found.total - found.activation) for found in memory),
        activation=tuple(_activation(s, acts, r, runs[r], sizes, split=name != "1f1b") for r in range(p)),
    )


def _sends(problem: Problem, s: Strategy) -> tuple[float, float]:
    """What every operation waits for its send, and how long a send takes besides where nothing hides it: fill and drain."""
    if s.pp == 1:
        return 0.0, 0.0
    fill = _number(send_s(problem, s, 0.0))
    one = fill / (2.0 * (_number(s.pp) - 1.0))
    block = (_number(send_s(problem, s, 1.0)) - fill) / (2.0 * _number(s.virtual))
    return block, one - block


def _tail(step: StepTime) -> tuple[Part, ...]:
    """What follows the pipeline: every cause of a step that is not of a micro-batch, a bubble or a send."""
    after = list(step_parts(step).items())[len(step.slowest) :]
    return tuple(Part(name, seconds) for name, seconds in after if name not in TAIL and seconds > 0)


def _parts(pieces: Pieces, sizes: list[float], *, split: bool, block_s: float) -> dict[tuple[str, int], tuple[Part, ...]]:
    """What each phase of each stage is made of."""
    found = {}
    for stage, size in enumerate(sizes):
        ends = [1.0 if stage == 0 else 0.0, 1.0 if stage == len(sizes) - 1 else 0.0]
        weight = size * _number(pieces.weight) + sum(e * _number(w) for e, w in zip(ends, pieces.end_weight, strict=True))
        for phase, layer, outer in (("F", pieces.forward, pieces.end_forward), ("B", pieces.backward, pieces.end_backward)):
            seconds = {name: size * _number(value) for name, value in layer.items()}
            seconds["embedding_head"] = sum(e * _number(value) for e, value in zip(ends, outer, strict=True))
            seconds["tensor_parallel"] += ends[1] * _number(pieces.head_tensor) / 2.0
            if split and phase == "B":
                kernels = size * _number(pieces.weight)
                seconds["backward"] -= kernels
                seconds["embedding_head"] -= weight - kernels
            seconds["send"] = block_s
            found[phase, stage] = tuple(Part(name, value) for name, value in seconds.items() if value > 0)
        if split:
            found["W", stage] = (Part("weight_gradient", weight),)
    return found


def _kernels(problem: Problem, s: Strategy, phase: Phase) -> tuple[Part, ...]:
    """Kernels of an average layer by operator."""
    shape, sums = problem.shape(s), dict[str, float]()
    low = problem.work.low_dtype if s.fp8 else None
    for kind in problem.kinds:
        for op in (problem.forward if phase == "forward" else problem.backward)(kind.layer, shape):
            seconds = kernel_s(op, problem.accelerator, problem.eff, dtype=problem.work.dtype, gemm_dtype=low, phase=phase)
            sums[op.name] = sums.get(op.name, 0.0) + kind.share * _number(seconds)
    return tuple(Part(name, seconds) for name, seconds in sums.items() if seconds > 0)


def _memory(problem: Problem, s: Strategy, acts: ActivationTable, rank: int) -> Memory:
    return stage_memory(problem, s, acts, _place(s, rank))


def _place(s: Strategy, rank: int) -> str:
    return "first" if rank == 0 else "last" if rank == s.pp - 1 else "middle"


def _activation(
    s: Strategy, acts: ActivationTable, rank: int, runs: list[Run], sizes: list[float], *, split: bool
) -> tuple[tuple[float, float], ...]:
    """Activation bytes of a rank over time: kept from a forward to its backward, or to its weight gradients.

    What a backward needs for a moment is in the memory that does not change. Offloaded, two layers stay on the device.
    """
    kept = _number(acts.none + getattr(acts, f"excess_{_place(s, rank)}") + (acts.selective - acts.none) * s.selective)
    per_layer = kept + (_number(acts.full) - kept) * float(s.full_frac)
    events: list[tuple[float, float, float]] = []
    for run in runs:
        phase, stage, _micro = run.op
        embedding = _number(acts.embedding) if stage == 0 else 0.0
        if phase == "F":
            events.append((run.start_s, sizes[stage], embedding))
        if phase == ("W" if split else "B"):
            events.append((run.end_s, -sizes[stage], -embedding))
    layers = outer = 0.0
    found = [(0.0, 0.0)]
    for at, more, more_outer in sorted(events, key=lambda event: event[0]):
        layers, outer = layers + more, outer + more_outer
        on_device = min(2.0, layers) if s.offload_activation else layers
        byte = per_layer * on_device + outer
        if found[-1][0] == at:
            found[-1] = (at, byte)
        else:
            found.append((at, byte))
    return tuple(found)
