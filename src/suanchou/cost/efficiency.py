"""Efficiency: what share of its peaks an accelerator reaches, from data tables with evidence per value.

``efficiency.csv`` holds single published figures and assumptions; ``efficiency_fitted.csv`` what ``calibration/fit.py`` fitted
on measured kernels and collectives. A value belongs to a part (an accelerator, a family or ``default``) and a data type
(``*``: 16 bits and whatever has no value of its own). The nearest part that knows a quantity decides.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from suanchou.cost.fitted import Factors, fitted_factors
from suanchou.errors import MissingData
from suanchou.estimate import Grade
from suanchou.machine.accelerator import Accelerator

__all__ = ["QUANTITIES", "Efficiency", "EfficiencyValue", "efficiency"]

QUANTITIES: Mapping[str, str] = MappingProxyType(
    {
        "gemm_frac": "share of the matrix peak that a large GEMM reaches, at the clock of a short burst",
        "grouped_serial_frac": "how far groups of a grouped GEMM run one by one: 0 shares waves and launch, 1 nothing",
        "sustained_frac": "share of the burst rate that the power limit leaves under sustained load",
        "attention_forward_frac": "share of the matrix peak in a long flash-attention forward kernel with heads of 128",
        "attention_backward_frac": "share of the matrix peak in a long flash-attention backward kernel with heads of 128",
        "head_half": "head width at which half of the attention time goes to softmax",
        "key_half": "keys that the ramp and the masked diagonal of a query tile cost",
        "memory_frac": "share of the memory bandwidth that a streaming kernel reaches",
        "elementwise_frac": "share of that rate in norms, activations, residuals and other short kernels between GEMMs",
        "gemm_memory_frac": "the same for the matrices of a GEMM",
        "attention_memory_frac": "the same for queries, keys, values and outputs of an attention kernel",
        "launch_s": "time of an empty kernel in a stream of kernels",
        "gemm_launch_s": "time of a GEMM with next to nothing to do",
        "attention_launch_s": "time of an attention kernel with next to nothing to do",
        "unaligned_frac": "share of its rate that a batched product keeps whose rows are no multiples of 16 bytes",
        "tile_m": "rows of the largest output tile of one core",
        "tile_n": "columns of the largest output tile of one core",
        "tile_edge": "cost of loading one row of a tile's edge, in elements of its area",
        "core": "cores that work on tiles at the same time",
        "k_half": "inner extent that a tile's prologue and epilogue cost",
        "split_k": "smallest piece of the inner extent that is worth a core of its own",
        "accumulate_frac": "share of the traffic of in-place accumulation that compute does not hide",
        "blend_power": "p of the p-norm that joins compute and memory time; large is a hard maximum",
        "attention_blend_power": "the same for attention kernels",
        "scale_up_frac": "share of the scale-up link that a large all-reduce reaches",
        "gather_frac": "the same for all-gather and reduce-scatter",
        "exchange_frac": "the same for all-to-all",
        "send_frac": "the same for a send between two ranks",
        "scale_out_frac": "share of the network port a large collective reaches between two domains",
        "collective_launch_s": "fixed time of a collective call",
        "collective_low_frac": "rate of the protocol for small messages over that for large ones",
        "collective_bulk_s": "time the protocol for large messages needs to start",
        "permute_frac": "share of the elementwise rate in kernels that gather or scatter rows, as on the way to experts",
        "straggler_frac": "spread of the step times of equal accelerators, as a share of the step",
        "overlap_core_frac": "share of the cores that a collective takes from the kernels it hides behind",
        "host_memory_byte_per_s": "host memory bandwidth per accelerator that an offloaded optimizer gets",
        "host_link_byte_per_s": "host link per accelerator, one way, where the catalogue does not know it",
        "scale_out_crowd_frac": "share of the time that colliding flows add per doubling of the domains of a collective",
        "collective_bulk_hop": "time of a hop in the protocol for large messages over one in that for small ones",
        "collective_tree_frac": "rate of a tree all-reduce between domains over that of a ring",
        "dispatch_byte_per_s": "bytes per second, of all copies, that kernels handing tokens to experts move per accelerator",
    }
)

_ANY = "*"
_KERNEL = "flash-"
_PCIE = "pcie"
_COLLECTIVE = (
    "scale_up_frac",
    "gather_frac",
    "exchange_frac",
    "send_frac",
    "collective_launch_s",
    "collective_low_frac",
    "collective_bulk_s",
)
_FOLLOWS = {
    "gemm_memory_frac": "memory_frac",
    "attention_memory_frac": "memory_frac",
    "gemm_launch_s": "launch_s",
    "gather_frac": "scale_up_frac",
    "exchange_frac": "scale_up_frac",
    "send_frac": "scale_up_frac",
}
"""Quantities that take another one's value where nobody has measured them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficiencyValue:
    """One entry of the tables.

    ``residual_frac`` is the median absolute error of the kernels this value was fitted with, on shapes kept out of the fit;
    ``None`` where the value is not fitted.
    """

    value: float
    grade: Grade
    source: str
    part: str
    dtype: str
    residual_frac: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """The efficiency of one accelerator in 16 bits; every value knows its evidence in ``entries``.

    ``variants`` holds, per other data type, the entries that differ there, and under ``pcie`` those of collectives between
    accelerators that have no other link.
    """

    gemm_frac: float
    grouped_serial_frac: float
    sustained_frac: float
    attention_forward_frac: float
    attention_backward_frac: float
    head_half: float
    key_half: float
    memory_frac: float
    elementwise_frac: float
    gemm_memory_frac: float
    attention_memory_frac: float
    launch_s: float
    gemm_launch_s: float
    attention_launch_s: float
    unaligned_frac: float
    tile_m: float
    tile_n: float
    tile_edge: float
    core: float
    k_half: float
    split_k: float
    accumulate_frac: float
    blend_power: float
    attention_blend_power: float
    scale_up_frac: float
    gather_frac: float
    exchange_frac: float
    send_frac: float
    scale_out_frac: float
    collective_launch_s: float
    collective_low_frac: float
    collective_bulk_s: float
    permute_frac: float
    straggler_frac: float
    overlap_core_frac: float
    host_memory_byte_per_s: float
    host_link_byte_per_s: float
    scale_out_crowd_frac: float
    collective_bulk_hop: float
    collective_tree_frac: float
    dispatch_byte_per_s: float
    entries: Mapping[str, EfficiencyValue]
    variants: Mapping[str, Mapping[str, EfficiencyValue]] = field(default_factory=dict)

    def for_dtype(self, dtype: str) -> Efficiency:
        """The values of the same accelerator in another data type."""
        return self._variant(dtype)

    def with_attention(self, kernel: str) -> Efficiency:
        """The same accelerator with the attention kernels of another generation (``flash-1``, ``flash-2``)."""
        own = self.variants.get(kernel)
        if not own:
            return self
        values = {name: entry.value for name, entry in own.items()}
        others = {
            key: {name: entry for name, entry in entries.items() if name not in own} for key, entries in self.variants.items()
        }
        return replace(self, **values, entries=MappingProxyType({**self.entries, **own}), variants=others)

    def over(self, topology: str) -> Efficiency:
        """The values of collectives over a scale-up tier of this topology."""
        return self._variant(topology) if topology == _PCIE else self

    def _variant(self, key: str) -> Efficiency:
        other = self.variants.get(key)
        if not other:
            return self
        values = {name: entry.value for name, entry in other.items()}
        return replace(self, **values, entries=MappingProxyType({**self.entries, **other}), variants={})

    @property
    def assumed(self) -> tuple[str, ...]:
        """Quantities of this accelerator that nobody has measured."""
        return tuple(name for name, entry in self.entries.items() if entry.grade == "assumed")

    def source(self, *names: str) -> tuple[str, ...]:
        """Sources of these quantities, without repeats."""
        return tuple(dict.fromkeys(self.entries[name].source for name in names))


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files("suanchou.catalog").joinpath(f"data/{name}").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def _table() -> Mapping[tuple[str, str, str], EfficiencyValue]:
    """Both tables by part, data type and quantity; a fitted value stands before a single figure for the same key."""
    return {
        (row["part"], row["dtype"], row["quantity"]): EfficiencyValue(
            value=float(row["value"]),
            grade=row["grade"],  # type: ignore[arg-type]  # checked by the data tests
            source=row["source"],
            part=row["part"],
            dtype=row["dtype"],
            residual_frac=float(row["residual_frac"]) if row.get("residual_frac") else None,
        )
        for row in (*_rows("efficiency.csv"), *_rows("efficiency_fitted.csv"))
    }


