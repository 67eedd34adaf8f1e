"""Communication: seconds that TP, CP, EP, ZeRO and the pipeline add to a step, and how much of them compute hides."""

from __future__ import annotations

import numpy as np

from suanchou.model.architecture import Attention, LatentAttention, Layer, MoE
from suanchou.model.operators import Num, Shape
from suanchou.training.memory import shard_count, stage_parameters
from suanchou.training.problem import Problem
from suanchou.training.strategy import Strategy

__all__ = [
    "behind_s",
    "context_s",
    "expert_s",
    "gather_per_layer_s",
    "gradient_reduce_s",
    "layer_parameters",
    "parameter_gather_s",
    "send_s",
    "sharded_weight_byte",
    "tensor_collectives",
]


def behind_s(problem: Problem, communication_s: Num, compute_s: Num) -> Num:
    """Time that communication adds to compute it runs beside: what sticks out, and the cores it takes while it hides."""
    hidden = np.minimum(communication_s, compute_s)
    return communication_s - hidden + problem.eff.overlap_core_frac * hidden


def _kv_width(layer: Layer, tp: Num) -> Num:
    """Elements per token of keys and values that one TP rank passes round the CP ring."""
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        return mixer.n_kv_head * (mixer.d_head + mixer.d_v) / np.minimum(tp, mixer.n_kv_head)
    if isinstance(mixer, LatentAttention):
        return float(mixer.kv_rank + mixer.d_rope)
    return 0.0


def tensor_collectives(layer: Layer) -> float:
    """Block outputs per layer whose partial sums TP must reduce: one after the mixer, one after the MLP."""
    if layer.parallel:
        return 1.0
    return float(sum(part is not None for part in (layer.mixer, layer.cross, layer.ffn)))


def context_s(problem: Problem, layer: Layer, s: Strategy, shape: Shape, core_s: Num) -> tuple[Num, ...]:
    """Exchange of one layer over CP: what is exposed forward and backward, and how long each holds the network.

    Ring: keys and values go round behind the attention kernel, backward with their gradients. Ulysses: all-to-alls of queries,
    keys, values and outputs, exposed, as much again backward.
    """
    fabric, group = problem.fabric, problem.group(s.cp, s.tp)
    byte = shape.batch * problem.work.seq * _kv_width(layer, s.tp) * shape.element_byte
    ring = fabric.ring_s(byte, group)
    window = problem.stack.overlap_context_parallel * core_s
    found = (behind_s(problem, ring, window), behind_s(problem, 2.0 * ring, 2.5 * window), ring, 2.0 * ring)
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        outputs = shape.token * mixer.n_head * (mixer.d_head + mixer.d_v) / s.tp * shape.element_byte
        exchange = fabric.all_to_all_s(outputs + byte / s.cp, group)
        ulysses = np.asarray(s.ulysses) > 0
        found = tuple(np.where(ulysses, exchange, seconds) for seconds in found)  # type: ignore[assignment]
    split = np.asarray(s.cp) > 1
    return tuple(np.where(split, seconds, 0.0) for seconds in found)


def expert_s(problem: Problem, moe: MoE, s: Strategy, shape: Shape) -> Num:
    """Exposed dispatch and combine of one layer in one direction: two all-to-alls."""
    byte = shape.token * moe.top_k * problem.work.arch.d_model * shape.element_byte / s.tp
    one = problem.fabric.all_to_all_s(byte * shape.imbalance, problem.group(s.ep, s.tp))
    return 2.0 * one * (1.0 - problem.stack.overlap_expert_parallel)


def layer_parameters(problem: Problem, s: Strategy) -> Num:
    """Parameters of one average layer on one rank, before ZeRO."""
    byte = _layer_weight_byte(problem, s, expert=False) + _layer_weight_byte(problem, s, expert=True)
    return byte / problem.stack.weight_byte


def _layer_weight_byte(problem: Problem, s: Strategy, *, expert: bool) -> Num:
    """Dense or expert weights of one average layer on one rank, before ZeRO."""
    total: Num = 0.0
    for kind in problem.kinds:
        p = kind.parameters
        dense = p.split / s.tp + p.kv / np.minimum(s.tp, kind.kv_ways) + p.replicated
        total = total + kind.share * (p.expert / (s.tp * s.ep) if expert else dense)
    return problem.stack.weight_byte * total


def sharded_weight_byte(problem: Problem, s: Strategy) -> Num:
    """Weights of one average layer that stay on a rank between uses."""
    total: Num = 0.0
    for expert in (False, True):
        ways = np.where(np.asarray(s.zero) >= 3, shard_count(problem, s, expert=expert), 1.0)
        total = total + _layer_weight_byte(problem, s, expert=expert) / ways
    return total


