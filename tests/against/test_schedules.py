"""The closed forms of a pipeline step against an event walk of the schedule itself.

* 1F1B: exact, whatever first, middle and last stage take forward and backward, however few micro-batches;
* interleaved on three stages or more: exact for every split of layers;
* interleaved on two stages: exact unless the outer chunks stay shorter than the others even with the head.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schedule_walk import orders, walk

from suanchou.training.layer_time import LayerTime, layer_time
from suanchou.training.memory import ActivationTable
from suanchou.training.pipeline import Halves, in_flight, interleaved_s, one_f_one_b_s, stage_layers
from suanchou.training.strategy import Strategy
from suanchou.training.time import step_halves, step_time

NOTHING_KEPT = ActivationTable(0.0, 0.0, 0.0, 0.0, 0.0)
FORWARD = 1 / 3
"""Share of the forward in forward and backward of a layer that takes one second."""

degrees = st.integers(2, 8)


def split(n_layer: int, p: int, v: int) -> list[list[int]]:
    """Layers of every chunk by stage; left-over layers on the middle stages nearest to the end, then on the first."""
    if v > 1 and n_layer % (p * v):
        chunks = [[(n_layer + 2) // (p * v)] * v for _ in range(p)]
        chunks[0][0] -= 1
        chunks[-1][-1] -= 1
        return chunks
    base, left = divmod(n_layer // v, p)
    stages = [base] * p
    for r in [*reversed(range(1, p - 1)), 0][:left]:
        stages[r] += 1
    return [[layers] * v for layers in stages]


def walked(chunks: list[list[int]], m: int, embedding: float, head: float) -> tuple[float, list[float]]:
    """Seconds of the event walk and of one micro-batch on every stage."""
    forward = [[n * FORWARD for n in stage] for stage in chunks]
    backward = [[n * (1 - FORWARD) for n in stage] for stage in chunks]
    for (r, c), extra in (((0, 0), embedding), ((-1, -1), head)):
        forward[r][c] += extra * FORWARD
        backward[r][c] += extra * (1 - FORWARD)
    return walk(forward, backward, m).step_s, [sum(f) + sum(b) for f, b in zip(forward, backward, strict=True)]


@pytest.fixture(scope="module")
def closed(problem):
    """Seconds of ``step_time`` for a model whose layers take one second, without sends."""
    base = problem("llama-3.1-8b", "dgx-h100:64", seq=2048, batch=64)
    one = base.work.arch.layers[:1]

    def step(n_layer: int, p: int, v: int, m: int, embedding: float, head: float) -> float:
        work = replace(base.work, arch=replace(base.work.arch, layers=one * n_layer), global_batch=m)
        t = LayerTime(*(0.0,) * len(LayerTime._fields))._replace(
            forward=FORWARD,
            backward=1 - FORWARD,
            embedding=embedding,
            head=head,
            embedding_forward=embedding * FORWARD,
            head_forward=head * FORWARD,
        )
        found = step_time(replace(base, work=work), Strategy(pp=p, virtual=v), t, NOTHING_KEPT)
        return float(found.micro_batches * found.slowest.total + found.bubble)

    return step


def test_order_of_a_small_interleaved_schedule():
    # Two ranks, two chunks, two micro-batches: rank 1 runs chunk 0 of both, then one forward one backward of chunk 1.
    assert orders(2, 2, 2)[1] == [
        *(("F", 0, 0), ("F", 1, 0), ("F", 0, 1), ("B", 0, 1), ("F", 1, 1), ("B", 1, 1), ("B", 0, 0), ("B", 1, 0)),
    ]
    # The first rank warms up with 2 (p - 1) + (v - 1) p = 4 chunks, which are all there are.
    assert [phase for phase, *_ in orders(2, 2, 2)[0]] == ["F"] * 4 + ["B"] * 4


@settings(derandomize=True, max_examples=80, deadline=None)
@given(p=degrees, v=st.integers(1, 6), layers=st.integers(1, 4), rounds=st.integers(1, 4))
def test_equal_stages_are_exact(closed, p, v, layers, rounds):
    n_layer, m = p * v * layers, p * rounds
    exact, stages = walked(split(n_layer, p, v), m, 0.0, 0.0)
    assert closed(n_layer, p, v, m, 0.0, 0.0) == pytest.approx(exact, rel=1e-9)
    assert exact == pytest.approx(m * stages[0] + (p - 1) * stages[0] / v, rel=1e-9)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(p=st.integers(1, 8), m=st.integers(1, 24), n_layer=st.integers(8, 40), embedding=st.floats(0, 1), head=st.floats(0, 6))
def test_1f1b_is_exact(closed, p, m, n_layer, embedding, head):
    exact, _ = walked(split(n_layer, p, 1), m, embedding, head)
    assert closed(n_layer, p, 1, m, embedding, head) == pytest.approx(exact, rel=1e-9)


halves = st.builds(Halves, st.floats(0, 4), st.floats(0, 4), st.just(0.0))


@settings(derandomize=True, max_examples=600, deadline=None)
@given(p=st.integers(2, 9), m=st.integers(1, 24), first=halves, middle=halves, last=halves)
def test_1f1b_is_exact_for_any_first_middle_and_last_stage(p, m, first, middle, last):
    stages = [first, *[middle] * (p - 2), last]
    exact = walk([[stage.forward] for stage in stages], [[stage.backward] for stage in stages], m).step_s
    assert float(one_f_one_b_s(p, m, first, middle, last)) == pytest.approx(exact, rel=1e-9, abs=1e-12)


def chunk_times(p: int, v: int, first: Halves, middle: Halves, last: Halves, half: str) -> list[list[float]]:
    seconds = [[getattr(middle, half)] * v for _ in range(p)]
    seconds[0][0], seconds[-1][-1] = getattr(first, half), getattr(last, half)
    return seconds


def interleaved(p: int, v: int, m: int, first: Halves, middle: Halves, last: Halves) -> tuple[float, float]:
    """Seconds of the walk and of the closed form."""
    times = [chunk_times(p, v, first, middle, last, half) for half in ("forward", "backward")]
    return walk(*times, m).step_s, float(interleaved_s(p, v, m, first, middle, last))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    p=st.integers(3, 8),
    v=st.integers(2, 5),
    rounds=st.integers(1, 4),
    ratio=st.floats(1, 4),
    first=st.floats(0, 2),
    last=st.floats(0, 6),
)
def test_interleaved_is_exact_where_backward_is_a_multiple_of_forward(p, v, rounds, ratio, first, last):
    exact, found = interleaved(p, v, p * rounds, *(Halves(x, ratio * x) for x in (first, 1.0, last)))
    assume(first <= max(1, last))
    assert found == pytest.approx(exact, rel=1e-9)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(p=degrees, v=st.integers(2, 5), rounds=st.integers(1, 4), middle=halves, head=halves)
def test_interleaved_is_exact_where_the_last_chunk_is_longer(p, v, rounds, middle, head):
    exact, found = interleaved(p, v, p * rounds, middle, middle, middle.plus(head))
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-12)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    p=st.integers(3, 8),
    v=st.integers(2, 5),
    layers=st.integers(1, 4),
    rounds=st.integers(1, 4),
    embedding=st.floats(0, 0.3),
    head=st.floats(0, 6),
)
def test_interleaved_with_short_outer_stages_is_exact(closed, p, v, layers, rounds, embedding, head):
    n_layer = p * v * layers - 2
    exact, _ = walked(split(n_layer, p, v), p * rounds, embedding, head)
    assert closed(n_layer, p, v, p * rounds, embedding, head) == pytest.approx(exact, rel=1e-9)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    v=st.integers(2, 8),
    layers=st.integers(1, 4),
    rounds=st.integers(1, 8),
    embedding=st.floats(0, 0.1),
    head=st.floats(0, 3),
)
def test_two_interleaved_stages_with_short_outer_chunks(closed, v, layers, rounds, embedding, head):
    n_layer, m = 2 * v * layers - 2, 2 * rounds
    assume(n_layer % (2 * v))
    exact, _ = walked(split(n_layer, 2, v), m, embedding, head)
    found = closed(n_layer, 2, v, m, embedding, head)
    if head >= 1:
        assert found == pytest.approx(exact, rel=1e-9)
    assert (0.995 if layers > 1 else 0.8) * exact <= found <= exact * (1 + 1e-9)


REAL = [
    ("llama-3.1-8b", 1, 4096),
    ("llama-3.1-70b", 8, 8192),
    ("llama-3.1-405b", 8, 8192),
    ("gpt-3-175b", 8, 2048),
    ("llama-3.2-1b", 1, 4096),
    ("mixtral-8x7b", 1, 4096),
]


@pytest.mark.parametrize(("model", "tp", "seq"), REAL)
def test_steps_of_real_models(problem, model, tp, seq):
    """With the layer, embedding and head times of a plan, forward and backward apart."""
    for pp, rounds in product((2, 3, 4, 8, 16), (1, 4)):
        p = problem(model, "dgx-h100:16", seq=seq, batch=rounds * pp)
        n = p.n_layer
        for v in [1] + [v for v in range(2, n // pp + 1) if n % (pp * v) == 0 or (n + 2) % (pp * v) == 0]:
            s = Strategy(tp=tp, sp=int(tp > 1), pp=pp, virtual=v)
            t = layer_time(p, s)
            layer, *ends = (Halves(*map(float, half)) for half in step_halves(p, s, t, NOTHING_KEPT))
            seconds = []
            for half in range(2):
                chunks = [[layers * layer[half] for layers in stage] for stage in split(n, pp, v)]
                chunks[0][0] += ends[0][half]
                chunks[-1][-1] += ends[1][half]
                seconds.append(chunks)
            exact = walk(*seconds, rounds * pp).step_s
            found = step_time(p, s, t, NOTHING_KEPT)
            assert float(found.micro_batches * found.slowest.total + found.bubble) == pytest.approx(exact, rel=1e-9)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(p=st.integers(1, 8), v=st.integers(1, 5), rounds=st.integers(1, 4), spare=st.integers(0, 7))
def test_activations_in_flight_are_those_of_the_walk(p, v, rounds, spare):
    m = rounds * p if v > 1 else max(1, rounds * p - spare)
    ones = [[1.0] * v] * p
    live = walk(ones, ones, m).live
    for r in range(p):
        assert float(in_flight(p, v, m, r)) * v == pytest.approx(live[r], rel=1e-12)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(p=st.integers(1, 12), v=st.integers(1, 6), n_layer=st.integers(12, 130))
def test_layers_on_stages_are_those_of_the_split(p, v, n_layer):
    v = 1 if p == 1 else v
    assume(v == 1 or n_layer % (p * v) == 0 or ((n_layer + 2) % (p * v) == 0 and n_layer >= p * v))
    stages = [sum(chunks) for chunks in split(n_layer, p, v)]
    assert sum(stages) == n_layer
    found = stage_layers(n_layer, p, v)
    middle = max(stages[1:-1]) if p > 2 else min(stages)
    assert (float(found.first), float(found.middle), float(found.last)) == (stages[0], middle, stages[-1])


def test_the_walk_counts_a_bubble_by_hand():
    # Two stages of 1 + 2 seconds, two micro-batches: F F . B F? the last stage waits 1 s, works 6, then one backward of 2 s.
    assert walk([[1.0], [1.0]], [[2.0], [2.0]], 2).step_s == 9.0
    assert np.isclose(walk([[1.0]], [[2.0]], 5).step_s, 15.0)