def _entry(path: tuple[str, ...], name: str, dtypes: tuple[str, ...]) -> EfficiencyValue | None:
    """The nearest entry for a quantity, or for the one it follows."""
    table = _table()
    names = (name, _FOLLOWS[name]) if name in _FOLLOWS else (name,)
    keys = ((part, dtype, each) for each in names for part in (*path, "default") for dtype in dtypes)
    return next((table[key] for key in keys if key in table), None)


@cache
def _entries(path: tuple[str, ...]) -> tuple[Mapping[str, EfficiencyValue], Mapping[str, Mapping[str, EfficiencyValue]]]:
    """What the tables say of a part: per quantity in 16 bits, and what differs per data type or link."""
    table, entries = _table(), {}
    variants: dict[str, dict[str, EfficiencyValue]] = {dtype: {} for _, dtype, _ in table if dtype != _ANY}
    for name in QUANTITIES:
        found = _entry(path, name, (_ANY,))
        if found is None:
            raise MissingData(f"no {name} for {path[0]}", where="efficiency.csv")
        entries[name] = found
        for dtype, differing in variants.items():
            # a kernel generation outweighs a nearer part: that one was measured with other kernels
            own = _entry(path, name, (dtype,) if dtype.startswith(_KERNEL) else (dtype, _ANY))
            if own is not None and own.dtype == dtype:
                differing[name] = own
    links = ((part, _ANY, name) for part in (_PCIE, path[0]) for name in _COLLECTIVE)
    variants[_PCIE] = {key[2]: table[key] for key in links if key in table}
    return MappingProxyType(entries), MappingProxyType(variants)


