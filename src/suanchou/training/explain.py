"""Explain: a strategy's step time and memory as trees of Estimates, from the same functions that priced the search."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from suanchou.cost.kernels import Phase, kernel_s
from suanchou.estimate import Estimate, total
from suanchou.model.operators import Num, Operator
from suanchou.training.defaults import default
from suanchou.training.layer_time import LayerTime
from suanchou.training.memory import STAGES, ActivationTable, Memory, stage_memory
from suanchou.training.pipeline import in_flight, stage_layers
from suanchou.training.problem import Problem
from suanchou.training.schedule import SCHEDULES, schedule_named
from suanchou.training.strategy import Strategy
from suanchou.training.time import StageTime, StepTime, step_time

__all__ = ["MEMORY_NAMES", "STEP_NAMES", "explain_memory", "explain_step", "fullest_stage", "step_parts", "verdict"]

STEP_NAMES = (
    "forward",
    "backward",
    "recompute",
    "tensor_parallel",
    "context_parallel",
    "expert_parallel",
    "embedding_head",
    "host_transfer",
    "weight_gather",
    "gradient_pass",
    "host_launch",
    "pipeline_bubble",
    "pipeline_send",
    "gradient_reduce",
    "parameter_gather",
    "optimizer",
    "straggler",
    "host_step",
)

_MEANING = {
    "recompute": "kernels run again for activations that were not kept",
    "tensor_parallel": "block outputs joined over TP, forward and backward",
    "context_parallel": "keys and values exchanged over CP, what the attention kernel does not hide",
    "expert_parallel": "tokens sent to experts and back, forward and backward",
    "embedding_head": "embedding, head and loss on this stage",
    "host_transfer": "offloaded weights and activations, what compute does not hide",
    "gradient_pass": "gradients copied, cast and accumulated beside the products that make them",
    "host_launch": "the host launches kernels more slowly than the device runs them",
    "weight_gather": "ZeRO-3 gathers, what compute does not hide",
}

MEMORY_NAMES = Memory._fields


def _number(value: Num) -> float:
    return float(np.asarray(value).reshape(-1)[0])


def step_parts(step: StepTime) -> dict[str, float]:
    """Seconds of a step by cause; they add up to the step."""
    m = _number(step.micro_batches)
    parts = {name: m * _number(value) for name, value in zip(STEP_NAMES, step.slowest, strict=False)}
    tail = (
        step.bubble,
        step.pipeline_send,
        step.gradient_reduce,
        step.parameter_gather,
        step.optimizer,
        step.straggler,
        step.host_step,
    )
    return parts | {name: _number(value) for name, value in zip(STEP_NAMES[len(StageTime._fields) :], tail, strict=True)}


def explain_step(problem: Problem, s: Strategy, t: LayerTime, acts: ActivationTable) -> Estimate:
    """The step as a sum of its causes, each with its formula; kernels down to single operators."""
    step = step_time(problem, s, t, acts)
    m, parts = _number(step.micro_batches), step_parts(step)
    eff_source = problem.eff.source("gemm_frac", "memory_frac", "attention_forward_frac")
    fabric_source = (*problem.fabric.inner.sources, *problem.eff.source("scale_up_frac", "scale_out_frac"))
    children = [_kernel_tree(problem, s, step, "forward", eff_source), _kernel_tree(problem, s, step, "backward", eff_source)]
    for name in STEP_NAMES[2:]:
        seconds = parts[name]
        kernel = name in ("recompute", "embedding_head", "gradient_pass")
        children.append(
            Estimate(
                name=name,
                value=seconds,
                unit="s",
                formula=_formula(problem, s, step, name, m, seconds),
                sources=eff_source if kernel or name == "optimizer" else fabric_source,
                grade="assumed" if problem.eff.assumed else "derived",
            )
        )
    return total("step", "s", tuple(children), assumptions=(f"stack {problem.stack.name}: {problem.stack.title}",))


def _formula(problem: Problem, s: Strategy, step: StepTime, name: str, m: float, seconds: float) -> str:
    if name in _MEANING:
        return f"{m:g} micro-batches * {seconds / m:.6g} s on the slowest stage: {_MEANING[name]}"
    fixed: dict[str, Callable[[], str]] = {
        "pipeline_bubble": lambda: (
            "one stage: no bubble"
            if s.pp == 1
            else f"longest path through {m:g} micro-batches on {s.pp} stages of {s.virtual} chunks "
            f"({SCHEDULES[schedule_named(int(s.schedule))].label}) - {m:g} * {_number(step.slowest.total):.6g} s on the slowest"
        ),
        "pipeline_send": lambda: "2 * (PP - 1 + micro-batches * chunks * exposed share) sends of one micro-batch's activations",
        "gradient_reduce": lambda: (
            f"gradients over {_number(s.dp * s.cp):g} ranks at {problem.stack.gradient_reduce_byte:g} byte each, "
            "less what the last backward hides, at least the last bucket"
        ),
        "parameter_gather": lambda: "updated weights over the ZeRO group, less what the first forward hides",
        "optimizer": lambda: f"{problem.stack.optimizer_traffic_byte:g} byte per local parameter over the memory bandwidth",
        "straggler": lambda: (
            f"{_number(problem.drift_frac(s)):.3g} of the step: spread * sqrt(2 ln ranks), all wait for the slowest"
        ),
        "host_step": lambda: "work of the host once per step, from the stack",
    }
    return fixed[name]()


def _kernel_tree(problem: Problem, s: Strategy, step: StepTime, name: Phase, sources: tuple[str, ...]) -> Estimate:
    """All layers' kernels of the slowest stage, operator by operator."""
    shape = problem.shape(s)
    enumerate_ops = problem.forward if name == "forward" else problem.backward
    sums: dict[str, tuple[float, float, Operator]] = {}
    for kind in problem.kinds:
        for op in enumerate_ops(kind.layer, shape):
            seconds = _number(
                kernel_s(
                    op,
                    problem.accelerator,
                    problem.eff,
                    dtype=problem.work.dtype,
                    gemm_dtype=problem.work.low_dtype if s.fp8 else None,
                    phase=name,
                )
            )
            before = sums.get(op.name, (0.0, 0.0, op))
            sums[op.name] = (before[0] + kind.share * seconds, before[1] + kind.share * _number(op.flop), op)
    m = _number(step.micro_batches)
    layers = m * _number(getattr(step.slowest, name)) / max(sum(seconds for seconds, *_ in sums.values()), 1e-30)
    children = tuple(
        Estimate(
            name=op_name.replace(".", "_"),
            value=layers * seconds,
            unit="s",
            formula=f"{layers:g} runs * {seconds:.4g} s; {_operator(op, flop)}",
            grade="assumed" if problem.eff.assumed else "derived",
        )
        for op_name, (seconds, flop, op) in sums.items()
    )
    return total(name, "s", children, sources=sources)


