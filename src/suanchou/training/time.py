"""Time: seconds of one optimizer step, from operators, collectives and the pipeline schedule.

``step = micro_batches * slowest stage + bubble + sends + exposed gradient reduction + exposed parameter gather + optimizer``.
Every function takes one strategy or arrays of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from suanchou.cost.kernels import kernels_s, stream_s
from suanchou.model.architecture import Attention, LatentAttention, Layer, MoE
from suanchou.model.layer_operators import (
    embedding_backward,
    embedding_forward,
    head_backward,
    head_forward,
    layer_backward,
    layer_forward,
)
from suanchou.model.operators import Num, Operator, Shape
from suanchou.training.defaults import default
from suanchou.training.memory import ActivationTable, shard_count, stage_parameters
from suanchou.training.pipeline import bubble_s, stage_layers
from suanchou.training.problem import Problem
from suanchou.training.strategy import Strategy

__all__ = ["LayerTime", "StepTime", "layer_time", "step_time"]


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


class StageTime(NamedTuple):
    """Seconds one micro-batch takes on one stage, by cause; forward and backward together."""

    forward: Num
    backward: Num
    recompute: Num
    tensor_parallel: Num
    context_parallel: Num
    expert_parallel: Num
    embedding_head: Num
    host_transfer: Num
    parameter_gather: Num

    @property
    def total(self) -> Num:
        """Sum of the causes."""
        return sum(self, start=np.asarray(0.0))


class StepTime(NamedTuple):
    """Seconds of a step: ``slowest`` stage per micro-batch and what is added to ``micro_batches`` of it."""

    micro_batches: Num
    slowest: StageTime
    bubble: Num
    pipeline_send: Num
    gradient_reduce: Num
    parameter_gather: Num
    optimizer: Num

    @property
    def total(self) -> Num:
        """Seconds of one optimizer step."""
        work = self.micro_batches * self.slowest.total
        return work + self.bubble + self.pipeline_send + self.gradient_reduce + self.parameter_gather + self.optimizer


def _seconds(problem: Problem, ops: tuple[Operator, ...], s: Strategy, phase: str) -> Num:
    """Kernel time with the linear layers in fp8 where the strategy says so."""
    args = {"dtype": problem.work.dtype, "phase": phase}
    plain = kernels_s(ops, problem.accelerator, problem.eff, **args)  # type: ignore[arg-type]
    fp8 = np.asarray(s.fp8) > 0
    if not fp8.any():
        return plain
    fast = kernels_s(ops, problem.accelerator, problem.eff, gemm_dtype="fp8", **args)  # type: ignore[arg-type]
    return np.where(fp8, fast, plain)


def _tensor_collectives(layer: Layer) -> float:
    """Block outputs per layer whose partial sums TP must reduce: one after the mixer, one after the MLP."""
    if layer.parallel:
        return 1.0
    return float(sum(part is not None for part in (layer.mixer, layer.cross, layer.ffn)))


def _kv_width(layer: Layer, tp: Num) -> Num:
    """Elements per token of keys and values that one TP rank passes round the CP ring."""
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        return mixer.n_kv_head * (mixer.d_head + mixer.d_v) / np.minimum(tp, mixer.n_kv_head)
    if isinstance(mixer, LatentAttention):
        return float(mixer.kv_rank + mixer.d_rope)
    return 0.0


def layer_time(problem: Problem, s: Strategy) -> LayerTime:
    """Price the layouts in ``s`` (1-D arrays): kernels, and the communication inside layers that stays exposed.

    TP moves each block's output once forward and once backward, as an all-reduce or, with SP, a reduce-scatter and an
    all-gather of the same volume. CP passes keys and values round a ring, and their gradients back, behind the attention
    kernel. EP sends every token to its experts and back. Multi-token-prediction layers and their heads run with the
    head on the last stage; their own communication is left out.
    """
    shape, work, stack = problem.shape(s), problem.work, problem.stack
    arch, d = work.arch, float(work.arch.d_model)
    sums: dict[str, Num] = dict.fromkeys(LayerTime._fields, 0.0)
    tp_group = problem.group(s.tp, 1.0)
    residual_byte = shape.token * d * shape.element_byte
    reduce_s = problem.fabric.all_reduce_s(residual_byte, tp_group) * (1.0 - stack.overlap_tensor_parallel)
    for kind in problem.kinds:
        layer, share = kind.layer, kind.share
        forward = layer_forward(layer, arch.d_model, shape)
        core = tuple(op for op in forward if op.kind in ("attention", "scan"))
        sums["forward"] = sums["forward"] + share * _seconds(problem, forward, s, "forward")
        core_s = _seconds(problem, core, s, "forward")
        sums["core"] = sums["core"] + share * core_s
        backward = layer_backward(layer, arch.d_model, shape)
        sums["backward"] = sums["backward"] + share * _seconds(problem, backward, s, "backward")
        tensor = share * _tensor_collectives(layer) * reduce_s
        sums["tensor_forward"], sums["tensor_backward"] = sums["tensor_forward"] + tensor, sums["tensor_backward"] + tensor
        for name, seconds in zip(
            ("context_forward", "context_backward", "ring_forward", "ring_backward"),
            _context_s(problem, layer, s, shape, core_s),
            strict=True,
        ):
            sums[name] = sums[name] + share * seconds
        if isinstance(layer.ffn, MoE):
            sums["expert"] = sums["expert"] + share * _expert_s(problem, layer.ffn, s, shape)
    sums["embedding"] = _seconds(problem, embedding_forward(arch, shape), s, "forward") + _seconds(
        problem, embedding_backward(arch, shape), s, "backward"
    )
    head = _seconds(problem, head_forward(arch, shape), s, "forward") + _seconds(
        problem, head_backward(arch, shape), s, "backward"
    )
    sums["head"] = head * (1.0 + len(arch.mtp))
    for layer in arch.mtp:
        sums["head"] = sums["head"] + _seconds(problem, layer_forward(layer, arch.d_model, shape), s, "forward")
        sums["head"] = sums["head"] + _seconds(problem, layer_backward(layer, arch.d_model, shape), s, "backward")
    sums["head_tensor"] = 2.0 * reduce_s
    return LayerTime(**sums)


def _behind(problem: Problem, communication_s: Num, compute_s: Num) -> Num:
    """Time that communication adds to compute it runs beside: what sticks out, and the cores it takes while it hides."""
    hidden = np.minimum(communication_s, compute_s)
    return communication_s - hidden + problem.eff.overlap_core_frac * hidden


def _context_s(problem: Problem, layer: Layer, s: Strategy, shape: Shape, core_s: Num) -> tuple[Num, ...]:
    """Exchange of one layer over CP: what is exposed forward and backward, and how long each holds the network.

    Ring: keys and values go round behind the attention kernel, backward with their gradients. Ulysses: all-to-alls of queries,
    keys, values and outputs, exposed, as much again backward.
    """
    fabric, group = problem.fabric, problem.group(s.cp, s.tp)
    byte = shape.batch * problem.work.seq * _kv_width(layer, s.tp) * shape.element_byte
    ring = fabric.ring_s(byte, group)
    window = problem.stack.overlap_context_parallel * core_s
    found = (_behind(problem, ring, window), _behind(problem, 2.0 * ring, 2.5 * window), ring, 2.0 * ring)
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        outputs = shape.token * mixer.n_head * (mixer.d_head + mixer.d_v) / s.tp * shape.element_byte
        exchange = fabric.all_to_all_s(outputs + byte / s.cp, group)
        ulysses = np.asarray(s.ulysses) > 0
        found = tuple(np.where(ulysses, exchange, seconds) for seconds in found)  # type: ignore[assignment]
    split = np.asarray(s.cp) > 1
    return tuple(np.where(split, seconds, 0.0) for seconds in found)


def _expert_s(problem: Problem, moe: MoE, s: Strategy, shape: Shape) -> Num:
    """Exposed dispatch and combine of one layer in one direction: two all-to-alls."""
    byte = shape.token * moe.top_k * problem.work.arch.d_model * shape.element_byte / s.tp
    one = problem.fabric.all_to_all_s(byte * shape.imbalance, problem.group(s.ep, s.tp))
    return 2.0 * one * (1.0 - problem.stack.overlap_expert_parallel)


def _layer_weight_byte(problem: Problem, s: Strategy, *, expert: bool) -> Num:
    """Dense or expert weights of one average layer on one rank, before ZeRO."""
    total: Num = 0.0
    for kind in problem.kinds:
        p = kind.parameters
        dense = p.split / s.tp + p.kv / np.minimum(s.tp, kind.kv_ways) + p.replicated
        total = total + kind.share * (p.expert / (s.tp * s.ep) if expert else dense)
    return problem.stack.weight_byte * total


def _sharded_weight_byte(problem: Problem, s: Strategy) -> Num:
    """Weights of one average layer that stay on a rank between uses."""
    total: Num = 0.0
    for expert in (False, True):
        ways = np.where(np.asarray(s.zero) >= 3, shard_count(problem, s, expert=expert), 1.0)
        total = total + _layer_weight_byte(problem, s, expert=expert) / ways
    return total


def _gather_per_layer_s(problem: Problem, s: Strategy) -> Num:
    """All-gather of one average layer's weights over the ZeRO-3 groups; zero below stage 3."""
    seconds: Num = 0.0
    for expert in (False, True):
        group = problem.group(shard_count(problem, s, expert=expert), _replicas(problem, s, expert=expert)[1])
        byte = _layer_weight_byte(problem, s, expert=expert)
        seconds = seconds + np.where(np.asarray(byte) > 0, problem.fabric.ring_s(byte, group), 0.0)
    gathered: Num = np.where(np.asarray(s.zero) >= 3, seconds, 0.0)
    return gathered


