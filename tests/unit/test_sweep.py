"""Sweeps: what an axis says, every point against a plan of its own, scaling by hand, refusals in their rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suanchou.errors import SpecError
from suanchou.training import sweep as module
from suanchou.training.scenario import Scenario, plan_for
from suanchou.training.sweep import MOST_POINTS, Axis, parse_axis, sweep

LLAMA = Scenario(model="llama-3.1-8b", on=("dgx-h100:2",), tokens="1T", seq=4096, batch=64, rivals=0)


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("nodes=8..64", "nodes", (8, 16, 32, 64)),
        ("nodes=3..20", "nodes", (3, 6, 12)),
        ("nodes=8..8", "nodes", (8,)),
        ("nodes=8..32:8", "nodes", (8, 16, 24, 32)),
        ("accelerators=64,8,8,16", "accelerators", (8, 16, 64)),
        (" seq = 4k , 8192", "seq", (4000, 8192)),
        ("tokens=1T..4T", "tokens", (10**12, 2 * 10**12, 4 * 10**12)),
        ("batch=1万", "batch", (10_000,)),
    ],
)
def test_axes(text, name, values):
    assert parse_axis(text) == Axis(name=name, values=values)


@pytest.mark.parametrize(
    "text",
    [
        "nodes",
        "nodes=",
        "layers=1..4",
        "nodes=8..4",
        "nodes=0..4",
        "nodes=1.5",
        "nodes=-1,2",
        "nodes=1,",
        "nodes=a..b",
        "nodes=1..8:0",
        "seq=4 GB",
        f"nodes=1..{2 * MOST_POINTS}:1",
    ],
)
def test_axes_that_say_nothing(text):
    with pytest.raises(SpecError) as caught:
        parse_axis(text)
    assert caught.value.where == "--sweep"
    assert caught.value.hint


def test_every_point_is_the_plan_one_would_ask_for():
    found = sweep(LLAMA, parse_axis("nodes=1..4"))
    assert [point.value for point in found.points] == [1, 2, 4]
    for point in found.points:
        alone = plan_for(replace(LLAMA, on=(f"dgx-h100:{point.value}",)))
        assert point.plan.strategy == alone.strategy
        assert point.plan.step_s == alone.step_s
        assert point.plan.estimate["money"].value == alone.estimate["money"].value
        assert point.plan.n_rank == 8 * point.value


@pytest.mark.parametrize(
    ("axis", "field", "value"), [("seq=2048", "seq", 2048), ("batch=96", "batch", 96), ("tokens=2T", "tokens", "2T")]
)
def test_other_axes_change_the_scenario(axis, field, value):
    found = sweep(LLAMA, parse_axis(axis))
    assert found.scaling is None
    assert found.efficiency_frac(found.points[0]) is None
    assert found.points[0].plan.estimate["time"].value == plan_for(replace(LLAMA, **{field: value})).estimate["time"].value


def test_efficiency_is_the_rate_per_accelerator_over_the_first():
    found = sweep(LLAMA, parse_axis("nodes=1,4"))
    one, four = (point.plan for point in found.points)
    assert found.efficiency_frac(found.points[0]) == 1.0
    assert found.efficiency_frac(found.points[1]) == pytest.approx(one.step_s / (4 * four.step_s))


def test_weak_scaling_grows_the_batch():
    found = sweep(LLAMA, parse_axis("nodes=1,2,4"), scaling="weak")
    assert [point.plan.problem.work.global_batch for point in found.points] == [64, 128, 256]
    strong = sweep(LLAMA, parse_axis("nodes=1,2,4"))
    assert {point.plan.problem.work.global_batch for point in strong.points} == {64}
    assert found.efficiency_frac(found.points[2]) > strong.efficiency_frac(strong.points[2])


def test_a_machine_without_a_count_and_parts_of_nodes():
    found = sweep(replace(LLAMA, on=("h100-sxm5-80gb",), batch=60), parse_axis("accelerators=1,4,8,12,13"))
    assert [point.plan and point.plan.n_rank for point in found.points] == [1, 4, 8, 12, None]
    assert "do not fill equal nodes" in found.points[-1].refused
    groups = [point.plan.problem.cluster.groups[0] for point in found.points[:-1]]
    assert [(group.n_node, group.node.n_accelerator) for group in groups] == [(1, 1), (1, 4), (1, 8), (2, 6)]


@pytest.mark.parametrize(
    ("on", "axis", "groups"),
    [
        ("h100-sxm5-80gb:64", "nodes=1,2", [(1, 8), (2, 8)]),
        ("h100-sxm5-80gb", "nodes=3", [(3, 8)]),
        ("dgx-h100", "accelerators=4,16", [(1, 4), (2, 8)]),
        ("dgx-h100:5", "accelerators=12", [(2, 6)]),
    ],
)
def test_machines_by_the_other_name(on, axis, groups):
    found = sweep(replace(LLAMA, on=(on,), batch=48), parse_axis(axis))
    seen = [point.plan.problem.cluster.groups[0] for point in found.points]
    assert [(group.n_node, group.node.n_accelerator) for group in seen] == groups


def test_a_fleet_file_has_its_node_swept(tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text("name: ours\ngroups:\n  - on: dgx-h100:3\n")
    found = sweep(replace(LLAMA, on=(str(path),)), parse_axis("nodes=1,2"))
    assert [point.plan.n_rank for point in found.points] == [8, 16]


def test_packages_of_two_dies_are_counted_as_accelerators():
    found = sweep(replace(LLAMA, on=("ascend-910c",)), parse_axis("accelerators=8"))
    assert found.points[0].plan.n_rank == 16


def test_a_refusal_stays_in_its_row():
    found = sweep(replace(LLAMA, model="gpt2-xl", seq=None), parse_axis("seq=512,2048"))
    assert found.points[0].plan is not None
    assert (found.points[1].plan, found.points[1].refused) == (None, "the model has 1024 learned positions")
    assert found.points[1].token_per_s == 0
    assert found.efficiency_frac(found.points[1]) is None


def test_nothing_but_refusals_is_an_error():
    with pytest.raises(SpecError, match="learned positions"):
        sweep(replace(LLAMA, model="gpt2-xl", seq=None), parse_axis("seq=2048,4096"))
    with pytest.raises(SpecError) as caught:
        sweep(replace(LLAMA, on=("dgx-h100:1", "dgx-a100-80gb:1")), parse_axis("nodes=1..2"))
    assert caught.value.where == "--on"
    with pytest.raises(SpecError, match="one kind of machine"):
        sweep(replace(LLAMA, on=("dgx-h100:1", "dgx-a100-80gb:1")), parse_axis("seq=2048,4096"))
    with pytest.raises(SpecError, match="no-such"):
        sweep(replace(LLAMA, on=("no-such-node",)), parse_axis("nodes=1..2"))


def test_progress_and_an_interrupt(monkeypatch):
    seen = []
    sweep(LLAMA, parse_axis("nodes=1,2"), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    real = module.plan_on

    def stop(scenario, machines):
        if machines.groups[0].n_node == 2:
            raise KeyboardInterrupt
        return real(scenario, machines)

    monkeypatch.setattr(module, "plan_on", stop)
    found = sweep(LLAMA, parse_axis("nodes=1,2,4"))
    assert found.interrupted
    assert [point.value for point in found.points] == [1]
    with pytest.raises(KeyboardInterrupt):
        sweep(LLAMA, parse_axis("nodes=2,4"))
