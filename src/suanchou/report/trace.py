"""Trace: a step's timeline in the Trace Event Format, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A process for every pipeline rank, with a track for what its accelerator computes and one for what it sends. JSON is never
translated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from suanchou.training.schedule import Run
from suanchou.training.timeline import COMMUNICATION, Part, Timeline, gaps

__all__ = ["MOST_EVENTS", "trace_events", "trace_json"]

MOST_EVENTS = 200_000
"""Events of a trace, about; Perfetto opens that many at once, in a file of some 30 MB."""

COMPUTE, NETWORK = 0, 1
_PHASE = {"F": "forward", "B": "backward", "W": "weight gradient"}
_KERNELS = {"forward": "forward", "backward": "backward"}


def _slice(name: str, category: str, rank: int, track: int, start_s: float, seconds: float, **args: Any) -> dict[str, Any]:
    """A complete event; the format counts in microseconds."""
    event = {"name": name, "cat": category, "ph": "X", "pid": rank, "tid": track, "ts": start_s * 1e6, "dur": seconds * 1e6}
    return event | ({"args": args} if args else {})


def _names(line: Timeline) -> Iterator[dict[str, Any]]:
    for rank in range(len(line.runs)):
        stages = sorted({run.op.stage for run in line.runs[rank]})
        title = f"pipeline rank {rank}: " + ("stage " if len(stages) == 1 else "stages ") + ", ".join(map(str, stages))
        yield {"name": "process_name", "ph": "M", "pid": rank, "args": {"name": title}}
        yield {"name": "process_sort_index", "ph": "M", "pid": rank, "args": {"sort_index": rank}}
        for track, name in ((COMPUTE, "compute"), (NETWORK, "communication")):
            yield {"name": "thread_name", "ph": "M", "pid": rank, "tid": track, "args": {"name": name}}
            yield {"name": "thread_sort_index", "ph": "M", "pid": rank, "tid": track, "args": {"sort_index": track}}


def _run(line: Timeline, rank: int, run: Run, *, kernels: bool) -> Iterator[dict[str, Any]]:
    """An operation; inside it its causes one after another, and inside the layers' share their kernels."""
    phase, stage, micro = run.op
    seconds = run.end_s - run.start_s
    title = f"{phase}{micro}"
    yield _slice(title, _PHASE[phase], rank, COMPUTE, run.start_s, seconds, micro_batch=micro, stage=stage)
    clock = run.start_s
    for part in line.parts[phase, stage]:
        track = NETWORK if part.name in COMMUNICATION else COMPUTE
        yield _slice(part.name, part.name, rank, track, clock, part.seconds)
        if kernels and part.name in _KERNELS:
            yield from _kernels(line, rank, part, clock)
        clock += part.seconds


def _kernels(line: Timeline, rank: int, part: Part, start_s: float) -> Iterator[dict[str, Any]]:
    """The kernels of all layers of the stage by operator; where weight gradients come later, without theirs."""
    found = [one for one in line.kernels[part.name] if line.schedule == "1f1b" or not one.name.endswith(".wgrad")]
    scale = part.seconds / sum(one.seconds for one in found)
    for one in found:
        yield _slice(one.name, "kernel", rank, COMPUTE, start_s, scale * one.seconds)
        start_s += scale * one.seconds


def _counters(line: Timeline, rank: int) -> Iterator[dict[str, Any]]:
    fixed = line.memory[rank]
    for at, byte in [*line.activation[rank], (line.step_s, line.activation[rank][-1][1])]:
        args = {"weights, states and buffers": fixed, "activations": byte}
        yield {"name": "memory [byte]", "ph": "C", "pid": rank, "ts": at * 1e6, "args": args}


def _kept(line: Timeline, most: int) -> int:
    """Micro-batches drawn at either end so that the trace has ``most`` events or fewer; all of them where they fit."""
    events = sum(1 + len(line.parts[run.op.phase, run.op.stage]) for rank in line.runs for run in rank)
    if events <= most:
        return line.micro_batches
    return max(1, int(line.micro_batches * most / events / 2))


def trace_events(line: Timeline, *, most: int = MOST_EVENTS) -> list[dict[str, Any]]:
    """The events. Where there would be more than ``most``, the steady part in the middle is one slice per rank.

    Kernels are drawn for as many micro-batches as fit, always for the first and the last one.
    """
    ends = _kept(line, most)
    m = line.micro_batches
    left_out = range(ends, m - ends) if ends < m else range(0)
    n_kernel = sum(len(found) for found in line.kernels.values())
    room = most - sum(1 + len(line.parts[run.op.phase, run.op.stage]) for rank in line.runs for run in rank)
    every = room >= n_kernel * line.n_stage * m
    events = [*_names(line)]
    for rank, runs in enumerate(line.runs):
        cut: list[Run] = []
        for run in runs:
            if run.op.micro in left_out:
                cut.append(run)
                continue
            if cut:
                events.append(_not_drawn(rank, cut))
                cut = []
            events += _run(line, rank, run, kernels=every or run.op.micro in (0, m - 1))
        events += [_not_drawn(rank, cut)] if cut else []
        hidden = [(run.start_s, run.end_s) for run in runs if run.op.micro in left_out]
        first, last = (hidden[0][0], hidden[-1][1]) if hidden else (0.0, 0.0)
        for gap in gaps(line, rank):
            if not first < gap.start_s < last:
                events.append(_slice("bubble", "bubble", rank, COMPUTE, gap.start_s, gap.end_s - gap.start_s))
        clock = line.pipeline_s
        for part in line.tail:
            track = COMPUTE if part.name == "optimizer" else NETWORK
            events.append(_slice(part.name, part.name, rank, track, clock, part.seconds))
            clock += part.seconds
        events += _counters(line, rank) if not left_out else []
    return events


def _not_drawn(rank: int, cut: list[Run]) -> dict[str, Any]:
    start_s, end_s = cut[0].start_s, cut[-1].end_s
    return _slice("not drawn", "cut", rank, COMPUTE, start_s, end_s - start_s, operations=len(cut))


def trace_json(line: Timeline, about: Mapping[str, Any], *, most: int = MOST_EVENTS) -> str:
    """The trace as a JSON object; ``about`` stands under ``otherData``, with what was left out."""
    ends = _kept(line, most)
    other = {
        **about,
        "schedule": line.schedule,
        "step_s": line.step_s,
        "bubble_frac": line.bubble_frac,
        "micro_batches": line.micro_batches,
        "micro_batches_drawn": min(line.micro_batches, 2 * ends),
        "note": "the causes of an operation are drawn one after another, not layer by layer",
    }
    events = trace_events(line, most=most)
    data = {"displayTimeUnit": "ms", "otherData": other, "traceEvents": events}
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
