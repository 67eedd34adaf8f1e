"""Kernel times by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from suanchou.cost.efficiency import efficiency
from suanchou.cost.kernels import blend, gemm_compute_s, kernel_s, kernels_s, stream_s
from suanchou.errors import MissingData
from suanchou.machine import accelerator
from suanchou.model.operators import Operator

DEVICE = replace(accelerator("h100-sxm5-80gb"), peak_flop_per_s={"bf16": 1e15, "fp8": 2e15}, memory_bandwidth_byte_per_s=4e12)
IDEAL = replace(
    efficiency(DEVICE),
    gemm_frac=1.0,
    attention_forward_frac=0.5,
    attention_backward_frac=0.25,
    memory_frac=0.5,
    launch_s=0.0,
    tile_m=128.0,
    tile_n=256.0,
    core=100.0,
    k_half=0.0,
    blend_power=1e6,
)


def op(kind: str, *, flop: float = 0.0, byte: float = 0.0, m=0.0, n=0.0, k=0.0, count=1.0, launches=1.0) -> Operator:
    return Operator(name="x", kind=kind, flop=flop, byte=byte, m=m, n=n, k=k, count=count, launches=launches)


def test_blend_lies_between_maximum_and_sum():
    assert blend(3.0, 4.0, 2.0) == pytest.approx(5.0)
    assert blend(4.0, 3.0, 2.0) == pytest.approx(5.0)
    assert blend(3.0, 4.0, 1.0) == pytest.approx(7.0)
    assert blend(3.0, 4.0, 1e4) == pytest.approx(4.0)
    assert blend(0.0, 4.0, 3.0) == 4.0
    assert blend(0.0, 0.0, 3.0) == 0.0
    np.testing.assert_allclose(blend(np.array([3.0, 0.0]), np.array([4.0, 0.0]), 2.0), [5.0, 0.0])


def test_gemm_that_fills_every_core_runs_at_peak():
    # 1280 x 2560 is 10 x 10 tiles of 128 x 256 on 100 cores.
    assert gemm_compute_s(1280.0, 2560.0, 4096.0, 1.0, 1e15, IDEAL) == pytest.approx(2 * 1280 * 2560 * 4096 / 1e15)


def test_one_row_more_costs_another_wave():
    full = gemm_compute_s(1280.0, 2560.0, 4096.0, 1.0, 1e15, IDEAL)
    assert gemm_compute_s(1281.0, 2560.0, 4096.0, 1.0, 1e15, IDEAL) == pytest.approx(2 * full)
    assert gemm_compute_s(1.0, 1.0, 4096.0, 1.0, 1e15, IDEAL) == pytest.approx(full)
    assert gemm_compute_s(2560.0, 2560.0, 4096.0, 1.0, 1e15, IDEAL) == pytest.approx(2 * full)


def test_groups_share_waves():
    # Four groups of 5 x 5 tiles are one wave on 100 cores, as one group is.
    one = gemm_compute_s(640.0, 1280.0, 512.0, 1.0, 1e15, IDEAL)
    assert gemm_compute_s(640.0, 1280.0, 512.0, 4.0, 1e15, IDEAL) == pytest.approx(one)
    assert gemm_compute_s(640.0, 1280.0, 512.0, 5.0, 1e15, IDEAL) == pytest.approx(2 * one)


def test_half_rate_at_the_inner_extent_of_that_name():
    ramp = replace(IDEAL, k_half=128.0)
    ideal = 2 * 1280 * 2560 * 128 / 1e15
    assert gemm_compute_s(1280.0, 2560.0, 128.0, 1.0, 1e15, ramp) == pytest.approx(2 * ideal)


def test_memory_kernel():
    eff = replace(IDEAL, launch_s=3e-6)
    assert stream_s(2e12, DEVICE, eff) == pytest.approx(1.0)
    assert kernel_s(op("memory", byte=2e6, launches=4.0), DEVICE, eff, dtype="bf16") == pytest.approx(4 * 3e-6 + 1e-6)


def test_gemm_is_the_slower_of_compute_and_memory():
    flop = 2 * 1280 * 2560 * 4096
    shape = {"flop": flop, "m": 1280.0, "n": 2560.0, "k": 4096.0}
    assert kernel_s(op("gemm", byte=1.0, **shape), DEVICE, IDEAL, dtype="bf16") == pytest.approx(flop / 1e15, rel=1e-5)
    assert kernel_s(op("gemm", byte=2e12, **shape), DEVICE, IDEAL, dtype="bf16") == pytest.approx(1.0, rel=1e-5)


def test_fp8_speeds_up_linear_layers_only():
    gemm = op("gemm", flop=1.0, byte=0.0, m=1280.0, n=2560.0, k=4096.0)
    attention = op("attention", flop=1e12, byte=0.0)
    for one, ratio in ((gemm, 2.0), (attention, 1.0)):
        plain = kernel_s(one, DEVICE, IDEAL, dtype="bf16")
        assert plain / kernel_s(one, DEVICE, IDEAL, dtype="bf16", gemm_dtype="fp8") == pytest.approx(ratio)


@pytest.mark.parametrize(("phase", "share"), [("forward", 0.5), ("backward", 0.25)])
def test_attention_has_its_own_share_of_the_peak(phase, share):
    one = op("attention", flop=1e12, byte=0.0)
    assert kernel_s(one, DEVICE, IDEAL, dtype="bf16", phase=phase) == pytest.approx(1e12 / (1e15 * share))


def test_kernels_run_one_after_another():
    ops = (op("memory", byte=2e6), op("attention", flop=1e12), op("gemm", flop=1.0, m=1280.0, n=2560.0, k=64.0))
    expected = sum(kernel_s(one, DEVICE, IDEAL, dtype="bf16") for one in ops)
    assert kernels_s(ops, DEVICE, IDEAL, dtype="bf16") == pytest.approx(expected)
    assert kernels_s((), DEVICE, IDEAL, dtype="bf16") == 0.0


def test_unknown_bandwidth_or_peak_is_refused():
    blind = replace(DEVICE, memory_bandwidth_byte_per_s=None)
    with pytest.raises(MissingData, match="bandwidth") as caught:
        stream_s(1.0, blind, IDEAL)
    assert caught.value.where == f"accelerators/{DEVICE.id}"
    assert caught.value.hint
    with pytest.raises(MissingData, match="fp4"):
        kernel_s(op("gemm", m=1.0, n=1.0, k=1.0), DEVICE, IDEAL, dtype="fp4")
