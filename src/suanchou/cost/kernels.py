"""Kernels: seconds of one operator on one accelerator.

``t = launch + blend(flop / (peak * eff), byte / (bandwidth * eff))``: a roofline whose compute term knows tile and wave
quantisation and the ramp over the inner extent, whose corner is a p-norm, and whose floor is the kernel launch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

from suanchou.cost.efficiency import Efficiency
from suanchou.errors import MissingData
from suanchou.machine.accelerator import Accelerator
from suanchou.model.operators import Num, Operator

__all__ = ["Phase", "blend", "gemm_compute_s", "kernel_s", "kernels_s", "stream_s"]

Phase = Literal["forward", "backward"]


def blend(a: Num, b: Num, power: float) -> Num:
    """p-norm of two times: between their maximum (full overlap) and their sum (none)."""
    largest = np.maximum(a, b)
    smallest = np.minimum(a, b)
    ratio = np.divide(smallest, largest, out=np.zeros_like(largest, dtype=float), where=np.asarray(largest) > 0)
    joined: Num = largest * (1.0 + ratio**power) ** (1.0 / power)
    return joined


def gemm_compute_s(m: Num, n: Num, k: Num, count: Num, peak_flop_per_s: float, eff: Efficiency) -> Num:
    """Compute time of ``count`` GEMMs ``(m x k) (k x n)`` that run as one launch.

    The output is cut in ``tile_m x tile_n`` tiles, dealt to ``core`` cores in waves; a wave that is not full costs as much as a
    full one. ``k / (k + k_half)`` is the ramp of a tile's rate over the inner extent.
    """
    tiles = np.ceil(m / eff.tile_m) * np.ceil(n / eff.tile_n) * count
    waves = np.ceil(tiles / eff.core)
    padded_flop = 2.0 * waves * eff.core * eff.tile_m * eff.tile_n * (k + eff.k_half)
    return padded_flop / (peak_flop_per_s * eff.gemm_frac)


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
    default the same.

    Raises
    ------
    MissingData : the accelerator lacks a peak or a bandwidth.
    """
    memory_s = stream_s(op.byte, accelerator, eff)
    if op.kind == "memory":
        return op.launches * eff.launch_s + memory_s
    if op.kind in ("gemm", "grouped_gemm"):
        compute_s = gemm_compute_s(op.m, op.n, op.k, op.count, accelerator.peak(gemm_dtype or dtype), eff)
    else:
        share = eff.attention_forward_frac if phase == "forward" else eff.attention_backward_frac
        compute_s = op.flop / (accelerator.peak(dtype) * share)
    return op.launches * eff.launch_s + blend(compute_s, memory_s, eff.blend_power)


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
