"""Memory: bytes per accelerator by component, for the first, a middle and the last pipeline stage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from suanchou.model.activations import (
    FUSED,
    STACKS,
    embedding_activation_byte,
    head_input_byte,
    layer_activation_byte,
)
from suanchou.model.activations import Stack as Kept
from suanchou.model.architecture import Layer, LinearAttention, StateSpace
from suanchou.model.operators import Num, Recompute, Shape
from suanchou.model.working import core_output_byte, layer_working_byte, linear_weights, logits_count
from suanchou.training.pipeline import in_flight, parameter_copies, stage_ends, stage_layers
from suanchou.training.problem import Problem, ShardSum
from suanchou.training.schedule import SCHEDULES
from suanchou.training.stack import Stack
from suanchou.training.strategy import Strategy

__all__ = [
    "STAGES",
    "ActivationTable",
    "Memory",
    "activation_table",
    "host_byte",
    "shard_count",
    "stage_memory",
    "stage_needed",
    "stage_parameters",
]

STAGES = ("first", "middle", "last")


class Memory(NamedTuple):
    """Bytes on one accelerator at its fullest moment. ``total`` adds the allocator's share to the sum of the others.

    ``head`` is the head's input and the loss; ``working`` what a backward pass, or the optimizer step, needs beyond that for a
    moment, and buffers that stay; ``gathered`` weights and gradients that ZeRO or FSDP has put together.
    """

    weight: Num
    gradient: Num
    optimizer: Num
    activation: Num
    head: Num
    working: Num
    gathered: Num
    communicator: Num
    runtime: Num
    allocator: Num

    @property
    def allocated(self) -> Num:
        """Bytes of tensors: no allocator, communicators or runtime."""
        # states and activations vary along different axes of a search: one addition of full size is enough
        states = self.weight + self.gradient + self.optimizer + self.gathered
        return states + (self.activation + (self.head + self.working))

    @property
    def total(self) -> Num:
        """Expected bytes."""
        return self._with(self.allocator)

    def _with(self, allocator: Num) -> Num:
        return self.allocated + (self.communicator + self.runtime) + allocator

    def needed(self, stack: Stack) -> Num:
        """Bytes without which the program runs out: the allocator has given back all it can."""
        return (1.0 + stack.allocator_need_frac) * self.allocated + (self.communicator + self.runtime)

    def high(self, stack: Stack, memory_byte: float) -> Num:
        """Bytes taken on a device of ``memory_byte`` with the allocator at its worst."""
        return self._with(_reserve(self._with(0.0), self.allocated, memory_byte, stack, stack.allocator_high_frac))


def _reserve(rest: Num, tensors: Num, memory_byte: float, stack: Stack, frac: float) -> Num:
    """What the allocator holds beyond tensors: a share of them, but on a full device no more than it cannot give back.

    torch frees its cached blocks and tries again before an allocation fails, so a full device squeezes the reserve.
    """
    return np.maximum(stack.allocator_need_frac * tensors, np.minimum(frac * tensors, memory_byte - rest))


class ActivationTable(NamedTuple):
    """Bytes a micro-batch leaves behind on one rank: per (average) layer by recomputation, and in the outer stages.

    Beside them what is there for a moment: ``loss`` at its fullest, ``working`` in the backward pass of the fullest layer,
    ``whole`` and ``core`` what that layer keeps and what its attention core keeps, which recomputation brings back;
    ``placeholder`` the buffers for weight gradients. ``excess_*`` is what a layer of a stage keeps beyond the average one.
    """

    none: Num
    selective: Num
    full: Num
    embedding: Num
    head: Num
    loss: Num = 0.0
    working: Num = 0.0
    whole: Num = 0.0
    core: Num = 0.0
    placeholder: Num = 0.0
    excess_first: Num = 0.0
    excess_middle: Num = 0.0
    excess_last: Num = 0.0


def _kept(layer: Layer, stack: Stack) -> Kept:
    """What the stack keeps of a layer. Linear attention and state-space mixers run as fused kernels everywhere."""
    recurrent = isinstance(layer.mixer, LinearAttention | StateSpace) or layer.hybrid is not None
    return FUSED if recurrent else STACKS[stack.activations]


def activation_table(problem: Problem, s: Strategy) -> ActivationTable:
    """Activation bytes of the layouts in ``s`` (1-D arrays)."""
    shape, arch, stack = problem.shape(s), problem.work.arch, problem.stack
    dealt = np.where(np.asarray(s.cp) > 1, s.ulysses, 0.0)

    def one(layer: Layer, recompute: Recompute) -> Num:
        found = layer_activation_byte(layer, arch.d_model, shape, recompute, stack=_kept(layer, stack))
        return found + dealt * core_output_byte(layer, shape) if recompute == "none" else found

    def average(found: list[Num]) -> Num:
        total: Num = 0.0
        for kind, byte in zip(problem.kinds, found, strict=True):
            total = total + kind.share * byte
        return total

    none, selective = ([one(kind.layer, again) for kind in problem.kinds] for again in ("none", "selective"))
    mean = average(none)
    outer = STACKS[stack.activations]
    head = head_input_byte(arch, shape, stack=outer) * (1.0 + len(arch.mtp))
    for layer in arch.mtp:
        head = head + one(layer, "none")
    placeholder, of_head = _placeholders(problem, s)
    return ActivationTable(
        none=mean,
        selective=average(selective),
        full=average([one(kind.layer, "full") for kind in problem.kinds]),
        embedding=embedding_activation_byte(arch, shape, stack=outer),
        head=head,
        loss=_loss_byte(problem, shape, of_head),
        working=_largest(
            [layer_working_byte(k.layer, arch.d_model, shape, stack=_kept(k.layer, stack)) for k in problem.kinds]
        ),
        whole=_largest(none),
        core=_largest([a - b for a, b in zip(none, selective, strict=True)]),
        placeholder=placeholder,
        **{f"excess_{stage}": _excess(problem, s, stage, none, mean) for stage in STAGES},
    )


def _largest(found: list[Num]) -> Num:
    largest, *others = found
    for other in others:
        largest = np.maximum(largest, other)
    return largest


def _excess(problem: Problem, s: Strategy, stage: str, none: list[Num], mean: Num) -> Num:
    """What a stage's layers keep beyond as many average ones, per layer."""
    if len(none) == 1:
        return 0.0
    counts = _kind_layers(problem, s, stage)
    total: Num = 0.0
    for count, byte in zip(counts, none, strict=True):
        total = total + count * byte
    return total / np.maximum(sum(counts, start=np.asarray(0.0)), 1.0) - mean


