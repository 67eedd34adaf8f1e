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
    gradient_pass: Num
    host_launch: Num

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
    straggler: Num
    host_step: Num

    @property
    def total(self) -> Num:
        """Seconds of one optimizer step."""
        work = self.micro_batches * self.slowest.total
        tail = self.pipeline_send + self.gradient_reduce + self.parameter_gather + self.optimizer
        return work + self.bubble + tail + self.straggler + self.host_step


class _Streams(NamedTuple):
    """Per layer: ZeRO-3's gather, what it adds to forward and backward, and what the host link adds, beside both."""

    gather: Num
    gather_forward: Num
    gather_backward: Num
    host_forward: Num
    host_backward: Num


def _streams(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> _Streams:
    """Weights and activations move beside all that a layer does, its exposed TP and EP collectives included."""
    gather = gather_per_layer_s(problem, s)
    overlap = problem.stack.overlap_weight_gather
    kept = acts.none + (acts.selective - acts.none) * s.selective
    moved = s.offload_activation * (kept + (acts.full - kept) * s.full_frac)
    away = (moved + s.offload_weight * sharded_weight_byte(problem, s)) / problem.host_link_byte_per_s
    forward, backward = t.forward + t.tensor_forward + t.expert, t.backward + t.tensor_backward + t.expert
    gather_forward = behind_s(problem, gather, overlap * forward)
    gather_backward = behind_s(problem, gather, overlap * backward)
    return _Streams(
        gather=gather,
        gather_forward=gather_forward,
        gather_backward=gather_backward,
        host_forward=np.maximum(away - forward - gather_forward, 0.0),
        host_backward=np.maximum(away - backward - gather_backward, 0.0),
    )


def _recompute_s(s: Strategy, t: LayerTime) -> Num:
    """Kernels of one layer that run again."""
    return s.selective * (1.0 - s.full_frac) * t.core + s.full_frac * t.again


def stage_time(
    problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable, layers: Num, ends: tuple[Num, Num]
) -> StageTime:
    """One micro-batch on a stage of ``layers`` layers; ``ends`` says whether it holds embedding and head (0 or 1).

    The host launches the kernels of ``layers`` layers forward, backward and again for recomputation, ahead of the device as
    long as it can: a device that is quicker over the whole micro-batch waits for it.
    """
    return _stage_time(problem, s, t, _streams(problem, s, t, acts), layers, ends)


def _stage_time(
    problem: Problem, s: Strategy, t: LayerTime, streams: _Streams, layers: Num, ends: tuple[Num, Num]
) -> StageTime:
    tensor = t.tensor_forward + t.tensor_backward + s.full_frac * t.tensor_again
    stage = StageTime(
        forward=layers * t.forward,
        backward=layers * t.backward,
        recompute=layers * _recompute_s(s, t),
        tensor_parallel=layers * tensor + ends[1] * t.head_tensor,
        context_parallel=layers * (t.context_forward * (1.0 + s.full_frac) + t.context_backward),
        expert_parallel=layers * t.expert * (2.0 + s.full_frac),
        embedding_head=ends[0] * t.embedding + ends[1] * t.head,
        host_transfer=layers * (streams.host_forward + streams.host_backward),
        parameter_gather=layers * (streams.gather_forward + streams.gather_backward),
        gradient_pass=layers * t.gradient,
        host_launch=0.0,
    )
    return stage._replace(host_launch=np.maximum(layers * _launch_s(problem, s) - stage.total, 0.0))


def _launch_s(problem: Problem, s: Strategy) -> Num:
    """What the host takes to launch one layer for one micro-batch, recomputation included."""
    return problem.stack.host_layer_s * (2.0 + s.full_frac)


class StepHalves(NamedTuple):
    """One layer, the embedding and the head, forward and backward, with the communication that each waits for."""

    layer: Halves
    embedding: Halves
    head: Halves


def step_halves(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> StepHalves:
    """The causes of :func:`stage_time` by half: forward, and backward with what is recomputed for it."""
    return _step_halves(problem, s, t, _streams(problem, s, t, acts))


def _step_halves(problem: Problem, s: Strategy, t: LayerTime, streams: _Streams) -> StepHalves:
    pieces = _pieces(problem, s, t, streams)
    half = pieces.head_tensor / 2.0
    return StepHalves(
        layer=Halves(_sum(pieces.forward), _sum(pieces.backward), pieces.weight),
        embedding=Halves(pieces.end_forward[0], pieces.end_backward[0], pieces.end_weight[0]),
        head=Halves(pieces.end_forward[1] + half, pieces.end_backward[1] + half, pieces.end_weight[1]),
    )


def _sum(parts: Mapping[str, Num]) -> Num:
    return sum(parts.values(), start=np.asarray(0.0))


class Pieces(NamedTuple):
    """What forward and backward of one layer, of the embedding and of the head are made of, in seconds by cause.

    ``weight`` and ``end_weight`` are the parts of backward for weight gradients; ``head_tensor`` is the TP communication of the
    head, half of it forward. Where layers wait for the host, it gets ahead while the device runs embedding or head: of these
    only what the waits of their stage leave over counts, so stages add up to :func:`stage_time`.
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
    return _pieces(problem, s, t, _streams(problem, s, t, acts))


def _pieces(problem: Problem, s: Strategy, t: LayerTime, streams: _Streams) -> Pieces:
    embedding_backward = t.embedding - t.embedding_forward
    pieces = Pieces(
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
            "tensor_parallel": t.tensor_backward + s.full_frac * t.tensor_again,
            "context_parallel": t.context_backward + s.full_frac * t.context_forward,
            "expert_parallel": t.expert * (1.0 + s.full_frac),
            "weight_gather": streams.gather_backward,
            "host_transfer": streams.host_backward,
            "gradient_pass": t.gradient,
        },
        weight=t.weight_gradient,
        end_forward=(t.embedding_forward, t.head_forward),
        end_backward=(embedding_backward, t.head - t.head_forward),
        end_weight=(embedding_backward, t.head_weight_gradient),
        head_tensor=t.head_tensor,
    )
    return _with_host(problem, s, t, pieces) if np.any(problem.stack.host_layer_s) else pieces


def _with_host(problem: Problem, s: Strategy, t: LayerTime, pieces: Pieces) -> Pieces:
    """Waits for the host, shared out over the passes that it launches: one forward, the others backward."""
    wait = np.maximum(_launch_s(problem, s) - _sum(pieces.forward) - _sum(pieces.backward), 0.0)
    if not wait.any():
        return pieces
    forward = wait / (2.0 + s.full_frac)
    layers = stage_layers(problem.n_layer, s.pp, s.virtual, s.schedule)
    copies = parameter_copies(s.schedule)
    left: dict[str, Num] = {}
    for stage in ("first", "last"):
        embedding, head = stage_ends(s.pp, s.schedule, stage)
        own = (embedding * t.embedding + head * (t.head + t.head_tensor)) / copies
        rest = np.maximum(own - getattr(layers, stage) * wait, 0.0)
        left[stage] = np.where(rest < own, rest / np.where(own > 0, own, 1.0), 1.0)
    of_head = np.where(stage_ends(s.pp, s.schedule, "first")[1] > 0, left["first"], left["last"])

    def shared(ends: tuple[Num, Num]) -> tuple[Num, Num]:
        return ends[0] * left["first"], ends[1] * of_head

    return Pieces(
        forward=pieces.forward | {"host_launch": forward},
        backward=pieces.backward | {"host_launch": wait - forward},
        weight=pieces.weight,
        end_forward=shared(pieces.end_forward),
        end_backward=shared(pieces.end_backward),
        end_weight=shared(pieces.end_weight),
        head_tensor=pieces.head_tensor * of_head,
    )


def step_time(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> StepTime:
    """Seconds of one step; fields of ``s`` broadcast, ``t`` and ``acts`` must broadcast with its layout fields."""
    m = s.micro_batches(problem.work)
    streams = _streams(problem, s, t, acts)
    found = _pipeline(problem, s, t, m, streams)
    free_forward, free_backward = _network_free_s(s, t, streams)
    return StepTime(
        micro_batches=m,
        slowest=_stage_time(problem, s, t, streams, found.layers, found.ends),
        bubble=np.maximum(found.seconds - m * found.slowest, 0.0),
        pipeline_send=send_s(problem, s, m),
        gradient_reduce=gradient_reduce_s(problem, s, found.layers * free_backward),
        parameter_gather=parameter_gather_s(problem, s, found.layers * free_forward),
        optimizer=_optimizer_s(problem, s),
        straggler=problem.drift_frac(s) * np.maximum(found.seconds, m * found.slowest),
        host_step=problem.stack.host_step_s,
    )


def step_total_s(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> Num:
    """``step_time(...).total`` without its causes: for the search, which asks millions of times."""
    m = s.micro_batches(problem.work)
    streams = _streams(problem, s, t, acts)
    found = _pipeline(problem, s, t, m, streams)
    free_forward, free_backward = _network_free_s(s, t, streams)
    few: Num = send_s(problem, s, m) + _optimizer_s(problem, s) + problem.stack.host_step_s
    exposed = gradient_reduce_s(problem, s, found.layers * free_backward)
    exposed = exposed + parameter_gather_s(problem, s, found.layers * free_forward)
    longest = np.maximum(found.seconds, m * found.slowest)
    total: Num = (1.0 + problem.drift_frac(s)) * longest + exposed + few
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
    halves = _step_halves(problem, s, t, streams)
    per_layer, embedding, head = halves.layer.total, halves.embedding.total, halves.head.total
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
    forward = t.forward + t.tensor_forward + t.expert + t.context_forward + streams.gather_forward + streams.host_forward
    backward = t.backward + t.gradient + _recompute_s(s, t) + t.tensor_backward + t.expert + t.context_backward
    backward = backward + streams.gather_backward + streams.host_backward
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
    traffic = problem.stack.optimizer_traffic_byte * share
    device = stream_s(traffic, problem.accelerator, problem.eff)
    stack = problem.stack
    link = (stack.gradient_byte + stack.weight_byte) * share / problem.host_link_byte_per_s
    host = np.maximum(link, traffic / problem.eff.host_memory_byte_per_s)
    return np.where(np.asarray(s.offload_optimizer) > 0, host, device)
