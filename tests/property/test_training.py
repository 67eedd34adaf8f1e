"""Training plans: many at once equal one by one, more is never slower, nothing is paid for what is not done."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import build_problem
from suanchou.training import search as search_module
from suanchou.training.explain import explain_memory, explain_step
from suanchou.training.layer_time import layer_time
from suanchou.training.memory import STAGES, host_byte, stage_memory
from suanchou.training.problem import Problem
from suanchou.training.search import Tables, needed_memory, peak_memory, search, tables
from suanchou.training.strategy import LAYOUT_FIELDS, Options, Strategy, layouts
from suanchou.training.time import StepTime, step_time

PROBLEMS = {
    "dense": ("llama-3.1-8b", "dgx-h100:4", 64),
    "tied": ("llama-3.2-1b", "atlas-800t-a2:2", 32),
    "mixture": ("mixtral-8x7b", "dgx-a100-80gb:8", 64),
    "latent": ("deepseek-v3", "dgx-h100:16", 128),
    "islands": ("gpt-3-6.7b", "atlas-800-9000:4", 64),
    "hybrid": ("qwen3-next-80b-a3b", "dgx-h100:4", 64),
}
LAYOUTS = {}
OPTIONS = Options.build((0, 1, 2, 3))
few = settings(derandomize=True, max_examples=80, deadline=None)
names = st.sampled_from(sorted(PROBLEMS))


def problem_of(name: str) -> Problem:
    model, on, batch = PROBLEMS[name]
    return build_problem(model, on, seq=2048, batch=batch)


def layouts_of(name: str) -> Strategy:
    if name not in LAYOUTS:
        p = problem_of(name)
        LAYOUTS[name] = layouts(p.work, p.cluster.n_accelerator, fp8="fp8" in p.accelerator.peak_flop_per_s)[0]
    return LAYOUTS[name]


@st.composite
def strategies(draw, name: str, n: int = 1) -> Strategy:
    """``n`` strategies of the problem's space as 1-D arrays."""
    layout = layouts_of(name)
    size = np.asarray(layout.tp).shape[0]
    rows = np.array([draw(st.integers(0, size - 1)) for _ in range(n)])
    option = np.array([draw(st.integers(0, OPTIONS.size - 1)) for _ in range(n)])
    return OPTIONS.choose(Strategy(**{key: np.asarray(getattr(layout, key))[rows] for key in LAYOUT_FIELDS}), option)


def price(p: Problem, s: Strategy) -> tuple[Tables, StepTime]:
    table = tables(p, s)
    return table, step_time(p, s, table.time, table.activation)


def second(p: Problem, s: Strategy) -> float:
    return float(np.asarray(price(p, s)[1].total).reshape(-1)[0])


def machine(p: Problem, *, node=None, link: float = 1.0, net: float = 1.0, eff=None, latency: float = 1.0, **device) -> Problem:
    """The problem on other hardware: device fields, link and port bandwidths by a factor, efficiencies."""
    old = p.node

    def tier(t):
        return (
            None
            if t is None
            else replace(t, bandwidth_byte_per_s=t.bandwidth_byte_per_s * link, latency_s=t.latency_s * latency)
        )

    new = replace(
        old,
        accelerator=replace(old.accelerator, **device),
        scale_up=tier(old.scale_up),
        inner=tier(old.inner),
        nic_byte_per_s=old.nic_byte_per_s * net,
        **(node or {}),
    )
    group = replace(p.cluster.groups[0], node=new)
    other = replace(p, cluster=replace(p.cluster, groups=(group,), scale_out_latency_s=p.cluster.scale_out_latency_s * latency))
    if eff:
        other.__dict__["eff"] = replace(p.eff, **eff)
    return other


def peaks(p: Problem, more: float) -> dict[str, float]:
    return {dtype: peak * more for dtype, peak in p.accelerator.peak_flop_per_s.items()}


