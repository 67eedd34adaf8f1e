"""Scores, null model, intervals: against values worked out by hand, and scipy's rank correlation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from suanchou.cost.spread import spread
from suanchou.validation.board import in_memory_band, memory_error
from suanchou.validation.interval import intervals
from suanchou.validation.null import null_errors
from suanchou.validation.predict import Prediction, predict
from suanchou.validation.runs import open_runs
from suanchou.validation.score import macro_mean, plan_groups, spearman, summary

BASE = predict(next(run for run in open_runs("training_runs") if "SimuMax" in run.source))


def row(name: str, measured: float, guessed: float, source: str = "s", **run) -> Prediction:
    """A step-time run of the base's model and machine."""
    return replace(
        BASE,
        run=replace(BASE.run, run_id=name, source=source, published=measured, **run),
        predicted=guessed,
        error_frac=guessed / measured - 1,
        time_frac=guessed / measured - 1,
        step_s=guessed,
        measured_step_s=measured,
    )


ROWS = [row("a", 1.0, 1.05), row("b", 2.0, 1.8), row("c", 4.0, 2.0), row("d", 1.0, 1.3)]


def test_summary_by_hand():
    found = summary(ROWS, {"a": 0.5, "b": -0.1, "c": 0.2, "d": 0.0}, {"a": (0.9, 1.1), "b": (2.1, 2.2)})
    assert (found.n, found.predicted) == (4, 4)
    assert found.median_abs_frac == pytest.approx(0.2)
    assert found.mean_abs_frac == pytest.approx((0.05 + 0.1 + 0.5 + 0.3) / 4)
    assert found.bias_frac == pytest.approx((0.05 - 0.1 - 0.5 + 0.3) / 4)
    assert (found.within_10_frac, found.within_20_frac, found.coverage_frac) == (0.5, 0.5, 0.5)
    assert found.null_median_abs_frac == pytest.approx(0.15)


def test_refused_runs_count_but_do_not_score():
    refused = Prediction(run=BASE.run, status="refused", reason="why")
    found = summary([*ROWS, refused], {})
    assert (found.n, found.predicted, found.null_median_abs_frac) == (5, 4, None)
    assert summary([refused], {}).median_abs_frac is None


def test_macro_mean_counts_a_pair_once():
    rows = [row("a", 1.0, 1.1), row("b", 1.0, 1.3), row("c", 1.0, 2.0, source="t")]
    assert macro_mean(rows, lambda p: p.error_frac) == pytest.approx((0.2 + 1.0) / 2)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 6, 12), rng.integers(0, 6, 12)
        assert spearman(list(a), list(b)) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_regret_is_what_the_favourite_costs():
    rows = [row("a", 1.0, 3.0, tp=1), row("b", 1.2, 1.0, tp=2), row("c", 2.0, 2.0, tp=4)]
    (group,) = plan_groups(rows)
    assert group.regret_frac == pytest.approx(0.2)
    assert plan_groups(rows[:2]) == ()


def test_null_model_by_hand():
    """Equal steps at one median rate: each run's error is its own time over the median one."""
    rows = [row("a", 1.0, 1.0), row("b", 2.0, 1.0), row("c", 4.0, 1.0)]
    errors = null_errors(rows)
    assert [errors[name] for name in "abc"] == pytest.approx([1.0, 0.0, -0.5])


def test_null_model_does_not_see_the_source_it_judges():
    rows = [row("a", 1.0, 1.0), row("b", 2.0, 1.0, source="t"), row("c", 4.0, 1.0, source="t")]
    errors = null_errors(rows, leave_source_out=True)
    assert errors["a"] == pytest.approx(2 / (0.5 * (1 / 2 + 1 / 4)) / 2 - 1)
    assert errors["b"] == pytest.approx(1.0 / 2.0 - 1)
    assert null_errors([row("a", 1.0, 1.0)], leave_source_out=True) == {}


def test_trust_c_is_judged_but_does_not_judge():
    rows = [row("a", 1.0, 1.0), row("b", 9.0, 1.0, trust="C")]
    assert null_errors(rows)["b"] == pytest.approx(1 / 9 - 1)


def test_intervals_lie_round_the_prediction_in_the_metric_of_the_run():
    found = intervals([BASE])[BASE.run.run_id]
    part = BASE.laid.problem.accelerator
    low, high = spread(part.family_path[0], BASE.run.source)
    assert BASE.run.metric_kind == "step_time_s"
    assert found == pytest.approx((BASE.predicted * low, BASE.predicted * high))
    rate = replace(BASE, run=replace(BASE.run, metric_kind="tokens_per_s_per_acc"), predicted=100.0)
    assert intervals([rate])[BASE.run.run_id] == pytest.approx((100.0 / high, 100.0 / low))


def test_memory_is_that_of_tensors_where_the_source_says_allocated():
    measured = BASE.run.memory_gb * 2**30
    assert memory_error(BASE) == pytest.approx(BASE.laid.priced.tensor_byte / measured - 1)
    reserved = replace(BASE, run=replace(BASE.run, source="a lab", notes="trust=A"))
    assert memory_error(reserved) == pytest.approx(BASE.laid.priced.memory_byte / (BASE.run.memory_gb * 1e9) - 1)
    gib = replace(BASE, run=replace(BASE.run, source="FlagOpen/FlagPerf", notes="trust=A"))
    assert memory_error(gib) == pytest.approx(BASE.laid.priced.memory_byte / measured - 1)


def test_memory_band_reaches_from_what_must_fit_to_the_allocator_at_its_worst():
    priced = BASE.laid.priced
    assert priced.tensor_byte < priced.needed_byte <= priced.memory_byte <= priced.high_byte

    def reports(byte):
        return replace(BASE, run=replace(BASE.run, source="a lab", notes="trust=A", memory_gb=byte / 1e9))

    assert in_memory_band(BASE) is None
    assert [in_memory_band(reports(priced.needed_byte * x)) for x in (0.99, 1.01)] == [False, True]
    assert [in_memory_band(reports(priced.high_byte * x)) for x in (0.99, 1.01)] == [True, False]
