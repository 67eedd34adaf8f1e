"""Intervals: split conformal prediction in which the sources that judge a run are always others than its own.

For a run, the errors ``ln(measured / predicted)`` of step time over all trusted open runs of other sources are weighed so that
every source counts the same; their outer quantiles, times the prediction, are the interval. It holds for a new source as far
as sources resemble each other. Source of the method: Barber, Candes, Ramdas, Tibshirani 2023, "Conformal prediction beyond
exchangeability" (weighted quantiles).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from suanchou.validation.predict import Prediction

__all__ = ["COVERAGE", "intervals"]

COVERAGE = 0.9
"""Share of runs that an interval is meant to hold."""
_FEWEST_SOURCES = 5


def _weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], q: float) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(cumulative, q)), len(values) - 1)])


def intervals(rows: Sequence[Prediction], calibration: Sequence[Prediction]) -> dict[str, tuple[float, float]]:
    """Low and high of each predicted run's metric, by its id, from the errors on ``calibration``.

    Runs for which fewer than five other sources are known have none.
    """
    base = [p for p in calibration if p.time_frac is not None and p.run.trust != "C"]
    factors: dict[str, tuple[float, float] | None] = {}
    found = {}
    for p in rows:
        if p.predicted is None:
            continue
        source = p.run.source
        if source not in factors:
            factors[source] = _factors([q for q in base if q.run.source != source])
        pair = factors[source]
        if pair is not None:
            amount = p.run.metric_kind in ("step_time_s", "gpu_hours")
            ends = [p.predicted * factor if amount else p.predicted / factor for factor in pair]
            found[p.run.run_id] = (min(ends), max(ends))
    return found


def _factors(others: Sequence[Prediction]) -> tuple[float, float] | None:
    """Measured over predicted step time at the two outer quantiles."""
    counts = Counter(q.run.source for q in others)
    if len(counts) < _FEWEST_SOURCES:
        return None
    errors = np.array([-np.log1p(q.time_frac or 0.0) for q in others])
    weights = np.array([1.0 / counts[q.run.source] for q in others])
    tail = (1.0 - COVERAGE) / 2.0
    return (
        float(np.exp(_weighted_quantile(errors, weights, tail))),
        float(np.exp(_weighted_quantile(errors, weights, 1.0 - tail))),
    )