def _loss_byte(problem: Problem, shape: Shape, placeholder: Num) -> Num:
    """The loss at its fullest: the logits in all their copies, or the backward pass of the head's product.

    That product holds the gradient of the logits, its gathered input, the gradient of that, and a placeholder for the weight's
    gradient where the stack has one.
    """
    arch, e = problem.work.arch, shape.element_byte
    logits = logits_count(arch, shape)
    product = e * (logits + 2.0 * shape.token * arch.d_model) + placeholder
    return np.maximum(problem.stack.loss_peak_byte * logits, product)


def _placeholders(problem: Problem, s: Strategy) -> tuple[Num, Num]:
    """Buffers handed to autograd in place of weight gradients that kernels add to the main gradients themselves.

    Of the layers: one per shape of matrix where the stack keeps them, the largest where it frees them; and of the head.
    """
    stack, arch = problem.stack, problem.work.arch
    if stack.placeholder == "none":
        return 0.0, 0.0
    sizes: list[Num] = []
    for weight in linear_weights(tuple(kind.layer for kind in problem.kinds), arch.d_model):
        sizes.append(weight.size / (1.0 if weight.shard == "replicated" else s.tp))
    layers = sum(sizes, start=np.asarray(0.0)) if stack.placeholder == "kept" else _largest(sizes)
    return stack.weight_byte * layers, stack.weight_byte * arch.vocab * arch.d_model / s.tp


def _kind_layers(problem: Problem, s: Strategy, stage: str) -> list[Num]:
    """Layers of every kind in a stage. The first stage begins with the first layer and the last ends with the last.

    The middle stage is the one before the last: where a model's first layers are smaller, it is the fullest. A rank of ZB-V
    holds a chunk as far from the end as its other one is from the front; one of DualPipe a stage of each direction, of which
    these are the mean.
    """
    layers = getattr(stage_layers(problem.n_layer, s.pp, s.virtual, s.schedule), stage)
    if problem.averaged or len(problem.kinds) == 1:
        return [layers * kind.share for kind in problem.kinds]
    fields = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (s.pp, s.virtual, s.schedule)))
    found, where = np.unique(np.stack([field.ravel() for field in fields]), axis=1, return_inverse=True)
    counts = np.array([_mix(problem, p, v, code, stage) for p, v, code in found.T]).reshape(-1, len(problem.kinds))
    return [counts[where.ravel(), i].reshape(fields[0].shape) for i in range(len(problem.kinds))]


