"""Event walk of pipeline schedules: every forward and backward of every stage, in the order a rank runs them.

Independent of the closed forms it checks: it knows only the order of operations on a rank, and what an operation waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Walk:
    """Seconds of a step, and the largest number of live chunk activations per stage."""

    step_s: float
    live: tuple[int, ...]


def orders(p: int, v: int, m: int) -> list[list[tuple[str, int, int]]]:
    """Operations ``(phase, micro-batch, chunk)`` of each rank in the order it runs them.

    One chunk per rank: ``p - r - 1`` forwards, then forward and backward in turn. More: chunks in rounds of ``p``
    micro-batches, ``2 (p - r - 1) + (v - 1) p`` forwards first (Narayanan et al. 2021, figure 4).
    """
    rounds = [
        (group * p + i, chunk) for group in range(-(-m // p)) for chunk in range(v) for i in range(p) if group * p + i < m
    ]
    forward = [("F", i, chunk) for i, chunk in rounds]
    backward = [("B", i, v - 1 - chunk) for i, chunk in rounds]
    out = []
    for r in range(p):
        warm = min(p - r - 1 if v == 1 else 2 * (p - r - 1) + (v - 1) * p, m * v)
        order = forward[:warm]
        for i in range(m * v - warm):
            order += [forward[warm + i], backward[i]]
        out.append(order + backward[m * v - warm :])
    return out


def walk(forward_s: Sequence[Sequence[float]], backward_s: Sequence[Sequence[float]], m: int) -> Walk:
    """Run ``m`` micro-batches; times are indexed by rank and chunk. Sends take no time."""
    p, v = len(forward_s), len(forward_s[0])
    todo = orders(p, v, m)
    place, clock, end = [0] * p, [0.0] * p, {}
    held, most = [0] * p, [0] * p
    left = 2 * m * v * p
    while left:
        moved = False
        for r in range(p):
            while place[r] < len(todo[r]):
                phase, i, chunk = todo[r][place[r]]
                before = _before(phase, i, chunk, r, p, v)
                if before is not None and before not in end:
                    break
                start = max(clock[r], 0.0 if before is None else end[before])
                clock[r] = start + (forward_s if phase == "F" else backward_s)[r][chunk]
                end[phase, i, chunk, r] = clock[r]
                held[r] += 1 if phase == "F" else -1
                most[r] = max(most[r], held[r])
                place[r] += 1
                left -= 1
                moved = True
        assert moved, "the schedule waits for itself"
    return Walk(max(clock), tuple(most))


def _before(phase: str, i: int, chunk: int, r: int, p: int, v: int) -> tuple[str, int, int, int] | None:
    """What an operation waits for: the stage before it forward, the stage after it backward."""
    if phase == "F":
        if r:
            return "F", i, chunk, r - 1
        return ("F", i, chunk - 1, p - 1) if chunk else None
    if r < p - 1:
        return "B", i, chunk, r + 1
    return ("B", i, chunk + 1, 0) if chunk < v - 1 else ("F", i, chunk, r)
