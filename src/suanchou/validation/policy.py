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

__all__ = ["Framework", "Precision", "framework", "notes", "policy", "precision", "recompute", "switches", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """The software stack of a run, and what it does where the row is silent.

    ``zero`` and ``sp``: ZeRO stage, and whether SP goes with TP. ``interleaved``, ``stages``: whether stages are cut in chunks,
    and layers in stages. ``accumulates``: whether a replica's batch is cut in micro-batches. ``offload``: whether activations
    may go to the host.
    """

    stack: str
    zero: int
    sp: int
    interleaved: bool
    offload: bool
    stages: bool
    accumulates: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Types of activations and attention (``dtype``), and of the linear layers where they differ (``linear``)."""

    dtype: str
    linear: str | None


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


@cache
def framework(name: str, sharding: str, precision: str = "", source: str = "") -> Framework:
    """The first entry whose patterns fit the columns of framework, sharding and precision, and who published the run."""
    for entry in policy()["frameworks"]:
        columns = (("framework", name), ("sharding", sharding), ("precision", precision), ("published", source))
        if all(fnmatchcase(text.casefold(), str(entry.get(key, "*")).casefold()) for key, text in columns):
            return Framework(
                stack=entry["stack"],
                zero=int(entry["zero"]),
                sp=int(entry["sp"]),
                interleaved=bool(entry.get("interleaved", False)),
                offload=bool(entry.get("offload", False)),
                stages=bool(entry.get("stages", True)),
                accumulates=bool(entry.get("accumulates", True)),
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
    """Share of the layers recomputed whole, and whether attention cores are; ``None`` where it is unknown.

    A column that the notes call assumed is unknown, too.
    """
    assumed = re.search(r"\brecompute\b[^;]*\bnot stated\b", run.notes)
    entry = _matching("recompute", run.recompute) if run.recompute and not assumed else None
    if entry is None:
        return None
    if entry["full"] != "counted":
        return float(entry["full"]), int(entry["selective"])
    some, every = (int(part) for part in re.findall(r"\d+", run.recompute)[:2])
    return some / every, int(entry["selective"])


def switches(run: Run) -> dict[str, float]:
    """Fields of the stack that switches of the training script set, for frameworks whose rows list them in their notes."""
    words = {word.strip() for word in run.notes.split(";")}
    found: dict[str, float] = {}
    for entry in policy()["switches"]:
        if fnmatchcase(run.framework.casefold(), entry["framework"]) and entry["listed"] in run.notes:
            found[entry["field"]] = float(entry["given"] if entry["switch"] in words else entry["absent"])
    return found


def zero(run: Run, usual: int) -> tuple[int, int]:
    """ZeRO stage, and whether it shards within a domain; ``usual`` where the row does not say."""
    text = run.zero.casefold()
    size = re.search(r"zero1=(\d+)|fsdp (\d+)", text)
    within = 1 if size or run.note("slices") else 0
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
