"""A plan's goodput: against published jobs, down to its drivers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suanchou.errors import Infeasible
from suanchou.training.adapters import trained_frac
from suanchou.training.defaults import default
from suanchou.training.reliability import Reliability, checkpoint_byte, goodput_estimate


def job(problem, n_rank, *, step_s=10.0, **fields):
    return goodput_estimate(problem, step_s, n_rank, reliability=Reliability(**fields))


@pytest.fixture(scope="module")
def llama_405b(problem):
    return problem("llama-3.1-405b", "dgx-h100:2048", batch=2048)


def test_llama_3_on_16384_accelerators(llama_405b):
    """Published: 419 unexpected interruptions in 54 days, effective training time above 90 %; 5.29 TiB-ish checkpoints."""
    found = job(llama_405b, 16_384)
    assert found["mtbf"].value == pytest.approx(54 * 86400 / 419, rel=0.01)
    assert 0.90 < found.value < 0.97
    assert found.low < found.value < found.high
    assert found["checkpoint"].value == pytest.approx(5290 * 2**30, rel=0.005)


def test_writing_while_the_job_waits_costs_more(llama_405b):
    assert job(llama_405b, 16_384, asynchronous=False, checkpoint_byte_per_s=0.1e12).value < 0.90


@pytest.mark.parametrize(("n_rank", "mtbf_h"), [(384, 112), (992, 41), (440, 57), (1024, 7.9), (16_384, 1.8), (100_000, 0.5)])
def test_published_jobs_lie_in_the_range(n_rank, mtbf_h):
    """BLOOM, OPT-175B (manual restarts only), MPT-7B, RSC-1 jobs, RSC-1 projected, the MLCommons rule."""
    one = default("accelerator_mtbf_h")
    assert one.low * 0.99 <= n_rank * mtbf_h <= one.high


def test_bloom_wrote_its_checkpoint_in_40_seconds(problem):
    """2.3 TB by 384 processes; the default rate per process is that of this run, so the time checks the size."""
    bloom = problem("bloom-176b", "dgx-a100-80gb:48", batch=2048, seq=2048)
    assert job(bloom, 384)["checkpoint_write"].value == pytest.approx(40, rel=0.1)


def test_a_checkpoint_of_adapters_is_small(problem):
    whole = problem("llama-3.1-8b", "dgx-h100:1")
    tuned = replace(whole, work=replace(whole.work, adapter_rank=16))
    assert checkpoint_byte(tuned) == pytest.approx(checkpoint_byte(whole) * trained_frac(tuned.work.arch, 16))
    assert checkpoint_byte(whole) == pytest.approx(8.03e9 * 14, rel=0.001)


def test_loss_and_goodput_make_one(llama_405b):
    for fields in ({}, {"asynchronous": False}, {"checkpoint_interval_s": 7200.0}, {"node_mtbf_s": 1e6}):
        found = job(llama_405b, 16_384, **fields)
        assert found.value + found["loss"].value == pytest.approx(1.0)
        assert all(part.value >= 0 for part in found["loss"].children)


def test_the_interval_is_whole_steps_unless_given(llama_405b):
    interval = job(llama_405b, 16_384, step_s=7.0)["checkpoint_interval"]
    assert interval.value / 7.0 == pytest.approx(round(interval.value / 7.0))
    assert interval.value == pytest.approx(interval["daly"].value, abs=10.0)
    assert job(llama_405b, 16_384, checkpoint_interval_s=1234.5)["checkpoint_interval"].value == 1234.5


def test_slow_storage_stretches_the_interval(llama_405b):
    slow = job(llama_405b, 16_384, checkpoint_byte_per_s=1e9)
    assert slow["checkpoint_interval"].value >= slow["checkpoint_write"].value - 10.0
    assert "quicker storage" in slow["checkpoint_interval"].formula
    short = job(llama_405b, 16_384, checkpoint_byte_per_s=10e9, checkpoint_interval_s=60.0)
    assert short["checkpoint_interval"].value == short["checkpoint_write"].value
    assert "a write takes longer" in short["checkpoint_interval"].formula


def test_what_is_given_has_no_range_and_a_given_goodput_no_children(llama_405b):
    loose = job(llama_405b, 16_384)
    tight = job(llama_405b, 16_384, node_mtbf_s=2e7, restart_s=480.0, checkpoint_byte_per_s=2e12)
    assert tight.high - tight.low < loose.high - loose.low
    fixed = goodput_estimate(llama_405b, 1.0, 16_384, given=0.7)
    assert (fixed.value, fixed.children, fixed.low) == (0.7, (), None)


def test_a_job_that_never_gets_on_is_refused(llama_405b):
    with pytest.raises(Infeasible) as caught:
        job(llama_405b, 16_384, node_mtbf_s=86_400.0, restart_s=3600.0)
    assert caught.value.where == "--node-mtbf"
    assert caught.value.hint


def test_failures_of_every_group_of_a_job_count(problem):
    """Two halves are the whole, whichever half is asked; nodes of other sizes count by their accelerators."""
    half = problem("llama-3.1-8b", "dgx-h100:8")
    whole = goodput_estimate(half, 1.0, 128)
    assert goodput_estimate(half, 1.0, 64, peers=((half, 64),)).value == pytest.approx(whole.value, rel=1e-12)
    other = problem("llama-3.1-8b", "atlas-800t-a2:4")
    mixed = goodput_estimate(half, 1.0, 64, peers=((other, 32),))
    turned = goodput_estimate(other, 1.0, 32, peers=((half, 64),))
    assert mixed["mtbf"].value == pytest.approx(turned["mtbf"].value)
    assert mixed["mtbf"].value == pytest.approx(default("accelerator_mtbf_h").value * 3600 / 96)
    assert mixed["checkpoint_write"].value == pytest.approx(turned["checkpoint_write"].value)
    nodes = goodput_estimate(half, 1.0, 64, peers=((other, 32),), reliability=Reliability(node_mtbf_s=1e6))
    assert nodes["mtbf"].value == pytest.approx(1e6 / 12)
