"""Time: seconds of one optimizer step, from operators, collectives and the pipeline schedule.

``step = micro_batches * slowest stage + bubble + sends + exposed gradient reduction + exposed parameter gather + optimizer``.
Every function takes one strategy or arrays of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from suanchou.cost.kernels import stream_s
from suanchou.model.operators import Num
from suanchou.training.communication import (
    behind_s,
    gather_per_layer_s,
    gradient_reduce_s,
    parameter_gather_s,
    send_s,
    sharded_weight_byte,
)
from suanchou.training.defaults import default
from suanchou.training.layer_time import LayerTime
from suanchou.training.memory import STAGES, ActivationTable, shard_count, stage_parameters
from suanchou.training.pipeline import Halves, parameter_copies, pipeline_s, stage_ends, stage_layers
from suanchou.training.problem import Problem
from suanchou.training.strategy import Strategy

__all__ = [
    "Pieces",
    "StageTime",
    "StepHalves",
    "StepTime",
    "layer_pieces",
    "stage_time",
    "step_halves",
    "step_time",
    "step_total_s",
]


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


class _Streams(NamedTuple):
    """Per layer: ZeRO-3's gather, what it adds to forward and backward, and what the host link adds, beside both."""

    gather: Num
    gather_forward: Num
    gather_backward: Num
    host_forward: Num
    host_backward: Num


