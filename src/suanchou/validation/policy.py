"""Policy: how a row is read where it leaves something open, from ``validation.yaml``; nothing in it is about one run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from suanchou.errors import SpecError
from suanchou.validation.runs import Run

__all__ = [
    "Framework",
    "MemoryReported",
    "Precision",
    "framework",
    "memory_reported",
    "notes",
    "policy",
    "precision",
    "recompute",
    "zero",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """The software stack of a run, and what it does where the row is silent: ZeRO stage, SP with TP, interleaved chunks."""

    stack: str
    zero: int
    sp: int
    interleaved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Types of activations and attention (``dtype``), and of the linear layers where they differ (``linear``)."""

    dtype: str
    linear: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReported:
    """Whether a memory figure is the tensors' peak or all that is taken on the device; bytes of its unit."""

    allocated: bool
    unit_byte: float


_UNIT_BYTE = {"GiB": 2.0**30, "GB": 1e9}


@cache
def policy() -> Mapping[str, Any]:
    """The whole data file."""
    import yaml

    text = resources.files("suanchou.catalog").joinpath("data/validation.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = yaml.safe_load(text)
    return found


def _matching(section: str, text: str, key: str = "pattern") -> Mapping[str, Any] | None:
    wanted = text.casefold()
    return next((entry for entry in policy()[section] if fnmatchcase(wanted, str(entry[key]).casefold())), None)


def _fits(text: str, pattern: object) -> bool:
    return fnmatchcase(text.casefold(), str(pattern).casefold())


@cache
def framework(name: str, sharding: str, notes: str = "") -> Framework:
    """The first entry whose patterns fit the framework, the sharding column and the notes."""
    for entry in policy()["frameworks"]:
        rest = _fits(sharding, entry.get("sharding", "*")) and _fits(notes, entry.get("notes", "*"))
        if rest and _fits(name, entry["framework"]):
            return Framework(
                stack=entry["stack"],
                zero=int(entry["zero"]),
                sp=int(entry["sp"]),
                interleaved=bool(entry.get("interleaved", False)),
            )
    raise AssertionError("validation.yaml ends its frameworks with one that fits all")


def precision(run: Run) -> Precision:
    """The types of a run.

    Raises
    ------
    SpecError : a word that the policy does not know.
    """
    entry = _matching("precision", run.precision)
    if entry is None:
        raise SpecError(f"precision {run.precision!r} is not understood", where="precision")
    return Precision(dtype=entry["dtype"], linear=entry.get("linear"))


def recompute(run: Run) -> tuple[float, int] | None:
    """Share of the layers recomputed whole, and whether attention cores are; ``None`` where it is unknown."""
    entry = _matching("recompute", run.recompute) if run.recompute else None
    if entry is None:
        return None
    if entry["full"] != "counted":
        return float(entry["full"]), int(entry["selective"])
    some, every = (int(part) for part in re.findall(r"\d+", run.recompute)[:2])
    return some / every, int(entry["selective"])


def memory_reported(run: Run) -> MemoryReported:
    """What the source's memory figure is, and in which unit: the first entry whose patterns fit the source and the notes."""
    for entry in policy()["memory"]:
        if _fits(run.source, entry.get("source", "*")) and _fits(run.notes, entry.get("notes", "*")):
            return MemoryReported(allocated=entry["reports"] == "allocated", unit_byte=_UNIT_BYTE[entry["unit"]])
    raise AssertionError("validation.yaml ends its memory figures with one that fits all")


def zero(run: Run, usual: int) -> tuple[int, int]:
    """ZeRO stage, and whether it shards within a domain; ``usual`` where the row does not say."""
    text = run.zero.casefold()
    size = re.search(r"zero1=(\d+)|fsdp (\d+)", text)
    within = 1 if size else 0
    if not text:
        return usual, 0
    stage = re.search(r"zero-(\d)", text)
    if stage:
        return int(stage.group(1)), within
    if "shard_grad_op" in text:
        return 2, within
    if "fsdp" in text:
        return 3, within
    return (1, within) if "distributed-optimizer" in text else (0, 0)


def notes() -> tuple[str, ...]:
    """The default policy in words, for the report."""
    return tuple(f"{name} unknown: {entry['value']} ({entry['source']})" for name, entry in policy()["defaults"].items())
