"""Defaults: what planning takes for granted, from data files with sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from suanchou.estimate import Estimate, Grade

__all__ = ["Default", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """A value taken for granted, with its range where known."""

    name: str
    value: float
    source: str
    grade: Grade
    low: float | None = None
    high: float | None = None

    def estimate(self, unit: str) -> Estimate:
        """As a node of an explanation."""
        return Estimate(
            name=self.name, value=self.value, unit=unit, sources=(self.source,), grade=self.grade, low=self.low, high=self.high
        )


_FILES = ("training_defaults.yaml", "reliability.yaml")


@cache
def _entries() -> Mapping[str, Mapping[str, Any]]:
    import yaml

    entries: dict[str, Mapping[str, Any]] = {}
    for name in _FILES:
        entries |= yaml.safe_load(resources.files("suanchou.catalog").joinpath("data", name).read_text(encoding="utf-8"))
    return entries


@cache
def default(name: str) -> Default:
    """The default of this name."""
    entry = _entries()[name]
    return Default(
        name=name,
        value=float(entry["value"]),
        source=entry["source"],
        grade=entry["grade"],
        low=entry.get("low"),
        high=entry.get("high"),
    )


def batch_token(parameters: float) -> tuple[int, str]:
    """Tokens per step that a model of this size is commonly trained with, and the source."""
    entry = _entries()["batch_token"]
    row = next(row for row in entry["value"] if parameters <= row["parameters"])
    return int(row["token"]), str(entry["source"])