@given(data=st.data(), name=names)
@few
def test_many_strategies_are_priced_as_each_alone(data, name):
    p, n = problem_of(name), 4
    many = data.draw(strategies(name, n))
    times, table = layer_time(p, many), tables(p, many)
    step = step_time(p, many, table.time, table.activation)
    memory = {stage: stage_memory(p, many, table.activation, stage) for stage in STAGES}
    host = np.broadcast_to(host_byte(p, many, table.activation), (n,))
    for i in range(n):
        one = many.at((i,), (n,))
        alone = tables(p, Strategy(**{key: np.atleast_1d(float(getattr(one, key))) for key in LAYOUT_FIELDS}))
        for together, single in (
            *zip(times, layer_time(p, one), strict=True),
            *zip(table.activation, alone.activation, strict=True),
            *zip(step.slowest, step_time(p, one, alone.time, alone.activation).slowest, strict=True),
            *(
                (x, y)
                for stage in STAGES
                for x, y in zip(memory[stage], stage_memory(p, one, alone.activation, stage), strict=True)
            ),
            (step.total, step_time(p, one, alone.time, alone.activation).total),
            (host, host_byte(p, one, alone.activation)),
        ):
            value = float(np.broadcast_to(np.asarray(together), (n,))[i])
            assert value == pytest.approx(float(np.asarray(single).reshape(-1)[0]), rel=1e-9, abs=1e-12)


@given(data=st.data(), name=names, more=st.floats(1, 20))
@few
def test_better_hardware_is_never_slower(data, name, more):
    p = problem_of(name)
    s = data.draw(strategies(name))
    before = second(p, s)
    for better in (
        machine(p, link=more),
        machine(p, net=more),
        machine(p, latency=1 / more),
        machine(p, node={"host_link_byte_per_s": p.host_link_byte_per_s * more}),
        machine(p, memory_bandwidth_byte_per_s=p.accelerator.memory_bandwidth_byte_per_s * more),
        machine(p, peak_flop_per_s=peaks(p, more)),
    ):
        assert second(better, s) <= before * (1 + 1e-9)


@given(data=st.data(), name=names, scale=st.floats(0.05, 20))
@few
def test_step_time_is_inverse_to_all_rates(data, name, scale):
    p = problem_of(name)
    p = replace(p, stack=replace(p.stack, host_layer_s=0.0, host_step_s=0.0))
    s = data.draw(strategies(name))
    launches = ("launch_s", "gemm_launch_s", "attention_launch_s", "collective_launch_s", "collective_bulk_s")
    free = {**dict.fromkeys(launches, 0.0), "variants": {}}
    base = machine(p, latency=0.0, eff=free, node={"host_link_byte_per_s": p.host_link_byte_per_s})
    scaled = machine(
        p,
        link=scale,
        net=scale,
        latency=0.0,
        eff=free
        | {
            "host_memory_byte_per_s": p.eff.host_memory_byte_per_s * scale,
            "dispatch_byte_per_s": p.eff.dispatch_byte_per_s * scale,
        },
        node={"host_link_byte_per_s": p.host_link_byte_per_s * scale},
        peak_flop_per_s=peaks(p, scale),
        memory_bandwidth_byte_per_s=p.accelerator.memory_bandwidth_byte_per_s * scale,
    )
    assert second(scaled, s) * scale == pytest.approx(second(base, s), rel=1e-9)


@given(data=st.data(), name=names)
@few
def test_nothing_is_sent_in_groups_of_one(data, name):
    p = problem_of(name)
    s = data.draw(strategies(name))
    for degree, parts in {
        "tp": ("tensor_forward", "tensor_backward", "head_tensor"),
        "cp": ("context_forward", "context_backward"),
        "ep": ("expert",),
    }.items():
        times = layer_time(p, replace(s, **{degree: np.ones(1)}))
        for part in parts:
            assert float(np.asarray(getattr(times, part)).reshape(-1)[0]) == 0.0, part
    single = replace(s, pp=np.ones(1), virtual=np.ones(1))
    step = price(p, single)[1]
    assert float(np.asarray(step.pipeline_send).reshape(-1)[0]) == 0.0
    assert float(np.asarray(step.bubble).reshape(-1)[0]) == pytest.approx(0.0, abs=1e-9)
    alone = replace(s, dp=np.ones(1), cp=np.ones(1), ep=np.ones(1))
    alone = replace(alone, pp=np.ones(1), virtual=np.ones(1)) if p.tied_copy else alone  # stages share a tied table
    step = price(p, alone)[1]
    for part in (step.gradient_reduce, step.parameter_gather, step.slowest.parameter_gather):
        assert float(np.asarray(part).reshape(-1)[0]) == 0.0


