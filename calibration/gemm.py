"""GEMM constants per accelerator, family and data type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from search import Constant, Error, Values, error, fit
from suanchou.cost.efficiency import Efficiency, efficiency
from suanchou.cost.kernels import blend, element_byte, gemm_compute_s
from suanchou.machine.device import accelerator
from tables import DTYPE, Row, column, device, fold, gemm_rows, weights

CONSTANTS = {
    "gemm_launch_s": Constant(3e-6, 1e-6, 4e-5),
    "gemm_frac": Constant(0.7, 0.2, 1.0),
    "tile_edge": Constant(8.0, 0.5, 64.0),
    "k_half": Constant(100.0, 10.0, 1000.0),
    "gemm_memory_frac": Constant(0.8, 0.3, 1.0),
    "blend_power": Constant(3.0, 1.0, 10.0),
    "sustained_frac": Constant(0.9, 0.4, 1.0),
    "throttle_s": Constant(1e-3, 5e-5, 5e-3),
}
"""``throttle_s`` belongs to the benchmark, not to the chip: the kernel time at which its repetitions last long enough for the
power limit to have cut half of what it will cut. It is fitted and dropped; plans run under sustained load."""

REFERENCE = efficiency(accelerator("a100-sxm4-80gb"))


@dataclass(frozen=True)
class Table:
    """Rows of one data type with their accelerators."""

    rows: tuple[Row, ...]
    dtype: str

    def __post_init__(self) -> None:
        kind = "bf16" if self.dtype == "*" else self.dtype
        set_ = object.__setattr__.__get__(self)
        set_("device", device(self.rows, kind))
        set_("time", column(self.rows, "time_us") * 1e-6)
        for name in "mnk":
            set_(name, column(self.rows, name))
        set_("fold", fold(self.rows, "n", "k"))
        set_("weight", weights(self.rows))
        set_("accumulate", np.array(["acc out=fp32" in row["note"] for row in self.rows]))
        set_(
            "cast",
            np.array([row["dtype"] in ("fp8", "fp8_block", "nvfp4") and row["source"].startswith("aic") for row in self.rows])
            * 1.0,
        )

    def pick(self, keep: np.ndarray) -> Table:
        """The rows where ``keep``."""
        return Table(tuple(row for row, use in zip(self.rows, keep, strict=True) if use), self.dtype)


def quickest(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Of the rows with one shape on one accelerator the quickest.

    In 16 bits every stack calls the vendor's library. In narrow types each brings kernels of its own, with scales per tensor,
    row or block, which differ by a factor of up to four on the same chip: what the chip does is what the best of them does.
    """
    best: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in ("accelerator_id", "m", "n", "k"))
        if key not in best or float(row["time_us"]) < float(best[key]["time_us"]):
            best[key] = row
    return tuple(best.values())


def table(dtype: str, keep: Callable[[Row], bool]) -> Table:
    """GEMMs of one data type of the efficiency table; narrow types by the quickest library for every shape."""
    found = gemm_rows(lambda row: DTYPE[row["dtype"]] == dtype and keep(row))
    return Table(found if dtype == "*" else quickest(found), dtype)


def predict(data: Table, values: Values, *, base: Values | None = None) -> np.ndarray:
    """Seconds of every row.

    ``base`` prices the cast of the left operand in narrow types: launch and memory share of a streaming kernel.
    """
    names = {name: value for name, value in values.items() if name in Efficiency.__dataclass_fields__}
    eff = replace(REFERENCE, **{**names, "core": data.device.core, "sustained_frac": 1.0})
    m, n, k, d = data.m, data.n, data.k, data.device
    width = element_byte("bf16" if data.dtype == "*" else data.dtype)
    burst = gemm_compute_s(m, n, k, 1.0, d.peak, eff)
    s = values.get("sustained_frac", 1.0)
    compute = burst / (s + (1.0 - s) / (1.0 + (burst / values.get("throttle_s", 1.0)) ** 2))
    bandwidth = d.bandwidth * values["gemm_memory_frac"]
    accumulated = 6.0 * m * n * data.accumulate
    byte = width * (m * k + k * n) + 2.0 * m * n + accumulated
    exposed = values.get("accumulate_frac", 0.0) * accumulated / bandwidth
    cast = 0.0
    if base is not None:
        cast = data.cast * (base["launch_s"] + (2.0 + width) * m * k / (d.bandwidth * base["memory_frac"]))
    return values["gemm_launch_s"] + blend(compute, byte / bandwidth, values["blend_power"]) + exposed + cast


def fitted(data: Table, base: Values | None = None, fixed: Values | None = None) -> Values:
    """The constants that describe these rows best; ``fixed`` ones stay as they are."""
    given = fixed or {}
    free = {name: c for name, c in CONSTANTS.items() if name not in given}
    if data.accumulate.any():
        free["accumulate_frac"] = Constant(0.3, 0.02, 1.0)
    free = {name: c for name, c in free.items() if name not in given}
    found = fit(free, lambda v: predict(data, {**v, **given}, base=base), data.time, data.weight)
    return {**found, **given}


def share_null(train: Table, test: Table) -> np.ndarray:
    """The null model: each GEMM runs at the median share of the peak that the training rows reach."""
    share = np.median(2.0 * train.m * train.n * train.k / train.time / train.device.peak)
    return 2.0 * test.m * test.n * test.k / (test.device.peak * share)


def roofline_null(train: Table, test: Table) -> np.ndarray:
    """A stronger null: the roofline with one compute and one bandwidth share fitted on the training rows."""
    constants = {"c": Constant(0.6, 0.1, 1.0), "b": Constant(0.7, 0.1, 1.0)}
    width = element_byte("bf16" if train.dtype == "*" else train.dtype)

    def seconds(data: Table, v: Values) -> np.ndarray:
        byte = width * (data.m * data.k + data.k * data.n) + 2.0 * data.m * data.n
        return np.maximum(2.0 * data.m * data.n * data.k / (data.device.peak * v["c"]), byte / (data.device.bandwidth * v["b"]))

    found = fit(constants, lambda v: seconds(train, v), train.time, train.weight)
    return seconds(test, found)


def held_out(data: Table, base: Values | None, fixed: Values | None = None) -> tuple[Error | None, Error | None, Error | None]:
    """Errors on the fold of (n, k) pairs that the fit has not seen: all shapes, training shapes (all above 512), null."""
    test = data.fold == 0
    train, rest = data.pick(~test), data.pick(test)
    if not test.any() or len(train.time) < 20:
        return None, None, None
    values = fitted(train, base, fixed)
    predicted = predict(rest, values, base=base)
    large = np.minimum(np.minimum(rest.m, rest.n), rest.k) >= 512
    return (
        error(predicted, rest.time),
        error(predicted[large], rest.time[large]),
        error(roofline_null(train, rest), rest.time),
    )
