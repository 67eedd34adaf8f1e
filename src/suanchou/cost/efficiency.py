"""Efficiency: what share of its peaks an accelerator family reaches, from a data table with evidence per value."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

from suanchou.errors import MissingData
from suanchou.estimate import Grade
from suanchou.machine.accelerator import Accelerator

__all__ = ["QUANTITIES", "Efficiency", "EfficiencyValue", "efficiency"]

QUANTITIES: Mapping[str, str] = MappingProxyType(
    {
        "gemm_frac": "share of the matrix peak that a large GEMM reaches",
        "attention_forward_frac": "share of the matrix peak in the flash-attention forward kernel",
        "attention_backward_frac": "share of the matrix peak in the flash-attention backward kernel",
        "memory_frac": "share of the memory bandwidth that a streaming kernel reaches",
        "launch_s": "time of an empty kernel in a stream of kernels",
        "tile_m": "rows of one core's output tile",
        "tile_n": "columns of one core's output tile",
        "core": "cores that work on tiles at the same time",
        "k_half": "inner extent at which a tile reaches half its rate",
        "blend_power": "p of the p-norm that joins compute and memory time; large is a hard maximum",
        "scale_up_frac": "share of the scale-up link a large collective reaches",
        "scale_out_frac": "share of the network port a large collective reaches",
        "collective_launch_s": "fixed time of a collective call",
        "overlap_core_frac": "share of the cores that a collective takes from the kernels it hides behind",
        "host_memory_byte_per_s": "host memory bandwidth per accelerator that an offloaded optimizer gets",
        "host_link_byte_per_s": "host link per accelerator, one way, where the catalogue does not know it",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficiencyValue:
    """One entry of the table."""

    value: float
    grade: Grade
    source: str
    family: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """The efficiency of one accelerator family; every value knows its evidence in ``entries``."""

    gemm_frac: float
    attention_forward_frac: float
    attention_backward_frac: float
    memory_frac: float
    launch_s: float
    tile_m: float
    tile_n: float
    core: float
    k_half: float
    blend_power: float
    scale_up_frac: float
    scale_out_frac: float
    collective_launch_s: float
    overlap_core_frac: float
    host_memory_byte_per_s: float
    host_link_byte_per_s: float
    entries: Mapping[str, EfficiencyValue]

    @property
    def assumed(self) -> tuple[str, ...]:
        """Quantities of this family that nobody has measured."""
        return tuple(name for name, entry in self.entries.items() if entry.grade == "assumed")

    def source(self, *names: str) -> tuple[str, ...]:
        """Sources of these quantities, without repeats."""
        return tuple(dict.fromkeys(self.entries[name].source for name in names))


@cache
def _table() -> Mapping[tuple[str, str], EfficiencyValue]:
    text = resources.files("suanchou.catalog").joinpath("data/efficiency.csv").read_text(encoding="utf-8")
    return {
        (row["family"], row["quantity"]): EfficiencyValue(
            value=float(row["value"]),
            grade=row["grade"],  # type: ignore[arg-type]  # checked by the data tests
            source=row["source"],
            family=row["family"],
        )
        for row in csv.DictReader(text.splitlines())
    }


@cache
def _efficiency(family_path: tuple[str, ...]) -> Efficiency:
    table = _table()
    entries = {}
    for name in QUANTITIES:
        found = next((table[family, name] for family in (*family_path, "default") if (family, name) in table), None)
        if found is None:
            raise MissingData(f"no {name} for family {family_path[0]}", where="efficiency.csv")
        entries[name] = found
    return Efficiency(**{name: entry.value for name, entry in entries.items()}, entries=MappingProxyType(entries))


def efficiency(accelerator: Accelerator) -> Efficiency:
    """The efficiency of ``accelerator``: each value from the nearest family that has it, from its own to ever wider ones.

    Raises
    ------
    MissingData : the table has no value even for the default.
    """
    return _efficiency(accelerator.family_path or (accelerator.family,))
