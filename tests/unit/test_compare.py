"""Comparisons: the parts of every difference add up to it, and a plan does not differ from itself."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict

import pytest

from suanchou.errors import SpecError
from suanchou.report.compare import compare
from suanchou.report.plan import plan_report
from suanchou.training.compare import TOKENS, compare_sides, side
from suanchou.training.scenario import Scenario, plan_for

BASE = {"model": "llama-3.1-8b", "on": ("dgx-h100:2",), "tokens": "1T", "seq": 4096, "batch": 64, "rivals": 0}


def answer(**fields):
    scenario = Scenario(**(BASE | fields))
    return plan_report(plan_for(scenario), inputs=asdict(scenario), scenario={}).to_dict()


@pytest.fixture(scope="module")
def plain():
    return answer()


OTHERS = {
    "pinned": {"pin": {"tp": 8}},
    "tokens": {"tokens": "3T"},
    "batch": {"batch": 256},
    "machine": {"on": ("dgx-a100-80gb:4",)},
    "model": {"model": "llama-2-7b"},
    "domestic": {"on": ("atlas-800t-a2:2",)},
    "experts": {"model": "mixtral-8x7b", "tokens": "2T", "batch": 128},
}


@pytest.fixture(scope="module", params=OTHERS, ids=list(OTHERS))
def other(request):
    return answer(**OTHERS[request.param])


def test_the_parts_add_up(plain, other):
    found = compare_sides(side(plain, "a"), side(other, "b"))
    for waterfall in found.waterfalls:
        parts = math.fsum(delta.change for delta in waterfall.deltas)
        assert parts == pytest.approx(waterfall.change, rel=1e-6, abs=1e-9 * abs(waterfall.a)), waterfall.name
        sizes = [abs(delta.change) for delta in waterfall.deltas]
        assert sizes == sorted(sizes, reverse=True)


def test_the_ends_are_those_of_the_plans(plain, other):
    found = compare_sides(side(plain, "a"), side(other, "b"))
    for data, one, end in ((plain, found.a, "a"), (other, found.b, "b")):
        tree = {child["name"]: child["value"] for child in data["result"]["estimate"]["children"]}
        assert getattr(found.time, end) == pytest.approx(tree["time"])
        assert getattr(found.memory, end) == pytest.approx(tree["memory"])
        assert one.money_usd == tree.get("money")
        if found.money is not None:
            assert getattr(found.money, end) == pytest.approx(tree["money"])
            assert getattr(found.energy, end) == pytest.approx(tree["energy"])
        if not found.step.per_token:
            assert getattr(found.step, end) == pytest.approx(tree["step"])
        assert one.token == pytest.approx(data["result"]["token"])
        assert one.batch_token == pytest.approx(data["result"]["seq"] * data["result"]["global_batch"])


def test_backwards_is_the_opposite(plain, other):
    there = compare_sides(side(plain, "a"), side(other, "b"))
    back = compare_sides(side(other, "b"), side(plain, "a"))
    for one, two in zip(there.waterfalls, back.waterfalls, strict=True):
        assert one.change == pytest.approx(-two.change)
        if one.name != "time":  # more tokens lengthen the first side's causes, whichever that is
            assert {d.cause: d.change for d in one.deltas} == pytest.approx({d.cause: -d.change for d in two.deltas})


def test_a_plan_does_not_differ_from_itself(plain, other):
    for data in (plain, other):
        found = compare_sides(side(data, "a"), side(data, "b"))
        assert [delta.change for waterfall in found.waterfalls for delta in waterfall.deltas if delta.change] == []


def test_more_tokens_are_a_cause_of_their_own(plain):
    found = compare_sides(side(plain, "a"), side(answer(tokens="3T"), "b"))
    changes = {delta.cause: delta.change for delta in found.time.deltas}
    assert changes.pop(TOKENS) == pytest.approx(2 * found.a.time_s)
    assert max(map(abs, changes.values())) < 1e-6 * found.a.time_s
    assert [delta.change for delta in found.step.deltas if delta.change] == []


def test_other_batches_are_compared_per_token(plain):
    found = compare_sides(side(plain, "a"), side(answer(batch=256), "b"))
    assert found.step.per_token
    assert found.step.a == pytest.approx(sum(found.a.step_s.values()) / (64 * 4096) * 1e6)
    assert found.step.b == pytest.approx(sum(found.b.step_s.values()) / (256 * 4096) * 1e6)


def test_factors_of_money_by_hand(plain):
    """Twice the rent and nothing else: all of the difference is the price."""
    found = compare_sides(side(answer(usd_per_hour=1.0), "a"), side(answer(usd_per_hour=2.0), "b"))
    changes = {delta.cause: delta.change for delta in found.money.deltas}
    assert changes == {"hourly_price": pytest.approx(found.a.money_usd), "accelerators": 0.0, "time": 0.0}
    assert [delta.a for delta in found.money.deltas if delta.cause == "accelerators"] == [pytest.approx(16)]


def test_what_one_side_does_not_know_is_left_out(plain):
    found = compare_sides(side(plain, "a"), side(answer(on=("metax-c550:16",)), "b"))
    assert found.money is None
    report = compare(plain, answer(on=("metax-c550:16",)))
    assert report.to_dict()["result"]["money"] is None


@pytest.mark.parametrize("path", [["kind"], ["result", "estimate"], ["result", "strategy"], ["result", "n_rank"], ["inputs"]])
def test_what_is_no_plan_is_refused(plain, path):
    broken = copy.deepcopy(plain)
    holder = broken
    for name in path[:-1]:
        holder = holder[name]
    del holder[path[-1]]
    with pytest.raises(SpecError) as caught:
        side(broken, "x.json")
    assert caught.value.where == "x.json"
    assert "-o plan.json" in caught.value.hint


def test_a_mixed_fleet_is_refused():
    with pytest.raises(SpecError, match="a mixed fleet cannot be compared") as caught:
        side({"kind": "mixed-training-plan"}, "fleet.json")
    assert caught.value.where == "fleet.json"
