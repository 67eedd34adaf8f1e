"""Pipeline: how layers fall on ranks, and how long a schedule takes over stages of unequal length.

Stages are a first one with the embedding, equal middle ones and a last one with the head. For this family the longest path
through the forwards and backwards of a step has few shapes, so a step takes the maximum of a few sums. Derived from the order
in which a rank runs them; ``tests/against`` holds the sums against an event walk of that order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from suanchou.model.operators import Num
from suanchou.training.schedule import SCHEDULES
from suanchou.training.zero_bubble import split_backward_s

__all__ = [
    "Halves",
    "StageLayers",
    "in_flight",
    "interleaved_s",
    "one_f_one_b_s",
    "parameter_copies",
    "pipeline_s",
    "stage_ends",
    "stage_layers",
]


class StageLayers(NamedTuple):
    """Layers of the first, the fullest middle and the last stage (all the same for one stage)."""

    first: Num
    middle: Num
    last: Num


class Halves(NamedTuple):
    """Seconds of one micro-batch forward and backward; ``weight`` is the part of backward for weight gradients only."""

    forward: Num
    backward: Num
    weight: Num = 0.0

    @property
    def total(self) -> Num:
        """Forward and backward."""
        return self.forward + self.backward

    def times(self, count: Num) -> Halves:
        """``count`` of these in a row."""
        return Halves(count * self.forward, count * self.backward, count * self.weight)

    def plus(self, other: Halves, share: Num = 1.0) -> Halves:
        """These and ``share`` of the other ones."""
        return Halves(
            self.forward + share * other.forward, self.backward + share * other.backward, self.weight + share * other.weight
        )

    @property
    def split(self) -> tuple[Num, Num, Num]:
        """Forward, gradient of the input, weight gradient."""
        return self.forward, self.backward - self.weight, self.weight


def stage_layers(n_layer: int, pp: Num, virtual: Num, schedule: Num = 0) -> StageLayers:
    """Layers that a rank runs for one micro-batch: on the first rank, the fullest middle one and the last one.

    1F1B takes any number: what is left over goes to middle stages first, then to the first one, never to the last, which also
    holds the head. Interleaved chunks are equal; where ``n_layer`` does not divide, embedding and head count as a layer each
    and the outer chunks hold one layer less (Megatron-LM ``--account-for-embedding-in-pipeline-split``). In ZB-V the first rank
    holds both outer chunks; in DualPipe the outer ranks run the first and the last stage, each for half the micro-batches.
    """
    pp = np.asarray(pp, dtype=float)
    chunks = pp * virtual
    base = np.floor(n_layer / pp)
    left = n_layer - base * pp
    even = (virtual > 1) & (n_layer % chunks != 0)
    outer = (n_layer + 2) / pp - 1
    first = np.where(even, outer, base + ((left > pp - 2) & (left > 0)))
    middle = np.where(even, outer + 1, base + (left > 0))
    last = np.where(even, outer, base)
    middle = np.where(pp > 2, middle, np.minimum(first, last))
    schedule = np.asarray(schedule)
    if schedule.any():
        folded, both = (schedule == SCHEDULES["zb-v"].code) & even, schedule == SCHEDULES["dualpipe"].code
        mean = (first + last) / 2.0
        first = np.where(both, mean, first - folded)
        last = np.where(both, mean, last + folded)
    return StageLayers(first, middle, last)


def stage_ends(pp: Num, schedule: Num, stage: str) -> tuple[Num, Num]:
    """Whether (1 or 0) the ``first``, ``middle`` or ``last`` rank holds the embedding, and the head."""
    single = np.asarray(pp) == 1
    folded = np.asarray(schedule) == SCHEDULES["zb-v"].code
    both = np.asarray(schedule) == SCHEDULES["dualpipe"].code
    embedding = single | (stage == "first") | (both & (stage == "last"))
    head = single | ((stage == "first") & (folded | both)) | ((stage == "last") & ~folded)
    return np.where(embedding, 1.0, 0.0), np.where(head, 1.0, 0.0)


def parameter_copies(schedule: Num) -> Num:
    """Stages whose parameters a rank holds: two in DualPipe, which runs micro-batches from both ends of the model."""
    copies: Num = np.where(np.asarray(schedule) == SCHEDULES["dualpipe"].code, 2.0, 1.0)
    return copies


def in_flight(pp: Num, virtual: Num, micro_batches: Num, stage: Num = 0, schedule: Num = 0) -> Num:
    """Micro-batches whose activations rank ``stage`` holds at once, each of the layers that :func:`stage_layers` gives.

    1F1B: ``pp - stage``. Interleaved: ``2 (pp - stage - 1) + (virtual - 1) pp + 1`` chunks of ``1 / virtual`` micro-batch each
    (Narayanan et al. 2021). ZB-H1 and ZB-V: ``pp`` on every rank, for weight gradients wait (Qi et al. 2023). DualPipe:
    ``pp + 1`` (DeepSeek-V3). Never more than there are.
    """
    plain = pp - np.asarray(stage)
    interleaved = (2 * (pp - stage - 1) + (virtual - 1) * pp + 1) / virtual
    held: Num = np.where(np.asarray(virtual) > 1, interleaved, plain)
    schedule = np.asarray(schedule)
    if schedule.any():
        held = np.where(schedule > 0, pp + np.where(schedule == SCHEDULES["dualpipe"].code, 1.0, 0.0), held)
    return np.minimum(held, micro_batches)


def pipeline_s(
    n_layer: int, pp: Num, virtual: Num, m: Num, layer: Halves, embedding: Halves, head: Halves, schedule: Num = 0
) -> Num:
    """Seconds from the first forward to the last backward of ``m`` micro-batches, without sends.

    ``layer`` is one layer; layers fall on stages as :func:`stage_layers` says. Exact for 1F1B; :func:`interleaved_s` and
    :func:`suanchou.training.zero_bubble.split_backward_s` say how far off the others may be.
    """
    args = (pp, virtual, m, *layer, *embedding, *head)

    def usual(*rows: Num) -> Num:
        return either(np.asarray(rows[1]) > 1, partial(_chunked_s, n_layer), partial(_plain_s, n_layer), rows)

    def other(code: Num, *rows: Num) -> Num:
        longest: Num = np.asarray(0.0)
        for name, item in SCHEDULES.items():
            if item.code and (mine := np.asarray(code) == item.code).any():
                longest = np.where(mine, _split_s(name, n_layer, *rows), longest)
        return longest

    codes = np.asarray(schedule)
    return either(codes > 0, other, lambda code, *rows: usual(*rows), (codes, *args))


def either(test: NDArray[np.bool_], yes: Callable[..., Num], no: Callable[..., Num], args: tuple[Num, ...]) -> Num:
    """``np.where(test, yes(*args), no(*args))``, computing each side only on the rows (first axis) that need it.

    ``test`` holds one value, or one for each row.
    """
    if test.all() or not test.any():
        return yes(*args) if test.all() else no(*args)
    arrays = [np.asarray(value) for value in args]
    shape = np.broadcast_shapes(test.shape, *(array.shape for array in arrays))
    found = np.empty(shape)
    for rows, side in ((test.ravel(), yes), (~test.ravel(), no)):
        same = [array.ndim == len(shape) and array.shape[0] == shape[0] for array in arrays]
        found[rows] = side(*(array[rows] if whole else array for array, whole in zip(arrays, same, strict=True)))
    return found


def _plain_s(n_layer: int, pp: Num, virtual: Num, m: Num, *seconds: Num) -> Num:
    layer, embedding, head = Halves(*seconds[:3]), Halves(*seconds[3:6]), Halves(*seconds[6:])
    layers = stage_layers(n_layer, pp, virtual)
    single = np.asarray(pp) == 1
    first = layer.times(np.where(single, 0.0, layers.first)).plus(embedding, np.where(single, 0.0, 1.0))
    last = layer.times(layers.last).plus(head).plus(embedding, np.where(single, 1.0, 0.0))
    fewer = np.floor(n_layer / np.asarray(pp, dtype=float))
    longer = np.minimum(n_layer - fewer * pp, np.maximum(pp - 2.0, 0.0))
    n_short = np.where(longer > 0, np.maximum(pp - 2.0, 0.0) - longer, 0.0)
    return one_f_one_b_s(pp, m, first, layer.times(layers.middle), last, n_short, layer.times(fewer))


def _chunks(n_layer: int, chunks: Num, layer: Halves, embedding: Halves, head: Halves) -> tuple[Halves, Halves, Halves]:
    """First, middle and last chunk; the outer ones are a layer short where embedding and head count as a layer each."""
    short = np.where(n_layer % chunks != 0, 1.0, 0.0)
    size = (n_layer + 2.0 * short) / chunks
    outer = layer.times(size - short)
    return outer.plus(embedding), layer.times(size), outer.plus(head)


def _chunked_s(n_layer: int, pp: Num, virtual: Num, m: Num, *seconds: Num) -> Num:
    layer, embedding, head = Halves(*seconds[:3]), Halves(*seconds[3:6]), Halves(*seconds[6:])
    return interleaved_s(pp, virtual, m, *_chunks(n_layer, np.asarray(pp) * virtual, layer, embedding, head))


def _split_s(name: str, n_layer: int, pp: Num, virtual: Num, m: Num, *seconds: Num) -> Num:
    layer, embedding, head = Halves(*seconds[:3]), Halves(*seconds[3:6]), Halves(*seconds[6:])
    if name == "zb-v":
        stages = _chunks(n_layer, 2.0 * np.asarray(pp, dtype=float), layer, embedding, head)
    else:
        layers = stage_layers(n_layer, pp, virtual)
        stages = layer.times(layers.first).plus(embedding), layer.times(layers.middle), layer.times(layers.last).plus(head)
    return split_backward_s(name, pp, m, *(stage.split for stage in stages))


def one_f_one_b_s(
    pp: Num, m: Num, first: Halves, middle: Halves, last: Halves, n_short: Num = 0.0, short: Halves | None = None
) -> Num:
    """1F1B over stages ``first``, ``n_short`` times ``short``, ``middle`` and ``last``, in seconds of one micro-batch. Exact.

    There are ``pp`` stages; ``short`` ones take no longer than ``middle`` ones, forward and backward. With one stage ``first``
    must be nothing.

    Rank ``r`` starts with ``w = pp - 1 - r`` forwards. The longest path runs down to some stage ``l`` and back to the stage
    ``j`` that it goes round for the rest of the step, ``m - 1 - w_j`` times; then it does the same in reverse. On its way it
    may wait for the forwards that fill a stage, or the backwards that drain it: the longest one up to ``l``, ``w_l`` times.
    """
    short = middle if short is None else short
    between = np.maximum(np.asarray(pp, dtype=float) - 2.0, 0.0)
    n_middle = between - n_short
    many, lacking = n_middle > 0, np.asarray(m) < pp
    before = first.total + n_short * short.total
    around, last_s = n_short * short.total + n_middle * middle.total, last.total
    slow_f = np.where(many, np.maximum(first.forward, middle.forward), first.forward)
    slow_b = np.where(many, np.maximum(first.backward, middle.backward), first.backward)
    far_f, far_b = np.maximum(last_s, slow_f), np.maximum(last_s, slow_b)
    # Round the last stage: down to it once, and back once.
    found = first.total + around + m * last_s
    # Round the first one: filled while it is busy, or by a trip to the end of the pipeline; drained likewise.
    trips = np.maximum((pp - 1.0) * first.forward, around + far_f) + np.maximum((pp - 1.0) * first.backward, around + far_b)
    round_first = trips + (m - pp + 1.0) * first.total
    found = np.maximum(found, np.where((np.asarray(pp) > 1) & ~lacking, round_first, 0.0))
    # Round a middle one, the foremost that goes round at all: it has the most ways to fill.
    j = np.maximum(n_short + 1.0, pp - m)
    trip, wait = (between - j) * middle.total, pp - 1.0 - j
    trips = np.maximum(wait * slow_f, trip + far_f) + np.maximum(wait * slow_b, trip + far_b)
    round_middle = before + trips + (m - pp + 2.0 * j - n_short) * middle.total
    found = np.maximum(found, np.where(many & (np.asarray(m) > 1), round_middle, 0.0))
    j = pp - m
    few = lacking & (j <= n_short)
    if few.any():
        # Too few micro-batches to go round anything: a short stage may wait for all of them.
        trip = (n_short - j) * short.total + n_middle * middle.total
        all_f = np.maximum((m - 1.0) * np.maximum(first.forward, short.forward), trip + far_f)
        all_b = np.maximum((m - 1.0) * np.maximum(first.backward, short.backward), trip + far_b)
        found = np.maximum(found, np.where(few, first.total + j * short.total + all_f + all_b, 0.0))
    longest: Num = found
    return longest


def interleaved_s(pp: Num, virtual: Num, m: Num, first: Halves, middle: Halves, last: Halves) -> Num:
    """Interleaved 1F1B of ``virtual`` chunks on each of ``pp >= 2`` stages; ``m`` a multiple of ``pp``.

    ``first`` and ``last`` are the first and the last chunk of all, ``middle`` every other, in seconds of one micro-batch. Exact
    on three stages or more where the first chunk takes no longer than the middle ones or the last one, and either backward is
    forward times the same number of at least one in every chunk, or the outer chunks take no less than the middle ones. On two
    stages with outer chunks that take less, even with the head, the path may zigzag: too short by at most 0.5 % where an outer
    chunk has at least half the layers of the others, by at most 20 % where it has none.
    """
    return either(np.asarray(pp) > 2, _over_many, _over_two, (pp, virtual, m, *first, *middle, *last))


def _by_last(pp: Num, virtual: Num, m: Num, first: Halves, middle: Halves, last: Halves) -> Num:
    """Round the last rank: down to it and back, and all its chunks.

    While the first rank deals a round of micro-batches, each brings its embedding to the path.
    """
    dealt = np.maximum(first.forward - middle.forward, 0.0) + np.maximum(first.backward - middle.backward, 0.0)
    rounds = m * (virtual - 1.0) + pp - 2.0
    found: Num = rounds * middle.total + m * last.total + first.total + (pp - 1.0) * dealt
    return found


def _over_many(pp: Num, virtual: Num, m: Num, *seconds: Num) -> Num:
    first, middle, last = Halves(*seconds[:3]), Halves(*seconds[3:6]), Halves(*seconds[6:])
    by_last = _by_last(pp, virtual, m, first, middle, last)
    turn = np.maximum(last.total, 2.0 * middle.forward) + np.maximum(last.total, 2.0 * middle.backward)
    return np.maximum(by_last, by_last + turn + (m - 3.0) * middle.total - m * last.total)


def _over_two(pp: Num, virtual: Num, m: Num, *seconds: Num) -> Num:
    first, middle, last = Halves(*seconds[:3]), Halves(*seconds[3:6]), Halves(*seconds[6:])
    by_last = _by_last(pp, virtual, m, first, middle, last)
    later = m * (virtual - 1.0)
    by_first = (later + 1.0) * middle.total + (m - 1.0) * first.total
    turned = by_first - middle.forward - first.forward + last.total
    longest: Num = np.maximum(np.maximum(by_last, by_last + middle.backward - last.total), np.maximum(by_first, turned))
    return longest