@given(data=st.data(), name=names, slow=st.floats(1e-6, 1e-2))
@few
def test_one_rank_needs_no_network(data, name, slow):
    p = problem_of(name)
    one = np.ones(1)
    s = replace(data.draw(strategies(name)), tp=one, cp=one, pp=one, dp=one, ep=one, virtual=one)
    assert second(machine(p, link=slow, net=slow), s) == second(p, s)


@given(data=st.data(), name=names)
@few
def test_below_zero_3_no_weights_are_gathered_layer_by_layer(data, name):
    p = problem_of(name)
    s = data.draw(strategies(name))
    for zero in range(3):
        step = price(p, replace(s, zero=np.full(1, float(zero))))[1]
        assert float(np.asarray(step.slowest.parameter_gather).reshape(-1)[0]) == 0.0
    none = price(p, replace(s, zero=np.zeros(1), shard_domain=np.zeros(1)))[1]
    assert float(np.asarray(none.parameter_gather).reshape(-1)[0]) == 0.0


@given(data=st.data(), name=names)
@few
def test_every_part_is_finite_and_not_negative(data, name):
    p = problem_of(name)
    s = data.draw(strategies(name))
    table, step = price(p, s)
    # a stage may hold smaller layers than the average one
    held = [x for key, x in table.activation._asdict().items() if not key.startswith("excess_")]
    parts = [*table.time, *held, *step.slowest, *step[2:], step.micro_batches]
    parts += [x for stage in STAGES for x in stage_memory(p, s, table.activation, stage)]
    for part in parts:
        value = float(np.asarray(part).reshape(-1)[0])
        assert math.isfinite(value)
        assert value >= -1e-12


@given(data=st.data(), name=names)
@few
def test_explanations_add_up_to_what_was_priced(data, name):
    p = problem_of(name)
    drawn = data.draw(strategies(name))
    s = drawn.at((0,), (1,))
    table, step = price(p, drawn)
    step_tree, memory_tree = explain_step(p, s, *table), explain_memory(p, s, table.activation)
    assert step_tree.value == pytest.approx(float(step.total[0]), rel=1e-9)
    assert memory_tree.value == pytest.approx(
        float(np.asarray(peak_memory(p, drawn, table.activation)).reshape(-1)[0]), rel=1e-9
    )
    assert memory_tree.high >= memory_tree.value >= memory_tree.low
    for tree in (step_tree, memory_tree):
        for path, node in tree.walk():
            if node.summed:
                assert math.fsum(child.value for child in node.children) == pytest.approx(node.value, rel=1e-9, abs=1e-15), path
            assert math.isfinite(node.value)
            assert node.formula, path


@given(data=st.data(), name=names)
@few
def test_zero_sharding_recomputation_and_offload_never_take_more_memory(data, name):
    p = problem_of(name)
    s = replace(data.draw(strategies(name)), zero=np.zeros(1), shard_domain=np.zeros(1), offload_weight=np.zeros(1))
    acts = tables(p, s).activation

    def states(zero: float) -> float:
        m = stage_memory(p, replace(s, zero=np.full(1, zero)), acts, "first")
        return float(np.asarray(m.weight + m.gradient + m.optimizer).reshape(-1)[0])

    sizes = [states(float(zero)) for zero in range(4)]
    assert sizes == sorted(sizes, reverse=True)

    def kept(**options) -> float:
        fixed = {name: np.full(1, float(value)) for name, value in options.items()}
        return float(np.asarray(stage_memory(p, replace(s, **fixed), acts, "first").total).reshape(-1)[0])

    plain = {"full_frac": 0.0, "selective": 0.0, "offload_optimizer": 0.0, "offload_activation": 0.0}
    assert kept(**plain | {"selective": 1}) <= kept(**plain) * (1 + 1e-12)
    assert kept(**plain | {"offload_optimizer": 1}) <= kept(**plain)
    assert kept(**plain | {"offload_activation": 1}) <= kept(**plain)
    assert kept(**plain | {"full_frac": 1.0}) <= kept(**plain | {"full_frac": 0.5}) * (1 + 1e-12)


# -- whole searches ----------------------------------------------------------------------------------------------------

