"""What if: each change against a plan made by hand, and none that makes things worse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suanchou.errors import SpecError
from suanchou.machine import cluster
from suanchou.model.source import find_model
from suanchou.training import what_if as module
from suanchou.training.plan import plan
from suanchou.training.scenario import Scenario, plan_for
from suanchou.training.stack import stack
from suanchou.training.what_if import CHANGES, LAYOUT, LOST, what_if

QUESTION = Scenario(model="llama-3.1-8b", on=("dgx-h100:2",), tokens="1T", seq=4096, batch=64, rivals=0)
COSTS = {"batch", "accelerators"}
"""Changes of the job itself: more of it may cost."""


@pytest.fixture(scope="module")
def found():
    return what_if(QUESTION)


def by_name(found):
    return {effect.change.name: effect for effect in found.effects}


def by_hand(change, *, on="node"):
    """The same change made on the machine itself."""
    machines = cluster(["dgx-h100:2"])
    group = machines.groups[0]
    node = group.node
    if on == "accelerator":
        node = replace(node, accelerator=change(node.accelerator))
    elif on == "node":
        node = change(node)
    return replace(machines, groups=(replace(group, node=node),))


def ask(machines=None, **changes):
    words = {"token": 1e12, "seq": 4096, "global_batch": 64, "keep": 0, "offload": False} | changes
    return plan(find_model("llama-3.1-8b").architecture, machines or cluster(["dgx-h100:2"]), **words)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (
            "network",
            lambda: ask(by_hand(lambda node: replace(node, nic_byte_per_s=2 * node.nic_byte_per_s))),
        ),
        (
            "scale_up",
            lambda: ask(
                by_hand(
                    lambda node: replace(
                        node,
                        scale_up=replace(node.scale_up, bandwidth_byte_per_s=2 * node.scale_up.bandwidth_byte_per_s),
                    )
                )
            ),
        ),
        (
            "memory",
            lambda: ask(by_hand(lambda acc: replace(acc, memory_byte=1.5 * acc.memory_byte), on="accelerator")),
        ),
        ("fp8", lambda: ask(fp8=True)),
        ("batch", lambda: ask(global_batch=128)),
        ("accelerators", lambda: ask(cluster(["dgx-h100:4"]))),
        ("no_failures", lambda: ask(goodput=1.0)),
    ],
)
def test_a_change_is_the_plan_one_would_ask_for(found, name, answer):
    """Or, within a tie, the layout as it is."""
    expected = answer()
    effect = by_name(found)[name]
    assert effect.outcome.time_s <= expected.estimate["time"].value * (1 + 1e-9)
    if effect.outcome.strategy == expected.strategy:
        assert effect.outcome.time_s == pytest.approx(expected.estimate["time"].value, rel=1e-9)
        assert effect.outcome.money_usd == pytest.approx(expected.estimate["money"].value, rel=1e-9)
    else:
        assert effect.outcome.strategy == found.base.strategy


def test_the_base_is_the_plan(found):
    alone = plan_for(QUESTION)
    assert found.base.strategy == alone.strategy
    assert found.base.step_s == pytest.approx(alone.step_s, rel=1e-12)
    assert found.base.time_s == pytest.approx(alone.estimate["time"].value, rel=1e-12)
    assert found.base.money_usd == pytest.approx(alone.estimate["money"].value, rel=1e-12)
    assert found.base.causes_s[LOST] == pytest.approx(
        alone.estimate["time"].value * (1 - alone.estimate["time"]["goodput"].value)
    )


def test_better_parts_never_make_it_worse(found):
    for name, effect in by_name(found).items():
        if name not in COSTS:
            assert effect.saved_s(found.base) >= -1e-6 * found.base.time_s, name


def test_the_most_helpful_comes_first(found):
    saved = [effect.saved_s(found.base) for effect in found.effects]
    assert saved == sorted(saved, reverse=True)
    assert saved[0] > 0


def test_the_cause_that_moves_is_the_one_that_shrinks_most(found):
    effect = by_name(found)["no_failures"]
    assert effect.moved(found.base) == (LOST, pytest.approx(-found.base.causes_s[LOST] / found.base.time_s))
    for one in found.effects:
        name, share = one.moved(found.base)
        if one.kept is not None and one.outcome == one.kept and one.saved_s(found.base) > 0:
            least = min((one.kept.causes_s[n] - s) / found.base.time_s for n, s in found.base.causes_s.items())
            assert share == pytest.approx(least)
            assert share < 0, name


def test_a_gain_that_takes_another_layout_is_called_so(found):
    """Memory alone makes no kernel quicker: what more of it gains, it gains through the layout."""
    short = what_if(replace(QUESTION, model="llama-2-13b", on=("dgx-a100-40gb:1",)))
    effect = by_name(short)["memory"]
    assert effect.kept.time_s == pytest.approx(short.base.time_s, rel=1e-9)
    assert effect.saved_s(short.base) > 0.01 * short.base.time_s
    assert effect.moved(short.base) == (LAYOUT, pytest.approx(-effect.saved_s(short.base) / short.base.time_s))


def names_of(**fields):
    return {effect.change.name for effect in what_if(replace(QUESTION, **fields)).effects}


def test_changes_that_mean_nothing_are_left_out():
    assert "network" not in names_of(on=("dgx-h100:1",))
    one = names_of(on=("h100-sxm5-80gb:1",), batch=8)
    assert not {"network", "scale_up"} & one
    assert "fp8" not in names_of(on=("dgx-a100-80gb:1",))
    assert "fp8" not in names_of(on=("dgx-h100:1",), dtype="fp8")
    assert "no_failures" not in names_of(on=("dgx-h100:1",), goodput=1.0)
    assert "overlap_expert_parallel" not in names_of(on=("dgx-h100:1",))
    assert "overlap_expert_parallel" in names_of(model="mixtral-8x7b", on=("dgx-h100:2",))
    hidden = stack("hai-llm")
    assert hidden.overlap_pipeline == 1
    assert "overlap_pipeline" not in names_of(stack="hai-llm")


def test_fewer_ranks_than_a_node_stay_fewer():
    found = what_if(replace(QUESTION, objective="accelerators", on=("dgx-h100:1",)))
    assert found.plan.n_rank < 8
    assert found.base.step_s == pytest.approx(found.plan.step_s, rel=1e-9)
    for effect in found.effects:
        expected = found.plan.n_rank * (2 if effect.change.name == "accelerators" else 1)
        assert int(effect.outcome.strategy.n_rank) == expected


def test_a_change_without_a_plan_says_why():
    found = what_if(replace(QUESTION, pin={"dp": 16}, batch=16))
    effect = by_name(found)["accelerators"]
    assert (effect.outcome is None) == bool(effect.refused)
    pinned = by_name(what_if(replace(QUESTION, pin={"dp": 16, "tp": 1, "pp": 1, "cp": 1}, batch=16)))["accelerators"]
    assert pinned.outcome is None
    assert pinned.refused
    assert pinned.saved_s(found.base) == 0
    assert pinned.moved(found.base) == ("", 0.0)


def test_every_change_names_a_field_that_exists(found):
    case = module._base_case(QUESTION, found.plan)
    node = case.cluster.groups[0].node
    holders = {
        "case": case,
        "group": case.cluster.groups[0],
        "node": node,
        "scale_up": node.scale_up,
        "accelerator": node.accelerator,
        "stack": case.stack,
    }
    for change in CHANGES:
        assert hasattr(holders[change.on], change.field), change.name
        assert (change.value is None) != (change.factor == 1.0), change.name
    assert len({change.name for change in CHANGES}) == len(CHANGES)


def test_an_interrupt_keeps_what_was_found(monkeypatch):
    real, calls = module._effect, []

    def stop(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "_effect", stop)
    seen = []
    found = what_if(QUESTION, progress=lambda done, total: seen.append((done, total)))
    assert found.interrupted
    assert len(found.effects) == 2
    assert seen[0][0] == 1
    assert seen[0][1] > 3


def test_several_kinds_of_machine_are_refused():
    with pytest.raises(SpecError, match="one kind of machine, not dgx-h100, dgx-a100-80gb") as caught:
        what_if(replace(QUESTION, on=("dgx-h100:1", "dgx-a100-80gb:1")))
    assert caught.value.where == "--on"
    with pytest.raises(SpecError, match="no link"):
        what_if(replace(QUESTION, link="100Gb/s"))
