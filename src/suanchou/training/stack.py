"""Stack: what a training framework does, read from the catalogue with the source of every value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from suanchou.catalog import catalogue
from suanchou.catalog.records import Cell
from suanchou.cost.fitted import Factors, fitted_factors
from suanchou.errors import SpecError
from suanchou.training.schedule import SCHEDULES

__all__ = ["Stack", "default_stack", "lineage", "stack"]


TUNED = "tuned"
"""The name under which fitted factors hold for all stacks that an accelerator's vendor tunes on its own systems."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A software stack.

    Bytes are per parameter; ``overlap_*`` is the share of a communication that may hide behind compute. ``gradient_pass_byte``
    is the traffic of gradients per micro-batch beside the products that make them (copies, casts, accumulation), 0 where the
    products accumulate in place; ``optimizer_traffic_byte`` that of the optimizer per step. ``early_stop``: recomputation ends
    where backward needs no more. ``overlap_parameter_gather`` is that of updated weights after the step (ZeRO-1 and 2),
    ``overlap_weight_gather`` that of each layer's weights before it runs (ZeRO-3). ``gradient_all_reduce``: ZeRO-1 reduces
    gradients on every rank instead of on their owner.

    ``narrow_activations`` says what is kept for backward in a narrower type where linear layers run in one: ``none``, their
    inputs (``linear``), or those of activation functions as well (``all``); ``narrow_frozen_weights``: weights that are not
    trained are stored in it; ``narrow_gather``: sequence parallelism gathers the inputs of linear layers in it.

    Of the fields on communication: ``overlap_tensor_parallel`` and ``overlap_tensor_backward`` say whether TP's collectives run
    beside products cut into pieces, and whether its reductions of input gradients run beside weight gradients;
    ``overlap_expert_far`` is ``overlap_expert_parallel`` where EP leaves a scale-up domain.
    ``expert_dispatch``: ``all-to-all`` sends every copy of a token, ``one-copy`` one to each node and rank that needs it,
    ``all-gather`` all tokens to all. ``expert_dispatch_byte``: bytes of an element that is dispatched in fp8 runs.
    ``expert_tensor``: TP splits experts, too, and EP is taken out of DP x CP; else experts stay whole where EP is above 1, and
    EP is taken out of TP x CP x DP. ``bucket_parameter`` and ``bucket_parameter_per_rank`` (times the ranks that reduce):
    parameters of a gradient bucket at least; 0: a layer. ``broadcast_weights``: ZeRO deals out whole tensors, and owners
    broadcast them. ``scatter_sends``: TP ranks send a share each to the next stage, which gathers it.

    Of the fields on memory: ``activations`` names what is kept for backward (:data:`suanchou.model.activations.STACKS`);
    ``loss_peak_byte`` is per logit, all copies that live at once; ``placeholder``: whether buffers handed to autograd in
    place of weight gradients are ``kept``, ``freed`` or not there (``none``); ``live_parameters`` is how many parameters
    ZeRO-3 keeps gathered; ``bucket_byte`` the flat buffers that gradients are reduced through. ``allocator_*`` are shares of
    the tensors' bytes: expected, at worst, and what the allocator cannot give back.

    ``schedules``: the pipeline schedules it has (:data:`suanchou.training.schedule.SCHEDULES`).

    ``sources`` gives for every field its evidence grade and source.
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
    runtime_byte: float
    communicator_byte: float
    allocator_frac: float
    allocator_high_frac: float
    attention_kernel: str
    loss: str
    dropout: bool
    host_layer_s: float
    host_step_s: float
    straggler: float
    tuned: bool
    narrow_activations: str
    narrow_frozen_weights: bool
    narrow_gather: bool
    fused_norm: bool
    gradient_pass_byte: float
    early_stop: bool
    optimizer_traffic_byte: float
    overlap_weight_gather: float
    gradient_all_reduce: bool
    overlap_tensor_backward: float
    overlap_expert_far: float
    expert_dispatch: str
    expert_dispatch_byte: float
    expert_tensor: bool
    bucket_parameter: float
    bucket_parameter_per_rank: float
    broadcast_weights: bool
    scatter_sends: bool
    activations: str
    loss_peak_byte: float
    placeholder: str
    live_parameters: float
    bucket_byte: float
    allocator_need_frac: float
    schedules: tuple[str, ...]
    sources: Mapping[str, str]

    @property
    def splits_backward(self) -> bool:
        """Whether one of its schedules computes weight gradients apart from the rest of the backward."""
        return any(SCHEDULES[name].splits_backward for name in self.schedules)


def _cells(name: str) -> tuple[dict[str, Cell], tuple[str, ...]]:
    """The stack's own cells over those it inherits, and its names: its own, those of its parents but the root, and ``tuned``.

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
    names = tuple(seen[: max(1, len(seen) - 1)])
    return found, (*names, TUNED) if "tuned" in found and float(found["tuned"].value or 0.0) else names


def lineage(name: str) -> tuple[str, ...]:
    """The names under which fitted factors hold for a stack: its own and those of its parents but the root, and ``tuned``.

    Raises
    ------
    SpecError : unknown name.
    """
    return _cells(name)[1]


def stack(name: str, factors: Factors | None = None) -> Stack:
    """The stack of this name, its performance constants moved by ``factors``: those fitted to published runs unless given.

    Raises
    ------
    SpecError : unknown name, or a stack that lacks a value.
    """
    cells, lineage = _cells(name)
    factors = factors or fitted_factors()
    values: dict[str, Any] = {"name": catalogue().get("stacks", name).id, "title": str(cells["title"].value)}
    sources = {}
    for item in fields(Stack):
        if item.name in ("name", "title", "sources"):
            continue
        if item.name not in cells:
            raise SpecError(f"stack {name!r} has no {item.name}", where="stacks.yaml", hint="give it, or inherit another stack")
        cell = cells[item.name]
        value = _VALUE.get(item.name, float)(cell.value)
        sources[item.name] = f"{cell.source} [{cell.grade}]"
        factor = factors.of("stack", lineage, item.name)
        if not (isinstance(factor, float) and factor == 1.0):
            value = value * factor
            sources[item.name] = f"{cell.source}; moved by a fit to published runs [fitted]"
        values[item.name] = value
    return Stack(**values, sources=sources)


_VALUE: Mapping[str, Callable[[Any], Any]] = {
    "attention": str,
    "attention_kernel": str,
    "loss": str,
    "activations": str,
    "placeholder": str,
    "fused": bool,
    "dropout": bool,
    "tuned": bool,
    "narrow_activations": str,
    "narrow_frozen_weights": bool,
    "narrow_gather": bool,
    "fused_norm": bool,
    "early_stop": bool,
    "gradient_all_reduce": bool,
    "expert_dispatch": str,
    "expert_tensor": bool,
    "broadcast_weights": bool,
    "scatter_sends": bool,
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
