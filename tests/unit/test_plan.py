"""Plans: sums, objectives, deadlines, pins, rivals, utilisation."""

from __future__ import annotations

import math

import pytest

from suanchou.errors import Infeasible, MissingData, SpecError
from suanchou.machine import cluster
from suanchou.model.flop import flop_per_token
from suanchou.model.source import find_model
from suanchou.training.plan import plan
from suanchou.training.search import TIE_FRAC


def ask(model="llama-3.1-8b", on="dgx-h100:4", token=1e12, seq=4096, global_batch=128, **fields):
    return plan(find_model(model).architecture, cluster([on]), token=token, seq=seq, global_batch=global_batch, **fields)


CASES = {
    "dense": {},
    "mixture": {"model": "mixtral-8x7b", "on": "dgx-h100:8"},
    "latent": {"model": "deepseek-v3", "on": "dgx-h100:64", "global_batch": 1024},
    "ascend": {"on": "atlas-800t-a2:4"},
    "fsdp": {"stack": "torch-fsdp2"},
    "eager": {"stack": "megatron-2021", "model": "gpt2-xl", "seq": 1024},
    "fp8": {"fp8": True},
    "offload": {"model": "llama-3.1-70b", "on": "dgx-h100:1", "global_batch": 8},
}


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def answer(request):
    return ask(**CASES[request.param])


def test_summed_children_add_up(answer):
    summed = [node for _, node in answer.estimate.walk() if node.summed]
    assert {node.name for node in summed} >= {"step", "memory", "forward", "backward"}
    for node in summed:
        assert math.fsum(child.value for child in node.children) == pytest.approx(node.value, rel=1e-9), node.name


def test_the_explanation_is_what_the_search_priced(answer):
    best = answer.found.best[0]
    assert best.strategy == answer.strategy
    assert answer.step_s == pytest.approx(best.step_s, rel=1e-9)
    assert answer.estimate["memory"].value == pytest.approx(best.memory_byte, rel=1e-9)


def test_the_plan_fits_at_its_worst(answer):
    memory = answer.estimate["memory"]
    assert memory.low <= memory.value <= memory.high
    assert memory.high <= answer.problem.memory_byte
    assert answer.verdict in ("fits", "tight")


def test_every_node_has_a_value_a_unit_and_a_reason(answer):
    for path, node in answer.estimate.walk():
        assert math.isfinite(node.value), path
        assert node.value >= 0, path
        assert node.unit, path
        assert node.formula or node.sources or node.children, path


def test_utilisation(answer):
    u, work = answer.estimate["utilisation"], answer.problem.work
    assert 0 < u["mfu"].value <= 1
    assert u["hfu"].value >= u["mfu"].value
    flop = flop_per_token(work.arch, work.seq, mtp=bool(work.arch.mtp)).value
    rate = work.batch_token / answer.step_s
    peak = answer.problem.accelerator.peak("fp8" if answer.strategy.fp8 else work.dtype) * answer.n_rank
    assert u["mfu"].value == pytest.approx(flop * rate / peak, rel=1e-12)
    assert u["token_rate"].value * answer.n_rank == pytest.approx(rate)


def test_the_degrees_use_every_rank(answer):
    assert answer.n_rank == answer.problem.cluster.n_accelerator
    assert answer.problem.work.global_batch % (answer.strategy.dp * answer.strategy.micro_batch) == 0


def test_limits_are_shares_of_the_step(answer):
    assert answer.limit
    shares = [share for _, share in answer.limit]
    assert shares == sorted(shares, reverse=True)
    for name, share in answer.limit:
        assert share == pytest.approx(answer.estimate["step"][name].value / answer.step_s)


def test_rivals_lose_by_what_is_said(answer):
    assert answer.rivals
    for rival, candidate in zip(answer.rivals, answer.found.best[1:], strict=True):
        assert rival.candidate == candidate
        assert rival.slower_frac == pytest.approx(candidate.step_s / answer.step_s - 1)
        assert rival.slower_frac >= 1 / (1 + TIE_FRAC) - 1
        assert [share for _, share in rival.why] == sorted((share for _, share in rival.why), reverse=True)
        if rival.slower_frac > 0.01:
            assert rival.why
            assert sum(share for _, share in rival.why) >= rival.slower_frac / len(answer.estimate["step"].children)


def test_time_is_steps_times_step_over_goodput():
    given = ask(goodput=0.8)
    assert given.estimate["time"].value == pytest.approx(1e12 / (4096 * 128) * given.step_s / 0.8)
    assert given.days == pytest.approx(given.estimate["time"].value / 86400)
    assert not any("goodput" in text for text in given.assumptions)
    assert any("goodput" in text for text in ask().assumptions)


