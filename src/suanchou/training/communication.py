"""Communication: seconds that TP, CP, EP, ZeRO and the pipeline add to a step, and how much of them compute hides."""

from __future__ import annotations

import numpy as np

from suanchou.cost.collectives import distinct
from suanchou.cost.kernels import element_byte
from suanchou.model.architecture import Attention, LatentAttention, Layer, MoE
from suanchou.model.operators import Num, Shape
from suanchou.training.memory import shard_count, stage_parameters
from suanchou.training.pipeline import stage_ends
from suanchou.training.problem import Problem
from suanchou.training.strategy import Strategy

__all__ = [
    "behind_s",
    "context_s",
    "expert_s",
    "gather_per_layer_s",
    "gradient_reduce_s",
    "head_tensor_s",
    "layer_parameters",
    "parameter_gather_s",
    "send_s",
    "sharded_weight_byte",
    "tensor_blocks",
    "tensor_s",
]


def behind_s(problem: Problem, communication_s: Num, compute_s: Num) -> Num:
    """Time that communication adds to compute it runs beside: what sticks out, and the cores it takes while it hides."""
    hidden = np.minimum(communication_s, compute_s)
    return communication_s - hidden + problem.eff.overlap_core_frac * hidden


def _kv_width(layer: Layer, tp: Num) -> Num:
    """Elements per token of keys and values that one TP rank passes round the CP ring.

    Latent attention passes keys and values of all heads, as the kernel takes them.
    """
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        return mixer.n_kv_head * (mixer.d_head + mixer.d_v) / np.minimum(tp, mixer.n_kv_head)
    if isinstance(mixer, LatentAttention):
        return mixer.n_head * (mixer.d_nope + mixer.d_rope + mixer.d_value) / tp
    return 0.0


def tensor_blocks(layer: Layer) -> float:
    """Block outputs per layer whose partial sums TP must reduce: one after the mixer, one after a dense MLP."""
    if layer.parallel:
        return 1.0
    parts = (layer.mixer, layer.cross, None if isinstance(layer.ffn, MoE) else layer.ffn)
    return float(sum(part is not None for part in parts))


def tensor_s(problem: Problem, layer: Layer, s: Strategy, shape: Shape, forward_s: Num, backward_s: Num) -> tuple[Num, Num]:
    """Exposed TP collectives of one layer forward and backward; its products take ``forward_s`` and ``backward_s``.

    Forward, each block's output is reduced, or with SP scattered after the block and gathered before the next one. Where the
    stack cuts products and collectives into TP pieces, all but the first piece may hide. Backward moves as much, all of it
    input gradients of column-parallel layers, which may hide behind those layers' weight gradients (a quarter of the products).
    SP gathers once more, for weight gradients, behind the input gradients. Source: Korthikanti et al. 2022, arXiv 2205.05198,
    section 4.2.2.
    """
    stack = problem.stack
    byte = shape.token * problem.work.arch.d_model * shape.element_byte
    one = _joined_s(problem, s, byte)
    total = tensor_blocks(layer) * one
    if isinstance(layer.ffn, MoE):
        total = total + _expert_tensor_s(problem, layer.ffn, s, byte, one)
    bare = 1.0 - stack.overlap_tensor_parallel * (1.0 - 1.0 / np.asarray(s.tp, dtype=float))
    forward = bare * total + behind_s(problem, (1.0 - bare) * total, forward_s)
    window = stack.overlap_tensor_backward * backward_s / 4.0 * (1.0 + s.sp)
    backward = behind_s(problem, total, window) + 0.5 * s.sp * bare * total
    return forward, backward


def head_tensor_s(problem: Problem, s: Strategy, shape: Shape) -> Num:
    """TP collectives of the head and its loss, forward and backward."""
    return 2.0 * _joined_s(problem, s, shape.token * problem.work.arch.d_model * shape.element_byte)


def _gathered_frac(problem: Problem, s: Strategy) -> Num:
    """Share of the volume of a reduce-scatter and all-gather that is left where the gather carries the narrower type.

    With SP the linear layer gathers its input. Stacks that quantise first send what the product reads.
    """
    if not problem.stack.narrow_gather:
        return 1.0
    narrow = element_byte(problem.work.low_dtype) / element_byte(problem.work.dtype)
    return np.where((np.asarray(s.fp8) > 0) & (np.asarray(s.sp) > 0), (1.0 + narrow) / 2.0, 1.0)


def _joined_s(problem: Problem, s: Strategy, byte: Num) -> Num:
    """Sum partial results of ``byte`` over TP: an all-reduce, or with SP a reduce-scatter and an all-gather."""
    group = problem.group(s.tp, 1.0)
    whole = problem.fabric.all_reduce_s(byte, group)
    if not np.asarray(s.sp).any():
        return whole
    return np.where(np.asarray(s.sp) > 0, 2.0 * problem.fabric.ring_s(byte * _gathered_frac(problem, s), group), whole)


