"""Board: all published runs judged, with every figure the scoreboard shows. `validate` is the function behind the command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from suanchou.cost.fitted import fitted_factors
from suanchou.validation.interval import intervals
from suanchou.validation.null import null_errors
from suanchou.validation.policy import memory_reported
from suanchou.validation.predict import Prediction, predict
from suanchou.validation.runs import OPEN_SETS, Run, open_runs, read_runs
from suanchou.validation.score import Group, Summary, grouped, macro_mean, plan_groups, spearman, summary

__all__ = ["BY", "Board", "By", "MemoryScore", "Part", "RunSet", "in_memory_band", "memory_error", "validate"]

By = Literal["source", "accelerator", "vendor", "stack"]
Part = Literal["trusted", "complete", "C"]
BY: Mapping[str, Callable[[Prediction], tuple[str, ...]]] = {
    "source": lambda p: (p.run.source,),
    "accelerator": lambda p: (p.run.accelerator_id,),
    "vendor": lambda p: (p.laid.problem.accelerator.vendor if p.laid else "",),
    "stack": lambda p: (p.laid.problem.stack.name if p.laid else "",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryScore:
    """Predicted against published peak memory per accelerator: what tensors occupy where the source says so, else all.

    ``in_band_frac`` is the share of whole-device figures between what must fit and the allocator at its worst.
    """

    n: int
    median_abs_frac: float
    p90_abs_frac: float
    bias_frac: float
    in_band_frac: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSet:
    """One set of runs: trust A and B together, those of them with complete layouts, and C apart.

    ``rows`` are predicted by constants fitted on all open runs, ``held_out`` by constants that never saw the run's source.
    ``null`` and ``null_out`` are the null model's errors by run, in-sample and with the run's own source left out.
    """

    name: str
    rows: tuple[Prediction, ...]
    held_out: Mapping[str, Prediction]
    null: Mapping[str, float]
    null_out: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    def part(self, name: Part) -> tuple[Prediction, ...]:
        """Trust A and B; those of them whose layout is complete; or trust C."""
        if name == "C":
            return tuple(p for p in self.rows if p.run.trust == "C")
        trusted = tuple(p for p in self.rows if p.run.trust != "C")
        return tuple(p for p in trusted if p.run.complete) if name == "complete" else trusted

    def score(self, rows: Sequence[Prediction]) -> Summary:
        """Score some of the rows."""
        return summary(rows, self.null, self.intervals)

    def held_out_rows(self, rows: Sequence[Prediction]) -> tuple[Prediction, ...]:
        """The same runs, each predicted by constants fitted without its source."""
        return tuple(self.held_out[p.run.run_id] for p in rows)

    def null_quantiles(self, rows: Sequence[Prediction], *, out: bool = False) -> tuple[float, float] | None:
        """Median and 90th percentile of the null model's absolute error."""
        errors = self.null_out if out else self.null
        size = [abs(errors[p.run.run_id]) for p in rows if p.run.run_id in errors]
        return (float(np.median(size)), float(np.quantile(size, 0.9))) if size else None

    @property
    def macro_means(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Mean absolute error with every (source, accelerator) counted once.

        Of constants fitted on all sources, of those that left the run's source out, and of the null model both ways.
        """
        rows = self.part("trusted")
        return (
            macro_mean(rows, lambda p: p.error_frac),
            macro_mean(self.held_out_rows(rows), lambda p: p.error_frac),
            macro_mean(rows, lambda p: self.null.get(p.run.run_id)),
            macro_mean(rows, lambda p: self.null_out.get(p.run.run_id)),
        )

    @property
    def plan_groups(self) -> tuple[Group, ...]:
        """Groups of plans for one model on one machine."""
        return plan_groups(self.part("trusted"))

    @property
    def rank_groups(self) -> tuple[Group, ...]:
        """Rank correlation of step times within each source and accelerator of five runs or more."""
        found = []
        for key, members in grouped(self.part("trusted"), lambda p: (p.run.source, p.run.accelerator_id)).items():
            known = [(p.step_s, p.measured_step_s) for p in members if p.step_s and p.measured_step_s]
            if len(known) >= 5:
                rho = spearman([a for a, _ in known], [b for _, b in known])
                found.append(Group(name=" on ".join(key), n=len(known), spearman=rho))
        return tuple(found)

    @property
    def memory(self) -> MemoryScore | None:
        """Errors of peak memory, over the runs that publish it."""
        return _memory_score(self.rows)

    @property
    def memory_by_source(self) -> dict[str, MemoryScore]:
        """The same by source, most runs first."""
        groups = grouped(self.rows, BY["source"])
        found = [(key[0], _memory_score(rows)) for key, rows in groups.items()]
        known = [(source, score) for source, score in found if score is not None]
        return dict(sorted(known, key=lambda item: (-item[1].n, item[0])))

    def by(self, what: By) -> dict[str, Summary]:
        """Scores of trust A and B by source, accelerator or stack, largest group first."""
        groups = grouped(self.part("trusted"), BY[what])
        return {key[0]: self.score(rows) for key, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))}

    def worst(self, n: int = 10) -> tuple[Prediction, ...]:
        """Runs of trust A and B that are missed by most, in either direction of time."""
        known = [p for p in self.part("trusted") if p.time_frac is not None]
        return tuple(sorted(known, key=lambda p: -abs(np.log1p(p.time_frac or 0.0)))[:n])


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """The answer of :func:`validate`."""

    sets: tuple[RunSet, ...]

    @property
    def rows(self) -> tuple[Prediction, ...]:
        """Every run of every set."""
        return tuple(p for part in self.sets for p in part.rows)


def memory_error(p: Prediction) -> float | None:
    """Predicted over published peak memory, minus one; tensors alone where the source reports what was allocated."""
    if p.laid is None or p.run.memory_gb is None:
        return None
    figure = memory_reported(p.run)
    predicted = p.laid.priced.tensor_byte if figure.allocated else p.laid.priced.memory_byte
    return predicted * p.laid.unit / (p.run.memory_gb * figure.unit_byte) - 1.0


def _memory_score(rows: Iterable[Prediction]) -> MemoryScore | None:
    rows = tuple(rows)
    errors = [value for value in map(memory_error, rows) if value is not None]
    if not errors:
        return None
    size = np.abs(errors)
    inside = [value for value in map(in_memory_band, rows) if value is not None]
    return MemoryScore(
        n=len(errors),
        median_abs_frac=float(np.median(size)),
        p90_abs_frac=float(np.quantile(size, 0.9)),
        bias_frac=float(np.mean(errors)),
        in_band_frac=float(np.mean(inside)) if inside else None,
    )


def in_memory_band(p: Prediction) -> bool | None:
    """Whether a published figure of the whole device lies in the allocator's band; ``None`` for other figures."""
    if p.laid is None or p.run.memory_gb is None or memory_reported(p.run).allocated:
        return None
    priced, published = p.laid.priced, p.run.memory_gb * memory_reported(p.run).unit_byte / p.laid.unit
    return priced.needed_byte <= published <= priced.high_byte


def _judged(name: str, rows: Sequence[Prediction], held_out: Sequence[Prediction]) -> RunSet:
    return RunSet(
        name=name,
        rows=tuple(rows),
        held_out={p.run.run_id: p for p in held_out},
        null=null_errors(rows),
        null_out=null_errors(rows, leave_source_out=True),
        intervals=intervals(held_out),
    )


def validate(paths: Sequence[Path] = (), *, progress: Callable[[int, int], None] | None = None) -> Board:
    """Predict every run of the files, or of the open data in the package, and score the predictions.

    Every run is predicted twice: by the constants fitted on all open runs, and by those fitted without its source (the same
    for a source that the open data does not have). Intervals lie round the latter. ``progress(done, total)`` is called after
    every prediction.

    Raises
    ------
    SpecError : a file that cannot be read.
    """
    sets = [(str(path), read_runs((path,))) for path in paths] or [(name, open_runs(name)) for name in OPEN_SETS]
    total = 2 * sum(len(runs) for _, runs in sets)
    done = 0

    def predicted(runs: Iterable[Run], *, held_out: bool = False) -> list[Prediction]:
        nonlocal done
        found = []
        for run in runs:
            found.append(predict(run, fitted_factors(run.source) if held_out else None))
            done += 1
            if progress:
                progress(done, total)
        return found

    rows = [(name, predicted(runs), predicted(runs, held_out=True)) for name, runs in sets]
    return Board(sets=tuple(_judged(name, found, held_out) for name, found, held_out in rows))