def _moved(entry: EfficiencyValue, name: str, factor: Any) -> EfficiencyValue:
    """The entry times a fitted factor; a share stays below 1."""
    if isinstance(factor, float) and factor == 1.0:
        return entry
    value = entry.value * factor
    if name.endswith("_frac"):
        value = min(value, 1.0) if isinstance(value, float) else value.clip(max=1.0)
    said = f"{entry.source}; times {factor:.3g}, fitted to published runs" if isinstance(factor, float) else entry.source
    return replace(entry, value=value, grade="fitted", source=said)


@lru_cache(maxsize=256)
def _fitted(path: tuple[str, ...], factors: Factors) -> Efficiency:
    entries, variants = _entries(path)

    def factor(entry: EfficiencyValue, name: str, dtype: str = _ANY) -> Any:
        """A factor on ``default`` holds for parts that nobody has measured."""
        parts = (*path, "default") if entry.part == "default" else path
        found = factors.of("efficiency", parts, name)
        return found if dtype == _ANY else found * factors.of("efficiency", parts, name, dtype)

    moved = {name: _moved(entry, name, factor(entry, name)) for name, entry in entries.items()}
    differing: dict[str, dict[str, EfficiencyValue]] = {}
    dtypes = {dtype for scope, _, _, dtype in factors.values if scope == "efficiency" and dtype != _ANY}
    for dtype in {*variants, *dtypes}:
        own = variants.get(dtype, {})
        named = {name for scope, _, name, each in factors.values if scope == "efficiency" and each == dtype}
        both = {**{name: entries[name] for name in named}, **own}
        differing[dtype] = {name: _moved(entry, name, factor(entry, name, dtype)) for name, entry in both.items()}
    values = {name: entry.value for name, entry in moved.items()}
    return Efficiency(**values, entries=MappingProxyType(moved), variants=MappingProxyType(differing))


def efficiency(accelerator: Accelerator, factors: Factors | None = None) -> Efficiency:
    """The efficiency of ``accelerator`` in 16 bits: each value from the nearest part that has it, times what was fitted.

    The search begins at the accelerator itself and goes on from its family to ever wider ones. ``factors`` are those fitted to
    published runs unless given.

    Raises
    ------
    MissingData : the tables have no value even for the default.
    """
    path = (accelerator.id, *(accelerator.family_path or (accelerator.family,)))
    return _fitted(path, fitted_factors() if factors is None else factors)
