"""Fit the constants of the cost model to published training runs, once on all and once without each source.

Writes ``fitted_runs.csv``: factors on the constants that ``runs.yaml`` names; and ``held_out_errors.csv``. The model is

    ln(measured step) = ln(predicted step; factors) + what the source differs by + residual

with a prior around 1 on every factor, around 0 on what a source differs by, and residuals after Student's t, so that a few rows
that are misread or pathological do not pull. Rows of a source that has many count with the square root of their number, rows
whose layout had to be assumed for less.
What the sources differ by is thrown away: a prediction knows no source. The maximum is found by Gauss-Newton steps; the
cost model prices all the factors' variations of a row in one call, because its formulas take arrays.

    python calibration/fit_runs.py              # fit, hold out each source, write the table (some minutes)
    python calibration/fit_runs.py --no-held-out  # only the fit on all runs; prints, writes nothing
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from suanchou.cost.efficiency import efficiency
from suanchou.cost.fitted import EVERY, Factors, fitted_table
from suanchou.model.parameters import parameter_count
from suanchou.training.layer_time import layer_time
from suanchou.training.memory import activation_table
from suanchou.training.problem import Problem
from suanchou.training.stack import TUNED, lineage
from suanchou.training.stack import stack as stack_named
from suanchou.training.strategy import Strategy
from suanchou.training.time import step_time
from suanchou.validation.predict import Prediction, predict
from suanchou.validation.runs import open_runs

HERE = Path(__file__).parent
DATA = HERE.parent / "src" / "suanchou" / "catalog" / "data"
SWEEP = "training_sweep_single_node"
VARIATION = 0.05
"""Step of the numerical derivative, in log."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """A factor: what it multiplies and the standard deviation of its logarithm."""

    scope: str
    part: str
    quantity: str
    dtype: str
    sd: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Where the factor stands in the table."""
        return self.scope, self.part, self.quantity, self.dtype


class Row:
    """One run, laid out and ready to be priced with other factors."""

    def __init__(self, prediction: Prediction, moved: Sequence[str]) -> None:
        assert prediction.laid is not None
        assert prediction.measured_step_s is not None
        self.moved = moved
        self.run, self.problem = prediction.run, prediction.laid.problem
        chosen = prediction.laid.strategy
        self.strategy = Strategy(
            **{item.name: np.atleast_1d(np.asarray(getattr(chosen, item.name), dtype=float)) for item in fields(Strategy)}
        )
        part = self.problem.accelerator
        self.path = (part.id, *(part.family_path or (part.family,)))
        self.lineage = lineage(self.problem.stack.name)
        self.measured = float(np.log(prediction.measured_step_s))
        plain = efficiency(part, Factors({}))
        self.unmeasured = {name for name, entry in plain.entries.items() if entry.part == "default"}

    def uses(self, p: Parameter) -> bool:
        """Whether the factor can touch this row."""
        if p.scope == "stack":
            return p.part == EVERY or p.part in self.lineage
        if p.part == "default":
            return p.quantity in self.unmeasured
        return p.part == EVERY or p.part in self.path

    def log_step(self, parameters: Sequence[Parameter], values: Vector) -> Vector:
        """ln of the step for every row of ``values`` (variations x parameters)."""
        factors = Factors({p.key: np.exp(values[:, j]) for j, p in enumerate(parameters) if self.uses(p)})
        problem = Problem(self.problem.work, self.problem.cluster, self._stack(factors), factors)
        problem.__dict__["kinds"] = self.problem.kinds
        layers = layer_time(problem, self.strategy)
        total = step_time(problem, self.strategy, layers, activation_table(problem, self.strategy)).total
        return np.log(np.broadcast_to(np.asarray(total, dtype=float), (len(values),)))

    def _stack(self, factors: Factors):
        """The run's stack, whose switches its row may have set, with other factors."""
        moved = stack_named(self.problem.stack.name, factors)
        return replace(self.problem.stack, **{name: getattr(moved, name) for name in self.moved})


