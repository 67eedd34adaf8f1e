"""Growth: the regression recovers what it was given, and refuses what is no trend."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from suanchou.errors import SpecError
from suanchou.trends.growth import annual_growth, doubling_months, fit_growth, year_of


def test_an_exact_exponential_is_recovered() -> None:
    years = [2010.0, 2011.5, 2013.0, 2020.25]
    fit = fit_growth(years, [3e10 * 4.0 ** (year - 2010) for year in years])
    assert fit.per_year == pytest.approx(4)
    assert fit.doubling_months == pytest.approx(6)
    assert fit.at(2015) == pytest.approx(3e10 * 4**5)
    assert fit.r2 == pytest.approx(1)
    assert fit.slope_error == pytest.approx(0, abs=1e-6)


def test_agrees_with_numpy_on_noisy_points() -> None:
    rng = np.random.default_rng(7)
    years = np.linspace(2010, 2025, 40)
    logs = 2.2 * (years - 2010) + rng.normal(0, 1.5, 40)
    fit = fit_growth(list(years), list(2.0**logs))
    (slope, intercept), covariance = np.polyfit(years, logs, 1, cov=True)
    assert fit.slope == pytest.approx(slope)
    assert fit.intercept == pytest.approx(intercept)
    assert fit.slope_error == pytest.approx(covariance[0, 0] ** 0.5)
    assert fit.r2 == pytest.approx(np.corrcoef(years, logs)[0, 1] ** 2)


def test_rates() -> None:
    assert annual_growth(100, 200, 1) == pytest.approx(1)
    assert doubling_months(8, 36) == pytest.approx(12)
    assert year_of(date(2020, 7, 2)) == pytest.approx(2020.5, abs=0.001)
    assert year_of(date(2021, 1, 1)) == 2021


@pytest.mark.parametrize(
    "call",
    [
        lambda: fit_growth([2010, 2011], [1, 2]),
        lambda: fit_growth([2010, 2011, 2012], [1, 2]),
        lambda: fit_growth([2010, 2011, 2012], [1, 0, 2]),
        lambda: fit_growth([2010, 2010, 2010], [1, 2, 3]),
        lambda: fit_growth([2010, 2011, 2012], [4, 2, 1]).doubling_months,
        lambda: annual_growth(0, 1, 1),
        lambda: annual_growth(1, 2, 0),
        lambda: doubling_months(1, 12),
    ],
)
def test_no_trend_is_refused(call) -> None:
    with pytest.raises(SpecError):
        call()
