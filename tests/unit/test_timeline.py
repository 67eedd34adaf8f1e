"""A step operation by operation: it lasts as long as the closed forms say, and holds as much memory."""

from __future__ import annotations

from itertools import pairwise

import pytest

from suanchou.errors import SpecError
from suanchou.training.memory import stage_memory
from suanchou.training.price import price, tables_of
from suanchou.training.strategy import Strategy
from suanchou.training.timeline import COMMUNICATION, gaps, stage_sizes, timeline

PLANS = {
    "one stage": ({"tp": 8, "sp": 1, "dp": 8, "micro_batch": 1, "zero": 1}, None),
    "1f1b": ({"tp": 8, "sp": 1, "pp": 4, "dp": 2, "zero": 1}, None),
    "1f1b, uneven": ({"tp": 8, "sp": 1, "pp": 6, "dp": 1, "selective": 1}, None),
    "recompute": ({"tp": 4, "pp": 8, "dp": 2, "full_frac": 0.5}, None),
    "zero 3": ({"tp": 2, "cp": 2, "pp": 4, "dp": 4, "zero": 3}, None),
    "interleaved": ({"tp": 8, "sp": 1, "pp": 4, "dp": 2, "virtual": 5}, None),
    "interleaved, short ends": ({"tp": 8, "sp": 1, "pp": 2, "dp": 4, "virtual": 41}, None),
    "offload": ({"tp": 4, "pp": 4, "dp": 4, "zero": 1, "offload_activation": 1}, None),
    "zb-h1": ({"tp": 4, "pp": 8, "dp": 2, "schedule": 1}, "primus"),
    "zb-v": ({"tp": 4, "pp": 8, "dp": 2, "schedule": 2, "virtual": 2}, "primus"),
    "dualpipe": ({"tp": 4, "pp": 8, "dp": 2, "schedule": 3}, "hai-llm"),
}
plans = pytest.mark.parametrize("name", PLANS)


@pytest.fixture(scope="module")
def drawn(problem):
    def find(name: str, batch: int = 64):
        fields, software = PLANS[name]
        p, s = problem("llama-3.1-70b", "dgx-h100:8", seq=4096, batch=batch, software=software), Strategy(**fields)
        return p, s, timeline(p, s)

    return find


@plans
def test_without_sends_a_step_ends_when_the_closed_form_says(drawn, name, monkeypatch):
    """Exactly for 1F1B and interleaved; for the others never earlier, and at most 3 % later."""
    p, s, _line = drawn(name)
    step = price(p, s).step
    expected = step.value - step["pipeline_send"].value
    monkeypatch.setattr("suanchou.training.timeline.send_s", lambda *_: 0.0)
    found = timeline(p, s).step_s
    assert found == pytest.approx(expected, rel=1e-9 if s.schedule == 0 else 0.03)
    assert found >= expected * (1 - 1e-9)


@plans
def test_with_sends_a_step_is_at_most_the_sends_shorter(drawn, name):
    p, s, line = drawn(name)
    step = price(p, s).step
    slack = 0.0 if s.schedule == 0 else 0.03 * step.value
    slack += 1e-9 * step.value
    assert step.value - step["pipeline_send"].value - slack <= line.step_s <= step.value + slack
    if name in ("1f1b", "one stage", "zero 3"):
        assert line.step_s == pytest.approx(step.value, rel=1e-9)


@plans
def test_operations_of_a_rank_do_not_overlap_and_gaps_fill_the_rest(drawn, name):
    _p, s, line = drawn(name)
    assert len(line.runs) == s.pp
    for rank, runs in enumerate(line.runs):
        assert all(a.end_s <= b.start_s + 1e-12 for a, b in pairwise(runs))
        busy = sum(run.end_s - run.start_s for run in runs)
        assert busy + sum(gap.end_s - gap.start_s for gap in gaps(line, rank)) == pytest.approx(line.pipeline_s)
        for run in runs[:20]:
            parts = line.parts[run.op.phase, run.op.stage]
            assert sum(part.seconds for part in parts) == pytest.approx(run.end_s - run.start_s)


@plans
def test_parts_are_the_causes_of_the_step(drawn, name):
    """On the slowest rank the parts of a kind add up to what the step says of it."""
    p, s, line = drawn(name)
    step = price(p, s).step
    sums = []
    for runs in line.runs:
        total: dict[str, float] = {}
        for run in runs:
            for part in line.parts[run.op.phase, run.op.stage]:
                total[part.name] = total.get(part.name, 0.0) + part.seconds
        sums.append(total)
    slowest = max(sums, key=lambda total: sum(total.values()) - total.get("send", 0.0))
    for cause in ("forward", "recompute", "tensor_parallel", "context_parallel", "weight_gather", "host_transfer"):
        assert slowest.get(cause, 0.0) == pytest.approx(step[cause].value, rel=1e-9)
    kernels = sum(slowest.get(cause, 0.0) for cause in ("backward", "embedding_head", "weight_gradient"))
    assert kernels == pytest.approx(step["backward"].value + step["embedding_head"].value, rel=1e-9)
    assert {part.name for part in line.tail} <= {child.name for child in step.children}


@plans
def test_the_peak_of_activations_is_that_of_the_memory_model(drawn, name):
    p, s, line = drawn(name)
    acts = tables_of(p, s).activation
    for rank, stage in ((0, "first"), (s.pp - 1, "last")):
        memory = stage_memory(p, s, acts, stage)
        peak = max(byte for _at, byte in line.activation[rank])
        expected = float(memory.activation.reshape(-1)[0])
        # The closed form counts in chunks of equal size, each with its share of the embedding.
        assert peak == pytest.approx(expected, rel=1e-9 if s.virtual == 1 and s.schedule < 2 else 0.03)
        assert line.memory[rank] + expected == pytest.approx(float(memory.total.reshape(-1)[0]))
        assert line.activation[rank][-1][1] == pytest.approx(0.0, abs=1.0)


def test_kernels_are_those_of_a_layer(drawn):
    p, s, line = drawn("1f1b")
    t = tables_of(p, s).time
    for phase in ("forward", "backward"):
        assert sum(part.seconds for part in line.kernels[phase]) == pytest.approx(float(getattr(t, phase)[0]))
    assert not {part.name for part in line.kernels["forward"]} & COMMUNICATION


@pytest.mark.parametrize(("name", "p", "v"), [("1f1b", 1, 1), ("1f1b", 6, 1), ("1f1b", 4, 5), ("1f1b", 2, 41), ("zb-v", 4, 2)])
def test_every_layer_is_on_a_stage(name, p, v):
    sizes = stage_sizes(80, name, p, v)
    assert len(sizes) == (2 * p if name == "zb-v" else p * v)
    assert sum(sizes) == pytest.approx(80)


def test_a_step_too_long_to_draw_is_refused(problem):
    p = problem("llama-3.1-8b", "dgx-h100:1", seq=4096, batch=2**18)
    with pytest.raises(SpecError, match="too long to draw"):
        timeline(p, Strategy(pp=8))
