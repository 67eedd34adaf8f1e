"""Schedules: in which order the ranks of a pipeline run forwards and backwards, and the walk that times them.

A step is a list of operations for each rank. An operation waits for the one before it on its rank and for the neighbouring
stage; nothing else. Stages are numbered along the model, whichever rank holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["SCHEDULES", "Op", "Run", "Schedule", "Slot", "orders", "schedule_named", "stage_rank", "walk"]

Phase = Literal["F", "B", "W"]
_PHASES: tuple[Phase, ...] = ("F", "B", "W")
"""Forward; backward, or the gradient of the input alone where weight gradients come later; weight gradients."""


class Op(NamedTuple):
    """One stage runs one phase of one micro-batch."""

    phase: Phase
    stage: int
    micro: int


Slot = tuple[Op, ...]
"""Operations that a rank runs as one: they start when the inputs of all are there, and hand on their results at the end."""


class Run(NamedTuple):
    """An operation and when it ran, in seconds from the start of the step."""

    op: Op
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule.

    Parameters
    ----------
    code : its number in :class:`suanchou.training.strategy.Strategy`.
    label : how people write it.
    splits_backward : whether weight gradients are computed later than the gradients of the input.
    folded : whether a rank holds stages from either end of the model.
    copies : how many ranks hold each parameter.
    source : where it was published.
    """

    code: int
    label: str
    splits_backward: bool
    folded: bool
    copies: int
    source: str


SCHEDULES: Mapping[str, Schedule] = {
    "1f1b": Schedule(
        code=0,
        label="1F1B",
        splits_backward=False,
        folded=False,
        copies=1,
        source="Narayanan et al. 2021, arXiv 2104.04473, with one or more chunks per stage",
    ),
    "zb-h1": Schedule(
        code=1,
        label="ZB-H1",
        splits_backward=True,
        folded=False,
        copies=1,
        source="Qi et al. 2023, arXiv 2401.10241: weight gradients fill the drain, memory of 1F1B",
    ),
    "zb-v": Schedule(
        code=2,
        label="ZB-V",
        splits_backward=True,
        folded=True,
        copies=1,
        source="Qi et al. 2023, arXiv 2401.10241: two chunks per rank, down and up again",
    ),
    "dualpipe": Schedule(
        code=3,
        label="DualPipe",
        splits_backward=True,
        folded=True,
        copies=2,
        source="DeepSeek-V3, arXiv 2412.19437 section 3.2.1: micro-batches from both ends, two copies of the parameters",
    ),
}


def schedule_named(code: int) -> str:
    """The name of the schedule with this number."""
    return next(name for name, item in SCHEDULES.items() if item.code == code)


def stage_rank(name: str, p: int, op: Op, m: int) -> int:
    """The rank that runs an operation; DualPipe runs the second half of the micro-batches from the last rank to the first."""
    if name == "zb-v":
        return op.stage if op.stage < p else 2 * p - 1 - op.stage
    if name == "dualpipe":
        return op.stage if op.micro < m // 2 else p - 1 - op.stage
    return op.stage % p


def orders(name: str, p: int, v: int, m: int) -> list[list[Slot]]:
    """The operations of each of ``p`` ranks in the order it runs them, for ``m`` micro-batches.

    ``v`` chunks per rank in 1F1B; ZB-V has two, the others one. DualPipe takes an even ``p`` and an even ``m`` of ``2 p`` or
    more, ZB-V an ``m`` of ``2 p`` or more.
    """
    if name == "1f1b":
        return [[(op,) for op in _one_f_one_b(p, v, m, r)] for r in range(p)]
    rank_order = {"zb-h1": _zb_h1, "zb-v": _zb_v, "dualpipe": _dualpipe}[name]
    return [rank_order(p, m, r) for r in range(p)]


def _one_f_one_b(p: int, v: int, m: int, r: int) -> list[Op]:
    """Chunks in rounds of ``p`` micro-batches; ``p - 1 - r`` forwards first, ``p - 1 - r + (v - 1) p`` more with chunks."""
    rounds = [(i, chunk) for start in range(0, m, p) for chunk in range(v) for i in range(start, min(start + p, m))]
    forward = [Op("F", chunk * p + r, i) for i, chunk in rounds]
    backward = [Op("B", (v - 1 - chunk) * p + r, i) for i, chunk in rounds]
    warm = min(p - 1 - r if v == 1 else 2 * (p - 1 - r) + (v - 1) * p, m * v)
    steady = [op for pair in zip(forward[warm:], backward, strict=False) for op in pair]
    return forward[:warm] + steady + backward[m * v - warm :]


class _Queue:
    """What one rank still has to do in a schedule given by counts: each call takes the next micro-batch of a phase."""

    def __init__(self, micros: Mapping[int, Sequence[int]]) -> None:
        self.micros = micros
        self.done: dict[tuple[Phase, int], int] = {(phase, stage): 0 for phase in _PHASES for stage in micros}
        self.slots: list[Slot] = []

    def next(self, phase: Phase, stage: int) -> Slot:
        """The next operation; nothing where none is left, or where its forward or backward has not been run."""
        count = self.done[phase, stage]
        most = len(self.micros[stage]) if phase == "F" else self.done["F" if phase == "B" else "B", stage]
        if count >= most:
            return ()
        self.done[phase, stage] += 1
        return (Op(phase, stage, self.micros[stage][count]),)

    def take(self, *phases: tuple[Phase, int]) -> bool:
        """Append the next operation of each as one slot; false where none is left."""
        slot = tuple(op for phase, stage in phases for op in self.next(phase, stage))
        self.slots += [slot] if slot else []
        return bool(slot)