def _mix(problem: Problem, pp: float, virtual: float, schedule: float, stage: str) -> list[float]:
    """Layers of every kind in one stage of one pipeline; chunks are as wide as each other."""
    first, middle, last = (float(np.asarray(n)) for n in stage_layers(problem.n_layer, pp, virtual))
    total, index = float(problem.n_layer), {"first": 0.0, "middle": max(pp - 2.0, 0.0), "last": pp - 1.0}[stage]
    if virtual == 1:
        spans = {
            "first": (0.0, first),
            "middle": (max(total - last - middle, 0.0), middle),
            "last": (total - last, last),
        }
        held = [spans[stage]]
        if parameter_copies(schedule) > 1:
            held.append({"first": spans["last"], "middle": (first, middle), "last": spans["first"]}[stage])
    else:
        width = total / (pp * virtual)
        chunks = [chunk * pp + index for chunk in range(int(virtual))]
        if schedule == SCHEDULES["zb-v"].code:
            chunks = [index, 2.0 * pp - 1.0 - index]
        held = [(chunk * width, width) for chunk in chunks]
    before = problem.kind_before
    at = np.arange(problem.n_layer + 1)
    found = [sum(float(np.interp(a + n, at, kind) - np.interp(a, at, kind)) for a, n in held) for kind in before]
    n = float(np.asarray(getattr(stage_layers(problem.n_layer, pp, virtual, schedule), stage)))
    return [n / max(sum(found), 1e-30) * count for count in found]


def shard_count(problem: Problem, s: Strategy, *, expert: bool) -> Num:
    """Ranks that ZeRO splits a state over: the replicas of a parameter, or those of them in one scale-up domain."""
    replicas, stride = problem.expert_replicas(s) if expert else (s.dp * s.cp, s.tp)
    near = np.clip(np.floor(problem.node.scale_up.size / np.asarray(stride, dtype=float)), 1, replicas)
    return np.where(np.asarray(s.shard_domain) > 0, near, replicas)


class _Parameters(NamedTuple):
    dense: Num
    expert: Num


def _per_rank(problem: Problem, total: ShardSum, kv_ways: float, s: Strategy) -> _Parameters:
    dense = total.split / s.tp + total.kv / np.minimum(s.tp, kv_ways) + total.replicated
    return _Parameters(dense, total.expert / (problem.expert_tp(s) * s.ep))


def stage_parameters(problem: Problem, s: Strategy, stage: str) -> _Parameters:
    """Parameters of one rank, dense and expert, before ZeRO; of both its stages in DualPipe."""
    copies = parameter_copies(s.schedule)
    dense: Num = 0.0
    expert: Num = 0.0
    for kind, layers in zip(problem.kinds, _kind_layers(problem, s, stage), strict=True):
        one = _per_rank(problem, kind.parameters, kind.kv_ways, s)
        dense, expert = dense + copies * layers * one.dense, expert + copies * layers * one.expert
    single = np.asarray(s.pp) == 1
    first, last = (_per_rank(problem, end, 1, s) for end in problem.ends)
    at_first, at_last = stage_ends(s.pp, s.schedule, stage)
    copy = np.where(single | (at_first * at_last > 0), 0.0, problem.tied_copy / s.tp)
    dense = dense + at_first * first.dense + at_last * (last.dense + copy)
    return _Parameters(dense, expert + at_last * last.expert)


def stage_memory(problem: Problem, s: Strategy, acts: ActivationTable, stage: str) -> Memory:
    """Memory of one stage. Fields of ``s`` broadcast; ``acts`` must broadcast with its layout fields.

    Weights, gradients and optimizer states follow ZeRO (Rajbhandari et al. 2020): stage 1 splits the optimizer, 2 the
    gradients, 3 the weights. Activations are those of all micro-batches in flight. The fullest moment is the loss, or the
    backward pass of a layer, which recomputation makes whole again. Whatever is offloaded keeps two layers on the device, one
    in use, one under way.
    """
    found = _tensors(problem, s, acts, stage)
    stack, tensors = problem.stack, found.allocated
    rest = tensors + (found.communicator + found.runtime)
    return found._replace(allocator=_reserve(rest, tensors, problem.memory_byte, stack, stack.allocator_frac))


def stage_needed(problem: Problem, s: Strategy, acts: ActivationTable, stage: str) -> Num:
    """:meth:`Memory.needed` of one stage, without pricing what the allocator may hold beyond it."""
    return _tensors(problem, s, acts, stage).needed(problem.stack)


