"""Zero-bubble schedules over unequal stages: the paths that can be the longest, as counts of what lies on them.

Each path is a chain of operations that wait for each other, so a step takes no less than any of them. They were read off event
walks of the orders in :mod:`suanchou.training.schedule`; their counts are linear in the stages ``p`` and micro-batches ``m``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from suanchou.model.operators import Num

__all__ = ["FEWEST_STAGES", "split_backward_s"]

FEWEST_STAGES = 4
"""Fewest stages for which the paths below hold."""

Counts = tuple[Num, Num, Num]
"""How often forward, gradient of the input and weight gradient of a kind of stage lie on a path."""

Path = tuple[Counts, Counts, Counts]
"""Counts for the first, the middle and the last stage."""


def _zb_h1(p: Num, m: Num) -> tuple[Path, ...]:
    return (
        ((1, 1, 1), (p - 2, p - 2, 0), (m, m, m - p)),
        ((1, 0, 0), (p - 2, 0, 0), (m, m, m)),
        ((1, 0, 0), (p - 2, p - 2, 2), (m, m, m - p)),
        ((1, 1, 1), (m + p - 4, m + p - 4, m - p), (2, 2, 0)),
        ((1, 0, 0), (m - 1, m + p - 3, m), (1, 1, 0)),
        ((1, 0, 0), (m + p - 4, m + p - 3, m - p + 3), (1, 1, 0)),
        ((1, 1, 1), (m + p - 4, m + p - 3, m - p + 1), (1, 1, 0)),
        ((m - p + 1, m, m), (p - 2, p - 2, 0), (1, 1, 0)),
        ((1, 0, 0), (m + p - 4, m + p - 4, m - p + 2), (2, 2, 0)),
        ((m - p + 1, m - p + 1, m - p + 1), (2 * p - 4, 2 * p - 4, 0), (2, 2, 0)),
        ((1, 1, 1), (m - 1, m + p - 3, m - 2), (1, 1, 0)),
    )


def _zb_v(p: Num, m: Num) -> tuple[Path, ...]:
    return (
        ((m, m - p, m - p), (0, p, 2 * p - 1), (m, m, m - 1)),
        ((m, m - p + 1, m - p + 1), (0, 2 * p - 2, 0), (m, m, m - 1)),
        ((1, 0, 0), (2 * m - 2, 2 * m + p - 2, 2 * m), (1, 1, 0)),
        ((m - 2 * p + 2, m - p, m - p), (2 * p - 2, p, 2 * p - 1), (m, m, m - 1)),
        ((1, 0, 0), (2 * m, 2 * m + p - 2, 2 * m), (0, 0, 0)),
        ((1, 0, 0), (2 * m - p, 2 * m - p + 2, 2 * m), (p - 1, p - 1, p - 2)),
        ((1, 0, 0), (2 * m - 2, 2 * m + 2 * p - 4, 2 * m - 2 * p + 4), (1, 1, 0)),
        ((2 * p - 1, 0, 0), (2 * m - 2 * p, 2 * m + p - 2, 2 * m), (1, 1, 0)),
        ((m - 2 * p + 2, m - p, m - p), (2 * p - 2, 2 * p - 2, 3), (m, m, m - 1)),
        ((2 * p - 1, 1, 1), (2 * m - 2 * p, 2 * m + 2 * p - 4, 2 * m - 2 * p + 1), (1, 1, 0)),
        ((1, 1, 1), (2 * m - 2, 2 * m + 2 * p - 4, 2 * m - 2 * p + 1), (1, 1, 0)),
        ((1, 0, 0), (2 * m, 2 * m, 2 * m + p - 2), (0, 0, 0)),
        ((1, 0, 0), (2 * m, 2 * m + 2 * p - 4, 2 * m - 2 * p + 4), (0, 0, 0)),
        ((m, m, m), (0, 0, 0), (m, m, m)),
    )


def _dualpipe(p: Num, m: Num) -> tuple[Path, ...]:
    half, side = m / 2, p / 2
    near, far = half - side + 1, half - p + 2
    return (
        ((half, near, near), (0, p - 2, 0), (half, half, half)),
        ((half - 1, far, far), (3 * side - 2, 3 * p - 6, 3 * side - 2), (far, far, half - p + 1)),
        ((1, 2, 2), (m + side - 4, m + p - 6, m - side - 2), (2, 2, 1)),
        ((1, 1, 1), (m + side - 4, m + p - 6, m - side), (2, 2, 1)),
        ((half, half, half), (0, 0, 0), (half, half, half)),
        ((half - p + 1, far, far), (5 * side - 4, 3 * p - 6, 3 * side - 2), (far, far, half - p + 1)),
        ((half - 1, near, near), (side, 2 * p - 4, side), (near, near, half - side)),
        ((1, 1, 1), (m + side - 2, m + p - 6, m - side), (1, 1, 1)),
        ((half - p + 1, half - p + 1, half - p + 1), (5 * side - 4, 3 * p - 6, 3 * side), (far, far, half - p + 1)),
        ((half - 1, near, near), (3 * side - 2, 2 * p - 4, 3 * side - 2), (far, far, half - p + 1)),
        ((1, 0, 0), (m + side - 2, m + p - 4, m - side + 2), (0, 0, 0)),
        ((far, half - side, half - side), (p - 2, p - 2, 2), (half, half, half)),
        ((far, half - p + 1, half - p + 1), (2 * p - 4, 2 * p - 4, p), (near, near, near)),
        ((1, 2, 2), (m + side - 2, m + p - 6, m - side - 2), (1, 1, 1)),
        ((1, 1, 1), (m + side - 4, m + side - 4, m - 2), (2, 2, 1)),
        ((1, 1, 1), (m + side - 2, m + side - 4, m - 2), (1, 1, 1)),
        ((1, 0, 0), (m + side - 4, m + p - 4, m - side + 2), (1, 1, 0)),
        ((half, far, far), (p - 2, 2 * p - 4, p - 2), (near, near, near)),
        ((far, far, far), (2 * p - 4, 2 * p - 4, p - 2), (near, near, near)),
        ((1, 1, 1), (m + side - 2, m + p - 4, m - side), (0, 0, 0)),
        ((far, near, near), (p - 2, p - 2, 0), (half, half, half)),
        ((1, 1, 1), (m + side - 4, m + p - 4, m - side), (1, 1, 0)),
    )


_PATHS: Mapping[str, Callable[[Num, Num], tuple[Path, ...]]] = {"zb-h1": _zb_h1, "zb-v": _zb_v, "dualpipe": _dualpipe}


def split_backward_s(name: str, pp: Num, m: Num, first: Counts, middle: Counts, last: Counts) -> Num:
    """Seconds of ``m`` micro-batches under ZB-H1, ZB-V or DualPipe over ``pp`` ranks.

    ``first``, ``middle`` and ``last`` are the seconds of forward, gradient of the input and weight gradient of a micro-batch on
    the first stage, every middle one and the last one; ZB-V has ``2 pp`` stages. ``pp >= 4`` and ``m >= 2 pp``, both even for
    DualPipe.

    Exact for equal stages (``(pp - 1) (F + B - W)`` beyond the work of a rank for ZB-H1, ``(pp / 2 - 1) (F + 2 B - W)`` for
    DualPipe, with ``B`` the gradient of the input), and for most unequal ones. Never too long; too short by at most 0.5 %
    for ZB-H1 and 3 % for the others, where the head takes up to three layers and the outer stages hold one layer less or none.
    """
    longest: Num = np.asarray(0.0)
    for path in _PATHS[name](pp, m):
        seconds: Num = 0.0
        for counts, stage in zip(path, (first, middle, last), strict=True):
            for count, one in zip(counts, stage, strict=True):
                seconds = seconds + count * one
        longest = np.maximum(longest, seconds)
    return longest
