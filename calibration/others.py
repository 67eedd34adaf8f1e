"""Streaming kernels, grouped GEMMs and the sustained clock: one or two constants each on top of the GEMM fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gemm import REFERENCE
from search import Constant, Error, Values, error, fit
from suanchou.cost.efficiency import Efficiency
from suanchou.cost.kernels import blend, grouped_compute_s
from tables import Row, column, device, fold, rows, weights

STREAM = {"memory_frac": Constant(0.8, 0.2, 1.0), "launch_s": Constant(2e-6, 1e-6, 2e-5)}


def stream_rows(*accelerators: str) -> tuple[Row, ...]:
    """Plain passes over memory.

    Norms, rotary and activations of inference stacks run at 0.3 to 0.6 of the bandwidth, the cast of one stack at 0.1: these
    are kernels to avoid, not the device. The difference of two timings (amax) is too noisy and left out, and so are sizes
    that a cache may hold and rows too few to fill the cores.
    """
    return tuple(
        row
        for row in rows("elementwise")
        if row["accelerator_id"] in accelerators
        and row["op"] in ("add", "fp8_cast_scaled")
        and not row["software"].startswith("sglang")
        and float(row["tokens"]) >= 256
        and not 2e6 < float(row["bytes"]) < 6e7
    )


def stream(table: tuple[Row, ...]) -> tuple[Values, Error | None, Error | None]:
    """Share of the memory bandwidth of element-wise kernels, their launch where enough small ones were timed, errors."""
    byte, time, d, w = column(table, "bytes"), column(table, "time_us") * 1e-6, device(table, "bf16"), weights(table)
    held = fold(table, "bytes") == 0

    def run(keep: np.ndarray) -> Values:
        return fit(STREAM, lambda v: v["launch_s"] + byte[keep] / (d.bandwidth[keep] * v["memory_frac"]), time[keep], w[keep])

    part = run(~held)
    predicted = part["launch_s"] + byte / (d.bandwidth * part["memory_frac"])
    null = byte / d.bandwidth / np.median(byte[~held] / d.bandwidth[~held] / time[~held])
    values = run(np.full(len(byte), True))
    if (byte < 2e6).sum() < 20:
        del values["launch_s"]
    return values, error(predicted[held], time[held]), error(null[held], time[held])


class Grouped:
    """Grouped GEMMs of one accelerator: single ones, or the two of a fused mixture-of-experts layer."""

    def __init__(self, table: tuple[Row, ...]) -> None:
        self.rows, self.time = table, column(table, "time_us") * 1e-6
        self.device, self.weight = device(table, "bf16"), weights(table)
        self.fold = fold(table, "tokens", "experts")
        tokens, h, f, e, k, ep, tp = (
            column(table, c) for c in ("tokens", "hidden", "ffn_hidden", "experts", "top_k", "ep", "tp")
        )
        self.fused = np.array([row["source"] == "aic-0.12.0" for row in table])
        self.m, self.count = tokens * k / e, e / ep
        self.hidden, self.ffn, self.pairs = h, f / tp, tokens * k / ep
        self.tokens = tokens
        self.active = np.minimum(self.count, np.maximum(self.pairs, 1.0))

    def seconds(self, v: Values, base: Values) -> np.ndarray:
        """``base`` holds the GEMM constants."""
        names = {name: value for name, value in base.items() if name in Efficiency.__dataclass_fields__}
        eff = replace(REFERENCE, **{**names, **v, "core": self.device.core})
        m = np.maximum(self.m, self.pairs / self.active)
        total = base["gemm_launch_s"] * np.ones_like(self.time)
        fused = self.fused * 1.0
        for n, k, used in (
            (np.where(self.fused, 2.0 * self.ffn, self.ffn), self.hidden, 1.0),
            (self.hidden, self.ffn, fused),
        ):
            compute = grouped_compute_s(m, n, k, self.active, self.device.peak, eff)
            byte = 2.0 * (self.pairs * (n + k) + self.active * n * k)
            total = total + used * blend(
                compute, byte / (self.device.bandwidth * base["gemm_memory_frac"]), base["blend_power"]
            )
        moved = fused * 2.0 * self.pairs * (3.0 * self.ffn + 2.0 * self.hidden)
        return total + moved / (self.device.bandwidth * base["gemm_memory_frac"])


GROUPED = {"grouped_serial_frac": Constant(0.3, 0.01, 1.0)}


def grouped_rows(*accelerators: str, source: str = "simumax") -> tuple[Row, ...]:
    """Balanced 16-bit rows with at least 64 rows per expert (below, the weights decide, which plain GEMMs cover)."""
    return tuple(
        row
        for row in rows("grouped_gemm")
        if row["accelerator_id"] in accelerators
        and row["dtype"] == "bf16"
        and row["distribution"] == "balanced"
        and row["source"] == source
        and float(row["tokens"]) * float(row["top_k"]) / float(row["experts"]) >= 64
        and not row["note"].endswith("bwd_grad_w")
    )


def grouped(table: tuple[Row, ...], base: Values) -> tuple[Values, Error | None, Error | None]:
    """How far groups run one by one, with the held-out error and the null of one share of the peak."""
    data = Grouped(table)
    held = data.fold == 0
    parts = [Grouped(tuple(row for row, use in zip(table, keep, strict=True) if use)) for keep in (~held, held)]
    train, test = parts
    values = fit(GROUPED, lambda v: train.seconds(v, base), train.time, train.weight)

    def flop(x: Grouped) -> np.ndarray:
        return np.where(x.fused, 6.0, 2.0) * x.pairs * x.hidden * x.ffn

    share = np.median(flop(train) / train.time / train.device.peak)
    final = fit(GROUPED, lambda v: data.seconds(v, base), data.time, data.weight)
    if not held.any():
        return final, None, None
    return final, error(test.seconds(values, base), test.time), error(flop(test) / test.device.peak / share, test.time)