def _operator(op: Operator, flop: float) -> str:
    m, n, k, count = (_number(value) for value in (op.m, op.n, op.k, op.count))
    if op.kind in ("gemm", "grouped_gemm"):
        return f"{count:g} x GEMM {m:g} x {n:g} x {k:g}, {flop:.4g} FLOP"
    if op.kind in ("attention", "scan"):
        return f"{op.kind} of {count:g} heads, {m:g} queries, {n:g} keys, {flop:.4g} FLOP"
    return f"memory-bound, {_number(op.byte):.4g} byte"


def fullest_stage(problem: Problem, s: Strategy, acts: ActivationTable) -> str:
    """The pipeline stage that needs most memory: ``first``, ``middle`` or ``last``."""
    return max(STAGES, key=lambda stage: _number(stage_memory(problem, s, acts, stage).allocated))


def explain_memory(problem: Problem, s: Strategy, acts: ActivationTable) -> Estimate:
    """Memory of the fullest stage by component.

    The band is the allocator's: ``low`` is what must fit, ``high`` what it may come to hold where there is room.
    """
    stage = fullest_stage(problem, s, acts)
    memory = stage_memory(problem, s, acts, stage)
    stack = problem.stack
    layers = _number(getattr(stage_layers(problem.n_layer, s.pp, s.virtual, s.schedule), stage))
    index = {"first": 0, "middle": 1}.get(stage, s.pp - 1)
    held = _number(in_flight(s.pp, s.virtual, s.micro_batches(problem.work), index, s.schedule))
    formulas = {
        "weight": f"{stack.weight_byte:g} byte per parameter on this rank" + (" / ZeRO-3 group" if s.zero == 3 else ""),
        "gradient": f"{stack.gradient_byte:g} byte per parameter" + (" / ZeRO group" if int(_number(s.zero)) >= 2 else ""),
        "optimizer": f"{stack.optimizer_byte:g} byte per parameter" + (" / ZeRO group" if int(_number(s.zero)) >= 1 else ""),
        "activation": f"{layers:g} layers * {held:.4g} micro-batches in flight",
        "head": "logits and loss of one micro-batch",
        "gathered": "two layers gathered at a time (ZeRO-3, offload)",
        "communicator": f"{stack.communicator_byte:g} byte per process group",
        "runtime": stack.sources["runtime_byte"],
        "working": "one backward pass or loss at its fullest, and buffers that stay",
        "allocator": f"{stack.allocator_frac:.0%} of the tensors, less where the device is full",
    }
    sources = {"communicator": "communicator_byte", "runtime": "runtime_byte", "allocator": "allocator_frac"}
    children = tuple(
        Estimate(
            name=name,
            value=_number(value),
            unit="byte",
            formula=formulas[name],
            sources=(stack.sources[sources[name]],) if name in sources else (),
            grade="assumed" if name in sources else "derived",
        )
        for name, value in zip(MEMORY_NAMES, memory, strict=True)
    )
    value = math.fsum(child.value for child in children)
    return total(
        "memory",
        "byte",
        children,
        formula=f"sum over the {stage} pipeline stage, the fullest",
        # on a full device the three are one number, but for rounding
        low=min(_number(memory.needed(stack)), value),
        high=max(_number(memory.high(stack, problem.memory_byte)), value),
    )


def verdict(problem: Problem, memory: Estimate) -> str:
    """``does not fit`` where even a squeezed allocator needs more than there is; else ``tight`` or ``fits``, as expected."""
    needed = memory.low if memory.low is not None else memory.value
    if needed > problem.memory_byte:
        return "does not fit"
    return "tight" if memory.value > default("tight_frac").value * problem.memory_byte else "fits"