def _replicas(problem: Problem, s: Strategy, *, expert: bool) -> tuple[Num, Num]:
    """Size and stride of the group that shares a parameter's gradient."""
    if expert:
        return s.dp * s.cp / s.ep, s.tp * s.ep
    return s.dp * s.cp, s.tp


def gather_per_layer_s(problem: Problem, s: Strategy) -> Num:
    """All-gather of one average layer's weights over the ZeRO-3 groups; zero below stage 3."""
    seconds: Num = 0.0
    for expert in (False, True):
        group = problem.group(shard_count(problem, s, expert=expert), _replicas(problem, s, expert=expert)[1])
        byte = _layer_weight_byte(problem, s, expert=expert)
        seconds = seconds + np.where(np.asarray(byte) > 0, problem.fabric.ring_s(byte, group), 0.0)
    gathered: Num = np.where(np.asarray(s.zero) >= 3, seconds, 0.0)
    return gathered


def send_s(problem: Problem, s: Strategy, m: Num) -> Num:
    """Exposed sends between stages: those of fill and drain, and of steady state where the stack does not overlap them."""
    shape, stack = problem.shape(s), problem.stack
    byte = shape.token_sp * problem.work.arch.d_model * shape.element_byte
    one = problem.fabric.send_s(byte, s.tp * s.cp * s.dp)
    overlap = np.where(np.asarray(s.virtual) > 1, stack.overlap_pipeline_interleaved, stack.overlap_pipeline)
    sends = 2.0 * (s.pp - 1.0 + m * s.virtual * (1.0 - overlap))
    exposed: Num = np.where(np.asarray(s.pp) > 1, sends * one, 0.0)
    return exposed


def gradient_reduce_s(problem: Problem, s: Strategy, free_s: Num) -> Num:
    """Exposed gradient reduction; ``free_s`` is how long the network stands free during one micro-batch's backward.

    Below ZeRO-1 (or on it, where the stack does so) an all-reduce, above it a reduce-scatter; HSDP adds an all-reduce of the
    shards across domains. Behind the last micro-batch's backward hides all but the last bucket. ZeRO-2 and 3 keep shards
    only, so they reduce with every micro-batch.
    """
    stack, fabric = problem.stack, problem.fabric
    total: Num = 0.0
    parameters = stage_parameters(problem, s, "middle")
    ends = stage_parameters(problem, s, "first")
    for count, end, expert in ((parameters.dense, ends.dense, False), (parameters.expert, ends.expert, True)):
        byte = np.maximum(count, end) * stack.gradient_reduce_byte * problem.trained_frac
        size, stride = _replicas(problem, s, expert=expert)
        shards = shard_count(problem, s, expert=expert)
        scatter = fabric.ring_s(byte, problem.group(shards, stride))
        across = fabric.all_reduce_s(byte / shards, problem.group(size / shards, stride * shards))
        whole = fabric.all_reduce_s(byte, problem.group(size, stride))
        reduced = np.where(np.asarray(s.zero) >= (2 if stack.gradient_all_reduce else 1), scatter + across, whole)
        total = total + np.where(np.asarray(byte) > 0, reduced, 0.0)
    z = np.asarray(s.zero)
    every = np.where(z >= 2, s.micro_batches(problem.work), 1.0)
    window = stack.overlap_gradient_reduce * free_s
    exposed: Num = every * np.maximum(behind_s(problem, total, window), stack.bucket_frac * total)
    return exposed


def parameter_gather_s(problem: Problem, s: Strategy, free_s: Num) -> Num:
    """Exposed all-gather of updated weights after the optimizer step of ZeRO-1 and 2, behind the first forward."""
    stack, fabric = problem.stack, problem.fabric
    parameters = stage_parameters(problem, s, "first")
    total: Num = 0.0
    for count, expert in ((parameters.dense, False), (parameters.expert, True)):
        stride = _replicas(problem, s, expert=expert)[1]
        shards = shard_count(problem, s, expert=expert)
        gather = fabric.ring_s(count * stack.weight_byte * problem.trained_frac, problem.group(shards, stride))
        total = total + np.where(np.asarray(count) > 0, gather, 0.0)
    behind = behind_s(problem, total, stack.overlap_parameter_gather * free_s)
    exposed = np.maximum(behind, stack.bucket_frac * total)
    z = np.asarray(s.zero)
    gathered: Num = np.where((z >= 1) & (z < 3), exposed, 0.0)
    return gathered
