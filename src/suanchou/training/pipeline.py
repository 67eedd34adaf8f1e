"""Pipeline: how layers fall on stages, and how long 1F1B and interleaved schedules take over unequal stages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from suanchou.model.operators import Num

__all__ = ["StageLayers", "bubble_s", "in_flight", "stage_layers"]


class StageLayers(NamedTuple):
    """Layers of the first, the fullest middle and the last stage (all the same for one stage)."""

    first: Num
    middle: Num
    last: Num


def stage_layers(n_layer: int, pp: Num, virtual: Num) -> StageLayers:
    """Layers per stage.

    1F1B takes any number: what is left over goes to middle stages first, then to the first one, never to the last, which also
    holds the head. Interleaved chunks are equal; where ``n_layer`` does not divide, embedding and head count as a layer each
    and the outer stages hold one layer less (Megatron-LM ``--account-for-embedding-in-pipeline-split``).
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
    return StageLayers(first, np.where(pp > 2, middle, np.minimum(first, last)), last)


def in_flight(pp: Num, virtual: Num, micro_batches: Num, stage: Num = 0) -> Num:
    """Micro-batches whose activations stage ``stage`` holds at once.

    1F1B: ``pp - stage``. Interleaved: ``2 (pp - stage - 1) + (virtual - 1) pp + 1`` chunks of ``1 / virtual`` micro-batch each
    (Narayanan et al. 2021). Never more than there are.
    """
    plain = pp - np.asarray(stage)
    interleaved = (2 * (pp - stage - 1) + (virtual - 1) * pp + 1) / virtual
    held: Num = np.minimum(np.where(np.asarray(virtual) > 1, interleaved, plain), micro_batches)
    return held


def bubble_s(stage_sum_s: Num, slowest_s: Num, virtual: Num) -> Num:
    """Time a step is longer than the slowest stage's work: fill and drain.

    ``(sum of stage times - slowest) / virtual``, forward plus backward of one micro-batch each. For equal stages this is
    ``(p - 1) t / v`` (Narayanan et al. 2021, section 2.2).
    """
    return (stage_sum_s - slowest_s) / virtual
