"""Fitted factors: how far published runs move the constants of the cost model.

Tables (``efficiency.csv``, ``stacks.yaml`` ...) hold what documents and single kernels say. ``fitted_runs.csv`` holds factors
on them, fitted by ``calibration/fit_runs.py`` to all published runs of the package at once, each held near 1 by a prior.
Every column but ``all`` was fitted without the source it names, so that a source can be predicted by constants that never
saw it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

__all__ = ["EVERY", "Factors", "FittedFactor", "Scope", "fitted_factors", "fitted_table"]

Scope = Literal["efficiency", "stack"]
EVERY = "*"
"""A part or data type that stands for all of them."""

_OWN_COLUMNS = ("scope", "part", "quantity", "dtype", "prior_sd", "n_run", "n_source", "all")


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Factors by scope, part (or stack), quantity and data type. Compared by identity, so that caches can hold them.

    A value is a number, or an array where many sets of constants are priced at once.
    """

    values: Mapping[tuple[str, str, str, str], Any]

    def of(self, scope: Scope, parts: Iterable[str], quantity: str, dtype: str = EVERY) -> Any:
        """Product of the factors of these parts and of ``*``; 1 where there is none."""
        found: Any = 1.0
        for part in (EVERY, *parts):
            value = self.values.get((scope, part, quantity, dtype))
            if value is not None:
                found = found * value
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedFactor:
    """One row of the table: the factor fitted on all sources, the width of its prior in log, and what it rests on."""

    scope: Scope
    part: str
    quantity: str
    dtype: str
    prior_sd: float
    n_run: int
    n_source: int
    factor: float
    without: Mapping[str, float]


@cache
def fitted_table() -> tuple[FittedFactor, ...]:
    """All fitted factors with their evidence."""
    text = resources.files("suanchou.catalog").joinpath("data/fitted_runs.csv").read_text(encoding="utf-8")
    return tuple(
        FittedFactor(
            scope=row["scope"],  # type: ignore[arg-type]  # one of two words, checked by the data tests
            part=row["part"],
            quantity=row["quantity"],
            dtype=row["dtype"],
            prior_sd=float(row["prior_sd"]),
            n_run=int(row["n_run"]),
            n_source=int(row["n_source"]),
            factor=float(row["all"]),
            without={name: float(value) for name, value in row.items() if name not in _OWN_COLUMNS},
        )
        for row in csv.DictReader(text.splitlines())
    )


@cache
def fitted_factors(without: str = "") -> Factors:
    """The factors fitted on all published runs, or on all but those of the source ``without``.

    A source that the fit does not know left nothing out: the factors are those of all runs.
    """
    return Factors(
        {
            (row.scope, row.part, row.quantity, row.dtype): row.without.get(without, row.factor) if without else row.factor
            for row in fitted_table()
        }
    )
