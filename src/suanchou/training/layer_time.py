"""Layer time: seconds of one average layer, of the embedding and of the head, for one micro-batch on one rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from suanchou.cost.kernels import Phase, kernels_s, stream_s
from suanchou.model.architecture import MoE
from suanchou.model.layer_operators import (
    embedding_backward,
    embedding_forward,
    head_backward,
    head_forward,
    layer_recompute,
)
from suanchou.model.operators import Num, Operator
from suanchou.training.adapters import without_weight_gradients
from suanchou.training.communication import context_s, expert_s, head_tensor_s, layer_parameters, tensor_s
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
    again: Num
    tensor_again: Num
    gradient: Num


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


def layer_time(problem: Problem, s: Strategy) -> LayerTime:
    """Price the layouts in ``s`` (1-D arrays): kernels, and the communication inside layers that stays exposed.

    TP joins each block's output forward and its input gradients backward. CP passes keys and values round a ring, and their
    gradients back, behind the attention kernel. EP sends every token to its experts and back. Multi-token-prediction layers
    and their heads run with the head on the last stage; their own communication is left out. ``again`` and ``tensor_again``
    are the forward of a layer as full recomputation runs it, ``gradient`` the passes over a layer's gradients beside the
    products that make them.
    """
    shape, work, arch = problem.shape(s), problem.work, problem.work.arch
    sums: dict[str, Num] = dict.fromkeys(LayerTime._fields, 0.0)
    for kind in problem.kinds:
        layer, share = kind.layer, kind.share
        forward = problem.forward(layer, shape)
        core = tuple(op for op in forward if op.kind in ("attention", "scan") or ".core." in op.name)
        forward_s = _seconds(problem, forward, s, "forward")
        sums["forward"] = sums["forward"] + share * forward_s
        dropped = forward[len(layer_recompute(forward, early_stop=problem.stack.early_stop)) :]
        sums["again"] = sums["again"] + share * (forward_s - _seconds(problem, dropped, s, "forward"))
        core_s = _seconds(problem, core, s, "forward")
        sums["core"] = sums["core"] + share * core_s
        backward = problem.backward(layer, shape)
        backward_s = _seconds(problem, backward, s, "backward")
        sums["backward"] = sums["backward"] + share * backward_s
        tensor = tensor_s(problem, layer, s, shape, forward_s, backward_s)
        sums["tensor_forward"] = sums["tensor_forward"] + share * tensor[0]
        sums["tensor_backward"] = sums["tensor_backward"] + share * tensor[1]
        joined = 0.5 if any(op.name == "mlp.down" for op in dropped) else 1.0
        sums["tensor_again"] = sums["tensor_again"] + share * tensor[0] * joined
        for name, seconds in zip(
            ("context_forward", "context_backward", "ring_forward", "ring_backward"),
            context_s(problem, layer, s, shape, core_s),
            strict=True,
        ):
            sums[name] = sums[name] + share * seconds
        if isinstance(layer.ffn, MoE):
            both = 0.5 * (forward_s + backward_s)
            sums["expert"] = sums["expert"] + share * expert_s(problem, layer.ffn, s, shape, both)
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
    sums["head_tensor"] = head_tensor_s(problem, s, shape)
    pass_s = stream_s(problem.stack.gradient_pass_byte * problem.trained_frac, problem.accelerator, problem.eff)
    sums["gradient"] = pass_s * layer_parameters(problem, s)
    first, last = (pass_s * (end.split / s.tp + end.replicated) for end in problem.ends)
    sums["embedding"], sums["head"] = sums["embedding"] + first, sums["head"] + last
    return LayerTime(**sums)
