"""Goodput formulas: against a walk of random failures, against Lambert's W and against published tables."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import lambertw

from suanchou.training.goodput import best_interval_s, daly_interval_s, goodput_frac, wall_shares, young_interval_s


def walk(rng, *, interval, cost, mtbf, recovery, lag, n_failure=20_000):
    """A job through random failures, event by event: wall time by what it was spent on.

    Every interval is worked, then its checkpoint is paid for, then it becomes durable ``lag`` later, while the next one runs.
    """
    wall = useful = recovering = checkpoints = 0.0
    for up in rng.exponential(mtbf, n_failure):
        done = 0
        while (done + 1) * (interval + cost) + lag <= up:
            done += 1
        useful += done * interval
        checkpoints += done * cost
        wall += up
        while (next_failure := rng.exponential(mtbf)) < recovery:
            wall += next_failure
            recovering += next_failure
        wall += recovery
        recovering += recovery
    return {"useful": useful / wall, "checkpoint": checkpoints / wall, "recovery": recovering / wall}


CASES = [
    {"interval": 1000.0, "cost": 60.0, "mtbf": 11_000.0, "recovery": 600.0, "lag": 0.0},
    {"interval": 400.0, "cost": 6.0, "mtbf": 11_000.0, "recovery": 600.0, "lag": 60.0},
    {"interval": 500.0, "cost": 100.0, "mtbf": 1_000.0, "recovery": 400.0, "lag": 300.0},
]


@pytest.mark.parametrize("case", CASES)
def test_the_formula_is_the_mean_of_a_walk(case):
    seen = walk(np.random.default_rng(7), **case)
    shares = wall_shares(
        case["interval"], cost_s=case["cost"], mtbf_s=case["mtbf"], recovery_s=case["recovery"], lag_s=case["lag"]
    )
    assert sum(shares.values()) == pytest.approx(1.0)
    for name, value in seen.items():
        assert shares[name] == pytest.approx(value, abs=0.006), name


@pytest.mark.parametrize("ratio", [1e-9, 1e-6, 1e-3, 0.1, 1.0, 5.0])
def test_the_best_interval_is_lamberts(ratio):
    mtbf = 1e4
    exact = mtbf * (1 + lambertw(-np.exp(-ratio - 1)).real)
    assert best_interval_s(ratio * mtbf, mtbf) == pytest.approx(exact, rel=1e-3 if ratio < 1e-6 else 1e-6)


@pytest.mark.parametrize("cost", [1.0, 60.0, 2_000.0])
def test_no_other_interval_is_better(cost):
    mtbf = 10_000.0
    best = best_interval_s(cost, mtbf)
    others = best * np.geomspace(0.2, 5.0, 2_001)
    for lag, recovery in ((0.0, 0.0), (50.0, 900.0)):
        share = goodput_frac(others, cost_s=cost, mtbf_s=mtbf, recovery_s=recovery, lag_s=lag)
        assert others[np.argmax(share)] == pytest.approx(best, rel=2e-3)


def test_young_and_daly_meet_the_best_where_failures_are_rare():
    for ratio, far in ((1e-6, 1e-3), (1e-3, 0.03)):
        best = best_interval_s(ratio, 1.0)
        assert young_interval_s(ratio, 1.0) == pytest.approx(best, rel=far)
        assert daly_interval_s(ratio, 1.0) == pytest.approx(best, rel=far / 10)
    assert daly_interval_s(3.0, 1.0) == 1.0


@pytest.mark.parametrize(
    ("n", "interval", "goodput"),
    [(1024, 4583, 0.971), (4096, 2272, 0.936), (16_384, 1116, 0.853), (65_536, 539, 0.650), (131_072, 370, 0.477)],
)
def test_a_minute_per_checkpoint_on_ever_larger_machines(n, interval, goodput):
    """At the failure rate of Llama 3, ten minutes to restart; computed independently."""
    mtbf_s = 54 * 86400 / 419 * 16_384 / n
    best = best_interval_s(60.0, mtbf_s)
    assert best == pytest.approx(interval, rel=0.005)
    share = goodput_frac(best, cost_s=60.0, mtbf_s=mtbf_s, recovery_s=600.0)
    assert share == pytest.approx(goodput, abs=0.004)


def test_many_at_once_are_one_by_one():
    cost, mtbf = np.array([1.0, 10.0, 100.0])[:, None], np.array([1e3, 1e5])[None, :]
    together = goodput_frac(best_interval_s(cost, mtbf), cost_s=cost, mtbf_s=mtbf, recovery_s=60.0, lag_s=5.0)
    for i, j in np.ndindex(together.shape):
        c, m = float(cost[i, 0]), float(mtbf[0, j])
        alone = goodput_frac(best_interval_s(c, m), cost_s=c, mtbf_s=m, recovery_s=60.0, lag_s=5.0)
        assert together[i, j] == pytest.approx(alone, rel=1e-12)
