"""The search: its census adds up, pruning changes nothing, refusals have reasons."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from suanchou.machine import cluster
from suanchou.model.source import find_model
from suanchou.training import search as search_module
from suanchou.training.plan import plan
from suanchou.training.search import lower_bound_s, needed_memory, peak_memory, search, tables
from suanchou.training.strategy import LAYOUT_FIELDS, Options, Strategy, layouts
from suanchou.training.time import step_time

MEMORY = "needs more memory than the accelerator has"
HOST = "offload needs more memory than the host has"


@pytest.fixture(scope="module")
def llama(problem):
    return problem("llama-3.1-8b", "dgx-h100:1", seq=4096, batch=16)


@pytest.fixture(scope="module")
def found(llama):
    return search(llama, exhaustive=True)


def test_every_candidate_is_counted_once(llama, found):
    assert found.n_candidate == found.n_feasible + found.refused.total()
    refused_layouts = layouts(llama.work, 8, fp8=False)[1]
    assert found.n_candidate == found.n_priced + refused_layouts.total() * 560
    assert found.n_priced == found.n_feasible + found.refused[MEMORY] + found.refused[HOST]
    assert found.n_feasible > 0
    assert found.refused[MEMORY] > 0


def test_a_bounded_search_counts_what_it_did_not_price(llama, found, monkeypatch):
    monkeypatch.setattr(search_module, "CHUNK", 5_600)
    quick = search(llama, keep=2)
    assert quick.n_candidate == found.n_candidate
    assert quick.n_priced < found.n_priced
    assert quick.refused[search_module.BEATEN] == found.n_priced - quick.n_priced
    assert quick.n_candidate == quick.n_feasible + quick.refused.total()


def test_feasible_ones_counted_one_by_one(llama):
    """Every strategy of a small space priced alone, as a scalar."""
    options = Options.build((0, 1), offload=False, recompute_step=2)
    found = search(llama, options=options, exhaustive=True, keep=1, fixed={"tp": 2, "micro_batch": 1})
    layout, _ = layouts(llama.work, 8, fp8=False, fixed={"tp": 2, "micro_batch": 1})
    feasible, best = 0, np.inf
    for i in range(np.asarray(layout.tp).shape[0]):
        one = Strategy(**{name: getattr(layout, name)[i : i + 1] for name in LAYOUT_FIELDS})
        table = tables(llama, one)
        for index in np.ndindex(*options.shape):
            s = options.cross(one).at((0, *index), (1, *options.shape))
            if float(needed_memory(llama, s, table.activation)[0]) <= llama.memory_byte:
                feasible += 1
                best = min(best, float(step_time(llama, s, table.time, table.activation).total[0]))
    assert found.n_feasible == feasible
    assert best * (1 - 1e-12) <= found.best[0].step_s <= best * (1 + search_module.TIE_FRAC + 0.001)


def test_the_best_is_priced_as_it_is_shown(llama, found):
    for candidate in (*found.best, *found.frontier):
        one = Strategy(**{name: np.atleast_1d(float(getattr(candidate.strategy, name))) for name in LAYOUT_FIELDS})
        table = tables(llama, one)
        step = step_time(llama, candidate.strategy, table.time, table.activation)
        assert float(step.total[0]) == pytest.approx(candidate.step_s, rel=1e-12)
        assert float(peak_memory(llama, candidate.strategy, table.activation)[0]) == pytest.approx(candidate.memory_byte)
        assert float(needed_memory(llama, candidate.strategy, table.activation)[0]) <= llama.memory_byte


def test_rivals_differ_in_more_than_options(found):
    keys = [(c.strategy.tp, c.strategy.pp, c.strategy.ep) for c in found.best]
    assert len(set(keys)) == len(keys)
    rest = [c.step_s for c in found.best[1:]]
    assert rest == sorted(rest)
    assert found.best[0].step_s <= (1 + search_module.TIE_FRAC) * min(c.step_s for c in found.best)


def test_nothing_on_the_frontier_is_beaten(found):
    front = found.frontier
    assert len(front) > 3
    for a in front:
        assert not any(b.step_s <= a.step_s and b.memory_byte < a.memory_byte for b in front)
    assert [c.step_s for c in front] == sorted(c.step_s for c in front)


@pytest.mark.parametrize("chunk", [1, 5_000, 10**9])
def test_chunks_change_nothing(llama, found, monkeypatch, chunk):
    monkeypatch.setattr(search_module, "CHUNK", chunk)
    other = search(llama, exhaustive=True)
    assert other == found


def test_no_option_beats_the_lower_bound(problem):
    for model in ("llama-3.1-8b", "mixtral-8x7b"):
        p = problem(model, "dgx-h100:2", seq=4096, batch=16)
        layout, _ = layouts(p.work, 16, fp8=False)
        table = tables(p, layout)
        bound = lower_bound_s(p, layout, table)
        options = Options.build(p.stack.zero_stages)
        rng = np.random.default_rng(0)
        for i in rng.choice(bound.size, 60, replace=False):
            one = Strategy(**{name: np.asarray(getattr(layout, name))[i : i + 1] for name in LAYOUT_FIELDS})
            own = tables(p, one)
            column = type(own)(
                type(own.time)(*(np.asarray(x).reshape(-1, 1, 1, 1) for x in own.time)),
                type(own.activation)(*(np.asarray(x).reshape(-1, 1, 1, 1) for x in own.activation)),
            )
            step = step_time(p, options.cross(one), column.time, column.activation).total
            assert float(np.min(step)) >= bound[i] * (1 - 1e-12)


def test_shared_layer_prices_are_those_of_each_layout(llama):
    layout, _ = layouts(llama.work, 8, fp8=False)
    table = tables(llama, layout)
    for i in (0, 7, np.asarray(layout.tp).shape[0] - 1):
        one = tables(llama, Strategy(**{name: np.asarray(getattr(layout, name))[i : i + 1] for name in LAYOUT_FIELDS}))
        for many, alone in zip((*table.time, *table.activation), (*one.time, *one.activation), strict=True):
            assert many[i] == pytest.approx(alone[0], rel=1e-12)


def test_progress_runs_to_the_end(llama, monkeypatch):
    monkeypatch.setattr(search_module, "CHUNK", 5_600)
    calls = []
    found = search(llama, exhaustive=True, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (found.n_priced, found.n_priced)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_an_interrupt_keeps_what_was_found(llama, found, monkeypatch):
    monkeypatch.setattr(search_module, "CHUNK", 5_600)

    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    part = search(llama, exhaustive=True, progress=interrupt)
    assert part.interrupted
    assert not found.interrupted
    assert 0 < part.n_priced < found.n_priced
    assert part.best


def test_too_small_a_memory_refuses_everything(problem):
    p = problem("gpt-3-175b", "dgx-a100-80gb:1", seq=2048, batch=8)
    found = search(p, n_rank=1, options=Options.build((0, 1, 2, 3), offload=False))
    assert found.best == ()
    assert found.n_feasible == 0
    assert found.refused == Counter({MEMORY: found.n_candidate})


def test_a_host_without_memory_refuses_offload(llama):
    node = replace(llama.node, host_memory_byte=1e9)
    group = replace(llama.cluster.groups[0], node=node)
    poor = replace(llama, cluster=replace(llama.cluster, groups=(group,)))
    found = search(poor, exhaustive=True)
    assert found.refused[HOST] > 0
    for candidate in found.frontier:
        s = candidate.strategy
        assert not s.offload_weight
        assert not s.offload_optimizer


def test_pins_that_do_not_divide_the_ranks_say_so(llama):
    found = search(llama, fixed={"tp": 3})
    assert found.best == ()
    assert list(found.refused) == ["pinned degrees do not divide the 8 accelerators"]


def test_fp8_is_tried_and_wins_where_compute_counts(problem):
    p = problem("llama-3.1-8b", "dgx-h100:1", seq=4096, batch=16)
    plain, fast = search(p), search(p, fp8=True)
    assert fast.n_candidate == 2 * plain.n_candidate
    assert fast.best[0].strategy.fp8 == 1
    assert fast.best[0].step_s < plain.best[0].step_s


def test_the_full_space_of_gpt_3_on_512_accelerators_is_covered():
    """At least 6.5 million strategies whose degrees divide; each is priced, or beaten by its layout's bound."""
    gpt_3 = find_model("gpt-3-175b").architecture
    found = plan(gpt_3, cluster(["dgx-a100-80gb:64"]), token=300e9, seq=2048, global_batch=512, offload=True).found
    beaten = found.refused[search_module.BEATEN]
    assert found.n_priced + beaten >= 6_500_000
