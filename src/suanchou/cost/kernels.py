"""Kernels: seconds of one operator on one accelerator.

``t = launch + blend(flop / (peak * eff), byte / (bandwidth * eff))``: a roofline whose compute term knows output tiles, waves,
split-K and the ramp over the inner extent, whose corner is a p-norm, and whose floor is the kernel launch. The constants come
from measured kernels (``calibration/``); what each means stands in :data:`suanchou.cost.efficiency.QUANTITIES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from suanchou.cost.efficiency import Efficiency
from suanchou.errors import MissingData
from suanchou.machine.accelerator import Accelerator
from suanchou.model.operators import Num, Operator

__all__ = [
    "Phase",
    "attention_compute_s",
    "blend",
    "element_byte",
    "gemm_compute_s",
    "grouped_compute_s",
    "kernel_s",
    "kernels_s",
    "stream_s",
]

Phase = Literal["forward", "backward"]

_QUERY_TILE = 128.0
"""Query rows one core works on; flash-attention kernels of every vendor use 64 to 256."""

_REFERENCE_HEAD = 128.0
"""Head width at which the attention shares are stated."""

_ELEMENT_BYTE = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5,
    "int4": 0.5,
}


def element_byte(dtype: str) -> float:
    """Bytes of one element as matrix units read it; scales of block formats are left out.

    Raises
    ------
    MissingData : unknown type.
    """
    try:
        return _ELEMENT_BYTE[dtype]
    except KeyError:
        raise MissingData(f"unknown data type {dtype}", hint=f"known: {', '.join(_ELEMENT_BYTE)}") from None


def blend(a: Num, b: Num, power: float) -> Num:
    """p-norm of two times: between their maximum (full overlap) and their sum (none)."""
    largest = np.maximum(a, b)
    smallest = np.minimum(a, b)
    ratio = np.divide(smallest, largest, out=np.zeros_like(largest, dtype=float), where=np.asarray(largest) > 0)
    joined: Num = largest * (1.0 + ratio**power) ** (1.0 / power)
    return joined


def _tiles(eff: Efficiency) -> tuple[tuple[float, float], ...]:
    """Output tiles a library chooses from: the largest one, turned, and its halvings."""
    m, n = eff.tile_m, eff.tile_n
    return (m, n), (n, m), (m / 2, n), (m / 2, n / 2), (n / 2, m / 2), (m / 4, n / 2), (m / 8, n / 2)


def gemm_compute_s(m: Num, n: Num, k: Num, count: Num, peak_flop_per_s: float, eff: Efficiency) -> Num:
    """Compute time of ``count`` GEMMs ``(m x k) (k x n)`` that run as one launch: the best of several tile sizes.

    The output is cut in tiles, dealt to ``core`` cores in waves; a wave that is not full costs as much as a full one. Where
    tiles are fewer than cores, each tile's inner extent is split over several cores, in pieces of at least ``split_k``. A
    tile of ``a x b`` pays for loading its two edges as well as for its area (``tile_edge``), and ``k_half`` more steps of the
    inner loop for its prologue and epilogue, twice where the sum is split. ``gemm_frac`` holds for the largest tile.
    """
    m, n, k = np.asarray(m, dtype=float), np.asarray(n, dtype=float), np.asarray(k, dtype=float)
    best: Num = np.inf
    for a, b in _tiles(eff):
        tiles = np.ceil(m / a) * np.ceil(n / b) * count
        split = np.clip(np.floor(eff.core / np.maximum(tiles, 1.0)), 1.0, np.maximum(np.floor(k / eff.split_k), 1.0))
        waves = np.ceil(tiles * split / eff.core)
        steps = k / split + eff.k_half * (1.0 + (split > 1.0))
        time = waves * steps * (a * b + eff.tile_edge * (a + b))
        best = np.minimum(best, time)
    largest = 1.0 + eff.tile_edge * (1.0 / eff.tile_m + 1.0 / eff.tile_n)
    rate = peak_flop_per_s * eff.gemm_frac * eff.sustained_frac / eff.core
    return 2.0 * best / (largest * rate)


def grouped_compute_s(m: Num, n: Num, k: Num, count: Num, peak_flop_per_s: float, eff: Efficiency) -> Num:
    """Compute time of ``count`` groups with ``m`` rows each: between one launch that shares waves and a launch per group.

    Libraries differ: a fused kernel deals the tiles of all groups to the cores, a loop over streams overlaps little.
    """
    shared = gemm_compute_s(m, n, k, count, peak_flop_per_s, eff)
    single = gemm_compute_s(m, n, k, 1.0, peak_flop_per_s, eff)
    serial = count * single + (count - 1.0) * eff.gemm_launch_s
    return shared + eff.grouped_serial_frac * np.maximum(serial - shared, 0.0)


def attention_compute_s(
    flop: Num, m: Num, n: Num, k: Num, count: Num, peak_flop_per_s: float, eff: Efficiency, *, phase: Phase = "forward"
) -> Num:
    """Compute time of flash attention: ``m`` queries against ``n`` keys of ``k`` channels for ``count`` heads, ``flop`` in all.

    One core takes a tile of queries through its visible keys. All tiles share the cores, and the longest tile (the last one
    under a causal mask) cannot be shared. Softmax costs the same per pair whatever the head width: a head of ``head_half``
    channels spends half its time on it. ``key_half`` keys more per tile are the ramp and the masked part of the diagonal.
    """
    m, n, k = np.asarray(m, dtype=float), np.asarray(n, dtype=float), np.asarray(k, dtype=float)
    share = eff.attention_forward_frac if phase == "forward" else eff.attention_backward_frac
    pair_flop = (4.0 if phase == "forward" else 10.0) * k
    tile = np.clip(16.0 * np.ceil(m / 16.0), 16.0, _QUERY_TILE)
    items = np.ceil(m / tile) * count
    row_flop = flop / np.maximum(count * m, 1.0)
    longest = np.minimum(pair_flop * n, 2.0 * row_flop)
    ramp = pair_flop * eff.key_half
    work = np.maximum(items * tile * (row_flop + ramp) / eff.core, tile * (longest + ramp))
    width = (1.0 + eff.head_half / np.maximum(k, 1.0)) / (1.0 + eff.head_half / _REFERENCE_HEAD)
    time: Num = work * width * eff.core / (peak_flop_per_s * share)
    return time


def stream_s(byte: Num, accelerator: Accelerator, eff: Efficiency) -> Num:
    """Time to move ``byte`` to or from device memory, without launch."""
    bandwidth = accelerator.memory_bandwidth_byte_per_s
    if bandwidth is None:
        raise MissingData(
            f"no memory bandwidth is published for {accelerator.name}",
            where=f"accelerators/{accelerator.id}",
            hint="give a measured value in a catalogue file of your own",
        )
    return byte / (bandwidth * eff.memory_frac)


_ROW_BYTE = 16.0
"""Matrix units load rows that begin at multiples of this (NVIDIA, Matrix Multiplication Background User's Guide)."""


def _aligned_frac(op: Operator, byte: float, eff: Efficiency) -> Num:
    """Share of its rate that a batched product of activations keeps; weights and whole batches are padded, heads are not."""
    odd = sum((np.asarray(extent) * byte % _ROW_BYTE for extent in (op.m, op.n, op.k)), start=np.asarray(0.0))
    share: Num = np.where(odd > 0, eff.unaligned_frac, 1.0)
    return share


def _linear_s(op: Operator, accelerator: Accelerator, base: Efficiency, dtype: str, gemm_dtype: str) -> Num:
    """A GEMM, grouped or batched GEMM, with what surrounds it in a narrower type or with accumulation in place."""
    eff = base.for_dtype(gemm_dtype)
    wide, narrow = element_byte(dtype), element_byte(gemm_dtype)
    left, right, out = op.m * op.k * op.count, op.k * op.n * op.count, op.m * op.n * op.count
    byte: Num = op.byte
    cast_s: Num = 0.0
    if narrow < wide:
        byte = byte - (wide - narrow) * (left + right)
        cast_s = base.launch_s + stream_s((wide + narrow) * left, accelerator, base)
    peak = accelerator.peak(gemm_dtype)
    if op.kind == "grouped_gemm":
        compute_s = grouped_compute_s(op.m, op.n, op.k, op.count, peak, eff)
    else:
        compute_s = gemm_compute_s(op.m, op.n, op.k, op.count, peak, eff)
    if op.batched:
        compute_s = compute_s / _aligned_frac(op, wide, eff)
    accumulated = np.maximum(op.byte - wide * (left + right + out), 0.0)
    scale = eff.memory_frac / eff.gemm_memory_frac
    exposed_s = eff.accumulate_frac * scale * stream_s(accumulated, accelerator, eff)
    joined = blend(compute_s, scale * stream_s(byte, accelerator, eff), eff.blend_power)
    return op.launches * eff.gemm_launch_s + joined + exposed_s + cast_s


def kernel_s(
    op: Operator,
    accelerator: Accelerator,
    eff: Efficiency,
    *,
    dtype: str,
    gemm_dtype: str | None = None,
    phase: Phase = "forward",
) -> Num:
    """Seconds of one operator.

    ``dtype`` is the type of activations; ``gemm_dtype`` that of the matrix units in linear layers (fp8 training), by
    default the same. A narrower ``gemm_dtype`` adds the kernel that casts the left operand. Traffic of a GEMM beyond one pass
    over its three matrices is accumulation in place, part of which (``accumulate_frac``) no compute hides.

    Raises
    ------
    MissingData : the accelerator lacks a peak or a bandwidth.
    """
    if op.kind == "memory":
        share = eff.elementwise_frac * (eff.permute_frac if op.permutes else 1.0)
        return op.launches * eff.launch_s + stream_s(op.byte, accelerator, eff) / share
    if op.batched:
        return _linear_s(op, accelerator, eff, dtype, dtype)
    if op.kind in ("gemm", "grouped_gemm"):
        return _linear_s(op, accelerator, eff, dtype, gemm_dtype or dtype)
    own = eff.for_dtype(dtype)
    peak = accelerator.peak(dtype)
    memory_s = stream_s(op.byte, accelerator, own) * own.memory_frac / own.attention_memory_frac
    if op.kind == "scan":
        share = own.attention_forward_frac if phase == "forward" else own.attention_backward_frac
        return op.launches * own.launch_s + blend(op.flop / (peak * share), memory_s, own.blend_power)
    compute_s = attention_compute_s(op.flop, op.m, op.n, op.k, op.count, peak, own, phase=phase)
    return op.launches * own.attention_launch_s + blend(compute_s, memory_s, own.attention_blend_power)


def kernels_s(
    ops: Iterable[Operator],
    accelerator: Accelerator,
    eff: Efficiency,
    *,
    dtype: str,
    gemm_dtype: str | None = None,
    phase: Phase = "forward",
) -> Num:
    """Seconds of operators that run one after another."""
    seconds: Num = 0.0
    for op in ops:
        seconds = seconds + kernel_s(op, accelerator, eff, dtype=dtype, gemm_dtype=gemm_dtype, phase=phase)
    return seconds
