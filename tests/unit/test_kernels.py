"""Kernel times by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from suanchou.cost.efficiency import efficiency
from suanchou.cost.kernels import blend, element_byte, gemm_compute_s, grouped_compute_s, kernel_s, kernels_s, stream_s
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
    gemm_memory_frac=0.5,
    attention_memory_frac=0.5,
    launch_s=0.0,
    gemm_launch_s=0.0,
    attention_launch_s=0.0,
    unaligned_frac=1.0,
    sustained_frac=1.0,
    grouped_serial_frac=0.0,
    accumulate_frac=0.0,
    tile_m=128.0,
    tile_n=256.0,
    tile_edge=0.0,
    core=100.0,
    k_half=0.0,
    split_k=1e9,
    head_half=0.0,
    key_half=0.0,
    blend_power=1e6,
    attention_blend_power=1e6,
    variants={},
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


def test_the_best_of_several_tiles_limits_what_one_row_more_costs():
    full = gemm_compute_s(1280.0, 2560.0, 4096.0, 1.0, 1e15, IDEAL)
    # 128 x 256 would need a second wave; 16 x 128 is 81 x 20 tiles in 17 waves of a sixteenth.
    assert gemm_compute_s(1281.0, 2560.0, 4096.0, 1.0, 1e15, IDEAL) == pytest.approx(17 / 16 * full)
    assert gemm_compute_s(1.0, 1.0, 4096.0, 1.0, 1e15, IDEAL) == pytest.approx(full / 16)
    assert gemm_compute_s(2560.0, 2560.0, 4096.0, 1.0, 1e15, IDEAL) == pytest.approx(2 * full)


def test_edges_make_small_tiles_dear():
    eff = replace(IDEAL, tile_edge=1e9)
    # Only edges count: 1281 rows take two waves of 128 + 256, or five of 64 + 128, or ... ; 2 x 384 is the least.
    full = gemm_compute_s(1280.0, 2560.0, 4096.0, 1.0, 1e15, eff)
    assert full == pytest.approx(gemm_compute_s(1280.0, 2560.0, 4096.0, 1.0, 1e15, IDEAL), rel=1e-4)
    assert gemm_compute_s(1281.0, 2560.0, 4096.0, 1.0, 1e15, eff) == pytest.approx(2 * full, rel=1e-4)


def test_idle_cores_take_a_piece_of_the_inner_extent():
    one = gemm_compute_s(128.0, 256.0, 4096.0, 1.0, 1e15, replace(IDEAL, tile_edge=1e9))
    split = gemm_compute_s(128.0, 256.0, 4096.0, 1.0, 1e15, replace(IDEAL, tile_edge=1e9, split_k=512.0))
    # Whole: 16 tiles of 16 x 128 at once. Split: 8 tiles of 32 x 128 in 8 pieces each are 64 of the 100 cores.
    assert split / one == pytest.approx((512 * (32 + 128)) / (4096 * (16 + 128)), rel=1e-4)


def test_the_power_limit_slows_the_matrix_units():
    fast = gemm_compute_s(1280.0, 2560.0, 4096.0, 1.0, 1e15, IDEAL)
    assert gemm_compute_s(1280.0, 2560.0, 4096.0, 1.0, 1e15, replace(IDEAL, sustained_frac=0.8)) == pytest.approx(fast / 0.8)


def test_permuting_rows_takes_a_share_of_the_elementwise_rate():
    plain = op("memory", byte=1e9)
    eff = replace(IDEAL, permute_frac=0.25)
    moved = kernel_s(replace(plain, permutes=True), DEVICE, eff, dtype="bf16")
    assert moved == pytest.approx(4 * kernel_s(plain, DEVICE, eff, dtype="bf16"))


def test_groups_share_waves():
    # Four groups of 5 x 5 tiles are one wave on 100 cores; a group of its own spreads over smaller tiles.
    four = gemm_compute_s(640.0, 1280.0, 512.0, 4.0, 1e15, IDEAL)
    assert four == pytest.approx(2 * 4 * 640 * 1280 * 512 / 1e15)
    assert gemm_compute_s(640.0, 1280.0, 512.0, 1.0, 1e15, IDEAL) == pytest.approx(four / 4)
    grouped = op("grouped_gemm", flop=1.0, m=640.0, n=1280.0, k=512.0, count=4.0)
    assert kernel_s(grouped, DEVICE, IDEAL, dtype="bf16") == pytest.approx(four)


def test_groups_one_by_one_share_neither_waves_nor_launches():
    eff = replace(IDEAL, gemm_launch_s=1e-6, grouped_serial_frac=1.0)
    one = gemm_compute_s(384.0, 768.0, 512.0, 1.0, 1e15, eff)
    assert grouped_compute_s(384.0, 768.0, 512.0, 10.0, 1e15, eff) == pytest.approx(10 * one + 9e-6)
    shared = gemm_compute_s(384.0, 768.0, 512.0, 10.0, 1e15, eff)
    half = grouped_compute_s(384.0, 768.0, 512.0, 10.0, 1e15, replace(eff, grouped_serial_frac=0.5))
    assert half == pytest.approx((shared + 10 * one + 9e-6) / 2)


def test_half_rate_at_the_inner_extent_of_that_name():
    ramp = replace(IDEAL, k_half=128.0)
    ideal = 2 * 1280 * 2560 * 128 / 1e15
    assert gemm_compute_s(1280.0, 2560.0, 128.0, 1.0, 1e15, ramp) == pytest.approx(2 * ideal)


def test_memory_kernel():
    eff = replace(IDEAL, launch_s=3e-6, elementwise_frac=1.0)
    assert stream_s(2e12, DEVICE, eff) == pytest.approx(1.0)
    assert kernel_s(op("memory", byte=2e6, launches=4.0), DEVICE, eff, dtype="bf16") == pytest.approx(4 * 3e-6 + 1e-6)


def test_gemm_is_the_slower_of_compute_and_memory():
    flop = 2 * 1280 * 2560 * 4096
    shape = {"flop": flop, "m": 1280.0, "n": 2560.0, "k": 4096.0}
    assert kernel_s(op("gemm", byte=1.0, **shape), DEVICE, IDEAL, dtype="bf16") == pytest.approx(flop / 1e15, rel=1e-5)
    assert kernel_s(op("gemm", byte=2e12, **shape), DEVICE, IDEAL, dtype="bf16") == pytest.approx(1.0, rel=1e-5)


def attention(m: float, n: float, *, flop: float, count: float = 100.0, k: float = 128.0) -> Operator:
    return op("attention", flop=flop, m=m, n=n, k=k, count=count)


def test_fp8_speeds_up_linear_layers_only():
    gemm = op("gemm", flop=1.0, byte=0.0, m=1280.0, n=2560.0, k=4096.0)
    eff = replace(IDEAL, memory_frac=1e9, gemm_memory_frac=1e9)  # what a cast moves is left out here
    for one, ratio in ((gemm, 2.0), (attention(128.0, 128.0, flop=1e12), 1.0)):
        plain = kernel_s(one, DEVICE, eff, dtype="bf16")
        assert plain / kernel_s(one, DEVICE, eff, dtype="bf16", gemm_dtype="fp8") == pytest.approx(ratio)


def test_a_narrow_gemm_pays_for_the_cast_of_its_left_operand():
    gemm = op("gemm", flop=1.0, byte=0.0, m=1280.0, n=2560.0, k=4096.0)
    eff = replace(IDEAL, launch_s=1e-6)
    bare = gemm_compute_s(1280.0, 2560.0, 4096.0, 1.0, 2e15, IDEAL)
    cast = 1e-6 + 3 * 1280 * 4096 / (4e12 * 0.5)
    assert kernel_s(gemm, DEVICE, eff, dtype="bf16", gemm_dtype="fp8") == pytest.approx(bare + cast)


def test_part_of_accumulation_in_place_is_not_hidden():
    once = 2.0 * (1280 * 4096 + 4096 * 2560 + 1280 * 2560)
    gemm = op("gemm", byte=once + 2e9, m=1280.0, n=2560.0, k=4096.0)
    hidden = kernel_s(gemm, DEVICE, IDEAL, dtype="bf16")
    exposed = kernel_s(gemm, DEVICE, replace(IDEAL, accumulate_frac=0.25), dtype="bf16")
    assert exposed - hidden == pytest.approx(0.25 * 2e9 / (4e12 * 0.5))


@pytest.mark.parametrize(("phase", "share", "flop_per_pair"), [("forward", 0.5, 512.0), ("backward", 0.25, 1280.0)])
def test_attention_has_its_own_share_of_the_peak(phase, share, flop_per_pair):
    flop = 100 * 1280 * 4096 * flop_per_pair
    one = attention(1280.0, 4096.0, flop=flop)
    assert kernel_s(one, DEVICE, IDEAL, dtype="bf16", phase=phase) == pytest.approx(flop / (1e15 * share))


def test_the_longest_query_tile_bounds_attention_with_few_heads():
    # One causal head of 1280 queries is 10 tiles on 100 cores; the last tile sees all keys, twice the mean.
    flop = 512.0 * 1280 * 1280 / 2
    one = attention(1280.0, 1280.0, flop=flop, count=1.0)
    assert kernel_s(one, DEVICE, IDEAL, dtype="bf16") == pytest.approx(2 * 128 * 512 * 640 * 100 / (1e15 * 0.5))


def test_narrow_heads_spend_their_time_on_softmax():
    eff = replace(IDEAL, head_half=128.0)
    wide = attention(1280.0, 4096.0, flop=1e12)
    assert kernel_s(wide, DEVICE, eff, dtype="bf16") == pytest.approx(1e12 / (1e15 * 0.5))
    narrow = attention(1280.0, 4096.0, flop=1e12, k=64.0)
    assert kernel_s(narrow, DEVICE, eff, dtype="bf16") == pytest.approx(1.5 * 1e12 / (1e15 * 0.5))


def test_kernels_run_one_after_another():
    ops = (op("memory", byte=2e6), attention(128.0, 128.0, flop=1e12), op("gemm", flop=1.0, m=1280.0, n=2560.0, k=64.0))
    expected = sum(kernel_s(one, DEVICE, IDEAL, dtype="bf16") for one in ops)
    assert kernels_s(ops, DEVICE, IDEAL, dtype="bf16") == pytest.approx(expected)
    assert kernels_s((), DEVICE, IDEAL, dtype="bf16") == 0.0


def test_unknown_bandwidth_or_peak_is_refused():
    blind = replace(DEVICE, memory_bandwidth_byte_per_s=None)
    with pytest.raises(MissingData, match="bandwidth") as caught:
        stream_s(1.0, blind, IDEAL)
    assert caught.value.where == f"accelerators/{DEVICE.id}"
    assert caught.value.hint
    with pytest.raises(MissingData, match="data type"):
        element_byte("fp3")
    with pytest.raises(MissingData, match="fp4"):
        kernel_s(op("gemm", m=1.0, n=1.0, k=1.0), DEVICE, IDEAL, dtype="fp4")


def test_rows_that_miss_the_alignment_slow_a_batched_product_down():
    eff = replace(IDEAL, unaligned_frac=0.1)

    def seconds(width):
        shape = {"flop": 2 * 2048 * 2048 * width * 64, "m": 2048.0, "n": 2048.0, "k": width, "count": 64.0}
        return kernel_s(replace(op("attention", byte=1.0, **shape), batched=True), DEVICE, eff, dtype="bf16")

    ideal = 2 * 2048 * 2048 * 64 / 1e15
    assert seconds(112.0) == pytest.approx(112 * ideal, rel=1e-3)
    assert seconds(108.0) == pytest.approx(108 * ideal / 0.1, rel=1e-3)
