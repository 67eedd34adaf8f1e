"""Mixed fleets: what a plan over several groups must be, whatever it costs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import pytest

from suanchou.cost.spread import spread
from suanchou.errors import Infeasible, MissingData, SpecError
from suanchou.machine import cluster
from suanchou.model.source import find_model
from suanchou.training.mixed import plan_mixed
from suanchou.training.plan import plan
from suanchou.training.search import TIE_FRAC
from suanchou.training.time import StageTime

STRONG, WEAK, ASCEND = "dgx-h100:2", "dgx-a100-80gb:2", "atlas-800t-a2:2"


@cache
def ask(*on, model="llama-3.1-8b", token=1e12, seq=4096, global_batch=128, **fields):
    return plan_mixed(find_model(model).architecture, cluster(on), token=token, seq=seq, global_batch=global_batch, **fields)


CASES = {
    "gpus": {"on": (STRONG, WEAK)},
    "vendors": {"on": (WEAK, ASCEND)},
    "pipeline": {"on": ("dgx-h100:1", "dgx-a100-80gb:2"), "model": "llama-3.1-70b", "global_batch": 256},
    "experts": {"on": ("dgx-h100:4", "atlas-800t-a2:4"), "model": "mixtral-8x7b"},
    "three": {"on": ("dgx-h100:1", "dgx-a100-80gb:1", "atlas-800t-a2:1")},
    "useless": {"on": ("dgx-h100:4", "dgx-a100-80gb:1"), "link": "100Mb/s"},
    "older": {"on": ("dgx-1-v100:1", "dgx-a100-80gb:1"), "model": "gpt2-xl", "seq": 1024, "global_batch": 64},
    "money": {"on": (STRONG, WEAK), "objective": "money"},
}


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def answer(request):
    fields = dict(CASES[request.param])
    return ask(*fields.pop("on"), **fields)


def mixes(answer):
    return [answer.best, *(rival.mix for rival in answer.rivals)]


def test_every_layer_and_every_sequence_is_worked_on_once(answer):
    batch, n_layer = answer.fleet.batch, answer.fleet.members[0].problem.n_layer
    for mix in mixes(answer):
        for part in mix.parts:
            assert part.strategy.n_rank == part.member.n_rank
            assert part.strategy.pp == len(part.layers) == len(part.stage_s)
            assert min(part.layers) >= 1
            assert part.sequences == part.micro_batches * part.strategy.dp * part.strategy.micro_batch
        if mix.variant == "pipeline":
            assert sum(sum(part.layers) for part in mix.parts) == n_layer
            assert {(part.strategy.dp, part.strategy.micro_batch, part.sequences) for part in mix.parts} == {
                (mix.parts[0].strategy.dp, mix.parts[0].strategy.micro_batch, batch)
            }
        else:
            assert sum(part.sequences for part in mix.parts) == batch
            assert all(sum(part.layers) == n_layer for part in mix.parts)


def test_every_group_fits_its_own_memory(answer):
    for mix in mixes(answer):
        for part in mix.parts:
            assert 0 < part.needed_byte <= part.memory_byte <= part.high_byte
            assert part.needed_byte <= part.member.problem.memory_byte
        assert 0 < mix.memory_frac <= 1


def test_the_step_is_the_sum_of_its_causes_and_no_group_is_busy_longer(answer):
    for mix in mixes(answer):
        assert math.fsum(mix.causes.values()) == pytest.approx(mix.step_s, rel=1e-9)
        assert all(0 < part.busy_s <= mix.step_s * (1 + 1e-9) for part in mix.parts)
        if mix.variant != "pipeline":
            assert max(part.busy_s for part in mix.parts) == pytest.approx(mix.step_s, rel=1e-9)


OF_STAGES = (*StageTime._fields, "weight_gather", "pipeline_bubble")


def test_all_ranks_wait_for_the_slowest_of_them_all(answer):
    for mix in mixes(answer):
        ranks = math.sqrt(2 * math.log(sum(part.member.n_rank for part in mix.parts)))
        spreads = [part.problem.stack.straggler * part.problem.eff.straggler_frac for part in mix.parts]
        slowest = max(range(len(mix.parts)), key=lambda i: mix.parts[i].busy_s)
        drift = ranks * (max(spreads) if mix.variant == "pipeline" else spreads[slowest])
        worked = math.fsum(seconds for name, seconds in mix.causes.items() if name in OF_STAGES and name != "parameter_gather")
        assert 0 < mix.causes["straggler"] == pytest.approx(drift * worked, rel=1e-9)


def test_the_step_and_the_run_have_the_interval_of_the_families_used(answer):
    tree, ends = answer.estimate, [spread(part.problem.family) for part in answer.best.parts]
    quick, slow = min(low for low, _high in ends), max(high for _low, high in ends)
    step, time = tree["step"], tree["time"]
    assert (step.low, step.high) == pytest.approx((step.value * quick, step.value * slow))
    share = time["goodput"]
    assert time.low == pytest.approx(time.value * quick * share.value / share.high)
    assert time.high == pytest.approx(time.value * slow * share.value / share.low)


def test_the_tree_is_what_was_chosen(answer):
    tree = answer.estimate
    assert tree["step"].value == pytest.approx(answer.step_s, rel=1e-9)
    for path, node in tree.walk():
        assert math.isfinite(node.value), path
        assert node.value >= 0, path
        assert node.unit, path
        assert node.formula or node.sources or node.children, path
        if node.summed:
            assert math.fsum(child.value for child in node.children) == pytest.approx(node.value, rel=1e-9), path
    names = {f"group_{letter.lower()}" for letter in answer.best.letters}
    assert {child.name for child in tree["groups"].children} == names
    for part, node in zip(answer.best.parts, tree["groups"].children, strict=True):
        assert node.value == pytest.approx(part.busy_s)
        assert [child.value for child in node.children] == pytest.approx(part.stage_s)
    assert tree["memory"].value / max(part.problem.memory_byte for part in answer.best.parts) <= answer.best.memory_frac * 1.001
    if len(names) > 1:
        assert {child.name for child in tree["memory"].children} == names
        for part in answer.best.parts:
            node = tree["memory"][f"group_{part.member.letter.lower()}"]
            assert node.value == pytest.approx(part.memory_byte, rel=1e-9)
            assert (node.low, node.high) == pytest.approx((part.needed_byte, part.high_byte), rel=1e-9)


def test_the_run_adds_up_over_the_groups_used(answer):
    tree, work = answer.estimate, answer.fleet.members[0].problem.work
    assert tree["time"].value == pytest.approx(work.n_step * answer.step_s / tree["time"]["goodput"].value)
    assert tree["card_hours"].value == pytest.approx(answer.best.n_rank * tree["time"].value / 3600)
    assert 0 < tree["utilisation"]["mfu"].value < 1


def test_rivals_lose_by_what_is_said(answer):
    sets = {(mix.variant, mix.letters) for mix in mixes(answer)}
    assert len(sets) == len(mixes(answer))
    for rival in answer.rivals:
        assert rival.slower_frac == pytest.approx(rival.mix.step_s / answer.step_s - 1)
        if answer.objective == "time":
            assert rival.slower_frac >= 1 / (1 + TIE_FRAC) - 1
        if rival.slower_frac > 0.01:
            assert sum(share for _name, share in rival.why) >= rival.slower_frac / 5
    assert {left.member.letter for left in answer.left_out} == {member.letter for member in answer.fleet.members} - set(
        answer.best.letters
    )


def test_no_group_alone_is_better(answer):
    if answer.objective != "time":
        return
    for rival in answer.rivals:
        if rival.mix.variant == "alone":
            assert rival.mix.step_s >= answer.step_s / (1 + TIE_FRAC)


def test_a_group_alone_is_the_plan_of_that_group():
    mixed = ask(STRONG, WEAK)
    alone = {rival.mix.letters: rival.mix for rival in mixed.rivals if rival.mix.variant == "alone"}
    for letter, on in (("A", STRONG), ("B", WEAK)):
        own = plan(find_model("llama-3.1-8b").architecture, cluster([on]), token=1e12, seq=4096, global_batch=128)
        assert alone[letter,].step_s == pytest.approx(own.step_s, rel=1e-9)
        assert alone[letter,].parts[0].strategy == own.strategy


def test_a_fleet_split_in_two_is_little_worse_than_whole():
    whole = plan(find_model("llama-3.1-8b").architecture, cluster(["dgx-a100-80gb:4"]), token=1e12, seq=4096, global_batch=256)
    halves = ask(WEAK, WEAK, global_batch=256)
    assert halves.best.letters in (("A", "B"), ("B", "A"))
    assert halves.step_s <= whole.step_s * 1.05
    assert halves.step_s >= whole.step_s * (1 - TIE_FRAC)


def test_adding_machines_never_makes_it_slower():
    steps = [ask(STRONG, f"dgx-a100-80gb:{n}").step_s for n in (1, 2)]
    steps.append(ask(STRONG, WEAK, "atlas-800t-a2:1").step_s)
    for fewer, more in itertools.pairwise(steps):
        assert more <= fewer * (1 + TIE_FRAC)
    assert steps[-1] < steps[0]


def test_a_slower_link_is_never_quicker():
    steps = [ask(WEAK, ASCEND, link=link).step_s for link in ("400Gb/s", "20Gb/s", "100Mb/s")]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    late = ask(WEAK, ASCEND, link="400Gb/s:50ms")
    assert late.step_s >= steps[0]


def test_a_useless_part_is_left_out_with_the_reason():
    answer = ask("dgx-h100:4", "dgx-a100-80gb:1", link="100Mb/s")
    assert answer.best.variant == "alone"
    assert answer.best.letters == ("A",)
    (left,) = answer.left_out
    assert left.member.letter == "B"
    if left.rival is not None:
        assert left.rival.slower_frac > -TIE_FRAC
        assert left.rival.why


def test_a_model_too_large_for_either_group_is_trained_on_both():
    answer = ask("dgx-h100:1", "dgx-a100-80gb:2", model="llama-3.1-70b", global_batch=256)
    assert answer.best.variant == "pipeline"
    assert set(answer.refused) >= {"A", "B", "data"}
    by_letter = {part.member.letter: part for part in answer.best.parts}
    assert sum(by_letter["A"].layers) + sum(by_letter["B"].layers) == 80


def test_money_may_leave_the_quicker_plan():
    quick, cheap = ask(STRONG, WEAK), ask(STRONG, WEAK, objective="money")
    assert cheap.estimate["money"].value <= quick.estimate["money"].value
    few = ask(STRONG, WEAK, objective="accelerators")
    assert few.best.n_rank == 16


def test_the_deadline_holds():
    with pytest.raises(Infeasible, match="deadline"):
        ask(STRONG, WEAK, deadline_s=3600)
    slow = ask(STRONG, WEAK, objective="accelerators")
    pressed = ask(STRONG, WEAK, objective="accelerators", deadline_s=0.9 * slow.estimate["time"].value)
    assert pressed.best.n_rank > slow.best.n_rank
    assert pressed.estimate["time"].value <= 0.9 * slow.estimate["time"].value


def test_groups_train_in_a_type_they_share():
    fields = CASES["older"]
    answer = ask(*fields["on"], **{name: value for name, value in fields.items() if name != "on"})
    assert [member.problem.work.dtype for member in answer.fleet.members] == ["fp16", "fp16"]
    assert [member.alone.work.dtype for member in answer.fleet.members] == ["fp16", "bf16"]
    for mix in mixes(answer):
        together = len(mix.parts) > 1
        assert all(
            part.problem.work.dtype == ("fp16" if together or part.member.letter == "A" else "bf16") for part in mix.parts
        )
    assert any("fp16 and bf16" in text for text in answer.warnings) == (len(answer.best.parts) > 1)


def test_what_is_refused():
    with pytest.raises(SpecError, match="two groups"):
        ask(STRONG)
    with pytest.raises(Infeasible, match="more than"):
        ask(*[WEAK] * 7)
    with pytest.raises(MissingData):
        ask(STRONG, WEAK, dtype="fp4")
    with pytest.raises(Infeasible, match="no strategy"):
        ask("h100-sxm5-80gb:1", "a100-sxm4-80gb:1", model="gpt-3-175b", seq=2048, offload=False)


def test_an_old_type_in_common_is_priced_at_its_width():
    """The only type in common is fp32: its elements are twice as wide, whatever linear layers run in."""
    answer = ask("rk3328:2", "dgx-spark-gb10:8", "rtx-3090ti:2", model="mixtral-8x7b", token=1e9, global_batch=64, fp8=True)
    work = answer.fleet.members[0].problem.work
    assert work.dtype == "fp32"
    assert math.isfinite(answer.step_s)
    s = answer.best.parts[0].strategy
    shape = [
        replace(m.problem, work=replace(work, dtype=dtype)).shape(s) for m in answer.fleet.members for dtype in ("fp32", "bf16")
    ]
    assert [one.element_byte for one in shape] == [4, 2] * 3


def test_what_no_published_run_covers_is_said():
    known = ask(STRONG, WEAK)
    assert not any("published run" in text for text in known.warnings)
    unknown = ask("dgx-spark-gb10:8", "rtx-3090ti:2", token=1e9, global_batch=64)
    assert any("no published run is on this family" in text for text in unknown.warnings)
