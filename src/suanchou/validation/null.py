"""The null model: the median rate that others reached on the same accelerator and data type, and nothing else.

A tool that does not beat it has proved nothing. In-sample it has seen the row it predicts; out of sample it knows other
sources only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from suanchou.validation.predict import Prediction

__all__ = ["null_errors"]


def _key(p: Prediction) -> tuple[str, str]:
    assert p.laid is not None
    work = p.laid.problem.work
    return p.run.accelerator_id, work.low_dtype if p.laid.strategy.fp8 else work.dtype


def _peak(p: Prediction) -> float:
    assert p.laid is not None
    return p.laid.problem.accelerator.peak(_key(p)[1]) * p.laid.unit


def _error(p: Prediction, flop_per_s: float) -> float:
    """Error of the row's metric when its step runs at this rate."""
    assert p.step_flop is not None
    assert p.measured_step_s is not None
    ratio = p.step_flop / flop_per_s / p.measured_step_s
    return ratio - 1.0 if p.run.metric_kind in ("step_time_s", "gpu_hours") else 1.0 / ratio - 1.0


def null_errors(rows: Sequence[Prediction], *, leave_source_out: bool = False) -> dict[str, float]:
    """Error of the null model for every predicted run, by its id; rates are taken from runs of trust A and B.

    With ``leave_source_out`` a run is judged by other sources; where none used the accelerator and type, by the median share
    of the peak that other sources reached anywhere. A run that nothing can judge is left out.
    """
    known = [p for p in rows if p.status == "predicted"]
    base = [p for p in known if p.run.trust != "C"]
    rate = {id(p): p.step_flop / p.measured_step_s for p in known if p.step_flop and p.measured_step_s}
    errors: dict[str, float] = {}
    medians: dict[tuple[str, str, str], float | None] = {}
    for p in known:
        source = p.run.source if leave_source_out else ""
        key = (*_key(p), source)
        if key not in medians:
            others = [q for q in base if q.run.source != source]
            same = [rate[id(q)] for q in others if _key(q) == key[:2]]
            if not same:
                same = [rate[id(q)] / _peak(q) * _peak(p) for q in others]
            medians[key] = float(np.median(same)) if same else None
        found = medians[key]
        if found is not None:
            errors[p.run.run_id] = _error(p, found)
    return errors
