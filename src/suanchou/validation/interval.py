"""Intervals: what a published run may measure, judged by the errors on all other sources (:mod:`suanchou.cost.spread`)."""

from __future__ import annotations

from collections.abc import Sequence

from suanchou.cost.spread import spread
from suanchou.validation.predict import Prediction

__all__ = ["intervals"]


def intervals(rows: Sequence[Prediction]) -> dict[str, tuple[float, float]]:
    """Low and high of each predicted run's metric, by its id."""
    found = {}
    for p in rows:
        if p.predicted is None or p.laid is None:
            continue
        part = p.laid.problem.accelerator
        pair = spread((part.family_path or (part.family,))[0], p.run.source)
        amount = p.run.metric_kind in ("step_time_s", "gpu_hours")
        ends = [p.predicted * factor if amount else p.predicted / factor for factor in pair]
        found[p.run.run_id] = (min(ends), max(ends))
    return found
