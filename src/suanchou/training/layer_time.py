"""Layer time: seconds of one average layer, of the embedding and of the head, for one micro-batch on one rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from suanchou.cost.kernels import kernels_s
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
    """Seconds of one micro-batch on one rank: per (average) layer, and in embedding and head.

    ``embedding`` and ``head`` are forward and backward together; ``embedding_forward`` and ``head_forward`` the forward part of
    them. ``weight_gradient`` and ``head_weight_gradient`` are the part of a backward that computes weight gradients only, which
    zero-bubble schedules run later.
    """

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
    embedding_forward: Num = 0.0
    head_forward: Num = 0.0
    weight_gradient: Num = 0.0
    head_weight_gradient: Num = 0.0


def _seconds(problem: Problem, ops: tuple[Operator, ...], s: Strategy, phase: str) -> Num:
    """Kernel time with the linear layers in the lower type (fp8) where the strategy says so."""
    args = {"dtype": problem.work.dtype, "phase": phase}
    plain = kernels_s(ops, problem.accelerator, problem.eff, **args)  # type: ignore[arg-type]
    fp8 = np.asarray(s.fp8) > 0
    if not fp8.any():
        return plain
    fast = kernels_s(ops, problem.accelerator, problem.eff, gemm_dtype=problem.work.low_dtype, **args)  # type: ignore[arg-type]
    return np.where(fp8, fast, plain)


def layer_time(problem: Problem, s: Strategy) -> LayerTime:
    """Price the layouts in ``s`` (1-D arrays): kernels, and the communication inside layers that stays exposed.

    TP moves each block's output once forward and once backward, as an all-reduce or, with SP, a reduce-scatter and an
    all-gather of the same volume. CP passes keys and values round a ring, and their gradients back, behind the attention
    kernel. EP sends every token to its experts and back. Multi-token-prediction layers and their heads run with the
    head on the last stage; their own communication is left out.
    """
    shape, work, stack = problem.shape(s), problem.work, problem.stack
    d = float(work.arch.d_model)
    sums: dict[str, Num] = dict.fromkeys(LayerTime._fields, 0.0)
    tp_group = problem.group(s.tp, 1.0)
    residual_byte = shape.token * d * shape.element_byte
    reduce_s = problem.fabric.all_reduce_s(residual_byte, tp_group) * (1.0 - stack.overlap_tensor_parallel)
    for kind in problem.kinds:
        layer, share = kind.layer, kind.share
        forward = problem.forward(layer, shape)
        core = tuple(op for op in forward if op.kind in ("attention", "scan"))
        sums["forward"] = sums["forward"] + share * _seconds(problem, forward, s, "forward")
        core_s = _seconds(problem, core, s, "forward")
        sums["core"] = sums["core"] + share * core_s
        backward = problem.backward(layer, shape)
        sums["backward"] = sums["backward"] + share * _seconds(problem, backward, s, "backward")
        sums["weight_gradient"] = sums["weight_gradient"] + share * _weight_gradient_s(problem, backward, s)
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
    _ends(problem, s, sums)
    sums["head_tensor"] = 2.0 * reduce_s
    return LayerTime(**sums)


def _weight_gradient_s(problem: Problem, ops: tuple[Operator, ...], s: Strategy) -> Num:
    """Kernels of a backward whose result is a weight gradient; 0 for stacks whose schedules never part them from the rest."""
    if not problem.stack.splits_backward:
        return 0.0
    return _seconds(problem, tuple(op for op in ops if op.name.endswith(".wgrad")), s, "backward")


def _ends(problem: Problem, s: Strategy, sums: dict[str, Num]) -> None:
    """Add embedding, head and multi-token-prediction layers, which run with the head."""
    shape, work = problem.shape(s), problem.work
    arch, rank = work.arch, work.adapter_rank
    sums["embedding_forward"] = _seconds(problem, embedding_forward(arch, shape), s, "forward")
    backward = () if rank else embedding_backward(arch, shape)
    sums["embedding"] = sums["embedding_forward"] + _seconds(problem, backward, s, "backward")
    backward = without_weight_gradients(head_backward(arch, shape), rank)
    times = 1.0 + len(arch.mtp)
    forward_s = times * _seconds(problem, head_forward(arch, shape), s, "forward")
    backward_s = times * _seconds(problem, backward, s, "backward")
    weight_s = times * _weight_gradient_s(problem, backward, s)
    for layer in arch.mtp:
        backward = problem.backward(layer, shape)
        forward_s = forward_s + _seconds(problem, problem.forward(layer, shape), s, "forward")
        backward_s = backward_s + _seconds(problem, backward, s, "backward")
        weight_s = weight_s + _weight_gradient_s(problem, backward, s)
    sums["head"], sums["head_forward"], sums["head_weight_gradient"] = forward_s + backward_s, forward_s, weight_s