def _streams(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> _Streams:
    gather = gather_per_layer_s(problem, s)
    overlap = problem.stack.overlap_parameter_gather
    kept = acts.none + (acts.selective - acts.none) * s.selective
    moved = s.offload_activation * (kept + (acts.full - kept) * s.full_frac)
    away = (moved + s.offload_weight * sharded_weight_byte(problem, s)) / problem.host_link_byte_per_s
    gather_forward = behind_s(problem, gather, overlap * t.forward)
    gather_backward = behind_s(problem, gather, overlap * t.backward)
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
    return _stage_time(s, t, _streams(problem, s, t, acts), layers, ends)


def _stage_time(s: Strategy, t: LayerTime, streams: _Streams, layers: Num, ends: tuple[Num, Num]) -> StageTime:
    tensor = t.tensor_forward + t.tensor_backward + s.full_frac * t.tensor_forward
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


class StepHalves(NamedTuple):
    """One layer, the embedding and the head, forward and backward, with the communication that each waits for."""

    layer: Halves
    embedding: Halves
    head: Halves


def step_halves(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> StepHalves:
    """The causes of :func:`stage_time` by half: forward, and backward with what is recomputed for it."""
    return _step_halves(s, t, _streams(problem, s, t, acts))


def _step_halves(s: Strategy, t: LayerTime, streams: _Streams) -> StepHalves:
    pieces = _pieces(s, t, streams)
    return StepHalves(
        layer=Halves(_sum(pieces.forward), _sum(pieces.backward), t.weight_gradient),
        embedding=Halves(pieces.end_forward[0], pieces.end_backward[0], pieces.end_weight[0]),
        head=Halves(
            pieces.end_forward[1] + t.head_tensor / 2.0, pieces.end_backward[1] + t.head_tensor / 2.0, pieces.end_weight[1]
        ),
    )


def _sum(parts: Mapping[str, Num]) -> Num:
    return sum(parts.values(), start=np.asarray(0.0))


class Pieces(NamedTuple):
    """What forward and backward of one layer, of the embedding and of the head are made of, in seconds by cause.

    ``weight`` and ``end_weight`` are the parts of backward for weight gradients; ``head_tensor`` is the TP communication of the
    head, half of it forward.
    """

    forward: dict[str, Num]
    backward: dict[str, Num]
    weight: Num
    end_forward: tuple[Num, Num]
    end_backward: tuple[Num, Num]
    end_weight: tuple[Num, Num]
    head_tensor: Num


def layer_pieces(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> Pieces:
    """The causes of :func:`stage_time` by half: forward, and backward with what is recomputed for it."""
    return _pieces(s, t, _streams(problem, s, t, acts))


def _pieces(s: Strategy, t: LayerTime, streams: _Streams) -> Pieces:
    embedding_backward = t.embedding - t.embedding_forward
    return Pieces(
        forward={
            "forward": t.forward,
            "tensor_parallel": t.tensor_forward,
            "context_parallel": t.context_forward,
            "expert_parallel": t.expert,
            "weight_gather": streams.gather_forward,
            "host_transfer": streams.host_forward,
        },
        backward={
            "backward": t.backward,
            "recompute": _recompute_s(s, t),
            "tensor_parallel": t.tensor_backward + s.full_frac * t.tensor_forward,
            "context_parallel": t.context_backward + s.full_frac * t.context_forward,
            "expert_parallel": t.expert * (1.0 + s.full_frac),
            "weight_gather": streams.gather_backward,
            "host_transfer": streams.host_backward,
        },
        weight=t.weight_gradient,
        end_forward=(t.embedding_forward, t.head_forward),
        end_backward=(embedding_backward, t.head - t.head_forward),
        end_weight=(embedding_backward, t.head_weight_gradient),
        head_tensor=t.head_tensor,
    )


def step_time(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> StepTime:
    """Seconds of one step; fields of ``s`` broadcast, ``t`` and ``acts`` must broadcast with its layout fields."""
    m = s.micro_batches(problem.work)
    streams = _streams(problem, s, t, acts)
    found = _pipeline(problem, s, t, m, streams)
    slowest = _stage_time(s, t, streams, found.layers, found.ends)
    free_forward, free_backward = _network_free_s(s, t, streams)
    return StepTime(
        micro_batches=m,
        slowest=slowest,
        bubble=np.maximum(found.seconds - m * found.slowest, 0.0),
        pipeline_send=send_s(problem, s, m),
        gradient_reduce=gradient_reduce_s(problem, s, found.layers * free_backward),
        parameter_gather=parameter_gather_s(problem, s, found.layers * free_forward),
        optimizer=_optimizer_s(problem, s),
    )


def step_total_s(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> Num:
    """``step_time(...).total`` without its causes: for the search, which asks millions of times."""
    m = s.micro_batches(problem.work)
    streams = _streams(problem, s, t, acts)
    found = _pipeline(problem, s, t, m, streams)
    free_forward, free_backward = _network_free_s(s, t, streams)
    few: Num = send_s(problem, s, m) + _optimizer_s(problem, s)
    exposed = gradient_reduce_s(problem, s, found.layers * free_backward)
    exposed = exposed + parameter_gather_s(problem, s, found.layers * free_forward)
    total: Num = np.maximum(found.seconds, m * found.slowest) + exposed + few
    return total


class _Pipeline(NamedTuple):
    """Seconds of all micro-batches; seconds of one and layers on the slowest stage, and which of the three that is."""

    seconds: Num
    slowest: Num
    layers: Num
    holds: Mapping[str, tuple[Num, ...]]
    is_last: NDArray[np.bool_] | bool
    is_middle: NDArray[np.bool_] | bool

    @property
    def ends(self) -> tuple[Num, Num]:
        """Shares of embedding and head on the slowest stage."""
        found = zip(self.holds["first"], self.holds["middle"], self.holds["last"], strict=True)
        embedding, head = (np.where(self.is_last, c, np.where(self.is_middle, b, a)) for a, b, c in found)
        return embedding, head


def _pipeline(problem: Problem, s: Strategy, t: LayerTime, m: Num, streams: _Streams) -> _Pipeline:
    layers = stage_layers(problem.n_layer, s.pp, s.virtual, s.schedule)
    halves = _step_halves(s, t, streams)
    per_layer, embedding, head = halves.layer.total, t.embedding, t.head + t.head_tensor
    # A rank that holds two stages runs each for half the micro-batches.
    copies = parameter_copies(s.schedule)
    at = {stage: tuple(end / copies for end in stage_ends(s.pp, s.schedule, stage)) for stage in STAGES}
    first = layers.first * per_layer + (at["first"][0] * embedding + at["first"][1] * head)
    middle = layers.middle * per_layer
    last = layers.last * per_layer + (at["last"][0] * embedding + at["last"][1] * head)
    is_last, is_middle = (last > first) & (last > middle), (middle >= last) & (middle > first)
    n_layer = np.where(is_last, layers.last, np.where(is_middle, layers.middle, layers.first))
    return _Pipeline(
        seconds=pipeline_s(problem.n_layer, s.pp, s.virtual, m, *halves, s.schedule),
        slowest=np.maximum(np.maximum(first, middle), last),
        layers=n_layer,
        holds=at,
        is_last=is_last,
        is_middle=is_middle,
    )


def _network_free_s(s: Strategy, t: LayerTime, streams: _Streams) -> tuple[Num, Num]:
    """How long the network stands free while one layer runs forward, and backward: wall time less gathers and CP ring."""
    forward = t.forward + t.context_forward + streams.gather_forward + streams.host_forward
    backward = t.backward + _recompute_s(s, t) + t.context_backward + streams.gather_backward + streams.host_backward
    return (
        np.maximum(forward - streams.gather - t.ring_forward, 0.0),
        np.maximum(backward - streams.gather - t.ring_backward, 0.0),
    )


def _optimizer_s(problem: Problem, s: Strategy) -> Num:
    """Adam as memory traffic over this rank's share of the states; offloaded, over the host's memory and the host link."""
    z = np.asarray(s.zero)
    dense, expert = stage_parameters(problem, s, "first")
    share = dense / np.where(z >= 1, shard_count(problem, s, expert=False), 1.0) + expert / np.where(
        z >= 1, shard_count(problem, s, expert=True), 1.0
    )
    share = share * problem.trained_frac
    traffic = default("optimizer_traffic_byte").value * share
    device = stream_s(traffic, problem.accelerator, problem.eff)
    stack = problem.stack
    link = (stack.gradient_byte + stack.weight_byte) * share / problem.host_link_byte_per_s
    host = np.maximum(link, traffic / problem.eff.host_memory_byte_per_s)
    return np.where(np.asarray(s.offload_optimizer) > 0, host, device)