def _expert_tensor_s(problem: Problem, moe: MoE, s: Strategy, byte: Num, one: Num) -> Num:
    """What TP reduces after experts of one layer: nothing where they are whole, else all rows they were sent."""
    if problem.stack.expert_dispatch == "all-gather":
        return one
    shared: Num = one if moe.shared is not None else 0.0
    copies = _rank_copies(problem, moe, s)
    rows = 2.0 * problem.fabric.ring_s(byte * copies, problem.group(s.tp, 1.0))
    whole = np.asarray(problem.expert_tp(s)) < np.asarray(s.tp)
    return np.where(np.asarray(s.ep) > 1, np.where(whole, 0.0, rows) + shared, one)


def _visits(moe: MoE) -> float:
    """Experts a token visits over the network: choices that fall on a zero expert travel nowhere."""
    return moe.top_k * moe.n_expert / (moe.n_expert + moe.n_zero_expert)


def _rank_copies(problem: Problem, moe: MoE, s: Strategy, parts: Num | None = None) -> Num:
    """Copies of a token that are sent: one per expert, or one per part (by default rank) that holds some of them."""
    if problem.stack.expert_dispatch != "one-copy":
        return _visits(moe)
    return distinct(s.ep if parts is None else parts, moe.n_expert, moe.top_k, n_group=moe.n_group, top_group=moe.top_group)


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


def expert_s(problem: Problem, moe: MoE, s: Strategy, shape: Shape, compute_s: Num) -> Num:
    """Exposed dispatch and combine of one layer in one direction, behind at most ``compute_s`` of another micro-batch.

    All-to-all sends every copy of a token. One-copy kernels send it once to each node and rank that needs it. An all-gather
    brings all tokens to all ranks, which pick theirs. Dispatch may travel in fp8, combine in the training type.
    """
    stack, fabric = problem.stack, problem.fabric
    group = problem.group(s.ep, problem.expert_tp(s))
    element = shape.token / s.tp * (moe.d_latent or problem.work.arch.d_model) * shape.imbalance
    total: Num = 0.0
    for width in (np.where(np.asarray(s.fp8) > 0, stack.expert_dispatch_byte, shape.element_byte), shape.element_byte):
        byte = element * width
        if stack.expert_dispatch == "one-copy":
            near, far = _rank_copies(problem, moe, s), _rank_copies(problem, moe, s, group.far)
            total = total + fabric.dispatch_s(byte, group, near, far)
        elif stack.expert_dispatch == "all-gather":
            total = total + fabric.ring_s(byte * s.ep, group)
        else:
            total = total + fabric.all_to_all_s(byte * _visits(moe), group)
    overlap = np.where(np.asarray(group.outer) > 1, stack.overlap_expert_far, stack.overlap_expert_parallel)
    return behind_s(problem, total, overlap * compute_s)


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
        total = total + kind.share * (p.expert / (problem.expert_tp(s) * s.ep) if expert else dense)
    return problem.stack.weight_byte * total


def _sorts(problem: Problem) -> tuple[bool, ...]:
    """Sorts of parameters there are: dense ones (false) and, in a mixture, experts (true)."""
    return (False, True) if any(kind.parameters.expert for kind in problem.kinds) else (False,)


def sharded_weight_byte(problem: Problem, s: Strategy) -> Num:
    """Weights of one average layer that stay on a rank between uses."""
    total: Num = 0.0
    for expert in _sorts(problem):
        ways = np.where(np.asarray(s.zero) >= 3, shard_count(problem, s, expert=expert), 1.0)
        total = total + _layer_weight_byte(problem, s, expert=expert) / ways
    return total


def _replicas(problem: Problem, s: Strategy, *, expert: bool) -> tuple[Num, Num]:
    """Size and stride of the group that shares a parameter's gradient."""
    return problem.expert_replicas(s) if expert else (s.dp * s.cp, s.tp)


def gather_per_layer_s(problem: Problem, s: Strategy) -> Num:
    """All-gather of one average layer's weights over the ZeRO-3 groups; zero below stage 3."""
    if not (np.asarray(s.zero) >= 3).any():
        return np.asarray(0.0)
    seconds: Num = 0.0
    for expert in _sorts(problem):
        group = problem.group(shard_count(problem, s, expert=expert), _replicas(problem, s, expert=expert)[1])
        seconds = seconds + problem.fabric.ring_s(_layer_weight_byte(problem, s, expert=expert), group)
    gathered: Num = np.where(np.asarray(s.zero) >= 3, seconds, 0.0)
    return gathered


def send_s(problem: Problem, s: Strategy, m: Num) -> Num:
    """Exposed sends between stages: those of fill and drain, and of steady state where the stack does not overlap them.

    In steady state the slowest boundary sets the pace. Stacks that scatter sends pass on a TP-th per rank, and gather it again.
    """
    shape, stack, fabric = problem.shape(s), problem.stack, problem.fabric
    byte = shape.token_sp * problem.work.arch.d_model * shape.element_byte
    gather: Num = 0.0
    if stack.scatter_sends:
        whole = np.where(np.asarray(s.sp) > 0, 0.0, byte)
        gather = np.where(whole > 0, fabric.ring_s(whole, problem.group(s.tp, 1.0)), 0.0)
        byte = np.where(np.asarray(s.sp) > 0, byte, byte / s.tp)
    sends = fabric.sends_s(byte, s.tp * s.cp * s.dp, np.asarray(s.pp, dtype=float))
    overlap = np.where(np.asarray(s.virtual) > 1, stack.overlap_pipeline_interleaved, stack.overlap_pipeline)
    steady = m * s.virtual * (1.0 - overlap)
    seconds = 2.0 * (sends.chain + (s.pp - 1.0) * gather + steady * (sends.slowest + gather))
    exposed: Num = np.where(np.asarray(s.pp) > 1, seconds, 0.0)
    return exposed


