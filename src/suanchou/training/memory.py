"""Memory: bytes per accelerator by component, for the first, a middle and the last pipeline stage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from suanchou.model.activations import embedding_activation_byte, head_activation_byte, layer_activation_byte
from suanchou.model.operators import Num, Recompute
from suanchou.training.pipeline import in_flight, parameter_copies, stage_ends, stage_layers
from suanchou.training.problem import Problem, ShardSum
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
    "stage_parameters",
]

STAGES = ("first", "middle", "last")


class Memory(NamedTuple):
    """Bytes on one accelerator. ``total`` adds the allocator's share to the sum of the others."""

    weight: Num
    gradient: Num
    optimizer: Num
    activation: Num
    head: Num
    gathered: Num
    communicator: Num
    runtime: Num
    allocator: Num

    @property
    def total(self) -> Num:
        """Expected bytes."""
        return (
            self.weight
            + self.gradient
            + self.optimizer
            + self.activation
            + self.head
            + self.gathered
            + self.communicator
            + self.runtime
            + self.allocator
        )

    def high(self, stack: Stack) -> Num:
        """Bytes with the allocator at its worst."""
        return self.total + self.allocator * (stack.allocator_high_frac / stack.allocator_frac - 1.0)


class ActivationTable(NamedTuple):
    """Bytes a micro-batch leaves behind on one rank: per (average) layer by recomputation, and in the outer stages."""

    none: Num
    selective: Num
    full: Num
    embedding: Num
    head: Num


def activation_table(problem: Problem, s: Strategy) -> ActivationTable:
    """Activation bytes of the layouts in ``s`` (1-D arrays)."""
    shape, arch = problem.shape(s), problem.work.arch

    def average(recompute: Recompute) -> Num:
        total: Num = 0.0
        for kind in problem.kinds:
            total = total + kind.share * layer_activation_byte(kind.layer, arch.d_model, shape, recompute)
        return total

    head = head_activation_byte(arch, shape) * (1.0 + len(arch.mtp))
    for layer in arch.mtp:
        head = head + layer_activation_byte(layer, arch.d_model, shape)
    return ActivationTable(
        average("none"),
        average("selective"),
        average("full"),
        embedding_activation_byte(arch, shape),
        head,
    )


def shard_count(problem: Problem, s: Strategy, *, expert: bool) -> Num:
    """Ranks that ZeRO splits a state over: the replicas of a parameter, or those of them in one scale-up domain."""
    replicas = s.dp * s.cp / (s.ep if expert else 1.0)
    stride = s.tp * (s.ep if expert else 1.0)
    near = np.clip(np.floor(problem.node.scale_up.size / np.asarray(stride, dtype=float)), 1, replicas)
    return np.where(np.asarray(s.shard_domain) > 0, near, replicas)


class _Parameters(NamedTuple):
    dense: Num
    expert: Num


def _per_rank(total: ShardSum, kv_ways: float, s: Strategy) -> _Parameters:
    dense = total.split / s.tp + total.kv / np.minimum(s.tp, kv_ways) + total.replicated
    return _Parameters(dense, total.expert / (s.tp * s.ep))


def stage_parameters(problem: Problem, s: Strategy, stage: str) -> _Parameters:
    """Parameters of one rank, dense and expert, before ZeRO; of both its stages in DualPipe."""
    layers = parameter_copies(s.schedule) * getattr(stage_layers(problem.n_layer, s.pp, s.virtual, s.schedule), stage)
    dense: Num = 0.0
    expert: Num = 0.0
    for kind in problem.kinds:
        one = _per_rank(kind.parameters, kind.kv_ways, s)
        dense, expert = dense + layers * kind.share * one.dense, expert + layers * kind.share * one.expert
    single = np.asarray(s.pp) == 1
    first, last = (_per_rank(end, 1, s) for end in problem.ends)
    at_first, at_last = stage_ends(s.pp, s.schedule, stage)
    copy = np.where(single | (at_first * at_last > 0), 0.0, problem.tied_copy / s.tp)
    dense = dense + at_first * first.dense + at_last * (last.dense + copy)
    return _Parameters(dense, expert + at_last * last.expert)


def stage_memory(problem: Problem, s: Strategy, acts: ActivationTable, stage: str) -> Memory:
    """Memory of one stage. Fields of ``s`` broadcast; ``acts`` must broadcast with its layout fields.

    Weights, gradients and optimizer states follow ZeRO (Rajbhandari et al. 2020): stage 1 splits the optimizer, 2 the
    gradients, 3 the weights. Activations are those of all micro-batches in flight. Full recomputation keeps a layer input only
    and needs one whole layer while it runs. Whatever is offloaded keeps two layers on the device, one in use, one under way.
    """
    stack = problem.stack
    dense, expert = stage_parameters(problem, s, stage)
    n_dense, n_expert = shard_count(problem, s, expert=False), shard_count(problem, s, expert=True)
    z = np.asarray(s.zero)

    def state(byte: float, from_zero: int) -> Num:
        split_dense = np.where(z >= from_zero, n_dense, 1.0)
        split_expert = np.where(z >= from_zero, n_expert, 1.0)
        return byte * (dense / split_dense + expert / split_expert)

    layers = stage_layers(problem.n_layer, s.pp, s.virtual, s.schedule)
    n_layer = getattr(layers, stage)
    index = {"first": 0.0, "middle": np.minimum(1.0, s.pp - 1.0), "last": s.pp - 1.0}[stage]
    held = in_flight(s.pp, s.virtual, s.micro_batches(problem.work), index, s.schedule)
    kept = acts.none + (acts.selective - acts.none) * s.selective
    per_layer = kept + (acts.full - kept) * s.full_frac
    recompute_work = np.where(np.asarray(s.full_frac) > 0, acts.none, 0.0)
    on_device = np.where(np.asarray(s.offload_activation) > 0, np.minimum(2.0, n_layer * held), n_layer * held)
    at_first, at_last = stage_ends(s.pp, s.schedule, stage)
    embedding = at_first * acts.embedding * held
    head = at_last * acts.head
    optimizer = state(stack.optimizer_byte * problem.trained_frac, 1) * (1.0 - s.offload_optimizer)
    weight, gradient = (
        state(stack.weight_byte, 3) * (1.0 - s.offload_weight),
        state(stack.gradient_byte * problem.trained_frac, 2),
    )
    activation = per_layer * on_device + recompute_work + embedding
    streamed = (z >= 3) | (np.asarray(s.offload_weight) > 0)
    gathered = np.where(streamed, 2.0 * stack.weight_byte * (dense + expert) / np.maximum(n_layer, 1.0), 0.0)
    groups: Num = np.asarray(1.0)
    for degree in (s.tp, s.cp, s.pp, s.ep):
        groups = groups + np.where(np.asarray(degree) > 1, 1.0, 0.0)
    communicator = stack.communicator_byte * groups
    used = weight + gradient + optimizer + activation + head + gathered
    return Memory(
        weight, gradient, optimizer, activation, head, gathered, communicator, stack.runtime_byte, stack.allocator_frac * used
    )


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