SEARCHES = [
    ("llama-3.1-8b", "dgx-h100:4", 4096, 128),
    ("llama-3.1-70b", "dgx-h100:8", 8192, 128),
    ("llama-3.1-8b", "atlas-800t-a2:4", 4096, 64),
    ("gpt-3-175b", "dgx-a100-80gb:16", 2048, 128),
    ("mixtral-8x7b", "dgx-h100:4", 4096, 64),
    ("deepseek-v3", "dgx-h100:16", 4096, 512),
    ("qwen3-30b-a3b", "atlas-800t-a2:4", 4096, 64),
]


@pytest.mark.parametrize(("model", "on", "seq", "batch"), SEARCHES)
@pytest.mark.parametrize("keep", [1, 6])
def test_a_bounded_search_finds_what_an_exhaustive_one_finds(monkeypatch, model, on, seq, batch, keep):
    monkeypatch.setattr(search_module, "CHUNK", 40_000)
    p = build_problem(model, on, seq=seq, batch=batch)
    quick, whole = search(p, keep=keep), search(p, keep=keep, exhaustive=True)
    assert quick.best == whole.best
    assert quick.n_candidate == whole.n_candidate
    assert quick.n_priced < whole.n_priced


@pytest.mark.parametrize(("model", "on", "seq", "batch"), SEARCHES)
def test_no_plan_exceeds_memory(model, on, seq, batch):
    p = build_problem(model, on, seq=seq, batch=batch)
    found = search(p, exhaustive=True)
    assert found.best
    for candidate in (*found.best, *found.frontier):
        one = Strategy(**{item.name: np.atleast_1d(float(getattr(candidate.strategy, item.name))) for item in fields(Strategy)})
        acts = tables(p, one).activation
        assert float(needed_memory(p, one, acts)[0]) <= p.memory_byte
        assert float(np.asarray(host_byte(p, one, acts)).reshape(-1)[0]) <= p.node.host_memory_byte


@pytest.fixture
def exact(monkeypatch):
    """No ties: the quickest plan wins, however little it gains."""
    monkeypatch.setattr(search_module, "TIE_FRAC", 0.0)


@pytest.mark.parametrize(("model", "on", "seq", "batch"), SEARCHES[:5])
def test_more_memory_never_gives_a_slower_plan(exact, model, on, seq, batch):
    p = build_problem(model, on, seq=seq, batch=batch)
    last = math.inf
    for more in (0.6, 0.8, 1.0, 1.3, 2.0):
        found = search(machine(p, memory_byte=p.memory_byte * more), keep=1)
        step = found.best[0].step_s if found.best else math.inf
        assert step <= last
        last = step
    assert math.isfinite(last)


@pytest.mark.parametrize(("model", "seq"), [("llama-3.1-8b", 4096), ("mixtral-8x7b", 4096)])
@pytest.mark.parametrize("node", ["dgx-h100", "atlas-800t-a2"])
def test_twice_the_nodes_are_never_slower(exact, model, node, seq):
    steps = [search(build_problem(model, f"{node}:{n}", seq=seq, batch=512), keep=1).best[0].step_s for n in (1, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True)
    # Nor is the gain more than there are nodes, but for what fits in more memory.
    assert steps[1] / steps[3] < 4.2


@pytest.mark.parametrize(("model", "on", "seq", "batch"), SEARCHES[:3])
def test_better_hardware_never_gives_a_slower_plan(exact, model, on, seq, batch):
    p = build_problem(model, on, seq=seq, batch=batch)
    before = search(p, keep=1).best[0].step_s
    for better in (
        machine(p, link=3.0),
        machine(p, net=3.0),
        machine(p, memory_bandwidth_byte_per_s=p.accelerator.memory_bandwidth_byte_per_s * 3),
        machine(p, peak_flop_per_s=peaks(p, 3.0)),
    ):
        assert search(better, keep=1).best[0].step_s <= before * (1 + 1e-12)


def test_ties_cost_at_most_what_is_said(monkeypatch):
    """A simpler plan may be taken: once among the options of a layout, once among layouts."""
    for model, on, seq, batch in SEARCHES:
        p = build_problem(model, on, seq=seq, batch=batch)
        chosen = search(p, keep=1).best[0].step_s
        with monkeypatch.context() as patch:
            patch.setattr(search_module, "TIE_FRAC", 0.0)
            quickest = search(p, keep=1).best[0].step_s
        assert quickest <= chosen <= quickest * (1 + search_module.TIE_FRAC + 0.001)