def _tensors(problem: Problem, s: Strategy, acts: ActivationTable, stage: str) -> Memory:
    """:func:`stage_memory` with nothing held by the allocator."""
    stack = problem.stack
    dense, expert = stage_parameters(problem, s, stage)
    n_dense, n_expert = shard_count(problem, s, expert=False), shard_count(problem, s, expert=True)
    z = np.asarray(s.zero)

    def state(byte: Num, from_zero: int) -> Num:
        split_dense = np.where(z >= from_zero, n_dense, 1.0)
        split_expert = np.where(z >= from_zero, n_expert, 1.0)
        return byte * (dense / split_dense + expert / split_expert)

    layers = stage_layers(problem.n_layer, s.pp, s.virtual, s.schedule)
    n_layer = getattr(layers, stage)
    index = {"first": 0.0, "middle": np.minimum(1.0, s.pp - 1.0), "last": s.pp - 1.0}[stage]
    held = in_flight(s.pp, s.virtual, s.micro_batches(problem.work), index, s.schedule)
    excess = getattr(acts, f"excess_{stage}")
    kept = acts.none + excess + (acts.selective - acts.none) * s.selective
    per_layer = kept + (acts.full - kept) * s.full_frac
    again = np.where(np.asarray(s.full_frac) > 0, acts.whole, np.where(np.asarray(s.selective) > 0, acts.core, 0.0))
    on_device = np.where(np.asarray(s.offload_activation) > 0, np.minimum(2.0, n_layer * held), n_layer * held)
    at_first, at_last = stage_ends(s.pp, s.schedule, stage)
    embedding, loss = at_first * acts.embedding * held, at_last * acts.loss
    optimizer = state(stack.optimizer_byte * problem.trained_frac, 1) * (1.0 - s.offload_optimizer)
    weight, gradient = (
        state(problem.weight_byte(s), 3) * (1.0 - s.offload_weight),
        state(stack.gradient_byte * problem.trained_frac, 2),
    )
    activation = per_layer * on_device + embedding
    head = at_last * acts.head + loss
    working = np.maximum(acts.working + again - loss, 0.0) + acts.placeholder
    gathered = _gathered(problem, s, dense + expert, parameter_copies(s.schedule) * n_layer)
    groups: Num = np.asarray(1.0)
    for degree in (s.tp, s.cp, s.pp, s.ep):
        groups = groups + np.where(np.asarray(degree) > 1, 1.0, 0.0)
    communicator = stack.communicator_byte * groups
    return Memory(weight, gradient, optimizer, activation, head, working, gathered, communicator, stack.runtime_byte, 0.0)


def _gathered(problem: Problem, s: Strategy, parameters: Num, n_layer: Num) -> Num:
    """Weights and gradients that are whole for a moment although they are stored in shards or on the host.

    ZeRO-3 gathers two layers, one in use and one under way, or as many parameters as the stack keeps alive. A layer's
    gradients are whole until they are reduced, through a buffer of the stack's.
    """
    stack, z = problem.stack, np.asarray(s.zero)
    layer = parameters / np.maximum(n_layer, 1.0)
    alive = np.maximum(2.0 * layer, np.minimum(parameters, stack.live_parameters))
    streamed = (z >= 3) | (np.asarray(s.offload_weight) > 0)
    reduced = np.where(z >= 2, stack.gradient_reduce_byte * layer, 0.0) * problem.trained_frac
    bucket = np.where(z >= 1, stack.bucket_byte, 0.0)
    return np.where(streamed, stack.weight_byte * alive, 0.0) + reduced + bucket


def host_byte(problem: Problem, s: Strategy, acts: ActivationTable) -> Num:
    """Host memory that offloading needs on one node."""
    stack = problem.stack
    dense, expert = stage_parameters(problem, s, "first")
    z = np.asarray(s.zero)

    def state(byte: float, from_zero: int) -> Num:
        split_dense = np.where(z >= from_zero, shard_count(problem, s, expert=False), 1.0)
        split_expert = np.where(z >= from_zero, shard_count(problem, s, expert=True), 1.0)
        return byte * (dense / split_dense + expert / split_expert)

    layers = stage_layers(problem.n_layer, s.pp, s.virtual, s.schedule).first
    held = in_flight(s.pp, s.virtual, s.micro_batches(problem.work), 0, s.schedule) * layers
    kept = acts.none + (acts.selective - acts.none) * s.selective
    activation = s.offload_activation * (kept + (acts.full - kept) * s.full_frac) * held
    states = s.offload_optimizer * state(stack.optimizer_byte * problem.trained_frac, 1) + s.offload_weight * state(
        stack.weight_byte, 3
    )
    return (states + activation) * problem.node.n_accelerator
