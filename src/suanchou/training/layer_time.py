"""Layer time: seconds of one average layer, of the embedding and of the head, for one micro-batch on one rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from suanchou.cost.kernels import Phase, element_byte, kernels_s
from suanchou.model.architecture import MoE
from suanchou.model.layer_operators import (
    embedding_backward,
    embedding_forward,
    head_backward,
    head_forward,
)
from suanchou.model.operators import Num, Operator
from suanchou.training.adapters import without_weight_gradients
from suanchou.training.communication import context_s, expert_s, tensor_collectives
from suanchou.training.problem import Problem
from suanchou.training.strategy import Strategy

__all__ = ["LayerTime", "layer_time"]


class LayerTime(NamedTuple):
    """Seconds of one micro-batch on one rank: per (average) layer, and in embedding and head."""

    forward: Num
    backward: Num
    core: Num
    tensor_forward: Num
    tensor_backward: Num
    context_forward: Num
    context_backward: Num
    ring_forward: Num
    ring_backward: Num
    expert: Num
    embedding: Num
    head: Num
    head_tensor: Num
    host_forward: Num
    host_backward: Num


def _plain_s(problem: Problem, ops: tuple[Operator, ...], phase: Phase) -> Num:
    """Kernel time in the type of the activations."""
    return kernels_s(ops, problem.accelerator, problem.eff, dtype=problem.work.dtype, phase=phase)


def _seconds(problem: Problem, ops: tuple[Operator, ...], s: Strategy, phase: Phase) -> Num:
    """Kernel time with the linear layers in the lower type (fp8) where the strategy says so."""
    plain = _plain_s(problem, ops, phase)
    fp8 = np.asarray(s.fp8) > 0
    if not fp8.any():
        return plain
    work = problem.work
    fast = kernels_s(ops, problem.accelerator, problem.eff, dtype=work.dtype, gemm_dtype=work.low_dtype, phase=phase)
    return np.where(fp8, fast, plain)


def _gathered_frac(problem: Problem, s: Strategy) -> Num:
    """Share of the volume of a reduce-scatter and all-gather that is left where the gather carries the narrower type.

    With SP the linear layer gathers its input. Stacks that quantise first send what the product reads.
    """
    if not problem.stack.narrow_gather:
        return 1.0
    narrow = element_byte(problem.work.low_dtype) / element_byte(problem.work.dtype)
    return np.where((np.asarray(s.fp8) > 0) & (np.asarray(s.sp) > 0), (1.0 + narrow) / 2.0, 1.0)


def layer_time(problem: Problem, s: Strategy) -> LayerTime:
    """Price the layouts in ``s`` (1-D arrays): kernels, and the communication inside layers that stays exposed.

    TP moves each block's output once forward and once backward, as an all-reduce or, with SP, a reduce-scatter and an
    all-gather of the same volume. CP passes keys and values round a ring, and their gradients back, behind the attention
    kernel. EP sends every token to its experts and back. Multi-token-prediction layers and their heads run with the
    head on the last stage; their own communication is left out. The host needs its time to launch the
    kernels of a layer; a device that is quicker waits for it (``host_forward``, ``host_backward``).
    """
    shape, work, stack = problem.shape(s), problem.work, problem.stack
    arch, d = work.arch, float(work.arch.d_model)
    sums: dict[str, Num] = dict.fromkeys(LayerTime._fields, 0.0)
    tp_group = problem.group(s.tp, 1.0)
    residual_byte = shape.token * d * shape.element_byte
    reduce_s = problem.fabric.all_reduce_s(residual_byte * _gathered_frac(problem, s), tp_group)
    reduce_s = reduce_s * (1.0 - stack.overlap_tensor_parallel)
    for kind in problem.kinds:
        layer, share = kind.layer, kind.share
        forward = problem.forward(layer, shape)
        core = tuple(op for op in forward if op.kind in ("attention", "scan") or ".core." in op.name)
        sums["forward"] = sums["forward"] + share * _seconds(problem, forward, s, "forward")
        core_s = _seconds(problem, core, s, "forward")
        sums["core"] = sums["core"] + share * core_s
        backward = problem.backward(layer, shape)
        sums["backward"] = sums["backward"] + share * _seconds(problem, backward, s, "backward")
        tensor = share * tensor_collectives(layer) * reduce_s
        sums["tensor_forward"], sums["tensor_backward"] = sums["tensor_forward"] + tensor, sums["tensor_backward"] + tensor
        for name, seconds in zip(
            ("context_forward", "context_backward", "ring_forward", "ring_backward"),
            context_s(problem, layer, s, shape, core_s),
            strict=True,
        ):
            sums[name] = sums[name] + share * seconds
        if isinstance(layer.ffn, MoE):
            sums["expert"] = sums["expert"] + share * expert_s(problem, layer.ffn, s, shape)
    sums["embedding"] = _plain_s(problem, embedding_forward(arch, shape), "forward") + _plain_s(
        problem, () if work.adapter_rank else embedding_backward(arch, shape), "backward"
    )
    # frameworks run low precision inside layers: logits are a product in the type of the activations
    head = _plain_s(problem, head_forward(arch, shape), "forward") + _plain_s(
        problem, without_weight_gradients(head_backward(arch, shape), work.adapter_rank), "backward"
    )
    sums["head"] = head * (1.0 + len(arch.mtp))
    for layer in arch.mtp:
        sums["head"] = sums["head"] + _seconds(problem, problem.forward(layer, shape), s, "forward")
        sums["head"] = sums["head"] + _seconds(problem, problem.backward(layer, shape), s, "backward")
    sums["head_tensor"] = 2.0 * reduce_s
    for phase in ("forward", "backward"):
        device = sums[phase] + sums[f"tensor_{phase}"] + sums[f"context_{phase}"] + sums["expert"]
        sums[f"host_{phase}"] = np.maximum(stack.host_layer_s - device, 0.0)
    return LayerTime(**sums)
