"""Spread: how far predictions lie from runs of sources that the constants have not seen, as intervals for new predictions.

``held_out_errors.csv`` holds, for every published run, ln(measured / predicted) by constants fitted without its source
(``calibration/fit_runs.py``). A new prediction times the outer quantiles of these errors is its interval: split conformal
prediction with whole sources left out, every source counting the same (Barber, Candes, Ramdas, Tibshirani 2023, "Conformal
prediction beyond exchangeability"). Accelerators whose family other sources have measured, too, are judged apart from those
of families that nobody else has.
"""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import accumulate
from math import exp

__all__ = [
    "COVERAGE",
    "HeldOutError",
    "held_out_errors",
    "judges",
    "known_family",
    "outer_quantiles",
    "outside",
    "spread",
    "widest",
]

COVERAGE = 0.9
"""Share of runs that an interval is meant to hold."""
_FEWEST_SOURCES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutError:
    """ln(measured / predicted) of one run, with its size; ``known``: other sources have the family of its accelerator."""

    source: str
    family: str
    known: bool
    n_rank: int
    seq: int
    parameter: float
    error: float


@cache
def held_out_errors() -> tuple[HeldOutError, ...]:
    """The errors of all published runs of trust A and B."""
    text = resources.files("suanchou.catalog").joinpath("data/held_out_errors.csv").read_text(encoding="utf-8")
    return tuple(
        HeldOutError(
            source=row["source"],
            family=row["family"],
            known=row["known"] == "1",
            n_rank=int(row["n_rank"]),
            seq=int(row["seq"]),
            parameter=float(row["parameter"]),
            error=float(row["error"]),
        )
        for row in csv.DictReader(text.splitlines())
    )


def known_family(family: str, without: str = "") -> bool:
    """Whether a source other than ``without`` has runs on this family of accelerators."""
    return any(row.family == family and row.source != without for row in held_out_errors())


def outside(family: str, n_rank: int, seq: int, parameter: float) -> tuple[tuple[str, float, float], ...]:
    """What lies beyond every published run: name, value and the largest that was measured (0: none at all)."""
    rows = held_out_errors()
    largest = (
        ("family", 1.0, float(known_family(family))),
        ("n_rank", float(n_rank), float(max(row.n_rank for row in rows))),
        ("seq", float(seq), float(max(row.seq for row in rows))),
        ("parameter", parameter, max(row.parameter for row in rows)),
    )
    return tuple(item for item in largest if item[1] > item[2])


def judges(rows: Sequence[HeldOutError], family: str, without: str = "") -> list[HeldOutError]:
    """The errors by which a run on ``family`` is judged: of sources other than ``without``, and of its own kind.

    A family that no other source has is judged by the runs of which the same is true; where these come from fewer than five
    sources, by all.
    """
    others = [row for row in rows if row.source != without]
    known = any(row.family == family for row in others)
    alike = [row for row in others if row.known == known]
    return alike if len({row.source for row in alike}) >= _FEWEST_SOURCES else others


def outer_quantiles(rows: Sequence[HeldOutError]) -> tuple[float, float]:
    """Measured over predicted step time at the two ends of :data:`COVERAGE`; every source counts the same."""
    counts = Counter(row.source for row in rows)
    ordered = sorted(rows, key=lambda row: row.error)
    cumulative = list(accumulate(1.0 / counts[row.source] for row in ordered))

    def quantile(q: float) -> float:
        return ordered[min(bisect_left(cumulative, q * cumulative[-1]), len(ordered) - 1)].error

    tail = (1.0 - COVERAGE) / 2.0
    return exp(quantile(tail)), exp(quantile(1.0 - tail))


@cache
def spread(family: str, without: str = "") -> tuple[float, float]:
    """Measured over predicted step time, low and high, for a run on ``family``, judged by sources other than ``without``."""
    return outer_quantiles(judges(held_out_errors(), family, without))


def widest(families: Iterable[str]) -> tuple[float, float]:
    """The ends of :func:`spread` that lie farthest out, over the families of the machines in one job."""
    lows, highs = zip(*(spread(family) for family in families), strict=True)
    return min(lows), max(highs)
