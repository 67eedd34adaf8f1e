"""Pipelines through several groups: what they price, against equal pipelines and brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from suanchou.machine import cluster
from suanchou.model.source import find_model
from suanchou.training import mixed_pipeline
from suanchou.training.communication import send_s
from suanchou.training.memory import STAGES, stage_memory
from suanchou.training.mixed_fleet import Space, fleet
from suanchou.training.mixed_pipeline import PipelineSearch
from suanchou.training.mixed_price import cross_sends_s, evaluate
from suanchou.training.mixed_stages import place_memory
from suanchou.training.pipeline import in_flight, stage_layers
from suanchou.training.price import tables_of
from suanchou.training.problem import Problem
from suanchou.training.search import search
from suanchou.training.strategy import Options, Strategy, layouts
from suanchou.training.time import step_time


def number(value):
    return float(np.asarray(value).reshape(-1)[0])


def build(*on, model="llama-3.1-8b", batch=64, seq=4096, link=None):
    return fleet(find_model(model).architecture, cluster(on), token=1e12, seq=seq, global_batch=batch, link=link)


def whole(halves, on):
    """The same work on one fleet without a seam."""
    member = halves.members[0].problem
    return Problem(member.work, cluster([on]), member.stack)


@pytest.mark.parametrize(
    ("pp", "fields"),
    [
        (2, {"tp": 4, "dp": 4, "micro_batch": 1, "sp": 1, "zero": 1}),
        (4, {"tp": 4, "dp": 2, "micro_batch": 2, "sp": 1, "zero": 0, "selective": 1}),
        (8, {"tp": 4, "dp": 1, "micro_batch": 1, "sp": 0, "zero": 0, "full_frac": 0.5}),
        (4, {"tp": 1, "cp": 2, "dp": 4, "micro_batch": 1, "zero": 2}),
    ],
)
def test_two_equal_groups_are_one_pipeline_but_for_the_seam(pp, fields):
    halves = build("dgx-a100-80gb:2", "dgx-a100-80gb:2")
    one = whole(halves, "dgx-a100-80gb:4")
    s = Strategy(pp=pp, **fields)
    table = tables_of(one, s)
    equal = step_time(one, s, table.time, table.activation)
    split = stage_layers(one.n_layer, pp, 1)
    layers = [int(split.middle)] * pp
    layers[0], layers[-1] = int(split.first), int(split.last)
    assert sum(layers) == one.n_layer
    mix = evaluate(halves, halves.members, [replace(s, pp=pp // 2)] * 2, layers)
    m = float(s.micro_batches(one.work))
    exposed = 1.0 - one.stack.overlap_pipeline
    fill, seam = cross_sends_s(halves, halves.members, (s.dp, s.micro_batch), [pp // 2, pp // 2])
    half, own = halves.members[0].problem, replace(s, pp=pp // 2)
    inside = number(send_s(half, own, 0.0))
    steady = number(send_s(half, own, 1.0)) - inside
    sends = 2.0 * inside + m * max(steady, 2.0 * exposed * seam) + fill
    expected = number(equal.total) - number(send_s(one, s, m)) + sends
    assert mix.step_s == pytest.approx(expected, rel=1e-9)
    needed = max(number(stage_memory(one, s, table.activation, stage).needed(one.stack)) for stage in STAGES)
    assert max(part.needed_byte for part in mix.parts) == pytest.approx(needed, rel=0.02)


@pytest.mark.parametrize(("model", "ep"), [("llama-3.1-8b", 1), ("mixtral-8x7b", 2)])
def test_a_place_is_the_stage_of_an_equal_pipeline(model, ep):
    """Of a model of equal layers: a place holds average ones, a stage those that fall to it."""
    problem = build("dgx-a100-80gb:2", "dgx-a100-80gb:2", model=model).members[0].problem
    s = Strategy(tp=2, pp=8, dp=2, micro_batch=1, sp=1, zero=1, ep=ep)
    acts = tables_of(problem, s).activation
    split = stage_layers(problem.n_layer, s.pp, 1)
    for place, index in (("first", 0), ("middle", 1), ("last", 7)):
        found = place_memory(problem, s, acts, place, depth=float(s.pp - index), layers=getattr(split, place))
        expected = stage_memory(problem, s, acts, place)
        assert list(map(number, found)) == pytest.approx(list(map(number, expected)), rel=1e-12)
    layers = float(split.middle)
    deep = [
        number(place_memory(problem, s, acts, "middle", depth=float(depth), layers=layers).activation) for depth in range(2, 8)
    ]
    held = [number(in_flight(8, 1, s.micro_batches(problem.work), 8 - depth)) for depth in range(2, 8)]
    assert np.diff(deep) == pytest.approx(np.full(5, (deep[1] - deep[0]) / (held[1] - held[0])), rel=1e-9)


def test_the_best_split_fleet_matches_the_best_pipeline_of_the_whole():
    halves = build("dgx-a100-80gb:2", "dgx-a100-80gb:2", model="llama-3.1-70b", batch=128)
    one = whole(halves, "dgx-a100-80gb:4")
    options = Options.build(one.stack.zero_stages, offload=False)
    found = search(one, options=options, fixed={"virtual": 1}, keep=40, exhaustive=True)
    piped = [best.step_s for best in found.best if best.strategy.pp % 2 == 0]
    mix = PipelineSearch(fleet=halves, space=Space(fixed={})).best(halves.members)
    assert mix is not None
    assert mix.step_s <= min(piped) * 1.02


@pytest.fixture
def few_options(monkeypatch):
    """Three ways to recompute, no ZeRO-3: few enough to try all."""
    build_options = Options.build
    monkeypatch.setattr(
        mixed_pipeline.Options, "build", lambda zero, **_: build_options((0, 1), offload=False, recompute_step=1)
    )


@pytest.mark.parametrize("on", [("h100-sxm5-80gb:2", "a100-sxm4-80gb:2"), ("a100-sxm4-40gb:4", "h100-sxm5-80gb:2")])
def test_the_search_finds_what_trying_everything_finds(few_options, on):
    small = build(*on, batch=8, seq=2048, model="llama-3.1-8b")
    fixed = {"dp": 1, "micro_batch": 1, "cp": 1}
    choices = []
    for member in small.members:
        layout, _refused = layouts(member.problem.work, member.n_rank, fp8=False, fixed={**fixed, "virtual": 1})
        options = mixed_pipeline.Options.build((0, 1))
        n = np.asarray(layout.tp).size
        every = itertools.product(range(n), range(options.size))
        rows = [layout.at((i,), (n,)) for i in range(n)]
        plain = Strategy(
            **{name: np.zeros(options.size) + 1 for name in ("tp", "cp", "pp", "dp", "ep", "virtual", "micro_batch")}
        )
        extra = options.choose(replace(plain, sp=plain.tp, ulysses=plain.tp, fp8=plain.tp), np.arange(options.size))
        chosen = [extra.at((i,), (options.size,)) for i in range(options.size)]
        choices.append(
            [
                replace(
                    rows[i],
                    zero=chosen[j].zero,
                    shard_domain=chosen[j].shard_domain,
                    selective=chosen[j].selective,
                    full_frac=chosen[j].full_frac,
                )
                for i, j in every
                if not chosen[j].zero
            ]
        )
    best = np.inf
    for a, b in itertools.product(*choices):
        mix = evaluate(small, small.members, [a, b])
        if mix is not None:
            best = min(best, mix.step_s)
    found = PipelineSearch(fleet=small, space=Space(fixed=fixed)).best(small.members)
    assert np.isfinite(best) == (found is not None)
    if found is not None:
        assert found.step_s <= best * 1.01


def test_uneven_layers_beat_even_ones():
    both = build("dgx-h100:1", "dgx-a100-80gb:1", batch=128)
    s = Strategy(tp=4, pp=2, dp=1, micro_batch=1, sp=1, zero=1)
    dealt, even = evaluate(both, both.members, [s, s]), evaluate(both, both.members, [s, s], [8, 8, 8, 8])
    assert dealt.step_s < even.step_s
    quick, slow = (sum(part.layers) for part in dealt.parts)
    assert quick > slow


def test_groups_may_differ_in_tp():
    both = build("dgx-h100:4", "dgx-a100-80gb:2", batch=64)
    wide, narrow = (Strategy(tp=tp, pp=1, dp=4, micro_batch=1, sp=1, zero=1) for tp in (8, 4))
    mix = evaluate(both, both.members, [wide, narrow])
    assert [part.strategy.tp for part in mix.parts] == [8, 4]
    assert [part.strategy.n_rank for part in mix.parts] == [32, 16]


def test_a_limit_only_hides_what_is_slower():
    both = build("dgx-h100:1", "dgx-a100-80gb:1")
    free = PipelineSearch(fleet=both, space=Space(fixed={})).best(both.members)
    again = PipelineSearch(fleet=both, space=Space(fixed={}))
    assert again.best(both.members, free.step_s * 1.001).step_s == pytest.approx(free.step_s)
    assert again.best(both.members, free.step_s * 0.999) is None


def test_pins_hold_in_every_group():
    both = build("dgx-h100:1", "dgx-a100-80gb:1")
    mix = PipelineSearch(fleet=both, space=Space(fixed={"tp": 4})).best(both.members)
    assert [part.strategy.tp for part in mix.parts] == [4, 4]
    assert PipelineSearch(fleet=both, space=Space(fixed={"virtual": 2})).best(both.members) is None