def test_the_fewest_accelerators_are_fewer_and_no_smaller_number_fits():
    few = ask(objective="accelerators", on="dgx-h100:4", offload=False)
    assert few.n_rank < 32
    assert few.problem.cluster.n_accelerator >= few.n_rank
    for smaller in (n for n in (1, 2, 4) if n < few.n_rank):
        with pytest.raises(Infeasible):
            ask(on=f"h100-sxm5-80gb:{smaller}", offload=False)


def test_a_deadline_asks_for_more_accelerators():
    few = ask(objective="accelerators", on="dgx-h100:16")
    slow = few.estimate["time"].value
    quicker = ask(objective="accelerators", on="dgx-h100:16", deadline_s=slow / 4)
    assert quicker.n_rank > few.n_rank
    assert quicker.estimate["time"].value <= slow / 4


def test_a_deadline_nobody_can_meet():
    for objective in ("time", "accelerators", "money"):
        with pytest.raises(Infeasible) as caught:
            ask(objective=objective, deadline_s=60.0, on="dgx-h100:2")
        assert caught.value.where == "--deadline"
        assert caught.value.hint


def test_money_is_at_most_that_of_the_quickest_plan():
    quick, cheap = ask(on="dgx-h100:8"), ask(on="dgx-h100:8", objective="money")
    assert cheap.estimate["money"].value <= quick.estimate["money"].value * (1 + 1e-9)
    assert cheap.estimate["time"].value >= quick.estimate["time"].value * (1 - 1e-9)
    frugal = ask(on="dgx-h100:8", objective="energy")
    assert frugal.estimate["energy"].value <= quick.estimate["energy"].value * (1 + 1e-9)


def test_money_without_a_price_is_refused_and_a_rent_helps():
    unpriced = "metax-c550:8"
    with pytest.raises(Infeasible) as caught:
        ask(on=unpriced, objective="money")
    assert caught.value.where == "--objective money"
    assert "--usd-per-hour" in caught.value.hint
    assert ask(on=unpriced, objective="money", usd_per_accelerator_h=1.0).estimate["money"].value > 0


@pytest.mark.parametrize("pin", [{"tp": 8}, {"pp": 4, "virtual": 2}, {"dp": 2}, {"micro_batch": 4}, {"sp": 0, "tp": 2}])
def test_pins_hold(pin):
    pinned = ask(fixed=pin)
    for name, value in pin.items():
        assert getattr(pinned.strategy, name) == value
    assert pinned.step_s >= ask().step_s / (1 + TIE_FRAC + 0.001)


def test_no_offload_keeps_states_on_the_device():
    with pytest.raises(Infeasible):
        ask(**CASES["offload"], offload=False, fixed={"tp": 1, "pp": 1, "dp": 8})
    s = ask(offload=False).strategy
    assert (s.offload_weight, s.offload_optimizer, s.offload_activation) == (0, 0, 0)


def test_a_model_that_does_not_fit_is_refused_with_reasons():
    with pytest.raises(Infeasible) as caught:
        ask("gpt-3-175b", "h100-sxm5-80gb:1", seq=2048, global_batch=8, offload=False)
    assert max(caught.value.reasons, key=caught.value.reasons.get) == "needs more memory than the accelerator has"
    assert "more accelerators" in caught.value.hint


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_number_of_rivals(keep):
    assert len(ask(keep=keep).rivals) == keep


def test_defaults_are_said():
    open_ = plan(find_model("llama-3.1-8b").architecture, cluster(["dgx-h100:2"]), token=1e12)
    assert (open_.problem.work.seq, open_.problem.work.dtype) == (8192, "bf16")
    text = "\n".join(open_.assumptions)
    for word in ("sequence length 8192", "global batch", "bf16", "megatron-core"):
        assert word in text


def test_wrong_input_is_refused():
    with pytest.raises(SpecError):
        ask(token=-1.0)
    with pytest.raises(SpecError):
        ask(token=float("nan"))
    with pytest.raises(SpecError):
        ask(global_batch=0)
    with pytest.raises(SpecError):
        ask(stack="no-such-stack")
    with pytest.raises(MissingData):
        ask(dtype="fp4")


def test_a_mixed_fleet_needs_a_mixed_plan():
    with pytest.raises(Infeasible, match="one kind of machine"):
        plan(find_model("llama-3.1-8b").architecture, cluster(["dgx-h100:1", "dgx-a100-80gb:1"]), token=1e12)