def read_parameters(rows: Sequence[Row], settings: dict) -> list[Parameter]:
    """Every factor of ``runs.yaml`` at every level that the rows know."""
    found = []
    families = sorted({row.path[1] for row in rows})
    stacks = sorted({name for row in rows for name in row.lineage} - {TUNED})
    measured = {
        family for row in rows if "gemm_frac" not in row.unmeasured and row.path[-1] == "gpu" for family in row.path[1:2]
    }
    for scope in ("efficiency", "stack"):
        for name, levels in settings[scope].items():
            quantity, _, dtype = name.partition("@")
            dtype = dtype or EVERY
            if EVERY in levels:
                found.append(Parameter(scope, EVERY, quantity, dtype, levels[EVERY]))
            if "default" in levels:
                found.append(Parameter(scope, "default", quantity, dtype, levels["default"]))
            for family in families if "family" in levels else ():
                sd = levels["measured"] if family in measured and family.startswith("nvidia") else levels["family"]
                found.append(Parameter(scope, family, quantity, dtype, sd))
            found += [Parameter(scope, part, quantity, dtype, levels["stack"]) for part in stacks if "stack" in levels]
            if TUNED in levels:
                found.append(Parameter(scope, TUNED, quantity, dtype, levels[TUNED]))
    return found


def load(settings: dict) -> list[Row]:
    """All predicted runs of trust A and B whose layout can be, and a part of the sweep."""
    runs = [*open_runs("training_runs"), *open_runs(SWEEP)[:: settings["sweep_every"]]]
    predictions = (predict(run) for run in runs if run.trust != "C")
    return [Row(p, tuple(settings["stack"])) for p in predictions if p.status == "predicted" and _plausible(p)]


def _plausible(prediction: Prediction) -> bool:
    """Whether the run is laid out as stated, or at least so that it fits: else it did what nobody has told us."""
    laid = prediction.laid
    return prediction.run.complete or (laid is not None and laid.priced.memory_byte <= laid.problem.memory_byte)


def jacobian(rows: Sequence[Row], parameters: Sequence[Parameter], at: Vector) -> tuple[Vector, Vector]:
    """ln step of every row, and its derivative by every parameter."""
    values, slope = np.empty(len(rows)), np.zeros((len(rows), len(parameters)))
    for i, row in enumerate(rows):
        used = [j for j, p in enumerate(parameters) if row.uses(p)]
        points = np.tile(at, (len(used) + 1, 1))
        points[np.arange(1, len(used) + 1), used] += VARIATION
        steps = row.log_step(parameters, points)
        values[i] = steps[0]
        slope[i, used] = (steps[1:] - steps[0]) / VARIATION
    return values, slope


def log_steps(rows: Sequence[Row], parameters: Sequence[Parameter], at: Vector) -> Vector:
    """ln step of every row."""
    return np.array([row.log_step(parameters, at[None, :])[0] for row in rows])


