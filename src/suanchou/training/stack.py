"""Stack: what a training framework does, read from the catalogue with the source of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Any

from suanchou.errors import SpecError

__all__ = ["Stack", "default_stack", "stack", "stack_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A software stack.

    Bytes are per parameter; ``overlap_*`` is the share of a communication that may hide behind compute. ``sources`` gives for
    every field its evidence grade and source.
    """

    name: str
    title: str
    attention: str
    zero_stages: tuple[int, ...]
    weight_byte: float
    gradient_byte: float
    gradient_reduce_byte: float
    optimizer_byte: float
    overlap_gradient_reduce: float
    overlap_parameter_gather: float
    overlap_tensor_parallel: float
    overlap_context_parallel: float
    overlap_expert_parallel: float
    overlap_pipeline: float
    overlap_pipeline_interleaved: float
    bucket_frac: float
    runtime_byte: float
    communicator_byte: float
    allocator_frac: float
    allocator_high_frac: float
    sources: Mapping[str, str]


@cache
def _entries() -> Mapping[str, Mapping[str, Any]]:
    import yaml

    text = resources.files("suanchou.catalog").joinpath("data/stacks.yaml").read_text(encoding="utf-8")
    entries: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)
    return entries


def stack_names() -> tuple[str, ...]:
    """Names of all stacks."""
    return tuple(_entries())


def stack(name: str) -> Stack:
    """The stack of this name.

    Raises
    ------
    SpecError : unknown name.
    """
    entries = _entries()
    if name not in entries:
        raise SpecError(f"unknown stack {name!r}", where="--stack", hint=f"known: {', '.join(entries)}")
    entry = dict(entries[name])
    while "inherits" in entry:
        entry = {**entries[entry.pop("inherits")], **entry}
    values: dict[str, Any] = {"name": name, "title": entry["title"]}
    sources = {}
    for item in fields(Stack):
        if item.name in ("name", "title", "sources"):
            continue
        cell = entry[item.name]
        value = cell["value"]
        values[item.name] = tuple(value) if isinstance(value, list) else value if isinstance(value, str) else float(value)
        sources[item.name] = f"{cell['source']} [{cell['grade']}]"
    return Stack(**values, sources=sources)


def default_stack(vendor: str) -> Stack:
    """The stack most used on a vendor's accelerators."""
    for wanted in (vendor, "*"):
        for name, entry in _entries().items():
            if wanted in entry["default_for"]:
                return stack(name)
    raise SpecError("no default stack", where="stacks.yaml")
