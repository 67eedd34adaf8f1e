"""Scenarios: refusals of single fields, defaults filled in."""

from __future__ import annotations

import pytest

from suanchou import spec
from suanchou.errors import SpecError
from suanchou.training.scenario import Scenario, plan_for, resolved, scenario_from_file

BASE = {"model": "llama-3.1-8b", "on": ("dgx-h100:1",), "tokens": "1T"}


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("objective", "speed", "--objective"),
        ("dtype", "int4", "--dtype"),
        ("goodput", 0.0, "--goodput"),
        ("goodput", 1.5, "--goodput"),
        ("goodput", float("nan"), "--goodput"),
        ("usd_per_hour", 0.0, "--usd-per-hour"),
        ("usd_per_hour", -1.0, "--usd-per-hour"),
        ("seq", 0, "--seq"),
        ("seq", 10**12, "--seq"),
        ("batch", -8, "--batch"),
        ("rivals", -1, "--rivals"),
        ("checkpoint", "often", "--checkpoint"),
        ("pin", {"dp_size": 8}, "--pin"),
        ("pin", {"tp": -1}, "--pin tp"),
    ],
)
def test_impossible_fields_are_refused_with_place_and_hint(field, value, where):
    with pytest.raises(SpecError) as caught:
        Scenario(**{**BASE, field: value})
    assert caught.value.where == where
    assert caught.value.hint


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"tokens": "3640 PFLOPS"}, "--tokens"),
        ({"tokens": "-1T"}, "--tokens"),
        ({"tokens": "0"}, "--tokens"),
        ({"tokens": "a few"}, "--tokens"),
        ({"deadline": "30 TB"}, "--deadline"),
        ({"node_mtbf": "0 s"}, "--node-mtbf"),
        ({"node_mtbf": "30"}, "--node-mtbf"),
        ({"checkpoint_interval": "0 s"}, "--checkpoint-interval"),
        ({"checkpoint_bandwidth": "3 GB"}, "--checkpoint-bandwidth"),
        ({"checkpoint_bandwidth": "0 GB/s"}, "--checkpoint-bandwidth"),
        ({"restart": "soon"}, "--restart"),
        ({"stack": "nothing"}, None),
        ({"model": "no-such-model"}, "MODEL"),
        ({"on": ("dgx-h100:0",)}, "--on"),
    ],
)
def test_texts_that_mean_nothing_are_refused(fields, where):
    with pytest.raises(SpecError) as caught:
        plan_for(Scenario(**{**BASE, **fields}))
    assert where is None or caught.value.where == where
    assert caught.value.hint


def test_learned_positions_limit_the_sequence():
    with pytest.raises(SpecError, match="learned positions") as caught:
        plan_for(Scenario(model="gpt2-xl", on=("dgx-h100:1",), tokens="1B", seq=2048))
    assert caught.value.where == "--seq 2048"


def test_the_resolved_scenario_leaves_nothing_open_that_has_a_default():
    scenario = Scenario(**BASE)
    full = resolved(scenario, plan_for(scenario))
    assert {name for name, value in full.items() if value is None} == {
        "deadline",
        "schedule",
        "usd_per_hour",
        "goodput",
        "link",
    }
    assert (full["seq"], full["dtype"], full["stack"]) == (8192, "bf16", "megatron-core")
    again = spec.structure(full, Scenario, "here")
    assert resolved(again, plan_for(again)) == full


def test_a_given_goodput_is_all_that_is_kept_of_failures():
    scenario = Scenario(**BASE, goodput=0.8, node_mtbf="100 d")
    full = resolved(scenario, plan_for(scenario))
    assert full["goodput"] == 0.8
    assert plan_for(spec.structure(full, Scenario, "here")).days == plan_for(scenario).days


def test_drivers_of_the_goodput_reach_the_estimate():
    words = {"node_mtbf": "100 d", "checkpoint_interval": "30 min", "checkpoint_bandwidth": "10 GB/s", "restart": "15 min"}
    found = plan_for(Scenario(**BASE, **words)).estimate["time"]["goodput"]
    assert found["mtbf"].value == 100 * 86400
    assert found["checkpoint_interval"].value == 1800
    assert found["checkpoint_write"].value == found["checkpoint"].value / 10e9
    assert found["recovery"].value == 900 + found["checkpoint_write"].value


def test_overrides_of_a_file(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("model: llama-3.1-8b\non: [dgx-h100:1]\ntokens: 1T\npin: {tp: 4}\n")
    scenario = scenario_from_file(path, ("seq=2048", "pin.tp=2"))
    assert (scenario.seq, dict(scenario.pin)) == (2048, {"tp": 2})
    answer = plan_for(scenario)
    assert answer.strategy.tp == 2
    assert answer.problem.work.seq == 2048


def test_a_pin_by_the_name_that_plans_print():
    answer = plan_for(Scenario(**BASE, batch=64, pin={"pp": 4, "virtual_stages": 2}))
    assert (answer.strategy.pp, answer.strategy.virtual) == (4, 2)
