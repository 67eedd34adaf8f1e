"""Scores: how far predictions lie from published runs, over all of them and group by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suanchou.validation.predict import Prediction

__all__ = ["Group", "Summary", "as_dict", "grouped", "macro_mean", "plan_groups", "spearman", "summary"]

Key = Callable[[Prediction], tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Errors over a set of runs; ``None`` where no run was predicted.

    Absolute errors are those of each run's own metric. ``bias_frac`` is the mean of predicted over measured step time, minus
    one: below zero is too fast.
    """

    n: int
    predicted: int
    median_abs_frac: float | None = None
    mean_abs_frac: float | None = None
    p90_abs_frac: float | None = None
    bias_frac: float | None = None
    within_10_frac: float | None = None
    within_20_frac: float | None = None
    coverage_frac: float | None = None
    null_median_abs_frac: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs that can be ranked: how well the model ranks them and, for plans of one model, what choosing its favourite costs."""

    name: str
    n: int
    spearman: float | None
    regret_frac: float | None = None


def summary(
    rows: Sequence[Prediction], null: Mapping[str, float], intervals: Mapping[str, tuple[float, float]] | None = None
) -> Summary:
    """Score ``rows``; ``null`` holds the null model's errors by run, ``intervals`` low and high by run."""
    known = [p for p in rows if p.error_frac is not None]
    if not known:
        return Summary(n=len(rows), predicted=0)
    size = np.abs([p.error_frac or 0.0 for p in known])
    naive = [abs(null[p.run.run_id]) for p in known if p.run.run_id in null]
    covered = [low <= p.run.published <= high for p in known for low, high in _interval(p, intervals)]
    return Summary(
        n=len(rows),
        predicted=len(known),
        median_abs_frac=float(np.median(size)),
        mean_abs_frac=float(size.mean()),
        p90_abs_frac=float(np.quantile(size, 0.9)),
        bias_frac=float(np.mean([p.time_frac or 0.0 for p in known])),
        within_10_frac=float(np.mean(size <= 0.10)),
        within_20_frac=float(np.mean(size <= 0.20)),
        coverage_frac=float(np.mean(covered)) if covered else None,
        null_median_abs_frac=float(np.median(naive)) if naive else None,
    )


def _interval(p: Prediction, intervals: Mapping[str, tuple[float, float]] | None) -> Iterable[tuple[float, float]]:
    if intervals is not None and p.run.run_id in intervals:
        yield intervals[p.run.run_id]


def grouped(rows: Iterable[Prediction], key: Key) -> dict[tuple[str, ...], list[Prediction]]:
    """Rows by key, in the order in which the keys appear."""
    found: dict[tuple[str, ...], list[Prediction]] = defaultdict(list)
    for p in rows:
        found[key(p)].append(p)
    return dict(found)


def macro_mean(rows: Sequence[Prediction], error: Callable[[Prediction], float | None]) -> float | None:
    """Mean absolute error in which every pair of source and accelerator counts once."""
    means = []
    for members in grouped(rows, lambda p: (p.run.source, p.run.accelerator_id)).values():
        errors = [abs(value) for value in map(error, members) if value is not None]
        if errors:
            means.append(float(np.mean(errors)))
    return float(np.mean(means)) if means else None


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks, ties sharing their mean."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: NDArray[np.float64] = (last - (counts - 1) / 2.0)[inverse]
    return mean


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Rank correlation; ``None`` for fewer than three values or where one side never changes."""
    if len(a) < 3:
        return None
    x, y = _ranks(a), _ranks(b)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _time_per_token(p: Prediction, step_s: float | None) -> float:
    assert p.laid is not None
    assert step_s is not None
    return step_s / p.laid.problem.work.batch_token


def plan_groups(rows: Iterable[Prediction], *, least: int = 3) -> tuple[Group, ...]:
    """Groups of at least ``least`` plans for the same model, sequence length, precision and machine size, by one source.

    Regret: how much longer the plan that the model ranks first really takes per token than the measured best.
    """

    def key(p: Prediction) -> tuple[str, ...]:
        run = p.run
        shape = (run.layers, run.hidden, run.heads, run.seq_len, run.precision, run.accelerators)
        return (run.source, run.model_name, run.accelerator_id, *map(str, shape))

    found = []
    for name, members in grouped((p for p in rows if p.laid is not None), key).items():
        if len(members) < least:
            continue
        guessed = [_time_per_token(p, p.step_s) for p in members]
        measured = [_time_per_token(p, p.measured_step_s) for p in members]
        regret = measured[int(np.argmin(guessed))] / min(measured) - 1.0
        title = f"{name[0]}: {name[1]} on {name[-1]} x {name[2]}, {name[5]} heads"
        found.append(Group(name=title, n=len(members), spearman=spearman(guessed, measured), regret_frac=regret))
    return tuple(found)


def as_dict(found: Summary) -> dict[str, Any]:
    """The fields of a summary in their order."""
    return {name: getattr(found, name) for name in Summary.__dataclass_fields__}