class _Streams(NamedTuple):
    """Per layer: ZeRO-3's gather, what it adds to forward and backward, and what the host link adds, beside both."""

    gather: Num
    gather_forward: Num
    gather_backward: Num
    host_forward: Num
    host_backward: Num


def _streams(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> _Streams:
    gather = _gather_per_layer_s(problem, s)
    overlap = problem.stack.overlap_parameter_gather
    kept = acts.none + (acts.selective - acts.none) * s.selective
    moved = s.offload_activation * (kept + (acts.full - kept) * s.full_frac)
    away = (moved + s.offload_weight * _sharded_weight_byte(problem, s)) / problem.host_link_byte_per_s
    gather_forward = _behind(problem, gather, overlap * t.forward)
    gather_backward = _behind(problem, gather, overlap * t.backward)
    return _Streams(
        gather=gather,
        gather_forward=gather_forward,
        gather_backward=gather_backward,
        host_forward=np.maximum(away - t.forward - gather_forward, 0.0),
        host_backward=np.maximum(away - t.backward - gather_backward, 0.0),
    )


def _recompute_s(s: Strategy, t: LayerTime) -> Num:
    """Kernels of one layer that run again."""
    return s.selective * (1.0 - s.full_frac) * t.core + s.full_frac * t.forward


def stage_time(
    problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable, layers: Num, ends: tuple[Num, Num]
) -> StageTime:
    """One micro-batch on a stage of ``layers`` layers; ``ends`` says whether it holds embedding and head (0 or 1)."""
    tensor = t.tensor_forward + t.tensor_backward + s.full_frac * t.tensor_forward
    streams = _streams(problem, s, t, acts)
    return StageTime(
        forward=layers * t.forward,
        backward=layers * t.backward,
        recompute=layers * _recompute_s(s, t),
        tensor_parallel=layers * tensor + ends[1] * t.head_tensor,
        context_parallel=layers * (t.context_forward * (1.0 + s.full_frac) + t.context_backward),
        expert_parallel=layers * t.expert * (2.0 + s.full_frac),
        embedding_head=ends[0] * t.embedding + ends[1] * t.head,
        host_transfer=layers * (streams.host_forward + streams.host_backward),
        parameter_gather=layers * (streams.gather_forward + streams.gather_backward),
    )


def step_time(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> StepTime:
    """Seconds of one step; fields of ``s`` broadcast, ``t`` and ``acts`` must broadcast with its layout fields."""
    m = s.micro_batches(problem.work)
    single: Num = np.where(np.asarray(s.pp) == 1, 1.0, 0.0)
    layers = stage_layers(problem.n_layer, s.pp, s.virtual)
    per_layer = stage_time(problem, s, t, acts, 1.0, (0.0, 0.0)).total
    embedding, head = t.embedding, t.head + t.head_tensor
    first = layers.first * per_layer + embedding + single * head
    middle = layers.middle * per_layer
    last = layers.last * per_layer + single * embedding + head
    is_last, is_middle = (last > first) & (last > middle), (middle >= last) & (middle > first)
    n_layer = np.where(is_last, layers.last, np.where(is_middle, layers.middle, layers.first))
    ends = np.where(is_last | is_middle, single, 1.0), np.where(is_last, 1.0, single)
    slowest = stage_time(problem, s, t, acts, n_layer, ends)
    longest = np.maximum(np.maximum(first, middle), last)
    bubble = bubble_s(problem.n_layer * per_layer + embedding + head, longest, s.virtual)
    free_forward, free_backward = _network_free_s(problem, s, t, acts)
    return StepTime(
        micro_batches=m,
        slowest=slowest,
        bubble=bubble,
        pipeline_send=_send_s(problem, s, m),
        gradient_reduce=_gradient_reduce_s(problem, s, n_layer * free_backward),
        parameter_gather=_parameter_gather_s(problem, s, n_layer * free_forward),
        optimizer=_optimizer_s(problem, s),
    )


def _send_s(problem: Problem, s: Strategy, m: Num) -> Num:
    """Exposed sends between stages: those of fill and drain, and of steady state where the stack does not overlap them."""
    shape, stack = problem.shape(s), problem.stack
    byte = shape.token_sp * problem.work.arch.d_model * shape.element_byte
    one = problem.fabric.send_s(byte, s.tp * s.cp * s.dp)
    overlap = np.where(np.asarray(s.virtual) > 1, stack.overlap_pipeline_interleaved, stack.overlap_pipeline)
    sends = 2.0 * (s.pp - 1.0 + m * s.virtual * (1.0 - overlap))
    exposed: Num = np.where(np.asarray(s.pp) > 1, sends * one, 0.0)
    return exposed


def _replicas(problem: Problem, s: Strategy, *, expert: bool) -> tuple[Num, Num]:
    """Size and stride of the group that shares a parameter's gradient."""
    if expert:
        return s.dp * s.cp / s.ep, s.tp * s.ep
    return s.dp * s.cp, s.tp


def _network_free_s(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> tuple[Num, Num]:
    """How long the network stands free while one layer runs forward, and backward: wall time less gathers and CP ring."""
    streams = _streams(problem, s, t, acts)
    forward = t.forward + t.context_forward + streams.gather_forward + streams.host_forward
    backward = t.backward + _recompute_s(s, t) + t.context_backward + streams.gather_backward + streams.host_backward
    return (
        np.maximum(forward - streams.gather - t.ring_forward, 0.0),
        np.maximum(backward - streams.gather - t.ring_backward, 0.0),
    )


def _gradient_reduce_s(problem: Problem, s: Strategy, free_s: Num) -> Num:
    """Exposed gradient reduction; ``free_s`` is how long the network stands free during one micro-batch's backward.

    Below ZeRO-1 an all-reduce, above it a reduce-scatter; HSDP adds an all-reduce of the shards across domains. Behind the
    last micro-batch's backward hides all but the last bucket. ZeRO-2 and 3 keep shards only, so they reduce with every
    micro-batch.
    """
    stack, fabric = problem.stack, problem.fabric
    total: Num = 0.0
    parameters = stage_parameters(problem, s, "middle")
    ends = stage_parameters(problem, s, "first")
    for count, end, expert in ((parameters.dense, ends.dense, False), (parameters.expert, ends.expert, True)):
        byte = np.maximum(count, end) * stack.gradient_reduce_byte
        size, stride = _replicas(problem, s, expert=expert)
        shards = shard_count(problem, s, expert=expert)
        scatter = fabric.ring_s(byte, problem.group(shards, stride))
        across = fabric.all_reduce_s(byte / shards, problem.group(size / shards, stride * shards))
        whole = fabric.all_reduce_s(byte, problem.group(size, stride))
        reduced = np.where(np.asarray(s.zero) >= 1, scatter + across, whole)
        total = total + np.where(np.asarray(byte) > 0, reduced, 0.0)
    z = np.asarray(s.zero)
    every = np.where(z >= 2, s.micro_batches(problem.work), 1.0)
    window = stack.overlap_gradient_reduce * free_s
    exposed: Num = every * np.maximum(_behind(problem, total, window), stack.bucket_frac * total)
    return exposed


def _parameter_gather_s(problem: Problem, s: Strategy, free_s: Num) -> Num:
    """Exposed all-gather of updated weights after the optimizer step of ZeRO-1 and 2, behind the first forward."""
    stack, fabric = problem.stack, problem.fabric
    parameters = stage_parameters(problem, s, "first")
    total: Num = 0.0
    for count, expert in ((parameters.dense, False), (parameters.expert, True)):
        stride = _replicas(problem, s, expert=expert)[1]
        shards = shard_count(problem, s, expert=expert)
        gather = fabric.ring_s(count * stack.weight_byte, problem.group(shards, stride))
        total = total + np.where(np.asarray(count) > 0, gather, 0.0)
    behind = _behind(problem, total, stack.overlap_parameter_gather * free_s)
    exposed = np.maximum(behind, stack.bucket_frac * total)
    z = np.asarray(s.zero)
    gathered: Num = np.where((z >= 1) & (z < 3), exposed, 0.0)
    return gathered


def _optimizer_s(problem: Problem, s: Strategy) -> Num:
    """Adam as memory traffic over this rank's share of the states; offloaded, over the host's memory and the host link."""
    z = np.asarray(s.zero)
    dense, expert = stage_parameters(problem, s, "first")
    share = dense / np.where(z >= 1, shard_count(problem, s, expert=False), 1.0) + expert / np.where(
        z >= 1, shard_count(problem, s, expert=True), 1.0
    )
    traffic = default("optimizer_traffic_byte").value * share
    device = stream_s(traffic, problem.accelerator, problem.eff)
    stack = problem.stack
    link = (stack.gradient_byte + stack.weight_byte) * share / problem.host_link_byte_per_s
    host = np.maximum(link, traffic / problem.eff.host_memory_byte_per_s)
    return np.where(np.asarray(s.offload_optimizer) > 0, host, device)
