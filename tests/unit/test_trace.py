"""The trace against the Trace Event Format, and the chart in the terminal."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from suanchou.i18n import use_language
from suanchou.report.gantt import gantt
from suanchou.report.trace import trace_events, trace_json
from suanchou.training.strategy import Strategy
from suanchou.training.timeline import timeline

KEYS = {
    "M": {"name", "ph", "pid", "args"},
    "X": {"name", "cat", "ph", "ts", "dur", "pid", "tid"},
    "C": {"name", "ph", "pid", "ts", "args"},
}
METADATA = {"process_name", "process_sort_index", "thread_name", "thread_sort_index"}


@pytest.fixture(scope="module")
def line(problem):
    return timeline(problem("llama-3.1-8b", "dgx-h100:1", seq=4096, batch=32), Strategy(tp=2, sp=1, pp=4, micro_batch=2))


@pytest.fixture(scope="module")
def split(problem):
    return timeline(problem("llama-3.1-8b", "dgx-h100:1", seq=4096, batch=64, software="primus"), Strategy(pp=8, schedule=1))


def test_events_have_the_fields_of_the_format(line, split):
    for found in (line, split):
        data = json.loads(trace_json(found, {"plan": "x"}))
        assert set(data) == {"traceEvents", "displayTimeUnit", "otherData"}
        assert data["displayTimeUnit"] == "ms"
        for event in data["traceEvents"]:
            assert KEYS[event["ph"]] <= set(event), event
            if event["ph"] == "M":
                assert event["name"] in METADATA
                assert set(event["args"]) <= {"name", "sort_index"}
            else:
                assert event["ts"] >= 0
                assert event["ts"] + event.get("dur", 0) <= found.step_s * 1e6 * (1 + 1e-9)
            if event["ph"] == "C":
                assert all(value >= -1 for value in event["args"].values())


def test_slices_of_a_track_nest(line, split):
    """A viewer stacks slices of a track by time: each must lie inside the one it starts in."""
    for found in (line, split):
        tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for event in trace_events(found):
            if event["ph"] == "X":
                tracks.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
        assert len(tracks) == 2 * len(found.runs)
        slack = 1e-9 * found.step_s * 1e6
        for spans in tracks.values():
            stack: list[float] = []
            for start, end in sorted(spans, key=lambda span: (round(span[0], 3), -span[1])):
                while stack and stack[-1] <= start + slack:
                    stack.pop()
                assert not stack or end <= stack[-1] + slack
                stack.append(end)


def test_operations_bubbles_kernels_and_the_tail_are_drawn(line):
    events = [event for event in trace_events(line) if event["ph"] == "X"]
    names = {event["name"] for event in events}
    assert {"F0", "B15", "bubble", "optimizer", "tensor_parallel"} <= names
    assert {event["name"] for event in events if event["cat"] == "kernel"} >= {part.name for part in line.kernels["forward"]}
    operations = [event for event in events if event["cat"] in ("forward", "backward") and "args" in event]
    assert len(operations) == 2 * 4 * 16
    bubble = sum(event["dur"] for event in events if event["name"] == "bubble") / 1e6
    assert bubble == pytest.approx(line.bubble_frac * line.pipeline_s * 4)
    assert max(event["ts"] + event["dur"] for event in events) == pytest.approx(line.step_s * 1e6)


def test_a_long_step_is_cut_in_the_middle_and_says_so(line):
    whole = trace_events(line)
    for most in (50, 200, 1000):
        events = trace_events(line, most=most)
        assert len(events) < len(whole)
        other = json.loads(trace_json(line, {}, most=most))["otherData"]
        drawn = {event["args"]["micro_batch"] for event in events if "micro_batch" in event.get("args", {})}
        assert len(drawn) == other["micro_batches_drawn"]
        assert {0, 15} <= drawn
        if len(drawn) < 16:
            missing = sum(event["args"]["operations"] for event in events if event["name"] == "not drawn")
            assert missing == 2 * 4 * (16 - len(drawn))


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_chart_fits_the_terminal(line, split, lang, width, ascii_only):
    with use_language(lang):
        for found in (line, split):
            text = gantt(found, width, ascii_only=ascii_only)
            assert max(cell_len(row) for row in text.splitlines()) <= width
            if ascii_only and lang == "en":
                assert text.isascii()


def test_a_chart_by_hand(problem):
    """Two stages, two micro-batches: one waits at the start, the other at the end."""
    found = timeline(problem("llama-3.1-8b", "dgx-h100:1", seq=4096, batch=2), Strategy(pp=2, dp=1))
    rows = [row for row in gantt(found, 90, ascii_only=True).splitlines() if row.startswith("rank")]
    first, last = (row.split()[2] for row in rows)
    assert first.startswith("0F")
    assert last.startswith(".")
    assert last.index("B") < first.index("B")
    assert all(row.rstrip().endswith("%") for row in rows)


def test_many_ranks_are_folded(problem):
    found = timeline(problem("llama-3.1-70b", "dgx-h100:8", seq=4096, batch=40), Strategy(pp=40, dp=1))
    rows = gantt(found, 100).splitlines()
    assert sum(row.strip().startswith("rank") for row in rows) == 24
    assert any(row.strip() == "⋮" for row in rows)