@dataclass
class Fit:
    """The data of the fit and its two steps."""

    rows: Sequence[Row]
    parameters: Sequence[Parameter]
    settings: dict

    def __post_init__(self) -> None:
        self.measured = np.array([row.measured for row in self.rows])
        self.sources = [row.run.source for row in self.rows]
        self.names = sorted(set(self.sources))
        counts = Counter((row.run.source, row.path[0]) for row in self.rows)
        assumed = np.where([row.run.complete for row in self.rows], 1.0, self.settings["incomplete"])
        weight = assumed * np.array([counts[row.run.source, row.path[0]] ** -0.5 for row in self.rows])
        self.weight = weight / weight.mean()
        self.belongs = np.array([[name == source for name in self.names] for source in self.sources], dtype=float)
        self.sd = np.concatenate([[p.sd for p in self.parameters], np.full(len(self.names), self.settings["source_sd"])])

    def solve(self, values: Vector, slope: Vector, at: Vector, keep: NDArray[np.bool_]) -> tuple[Vector, Vector]:
        """The step from ``at`` to the maximum of the linearised model over the rows to keep, and the sources' share."""
        design = np.hstack([slope, self.belongs])[keep]
        scale = self.settings["residual"]
        start, prior = (values - self.measured)[keep], np.concatenate([at, np.zeros(len(self.names))])
        step = np.zeros(design.shape[1])
        for _ in range(15):
            residual = (start + design @ step) / scale
            weight = self.weight[keep] / (1.0 + residual**2 / 4.0) / scale**2
            curvature = (design * weight[:, None]).T @ design + np.diag(self.sd**-2)
            step = np.linalg.solve(curvature, -(design * weight[:, None]).T @ start - prior * self.sd**-2)
        return step[: len(at)], step[len(at) :]

    def share(self, values: Vector) -> Vector:
        """What each source differs by, at its most probable, where the factors give ``values``."""
        scale, start = self.settings["residual"], values - self.measured
        share = np.zeros(len(self.names))
        for _ in range(30):
            residual = (start + self.belongs @ share) / scale
            weight = self.weight / (1.0 + residual**2 / 4.0) / scale**2
            share = -(weight * start) @ self.belongs / (weight @ self.belongs + self.settings["source_sd"] ** -2)
        return share

    def cost(self, values: Vector, at: Vector, keep: NDArray[np.bool_]) -> float:
        """Minus log posterior of the factors ``at``, which give ``values``, over the rows to keep, up to a constant."""
        share = self.share(values)
        residual = ((values + self.belongs @ share - self.measured) / self.settings["residual"])[keep]
        prior = np.concatenate([at, share * (self.belongs[keep].sum(axis=0) > 0)]) / self.sd
        return float(np.sum(self.weight[keep] * 2.5 * np.log1p(residual**2 / 4.0)) + 0.5 * np.sum(prior**2))

    def on_all(self, at: Vector, *, most: int = 12) -> tuple[Vector, Vector, Vector]:
        """Factors on all rows, with the values and slopes there."""
        every = np.ones(len(self.rows), dtype=bool)
        values, slope = jacobian(self.rows, self.parameters, at)
        for turn in range(most):
            step, _ = self.solve(values, slope, at, every)
            cost, length = self.cost(values, at, every), 1.0
            while True:
                new = at + length * np.clip(step, -0.6, 0.6)
                new_values, new_slope = jacobian(self.rows, self.parameters, new)
                better = self.cost(new_values, new, every) < cost
                if better or length < 0.2:
                    break
                length /= 2.0
            print(
                f"turn {turn}: length {length:g}, largest step {np.abs(step).max():.3f}, {self.score(new_values)}", flush=True
            )
            if not better:
                break
            at, values, slope = new, new_values, new_slope
            if length * np.abs(step).max() < 0.02:
                break
        return at, values, slope

    def without(self, source: str, at: Vector, values: Vector, slope: Vector) -> Vector:
        """Factors on all rows but those of ``source``.

        A Gauss-Newton step from the fit on all rows, in full, so that nothing of it stays; and a second one from there, as
        far as it makes the fit on the other rows better.
        """
        keep = np.array([name != source for name in self.sources])
        new = at + self.solve(values, slope, at, keep)[0]
        values, slope = jacobian(self.rows, self.parameters, new)
        step, cost = self.solve(values, slope, new, keep)[0], self.cost(values, new, keep)
        for length in (1.0, 0.5, 0.25):
            tried = new + length * step
            if self.cost(log_steps(self.rows, self.parameters, tried), tried, keep) < cost:
                return tried
        return new

    def score(self, values: Vector) -> str:
        """Median and P90 of the error of step time, published runs and sweep."""
        error = np.abs(np.expm1(values - self.measured))
        sweep = np.array([row.run.run_id.startswith("vtrain") for row in self.rows])
        full = np.array([row.run.complete for row in self.rows]) & ~sweep
        parts = (("runs", ~sweep), ("full", full), ("sweep", sweep))
        return ", ".join(f"{n} median {np.median(error[w]):.3f} P90 {np.quantile(error[w], 0.9):.3f}" for n, w in parts)


