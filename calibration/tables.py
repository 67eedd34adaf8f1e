"""Measured kernels as arrays: reads the tables in ``data/`` and leaves out rows that measure something else.

What each table holds, what is wrong with it and under which licence it stands is written in SOURCES.md.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from suanchou.cost.efficiency import efficiency
from suanchou.machine.device import accelerator

DATA = Path(__file__).parent / "data"
Row = dict[str, str]
FOLDS = 5

DTYPE = {"bf16": "*", "fp16": "*", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4", "int8": "int8"}
"""Data type of the tables to the one of the efficiency table (``*`` is 16 bits)."""


@cache
def rows(name: str) -> tuple[Row, ...]:
    """All rows of one table."""
    with gzip.open(DATA / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def column(table: Iterable[Row], name: str) -> np.ndarray:
    """One numeric column."""
    return np.array([float(row[name]) for row in table])


def fold(table: Iterable[Row], *names: str) -> np.ndarray:
    """Fold 0 to 4 of every row by a hash of these columns: equal shapes share a fold whoever measured them."""
    text = (",".join(row[name] for name in names) for row in table)
    return np.array([int(hashlib.sha256(key.encode()).hexdigest(), 16) % FOLDS for key in text])


def weights(table: Iterable[Row]) -> np.ndarray:
    """One over the root of the rows of a row's stack and accelerator: large tables count more, but not in proportion."""
    keys = [(row["accelerator_id"], row["source"], row["software"]) for row in table]
    count = {key: keys.count(key) for key in set(keys)}
    return np.array([count[key] ** -0.5 for key in keys])


@dataclass(frozen=True)
class Device:
    """Peaks of every row's accelerator, as arrays."""

    peak: np.ndarray
    bandwidth: np.ndarray
    core: np.ndarray


def device(table: Iterable[Row], dtype: str) -> Device:
    """The accelerator of every row."""
    ids = [row["accelerator_id"] for row in table]
    known = {name: accelerator(name) for name in set(ids)}

    def peak(name: str) -> float:
        peaks = known[name].peak_flop_per_s
        return peaks.get(dtype) or peaks["bf16" if "bf16" in peaks else "fp16"]

    return Device(
        peak=np.array([peak(name) for name in ids]),
        bandwidth=np.array([known[name].memory_bandwidth_byte_per_s for name in ids]),
        core=np.array([efficiency(known[name]).core for name in ids]),
    )


def gemm_rows(keep: Callable[[Row], bool]) -> tuple[Row, ...]:
    """GEMM rows that time a kernel: no eager launches with one warm weight copy, no emulated types."""
    return tuple(
        row
        for row in rows("gemm")
        if row["dtype"] in DTYPE
        and "eager" not in row["note"]
        and "L2warm" not in row["note"]
        and "older release" not in row["note"]
        and not (row["accelerator_id"] == "arc-pro-b60" and row["dtype"] == "fp8")
        and keep(row)
    )