def _bucket_frac(problem: Problem, s: Strategy, count: Num, ranks: Num) -> Num:
    """Share of ``count`` parameters that one bucket holds, among ``ranks``; a layer where the stack has no buckets."""
    stack = problem.stack
    if not stack.bucket_parameter:
        return np.minimum(s.pp / float(problem.n_layer), 1.0)
    bucket = np.maximum(stack.bucket_parameter, stack.bucket_parameter_per_rank * ranks)
    return np.minimum(bucket / np.maximum(count, 1.0), 1.0)


def gradient_reduce_s(problem: Problem, s: Strategy, free_s: Num) -> Num:
    """Exposed gradient reduction; ``free_s`` is how long the network stands free during one micro-batch's backward.

    Below ZeRO-1 (or on it, where the stack does so) an all-reduce, above it a reduce-scatter; HSDP adds an all-reduce of the
    shards across domains. Bucket by bucket it hides behind the last micro-batch's backward, all but the last bucket. ZeRO-2
    and 3 keep shards only, so they reduce with every micro-batch. A table shared by embedding and head is reduced between
    the outer stages, exposed.
    """
    stack, fabric = problem.stack, problem.fabric
    total: Num = 0.0
    last: Num = 0.0
    parameters = stage_parameters(problem, s, "middle")
    ends = stage_parameters(problem, s, "first")
    for expert in _sorts(problem):
        count = np.maximum(parameters[expert], ends[expert]) * problem.trained_frac
        size, stride = _replicas(problem, s, expert=expert)
        bucket = _bucket_frac(problem, s, count, size)
        byte = count * bucket * stack.gradient_reduce_byte
        shards = shard_count(problem, s, expert=expert)
        scatter = fabric.ring_s(byte, problem.group(shards, stride))
        if np.asarray(s.shard_domain).any():
            scatter = scatter + fabric.all_reduce_s(byte / shards, problem.group(size / shards, stride * shards))
        scattered = np.asarray(s.zero) >= (2 if stack.gradient_all_reduce else 1)
        if not scattered.all():
            whole = fabric.all_reduce_s(byte, problem.group(size, stride))
            scatter = np.where(scattered, scatter, whole)
        total, last = total + scatter / bucket, last + scatter
    every = np.where(np.asarray(s.zero) >= 2, s.micro_batches(problem.work), 1.0)
    window = stack.overlap_gradient_reduce * free_s
    exposed: Num = every * np.maximum(behind_s(problem, total, window), last) + _tied_reduce_s(problem, s)
    return exposed


def _tied_reduce_s(problem: Problem, s: Strategy) -> Num:
    """All-reduce of a shared table's gradient between the first and the last stage, where no rank holds both."""
    if not problem.tied_copy:
        return 0.0
    byte = problem.tied_copy / s.tp * problem.stack.gradient_reduce_byte * problem.trained_frac
    outer = problem.group(2.0, s.tp * s.cp * s.dp * np.maximum(s.pp - 1.0, 1.0))
    apart = stage_ends(s.pp, s.schedule, "first")[1] == 0
    return np.where(apart, problem.fabric.all_reduce_s(byte, outer), 0.0)


def parameter_gather_s(problem: Problem, s: Strategy, free_s: Num) -> Num:
    """Exposed all-gather of updated weights after the optimizer step of ZeRO-1 and 2, behind the first forward.

    Stacks whose ranks own whole tensors broadcast instead, one call per owner.
    """
    stack, fabric = problem.stack, problem.fabric
    z = np.asarray(s.zero)
    sharded = (z >= 1) & (z < 3)
    if not sharded.any():
        return np.asarray(0.0)
    parameters = stage_parameters(problem, s, "first")
    total: Num = 0.0
    last: Num = 0.0
    for expert in _sorts(problem):
        size, stride = _replicas(problem, s, expert=expert)
        shards = shard_count(problem, s, expert=expert)
        group = problem.group(shards, stride)
        count = parameters[expert] * problem.trained_frac
        bucket = _bucket_frac(problem, s, count, size)
        if stack.broadcast_weights:
            owners = np.minimum(shards, problem.n_tensor / s.pp)
            whole = fabric.chain_s(count * stack.weight_byte, group, owners)
            total, last = total + whole, last + bucket * whole
        else:
            gather = fabric.ring_s(count * bucket * stack.weight_byte, group)
            total, last = total + gather / bucket, last + gather
    behind = behind_s(problem, total, stack.overlap_parameter_gather * free_s)
    gathered: Num = np.where(sharded, np.maximum(behind, last), 0.0)
    return gathered
