"""Bytes: weights by format, training state by optimizer recipe and ZeRO stage, checkpoints, LoRA adapters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from suanchou.demand.data import Optimizer, Purpose, WeightFormat, weight_formats
from suanchou.demand.flop import short
from suanchou.errors import SpecError
from suanchou.estimate import Estimate, total
from suanchou.model.architecture import Architecture
from suanchou.model.num import Num
from suanchou.model.parameters import weights

__all__ = [
    "ZERO_STAGES",
    "checkpoint_estimate",
    "held_estimate",
    "lora_parameter_count",
    "state_byte_per_param",
    "state_estimate",
    "weight_estimate",
    "zero_estimate",
]

ZERO_STAGES = (0, 1, 2, 3)


def state_byte_per_param(optimizer: Optimizer, *, zero: int = 0, n_rank: Num = 1.0) -> Num:
    """Training state per parameter on one of ``n_rank`` data-parallel ranks, in bytes.

    ZeRO-1 divides master copy and moments by the ranks, ZeRO-2 gradients too, ZeRO-3 also the weights: for mixed-precision
    Adam 4 + 12/R, 2 + 14/R and 16/R. Source: ZeRO, arXiv 1910.02054, section 5.

    Raises
    ------
    SpecError : no such ZeRO stage, or less than one rank.
    """
    if zero not in ZERO_STAGES:
        raise SpecError(f"ZeRO has stages 0 to 3, not {zero}")
    parts = (optimizer.state, optimizer.gradient, optimizer.weight)
    whole, divided = sum(parts[zero:]), sum(parts[:zero])
    return whole + divided / n_rank


def weight_estimate(n_param: float, weight: WeightFormat) -> Estimate:
    """Weights in one format."""
    return Estimate(
        name=weight.id,
        value=n_param * weight.byte,
        unit="byte",
        formula=f"{short(n_param)} * {short(weight.bits)} / 8",
        sources=(weight.source,) if weight.source else (),
        assumptions=(weight.note,) if weight.note else (),
        grade="exact" if not weight.note else "derived",
    )


def state_estimate(n_param: float, optimizer: Optimizer) -> Estimate:
    """Training state of all parameters, all ranks together, without activations."""
    parts = (
        ("weights", optimizer.weight),
        ("gradients", optimizer.gradient),
        ("master", optimizer.master),
        ("moments", optimizer.moments),
    )
    return Estimate(
        name=optimizer.id,
        value=n_param * optimizer.training,
        unit="byte",
        formula=f"{short(n_param)} * {short(optimizer.training)}",
        sources=(optimizer.source,),
        assumptions=(optimizer.title, "without activations, buffers and fragmentation"),
        summed=True,
        children=tuple(
            Estimate(name=name, value=n_param * byte, unit="byte", formula=f"{short(n_param)} * {short(byte)}")
            for name, byte in parts
        ),
    )


def zero_estimate(n_param: float, optimizer: Optimizer, *, zero: int, n_rank: int) -> Estimate:
    """Training state on one data-parallel rank under a ZeRO stage."""
    parts = (optimizer.state, optimizer.gradient, optimizer.weight)
    whole, divided = sum(parts[zero:]), sum(parts[:zero])
    return Estimate(
        name=f"zero{zero}",
        value=float(n_param * state_byte_per_param(optimizer, zero=zero, n_rank=n_rank)),
        unit="byte",
        formula=f"{short(n_param)} * ({short(whole)} + {short(divided)} / {n_rank})",
        sources=("ZeRO, arXiv 1910.02054, section 5",),
        assumptions=(optimizer.title, "no tensor or pipeline parallelism"),
    )


def held_estimate(n_param: float, state: Estimate, purpose: Purpose) -> Estimate:
    """Everything that stays in memory for a purpose: training state of the trained models, weights of the frozen ones."""
    parts = [replace(state, name=f"trained{i + 1}") for i in range(purpose.trained)]
    for i, name in enumerate(purpose.frozen):
        parts.append(replace(weight_estimate(n_param, weight_formats()[name]), name=f"frozen{i + 1}"))
    return total("held", "byte", tuple(parts), assumptions=("activations, buffers and KV caches come on top",))


def checkpoint_estimate(n_param: float, optimizer: Optimizer) -> Estimate:
    """A full checkpoint: weights, master copy and moments, written once."""
    return Estimate(
        name="checkpoint",
        value=n_param * optimizer.checkpoint,
        unit="byte",
        formula=f"{short(n_param)} * {short(optimizer.checkpoint)}",
        sources=(
            "MLPerf Storage v2.0 checkpoint sizes follow 14 byte per parameter within 3 % when read in GiB",
            optimizer.source,
        ),
        assumptions=(optimizer.title, "each parameter is written once, not by every data-parallel replica"),
    )


def lora_parameter_count(arch: Architecture, *, rank: int, roles: Collection[str]) -> int:
    """Trained parameters of rank-``rank`` adapters on every matrix whose role is in ``roles``.

    An adapter of an ``out x in`` matrix has ``rank * (out + in)`` parameters. Source: LoRA, arXiv 2106.09685, section 4.1.
    """
    return sum(rank * sum(w.shape) for w in weights(arch) if w.role in roles and len(w.shape) == 2)