def _zb_h1(p: int, m: int, r: int) -> list[Slot]:
    """1F1B where rank ``r`` is ``r`` weight gradients late, so that those fill the drain."""
    queue = _Queue({r: range(m)})
    for _ in range(min(p - 1 - r, m)):
        queue.take(("F", r))
    for i in range(m):
        queue.take(("F", r))
        queue.take(("B", r))
        if i >= r:
            queue.take(("W", r))
    while queue.take(("W", r)):
        pass
    return queue.slots


def _zb_v(p: int, m: int, r: int) -> list[Slot]:
    """Chunk ``r`` on the way down and ``2 p - 1 - r`` on the way up; weight gradients wait for the drain."""
    down, up = r, 2 * p - 1 - r
    queue = _Queue({down: range(m), up: range(m)})
    for _ in range(2 * (p - r) - 1):
        queue.take(("F", down))
    for _ in range(r):
        queue.take(("F", up))
        queue.take(("F", down))
    for _ in range(p - r):
        queue.take(("F", up))
        queue.take(("B", up))
        queue.take(("W", up))
    while queue.done["F", up] < m or queue.done["F", down] < m:
        queue.take(("F", down))
        queue.take(("B", down))
        queue.take(("W", down))
        queue.take(("F", up))
        queue.take(("B", up))
        queue.take(("W", up))
    for _ in range(r):
        queue.take(("B", down))
        queue.take(("B", up))
    for _ in range(p - r):
        queue.take(("B", down))
        queue.take(("W", down))
    for stage in (up, down):
        while queue.take(("W", stage)):
            pass
    return queue.slots


def _dualpipe(p: int, m: int, r: int) -> list[Slot]:
    """Both directions at once; ``near`` is the one whose stage on this rank comes earlier in the model."""
    inner = min(r, p - 1 - r)
    outer = p // 2 - 1 - inner
    first, second = range(m // 2), range(m // 2, m)
    near, far = inner, p - 1 - inner
    queue = _Queue({near: first, far: second} if r < p // 2 else {near: second, far: first})
    late: list[int] = []

    def backward(stage: int, forward: int | None = None) -> None:
        """Whole, beside a forward of the other direction if there is one to run."""
        beside: tuple[tuple[Phase, int], ...] = () if forward is None else (("F", forward),)
        queue.take(*beside, ("B", stage), ("W", stage))

    for _ in range(2 * outer):
        queue.take(("F", near))
    for _ in range(inner + 1):
        queue.take(("F", near))
        queue.take(("F", far))
    for _ in range(outer):
        queue.take(("B", far))
        queue.take(("W", far))
        queue.take(("F", far))
    for _ in range(m // 2 - p + inner + 1):
        backward(far, near)
        backward(near, far)
    for _ in range(outer):
        backward(far)
        backward(near, far)
    for i in range(2 * (inner + 1)):
        stage = near if i % 2 else far
        if i <= inner:
            backward(stage)
        else:
            queue.take(("B", stage))
            late.append(stage)
    for _ in range(outer):
        queue.take(("W", late.pop(0)))
        queue.take(("B", near))
        late.append(near)
    for stage in late:
        queue.take(("W", stage))
    return queue.slots


def walk(
    todo: Sequence[Sequence[Slot]],
    n_stage: int,
    seconds: Callable[[Op], float],
    hop_s: Callable[[Op], float] = lambda op: 0.0,
) -> list[list[Run]]:
    """Run the operations of every rank in their order; ``hop_s`` is how long an operation's input is under way.

    Raises
    ------
    ValueError : the orders wait for each other.
    """
    end: dict[Op, float] = {}
    out: list[list[Run]] = [[] for _ in todo]
    place, waiting, ready = [0] * len(todo), {}, list(range(len(todo)))
    while ready:
        r = ready.pop()
        clock = out[r][-1].end_s if out[r] else 0.0
        while place[r] < len(todo[r]):
            slot = todo[r][place[r]]
            needed = [(op, before) for op in slot if (before := _before(op, n_stage)) is not None and before not in slot]
            missing = next((before for _, before in needed if before not in end), None)
            if missing is not None:
                waiting[missing] = r
                break
            clock = max([clock, *(end[before] + hop_s(op) for op, before in needed)])
            for op in slot:
                start, clock = clock, clock + seconds(op)
                out[r].append(Run(op, start, clock))
            for op in slot:
                end[op] = clock
                if op in waiting:
                    ready.append(waiting.pop(op))
            place[r] += 1
    if waiting:
        raise ValueError(f"the schedule waits for itself at {next(iter(waiting))}")
    return out


def _before(op: Op, n_stage: int) -> Op | None:
    """What an operation waits for."""
    phase, stage, micro = op
    if phase == "F":
        return Op("F", stage - 1, micro) if stage else None
    if phase == "B":
        return Op("B", stage + 1, micro) if stage < n_stage - 1 else Op("F", stage, micro)
    return Op("B", stage, micro)