def starting_point(parameters: Sequence[Parameter]) -> Vector:
    """The factors in use, in log."""
    table = {(row.scope, row.part, row.quantity, row.dtype): row.factor for row in fitted_table()}
    return np.log([table.get(p.key, 1.0) for p in parameters])


def write(fit: Fit, factors: Vector, held_out: dict[str, Vector]) -> None:
    """The table, one row per factor."""
    with (DATA / "fitted_runs.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["scope", "part", "quantity", "dtype", "prior_sd", "n_run", "n_source", "all", *held_out])
        for j, p in enumerate(fit.parameters):
            touched = [row.run for row in fit.rows if row.uses(p)]
            evidence = (len(touched), len({run.source for run in touched}))
            each = [f"{np.exp(values[j]):.4g}" for values in (factors, *held_out.values())]
            out.writerow([*p.key, p.sd, *evidence, *each])


def write_errors(fit: Fit, left: Vector) -> None:
    """ln(measured / predicted) of every published run by constants that never saw its source."""
    with (DATA / "held_out_errors.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["source", "family", "known", "n_rank", "seq", "parameter", "error"])
        for row, value in zip(fit.rows, left, strict=True):
            others = {other.run.source for other in fit.rows if other.path[1] == row.path[1]} - {row.run.source}
            if not row.run.run_id.startswith("vtrain"):
                work = row.problem.work
                size = (row.problem.cluster.n_accelerator, work.seq, f"{parameter_count(work.arch):.4g}")
                out.writerow([row.run.source, row.path[1], int(bool(others)), *size, f"{row.measured - value:.4f}"])


def by_group(fit: Fit, values: Vector) -> None:
    """Median and spread of ln(predicted / measured) by source, accelerator and stack."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for row, value in zip(fit.rows, values, strict=True):
        key = (row.run.source[:36], row.path[0], row.problem.stack.name, row.run.precision[:6])
        groups.setdefault(key, []).append(value - row.measured)
    for key, errors in sorted(groups.items()):
        print(
            f"{key[0]:36} {key[1]:16} {key[2]:22} {key[3]:6} {len(errors):4} {np.median(errors):+.3f} +- {np.std(errors):.3f}"
        )


def main() -> None:
    """Run the fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warm", action="store_true", help="start from the factors in use")
    parser.add_argument("--no-held-out", action="store_true", help="fit on all runs only and write nothing")
    arguments = parser.parse_args()
    settings = yaml.safe_load((HERE / "runs.yaml").read_text(encoding="utf-8"))
    rows = load(settings)
    parameters = read_parameters(rows, settings)
    fit = Fit(rows, parameters, settings)
    print(f"{len(rows)} runs of {len(fit.names)} sources, {len(parameters)} factors", flush=True)
    factors, values, slope = fit.on_all(starting_point(parameters) if arguments.warm else np.zeros(len(parameters)))
    by_group(fit, values)
    if arguments.no_held_out:
        return
    held_out: dict[str, Vector] = {}
    left = values.copy()
    for source in fit.names:
        held_out[source] = fit.without(source, factors, values, slope)
        where = [i for i, name in enumerate(fit.sources) if name == source]
        for i in where:
            left[i] = rows[i].log_step(parameters, held_out[source][None, :])[0]
        error = left[where] - fit.measured[where]
        print(f"without {source[:50]:50} {np.median(error):+.3f} +- {np.std(error):.3f}", flush=True)
    print("each source left out:", fit.score(left))
    write(fit, factors, held_out)
    write_errors(fit, left)


if __name__ == "__main__":
    main()
