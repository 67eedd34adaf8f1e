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
    again: Num
    tensor_again: Num
    gradient: Num
    embedding_forward: Num = 0.0
    head_forward: Num = 0.0
    weight_gradient: Num = 0.0
    head_weight_gradient: Num = 0.0


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
    shape = problem.shape(s)
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
        sums["weight_gradient"] = sums["weight_gradient"] + share * _weight_gradient_s(problem, backward, s)
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
    _ends(problem, s, sums)
    sums["head_tensor"] = head_tensor_s(problem, s, shape)
    sums["gradient"] = _pass_s(problem) * layer_parameters(problem, s)
    return LayerTime(**sums)


def _weight_gradient_s(problem: Problem, ops: tuple[Operator, ...], s: Strategy) -> Num:
    """Kernels of a backward whose result is a weight gradient; 0 for stacks whose schedules never part them from the rest."""
    if not problem.stack.splits_backward:
        return 0.0
    return _seconds(problem, _weight_gradients(ops), s, "backward")


def _weight_gradients(ops: tuple[Operator, ...]) -> tuple[Operator, ...]:
    return tuple(op for op in ops if op.name.endswith(".wgrad"))


def _pass_s(problem: Problem) -> float:
    """Seconds that the passes over the gradient of one parameter take."""
    return float(stream_s(problem.stack.gradient_pass_byte * problem.trained_frac, problem.accelerator, problem.eff))


def _ends(problem: Problem, s: Strategy, sums: dict[str, Num]) -> None:
    """Add embedding, head and multi-token-prediction layers, which run with the head.

    Frameworks run low precision inside layers: embedding and logits are in the type of the activations.
    """
    shape, work = problem.shape(s), problem.work
    arch, rank, pass_s = work.arch, work.adapter_rank, _pass_s(problem)
    passes = tuple(pass_s * (end.split / s.tp + end.replicated) for end in problem.ends)
    sums["embedding_forward"] = _plain_s(problem, embedding_forward(arch, shape), "forward")
    backward = () if rank else embedding_backward(arch, shape)
    sums["embedding"] = sums["embedding_forward"] + _plain_s(problem, backward, "backward") + passes[0]
    backward = without_weight_gradients(head_backward(arch, shape), rank)
    times = 1.0 + len(arch.mtp)
    forward_s = times * _plain_s(problem, head_forward(arch, shape), "forward")
    backward_s = times * _plain_s(problem, backward, "backward") + passes[1]
    weight_s: Num = 0.0
    if problem.stack.splits_backward:
        weight_s = times * _plain_s(problem, _weight_gradients(backward), "backward")
    for layer in arch.mtp:
        backward = problem.backward(layer, shape)
        forward_s = forward_s + _seconds(problem, problem.forward(layer, shape), s, "forward")
        backward_s = backward_s + _seconds(problem, backward, s, "backward")
        weight_s = weight_s + _weight_gradient_s(problem, backward, s)
    sums["head"], sums["head_forward"], sums["head_weight_gradient"] = forward_s + backward_s, forward_s, weight_s
