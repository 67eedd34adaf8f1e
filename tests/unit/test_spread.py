"""Intervals: quantiles of held-out errors, never those of the own source."""

from __future__ import annotations

import numpy as np
import pytest

from suanchou.cost.spread import COVERAGE, HeldOutError, held_out_errors, judges, outer_quantiles, outside, spread


def rows(n_source, n, *, family="f", known=True, seed=1, centre=0.1):
    rng = np.random.default_rng(seed)
    return [
        HeldOutError(source=f"s{s}", family=family, known=known, n_rank=8, seq=1, parameter=1.0, error=float(e))
        for s in range(n_source)
        for e in rng.normal(centre, 0.2, n)
    ]


def test_quantiles_hold_the_share_they_promise():
    known = rows(20, 50)
    low, high = outer_quantiles(known)
    held = np.mean([low <= np.exp(row.error) <= high for row in known])
    assert held == pytest.approx(COVERAGE, abs=0.02)


def test_every_source_counts_the_same():
    """One source with a thousand runs far off weighs as much as one with ten: a twentieth."""
    few = rows(19, 10)
    wild = [HeldOutError(source="wild", family="f", known=True, n_rank=8, seq=1, parameter=1.0, error=5.0)]
    assert outer_quantiles([*few, *wild * 10]) == outer_quantiles([*few, *wild * 1000])


def test_no_run_is_judged_by_its_own_source():
    known = rows(10, 10)
    assert all(row.source != "s3" for row in judges(known, "f", "s3"))
    assert len(judges(known, "f", "s3")) == 90


def test_a_family_that_nobody_else_has_is_judged_by_its_like():
    seen, alone = rows(10, 10), rows(6, 10, family="g", known=False, seed=2, centre=0.5)
    alone = [row if row.source == "s0" else HeldOutError(**{**_fields(row), "family": f"g-{row.source}"}) for row in alone]
    assert {row.known for row in judges([*seen, *alone], "new")} == {False}
    assert {row.known for row in judges([*seen, *alone], "f")} == {True}
    few = [row for row in alone if row.source in ("s0", "s1")]
    assert {row.known for row in judges([*seen, *few], "new")} == {True, False}


def _fields(row):
    return {name: getattr(row, name) for name in HeldOutError.__slots__}


def test_the_published_errors_hold_their_own_share():
    """Nine in ten runs lie in intervals made of the errors on other sources; the fit never saw their source either."""
    found = held_out_errors()
    held = []
    for row in found:
        low, high = spread(row.family, row.source)
        held.append(low <= np.exp(row.error) <= high)
    assert np.mean(held) > 0.8
    assert len({row.source for row in found}) > 20


def test_what_was_never_measured_is_said():
    found = {name: (value, largest) for name, value, largest in outside("no-such-family", 10**7, 10**9, 1e15)}
    assert set(found) == {"family", "n_rank", "seq", "parameter"}
    assert found["n_rank"][1] >= 10_000
    assert outside("nvidia-hopper", 64, 4096, 7e10) == ()
