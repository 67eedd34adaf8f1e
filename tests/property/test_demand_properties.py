"""Properties of demand: one formula for floats and arrays, and what more of anything does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suanchou.demand.cards import card_h
from suanchou.demand.data import Constant, conventions, optimizers, scaling_laws
from suanchou.demand.flop import training_flop
from suanchou.demand.memory import state_byte_per_param
from suanchou.demand.scaling import loss, optimal_model, optimal_tokens
from suanchou.demand.serving import Load, Served, replica, step_s
from suanchou.machine import accelerator

sizes = st.floats(min_value=1e6, max_value=1e13)
tokens = st.floats(min_value=1e6, max_value=1e15)
shares = st.floats(min_value=0.01, max_value=1.0)
batches = st.lists(sizes, min_size=1, max_size=5)


@given(batches, tokens, st.sampled_from(sorted(conventions())), st.sampled_from(sorted(scaling_laws())), shares)
def test_many_is_one_by_one(n: list[float], d: float, convention: str, law: str, share: float) -> None:
    array, count, fit = np.array(n), conventions()[convention], scaling_laws()[law]
    assert training_flop(array, d, count) == pytest.approx([training_flop(x, d, count) for x in n])
    assert loss(array, d, fit) == pytest.approx([loss(x, d, fit) for x in n])
    assert card_h(array, 3e14, share, 0.8) == pytest.approx([card_h(x, 3e14, share, 0.8) for x in n])
    adam, ranks = optimizers()["adam-mixed"], np.floor(array)
    for zero in range(4):
        assert state_byte_per_param(adam, zero=zero, n_rank=ranks) * np.ones(len(n)) == pytest.approx(
            [state_byte_per_param(adam, zero=zero, n_rank=x) for x in ranks]
        )


@given(sizes, tokens, shares, shares)
def test_card_time_scales_with_work_and_against_use(n: float, d: float, mfu: float, goodput: float) -> None:
    work = training_flop(n, d, conventions()["6nd"])
    assert card_h(2 * work, 3e14, mfu, goodput) == pytest.approx(2 * card_h(work, 3e14, mfu, goodput))
    assert card_h(work, 3e14, mfu, goodput) == pytest.approx(card_h(work, 3e14, mfu * goodput))
    assert card_h(work, 6e14, mfu, goodput) == pytest.approx(card_h(work, 3e14, mfu, goodput) / 2)


@given(st.floats(min_value=1e18, max_value=1e28))
def test_the_compute_optimal_model_spends_its_budget(budget: float) -> None:
    n = optimal_model(budget)
    assert training_flop(n, optimal_tokens(n), conventions()["6nd"]) == pytest.approx(budget)


@given(
    st.sampled_from(sorted(optimizers())),
    st.integers(min_value=1, max_value=10**6),
)
def test_zero_stages_never_keep_more(recipe: str, ranks: int) -> None:
    one = optimizers()[recipe]
    kept = [state_byte_per_param(one, zero=zero, n_rank=ranks) for zero in range(4)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(kept))
    assert kept[0] == pytest.approx(one.training)
    assert kept[3] == pytest.approx(one.training / ranks)


models = st.builds(
    Served,
    weight_byte=st.floats(min_value=1e9, max_value=1e12),
    expert_byte=st.just(0.0),
    expert_share=st.just(0.0),
    prefill_flop=st.floats(min_value=1e9, max_value=1e12),
    decode_flop=st.floats(min_value=1e9, max_value=1e12),
    kv_byte=st.floats(min_value=1e6, max_value=1e9),
)


@given(models, st.integers(min_value=1, max_value=4096))
def test_a_larger_batch_is_slower_a_step_and_faster_a_token(model: Served, batch: int) -> None:
    speeds = {"bandwidth_byte_per_s": 2e12, "flop_per_s": 1e14}
    one, more = step_s(model, batch, **speeds), step_s(model, batch + 1, **speeds)
    assert more >= one
    assert more / (batch + 1) <= one / batch * (1 + 1e-12)


@given(models, shares, shares)
def test_a_better_machine_never_serves_a_request_slower(model: Served, bandwidth: float, compute: float) -> None:
    load = Load(
        users=1e6,
        requests_per_user_day=Constant(name="requests", value=10),
        input_token=500,
        output_token=200,
        peak_factor=Constant(name="peak", value=2),
        tpot_s=0.1,
    )
    card = accelerator("h100-sxm5-80gb")
    worse = replica(model, load, card, 8, dtype="bf16", bandwidth=bandwidth / 2, compute=compute / 2, memory=0.9)
    better = replica(model, load, card, 8, dtype="bf16", bandwidth=bandwidth, compute=compute, memory=0.9)
    if worse is not None:
        assert better is not None
        assert better.request_s <= worse.request_s * (1 + 1e-12)
        assert better.batch >= worse.batch
