"""Layouts against a brute-force count, refusals, pins, labels, options."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from suanchou.training.strategy import LAYOUT_FIELDS, Options, Strategy, divisors, layouts


def rows(found: Strategy) -> list[tuple[int, ...]]:
    return [tuple(int(x) for x in row) for row in zip(*(getattr(found, name) for name in LAYOUT_FIELDS), strict=True)]


def brute(
    n: int, *, heads: int, kv: int, width: int, n_layer: int, batch: int, seq: int, experts: int = 0
) -> tuple[set[tuple[int, ...]], Counter[str]]:
    """Every layout, found by trying every number; and why others are none."""
    out, refused = set(), Counter()
    every = range(1, n + 1)
    for tp, cp, pp in product(every, every, every):
        if n % (tp * cp * pp):
            continue
        dp = n // (tp * cp * pp)
        if heads % tp:
            refused["TP does not divide the attention heads"] += 1
        elif kv % tp and tp % kv:
            refused["TP and KV heads do not divide each other"] += 1
        elif width % tp:
            refused["TP does not divide the MLP width"] += 1
        elif pp > n_layer:
            refused["more pipeline stages than layers"] += 1
        elif batch % dp:
            refused["DP does not divide the global batch"] += 1
        elif cp > 1 and seq % (2 * cp):
            refused["twice CP does not divide the sequence"] += 1
        else:
            for ep, v, micro in product(range(1, n + 1), range(1, n_layer + 1), range(1, 65)):
                if (dp * cp) % ep or (experts % ep if experts else ep > 1):
                    continue
                if (batch // dp) % micro:
                    continue
                whole = n_layer % (pp * v) == 0 or (n_layer + 2) % (pp * v) == 0
                if v > 1 and (pp == 1 or v * pp > n_layer or not whole):
                    continue
                for sp, ulysses in product(range(2 if tp > 1 else 1), range(2 if cp > 1 and kv % (tp * cp) == 0 else 1)):
                    if v > 1 and (batch // dp // micro) % pp:
                        refused["interleaving needs micro-batches in multiples of PP"] += 1
                    else:
                        out.add((tp, cp, pp, dp, ep, v, micro, sp, ulysses, 0, 0))
    return out, refused


DENSE = {"heads": 32, "kv": 8, "width": 14336, "n_layer": 32}


@pytest.mark.parametrize(
    ("n", "batch", "seq"), [(1, 4, 2048), (6, 12, 2048), (8, 8, 2048), (16, 8, 6), (12, 10, 4), (64, 16, 96)]
)
def test_layouts_are_those_of_brute_force(problem, n, batch, seq):
    work = problem("llama-3.1-8b", "dgx-h100:1", seq=seq, batch=batch).work
    found, refused = layouts(work, n, fp8=False)
    expected, reasons = brute(n, **DENSE, batch=batch, seq=seq)
    assert len(rows(found)) == len(expected)
    assert set(rows(found)) == expected
    assert +refused == reasons


def test_layouts_of_a_mixture_are_those_of_brute_force(problem):
    work = problem("mixtral-8x7b", "dgx-h100:1", seq=2048, batch=8).work
    found, refused = layouts(work, 16, fp8=False)
    expected, reasons = brute(16, **DENSE, batch=8, seq=2048, experts=8)
    assert set(rows(found)) == expected
    assert +refused == reasons
    assert {row[4] for row in rows(found)} == {1, 2, 4, 8}


def test_every_reason_to_refuse_is_met(problem):
    # 25 heads (gpt2-xl) with 15 ranks: 5 divides, 3 and 15 do not; width 6400.
    work = problem("gpt2-xl", "dgx-h100:1", seq=1024, batch=15).work
    _, refused = layouts(work, 15, fp8=False)
    assert refused["TP does not divide the attention heads"] == sum(
        1 for tp in (3, 15) for cp in divisors(15 // tp) for _ in divisors(15 // tp // cp)
    )
    assert refused["twice CP does not divide the sequence"] > 0
    assert layouts(replace(work, global_batch=1), 15, fp8=False)[1]["DP does not divide the global batch"] > 0
    assert layouts(work, 49, fp8=False)[1]["more pipeline stages than layers"] == 1
    kv = problem("llama-3.1-8b", "dgx-h100:1", seq=2048, batch=8).work
    layer = kv.arch.layers[0]
    odd = replace(layer, mixer=replace(layer.mixer, n_head=36, n_kv_head=6))
    _, refused = layouts(replace(kv, arch=replace(kv.arch, layers=(odd,) * 4)), 4, fp8=False)
    assert refused["TP and KV heads do not divide each other"] == 1
    narrow = replace(layer, ffn=replace(layer.ffn, d_ff=14337))
    _, refused = layouts(replace(kv, arch=replace(kv.arch, layers=(narrow,) * 4)), 2, fp8=False)
    assert refused["TP does not divide the MLP width"] == 1


def test_heads_that_do_not_divide_leave_no_layout(problem):
    work = problem("llama-3.1-8b", "dgx-h100:1", seq=2048, batch=8).work
    found, refused = layouts(work, 7, fp8=False, fixed={"tp": 7})
    assert rows(found) == []
    assert dict(refused) == {"TP does not divide the attention heads": 1}


@pytest.mark.parametrize("pin", [{"tp": 4}, {"pp": 2}, {"virtual": 4}, {"micro_batch": 2}, {"sp": 1}, {"tp": 2, "cp": 2}])
def test_pins_select_rows(problem, pin):
    work = problem("llama-3.1-8b", "dgx-h100:1", seq=2048, batch=16).work
    everything = rows(layouts(work, 16, fp8=False)[0])
    pinned = rows(layouts(work, 16, fp8=False, fixed=pin)[0])
    index = [(LAYOUT_FIELDS.index(name), value) for name, value in pin.items()]
    assert pinned == [row for row in everything if all(row[i] == value for i, value in index)]
    assert pinned


@pytest.mark.parametrize("pin", [{"sp": 2}, {"ep": 2}, {"virtual": 3}, {"micro_batch": 5}, {"ulysses": 1, "cp": 1}, {"fp8": 1}])
def test_impossible_pins_say_so(problem, pin):
    work = problem("llama-3.1-8b", "dgx-h100:1", seq=2048, batch=16).work
    found, refused = layouts(work, 16, fp8=False, fixed=pin)
    assert rows(found) == []
    name, value = next(iter(pin.items()))
    assert refused[f"pinned {name} of {value} does not go with the other degrees"] > 0


def test_fp8_doubles_the_layouts(problem):
    work = problem("llama-3.1-8b", "dgx-h100:1", seq=2048, batch=16).work
    plain, both = rows(layouts(work, 8, fp8=False)[0]), rows(layouts(work, 8, fp8=True)[0])
    assert len(both) == 2 * len(plain)
    assert {row[:-2] for row in both} == {row[:-2] for row in plain}


def test_largest_micro_batch(problem):
    work = problem("llama-3.1-8b", "dgx-h100:1", seq=2048, batch=512).work
    assert max(row[6] for row in rows(layouts(work, 1, fp8=False)[0])) == 64
    assert max(row[6] for row in rows(layouts(work, 1, fp8=False, most_micro_batch=8)[0])) == 8


@pytest.mark.parametrize("n", [1, 2, 12, 49, 97, 360, 1024])
def test_divisors(n):
    assert divisors(n) == [i for i in range(1, n + 1) if n % i == 0]


def test_options_are_the_product_of_state_recomputation_and_place():
    options = Options.build((0, 1, 2, 3))
    assert options.shape == (7, 10, 8)
    assert options.size == 560
    seen = set()
    one = Strategy(**{name: np.ones(1) for name in LAYOUT_FIELDS})
    crossed = options.cross(one)
    for index in np.ndindex(*options.shape):
        s = crossed.at((0, *index), (1, *options.shape))
        assert not (s.shard_domain and not s.zero)
        assert not (s.selective and s.full_frac)
        seen.add(s)
    assert len(seen) == 560
    assert Options.build((3,), offload=False).shape == (2, 10, 1)
    assert Options.build((0,), offload=False, recompute_step=4).shape == (1, 6, 1)


def test_the_plainest_option_is_the_least_burden():
    options = Options.build((0, 1, 2, 3))
    assert options.burden.argmin() == 0
    assert options.burden[0] == 0.0


def test_labels():
    assert Strategy(tp=8, pp=4, dp=32, virtual=5, zero=1).label == "TP8 PP4 DP32 v5 mb1 ZeRO-1"
    assert Strategy(tp=2, sp=1, cp=4, ulysses=1, zero=3, shard_domain=1, full_frac=1.0).label == (
        "TP2 SP CP4-ulysses DP1 mb1 HSDP full recompute"
    )
    assert Strategy(ep=8, dp=8, micro_batch=2, zero=2, shard_domain=1, full_frac=0.375, offload_optimizer=1, fp8=1).label == (
        "TP1 DP8 EP8 mb2 ZeRO-2/domain recompute 38% optimizer offload fp8"
    )
    assert "selective recompute" in Strategy(selective=1).label


def test_plain_data():
    data = Strategy(tp=8, sp=1, pp=2, dp=4, zero=1, selective=1).to_dict()
    assert (data["tp"], data["sequence_parallel"], data["zero"], data["recompute"]) == (8, True, 1, "selective")
    assert Strategy(full_frac=0.5).to_dict()["recompute"] == "full"
    assert Strategy().to_dict()["recompute"] == "none"
    assert Strategy(tp=8, cp=2, pp=2, dp=4).n_rank == 128


def test_micro_batches(problem):
    work = problem("llama-3.1-8b", "dgx-h100:1", seq=2048, batch=64).work
    assert Strategy(dp=8, micro_batch=2).micro_batches(work) == 4


def test_only_schedules_that_the_stack_has_are_tried(problem):
    work = problem("llama-3.1-8b", "dgx-h100:1", seq=2048, batch=64).work
    plain = rows(layouts(work, 16, fp8=False)[0])
    assert {row[-1] for row in plain} == {0}
    found, refused = layouts(work, 16, fp8=False, schedules=("1f1b", "zb-h1", "zb-v", "dualpipe"))
    more = rows(found)
    assert {row for row in more if row[-1] == 0} == set(plain)
    assert {row[-1] for row in more} == {0, 1, 2, 3}
    assert refused["the schedule does not go with this number of stages, chunks or micro-batches"] > 0
    for _tp, _cp, pp, dp, _ep, virtual, micro, _sp, _ulysses, _fp8, schedule in more:
        m = 64 // dp // micro
        if schedule:
            assert pp >= 4
            assert m >= 2 * pp
            assert virtual == (2 if schedule == 2 else 1)
            assert schedule < 3 or (pp % 2, m % 2) == (0, 0)
    assert {row[:-1] for row in more if row[-1] == 1} == {
        row[:-1] for row in plain if row[2] >= 4 and row[5] == 1 and 64 // row[3] // row[6] >= 2 * row[2]
    }
