"""Goodput is a share, and gets no worse when anything gets better."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from suanchou.training.goodput import best_interval_s, goodput_frac, wall_shares
from suanchou.training.reliability import Reliability, goodput_estimate

SECONDS = st.floats(0.1, 1e5)
LARGE = st.floats(1e3, 1e8)
FACTOR = st.floats(1.0, 10.0)


def best(cost, mtbf, recovery, lag):
    return float(goodput_frac(best_interval_s(cost, mtbf), cost_s=cost, mtbf_s=mtbf, recovery_s=recovery, lag_s=lag))


@given(SECONDS, LARGE, SECONDS, SECONDS, FACTOR)
def test_monotone(cost, mtbf, recovery, lag, factor):
    before = best(cost, mtbf, recovery, lag)
    assert 0.0 <= before < 1.0
    slack = 1e-9
    assert best(cost, mtbf * factor, recovery, lag) >= before - slack
    assert best(cost / factor, mtbf, recovery, lag) >= before - slack
    assert best(cost, mtbf, recovery / factor, lag) >= before - slack
    assert best(cost, mtbf, recovery, lag / factor) >= before - slack


@given(SECONDS, SECONDS, LARGE, SECONDS, SECONDS)
def test_wall_time_is_spent_on_something(interval, cost, mtbf, recovery, lag):
    shares = wall_shares(interval, cost_s=cost, mtbf_s=mtbf, recovery_s=recovery, lag_s=lag)
    assert abs(sum(float(share) for share in shares.values()) - 1.0) < 1e-6
    assert all(share >= 0 for share in shares.values())


@settings(max_examples=30, deadline=None)
@given(
    mtbf=st.floats(1e6, 1e9),
    rate=st.floats(1e10, 1e13),
    restart=st.floats(1.0, 3600.0),
    nodes=st.sampled_from([1, 8, 64, 512]),
    waits=st.booleans(),
    factor=FACTOR,
)
def test_a_plan_gains_from_better_machines(problem, mtbf, rate, restart, nodes, waits, factor):
    llama = problem("llama-3.1-8b", "dgx-h100:8")

    def share(n_node=nodes, **fields):
        known = {"node_mtbf_s": mtbf, "checkpoint_byte_per_s": rate, "restart_s": restart, "asynchronous": not waits}
        return goodput_estimate(llama, 1.0, 8 * n_node, reliability=Reliability(**(known | fields))).value

    # The best interval is rounded to whole steps of a second, which may cost a little.
    slack = 1e-4
    assert share(node_mtbf_s=mtbf * factor) >= share() - slack
    assert share(checkpoint_byte_per_s=rate * factor) >= share() - slack
    assert share(restart_s=restart / factor) >= share() - slack
    assert share(n_node=2 * nodes) <= share() + slack
