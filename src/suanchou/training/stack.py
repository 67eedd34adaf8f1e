"""Stack: what a training framework does, read from the catalogue with the source of every value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from suanchou.catalog import catalogue
from suanchou.catalog.records import Cell
from suanchou.errors import SpecError
from suanchou.training.schedule import SCHEDULES

__all__ = ["Stack", "default_stack", "stack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A software stack.

    Bytes are per parameter; ``overlap_*`` is the share of a communication that may hide behind compute. ``sources`` gives for
    every field its evidence grade and source.
    """

    name: str
    title: str
    attention: str
    fused: bool
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
    schedules: tuple[str, ...]

    @property
    def splits_backward(self) -> bool:
        """Whether one of its schedules computes weight gradients apart from the rest of the backward."""
        return any(SCHEDULES[name].splits_backward for name in self.schedules)


def _cells(name: str) -> dict[str, Cell]:
    """The stack's own cells over those it inherits.

    Raises
    ------
    SpecError : unknown name, or stacks that inherit in a circle.
    """
    found: dict[str, Cell] = {}
    seen: list[str] = []
    parent: str | None = name
    while parent is not None:
        record = catalogue().get("stacks", parent)
        if record.id in seen:
            raise SpecError(f"stack {name!r} inherits from itself", where="stacks.yaml", hint=" -> ".join([*seen, record.id]))
        seen.append(record.id)
        found = {**record.cells, **found}
        parent = record.text("inherits") or None
    return found


def stack(name: str) -> Stack:
    """The stack of this name.

    Raises
    ------
    SpecError : unknown name, or a stack that lacks a value.
    """
    cells = _cells(name)
    values: dict[str, Any] = {"name": catalogue().get("stacks", name).id, "title": str(cells["title"].value)}
    sources = {}
    for item in fields(Stack):
        if item.name in ("name", "title", "sources"):
            continue
        if item.name not in cells:
            raise SpecError(f"stack {name!r} has no {item.name}", where="stacks.yaml", hint="give it, or inherit another stack")
        cell = cells[item.name]
        values[item.name] = _VALUE.get(item.name, float)(cell.value)
        sources[item.name] = f"{cell.source} [{cell.grade}]"
    return Stack(**values, sources=sources)


_VALUE: Mapping[str, Callable[[Any], Any]] = {
    "attention": str,
    "fused": bool,
    "zero_stages": lambda text: tuple(json.loads(text)),
    "schedules": lambda text: tuple(json.loads(text)),
}


def default_stack(vendor: str) -> Stack:
    """The stack most used on a vendor's accelerators.

    Raises
    ------
    SpecError : no stack in the catalogue is for this vendor or for all.
    """
    for wanted in (vendor, "*"):
        for record in catalogue().records("stacks"):
            if wanted in json.loads(record.text("default_for") or "[]"):
                return stack(record.id)
    raise SpecError(f"no default stack for {vendor}", where="stacks.yaml", hint="name one with --stack")
