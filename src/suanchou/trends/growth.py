"""Growth: log-linear regression of a quantity over time, compound annual growth, doubling times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from suanchou.errors import SpecError

__all__ = ["Growth", "annual_growth", "doubling_months", "fit_growth", "year_of"]

_MONTHS = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A fit of ``value = 2 ** (intercept + slope * year)``.

    Parameters
    ----------
    per_year : factor a year. ``per_year_low``, ``per_year_high``: one standard error of the slope on either side.
    r2 : share of the variance of ``log2(value)`` that the line explains.
    n : points.
    """

    slope: float
    intercept: float
    slope_error: float
    r2: float
    n: int

    @property
    def per_year(self) -> float:
        """Factor by which the quantity grows in a year."""
        return math.pow(2.0, self.slope)

    @property
    def doubling_months(self) -> float:
        """Months until the quantity doubles.

        Raises
        ------
        SpecError : it does not grow.
        """
        if self.slope <= 0:
            raise SpecError("the quantity does not grow, so it never doubles", hint="choose another period")
        return _MONTHS / self.slope

    def at(self, year: float) -> float:
        """The fitted value at a point in time, in years."""
        return math.pow(2.0, self.intercept + self.slope * year)


def year_of(day: date) -> float:
    """A date as a year with its fraction: 2020-07-02 is about 2020.5."""
    start, end = date(day.year, 1, 1), date(day.year + 1, 1, 1)
    return day.year + (day - start).days / (end - start).days


def fit_growth(years: Sequence[float], values: Sequence[float]) -> Growth:
    """Least squares of ``log2(value)`` on time.

    Raises
    ------
    SpecError : fewer than three points, one point in time, or a value that is not positive.
    """
    if len(years) != len(values) or len(years) < 3:
        raise SpecError(f"{min(len(years), len(values))} points are too few for a trend", hint="give at least three, as pairs")
    if min(values) <= 0:
        raise SpecError("growth needs positive values", hint="leave out points without a value")
    n, logs = len(years), [math.log2(value) for value in values]
    mean_x, mean_y = math.fsum(years) / n, math.fsum(logs) / n
    sxx = math.fsum((x - mean_x) ** 2 for x in years)
    if sxx == 0:
        raise SpecError("all points lie at one time", hint="give points of different dates")
    sxy = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(years, logs, strict=True))
    syy = math.fsum((y - mean_y) ** 2 for y in logs)
    slope = sxy / sxx
    residual = max(0.0, syy - slope * sxy)
    return Growth(
        slope=slope,
        intercept=mean_y - slope * mean_x,
        slope_error=math.sqrt(residual / (n - 2) / sxx),
        r2=1.0 if syy == 0 else 1.0 - residual / syy,
        n=n,
    )


def annual_growth(first: float, last: float, years: float) -> float:
    """Compound annual growth rate as a fraction: ``(last / first) ** (1 / years) - 1``.

    Raises
    ------
    SpecError : a value or the time is not positive.
    """
    if min(first, last, years) <= 0:
        raise SpecError("growth needs positive values and a positive time")
    return math.pow(last / first, 1.0 / years) - 1.0


def doubling_months(factor: float, months: float) -> float:
    """Months per doubling when a quantity grows ``factor`` times in ``months``.

    Raises
    ------
    SpecError : the quantity does not grow.
    """
    if factor <= 1 or months <= 0:
        raise SpecError("only growth over a positive time has a doubling time")
    return months / math.log2(factor)
