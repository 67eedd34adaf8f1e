"""Attention constants: forward from prefill and training kernels, backward from training kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gemm import REFERENCE
from search import Constant, Error, Values, error, fit
from suanchou.cost.efficiency import Efficiency
from suanchou.cost.kernels import attention_compute_s, blend
from tables import Row, column, device, fold, rows, weights

FORWARD = {
    "attention_forward_frac": Constant(0.6, 0.1, 1.0),
    "head_half": Constant(64.0, 2.0, 300.0),
    "key_half": Constant(32.0, 1.0, 300.0),
    "attention_memory_frac": Constant(0.6, 0.1, 1.0),
    "attention_launch_s": Constant(8e-6, 2e-6, 5e-5),
    "attention_blend_power": Constant(1.5, 1.0, 8.0),
}
MODULE = {"module_s": Constant(5e-5, 1e-6, 3e-4)}
"""Training rows time a whole framework module with nothing else in the stream: its host time belongs to the benchmark."""


def window(row: Row) -> float:
    """Sliding window of a row, or a number beyond every sequence."""
    return float(row["note"].split("window=")[1].split()[0].rstrip(";,")) if "window=" in row["note"] else 1e12


class Table:
    """Attention rows of one phase as arrays."""

    def __init__(self, table: tuple[Row, ...]) -> None:
        self.rows = table
        self.time = column(table, "time_us") * 1e-6
        self.device = device(table, "bf16")
        self.fold = fold(table, "heads", "kv_heads", "batch")
        self.weight = weights(table)
        b, q, kv, h, kv_heads, d = (column(table, c) for c in ("batch", "query_len", "kv_len", "heads", "kv_heads", "head_dim"))
        d_v = np.where([row["kind"] == "mla" for row in table], 128.0, d)
        seen = np.array([window(row) for row in table])
        growing = np.clip(seen - (kv - q), 0.0, q)
        pairs = growing * (kv - q) + growing * (growing + 1.0) / 2.0 + (q - growing) * np.minimum(seen, kv)
        self.train = np.array([row["phase"].startswith("train") for row in table])
        self.backward = np.array([row["phase"] == "train_bwd" for row in table])
        products = np.where(self.backward, 3.0 * d + 2.0 * d_v, d + d_v)
        self.query, self.key, self.width, self.count = q, kv, d, b * h
        self.flop = 2.0 * b * h * pairs * products
        passes = np.where(self.backward, 2.0, 1.0)
        self.byte = passes * 2.0 * b * (q * h * (d + d_v) + kv * kv_heads * (d + d_v))

    def pick(self, keep: np.ndarray) -> Table:
        """The rows where ``keep``."""
        return Table(tuple(row for row, use in zip(self.rows, keep, strict=True) if use))


def table(*accelerators: str, phases: tuple[str, ...] = ("prefill", "train_fwd"), source: str = "") -> Table:
    """Kernels in 16 bits. Left out: latent attention of stacks that compute the absorbed form, module-level timings."""
    return Table(
        tuple(
            row
            for row in rows("attention")
            if row["accelerator_id"] in accelerators
            and row["phase"] in phases
            and row["dtype"] in ("bf16", "fp16")
            and row["kv_dtype"] in ("bf16", "fp16")
            and (row["kind"] in ("mha", "gqa", "mqa") or (row["kind"] == "mla" and row["source"] == "simumax"))
            and (not source or row["source"] == source)
        )
    )


def predict(data: Table, values: Values) -> np.ndarray:
    """Seconds of every row."""
    names = {name: value for name, value in values.items() if name in Efficiency.__dataclass_fields__}
    eff = replace(REFERENCE, **{**names, "core": data.device.core})
    args = (data.flop, data.query, data.key, data.width, data.count, data.device.peak, eff)
    forward = attention_compute_s(*args, phase="forward")
    compute = np.where(data.backward, attention_compute_s(*args, phase="backward"), forward)
    memory = data.byte / (data.device.bandwidth * values["attention_memory_frac"])
    launch = np.where(data.backward, 2.0, 1.0) * values["attention_launch_s"]
    return launch + data.train * values.get("module_s", 0.0) + blend(compute, memory, values["attention_blend_power"])


def fitted(data: Table, fixed: Values, *, phase: str = "forward") -> Values:
    """Constants of one phase; ``fixed`` holds those already known."""
    free = dict(FORWARD) if phase == "forward" else {"attention_backward_frac": Constant(0.4, 0.1, 1.0)}
    if len(set(data.width)) == 1 and "head_half" in free:
        del free["head_half"]
        fixed = {**fixed, "head_half": REFERENCE.entries["head_half"].value}
    if data.train.any():
        free |= MODULE
    found = fit(free, lambda v: predict(data, {**fixed, **v}), data.time, data.weight)
    return {**fixed, **found}


def held_out(data: Table, fixed: Values) -> tuple[Error | None, Error | None, Error | None]:
    """Errors on head counts and batches kept out: all, queries of 1,024 and more, and the null of one share of the peak."""
    test = data.fold == 0
    train, rest = data.pick(~test), data.pick(test)
    if not test.any() or len(train.time) < 20:
        return None, None, None
    predicted = predict(rest, fitted(train, fixed))
    share = np.median(train.flop / train.time / train.device.peak)
    null = rest.flop / (rest.device.peak * share)
    long = rest.query >= 1024
    return error(predicted, rest.time), error(predicted[long], rest.time[long]), error(null, rest.time)
