"""The demand room: data, conventions, card time, memory, serving, and the whole answer."""

from __future__ import annotations

import dataclasses
import math

import pytest

from suanchou.demand import Cards, Demand, Load, Tokens, cards_from, demand
from suanchou.demand.cards import card_time
from suanchou.demand.data import (
    Constant,
    constant,
    conventions,
    listed,
    optimizers,
    purposes,
    scaling_laws,
    utilisation,
    weight_formats,
)
from suanchou.demand.request import Request, demand_for
from suanchou.demand.scaling import loss, optimal_model, optimal_tokens
from suanchou.demand.serving import Served, replica, serving, step_s
from suanchou.errors import Infeasible, MissingData, SpecError
from suanchou.estimate import Estimate
from suanchou.machine import accelerator, site
from suanchou.model.config import architecture_from_config
from suanchou.model.parameters import parameter_count, weights
from suanchou.model.source import find_model

MODEL = "llama-3.1-8b"


def ask(**fields: object) -> Demand:
    return demand_for(Request(model=MODEL, **fields))  # type: ignore[arg-type]


# -- data ----------------------------------------------------------------------------------------------------------------


def test_planning_values_are_numbers_inside_their_bands_with_a_source() -> None:
    names = ["goodput", "training_seq", "lora.rank", "ownership.life", "ownership.busy"]
    names += [f"ladder.{name}" for name in ("continue", "sft", "lora", "rag_embedder", "rag_corpus")]
    names += [f"serving.{name}" for name in ("requests_per_user_day", "input_token", "output_token", "peak_factor", "tpot")]
    names += [f"serving.{name}" for name in ("bandwidth", "prefill", "memory")]
    for item in [*(constant(name) for name in names), utilisation("gpu"), utilisation("npu"), utilisation("manycore")]:
        assert isinstance(item.value, int | float), item.name
        low, high = item.band
        assert 0 < low <= item.value <= high, item.name
        assert item.source, item.name


def test_conventions_purposes_and_recipes_are_complete() -> None:
    for item in (*conventions().values(), *purposes().values(), *optimizers().values(), *scaling_laws().values()):
        assert item.source, item.id
    for purpose in purposes().values():
        assert set(purpose.frozen) <= set(weight_formats())
        if purpose.tokens is not None:
            assert constant(f"ladder.{purpose.tokens}").value > 0
    for recipe in optimizers().values():
        assert recipe.checkpoint == recipe.training - recipe.gradient
        assert 0 < recipe.checkpoint <= 16


def test_nobody_trains_on_a_phone() -> None:
    with pytest.raises(MissingData, match="no utilisation"):
        utilisation("soc")


# -- compute-optimal -----------------------------------------------------------------------------------------------------


def test_compute_optimal_model_and_tokens_use_up_the_budget() -> None:
    n = optimal_model(5.88e23)
    assert n == pytest.approx(70e9, rel=0.001)  # Chinchilla itself
    assert 6 * n * optimal_tokens(n) == pytest.approx(5.88e23)


def test_loss_falls_with_parameters_and_tokens_towards_the_floor() -> None:
    for law in scaling_laws().values():
        assert loss(70e9, 1.4e12, law) > loss(140e9, 1.4e12, law) > law.e
        assert loss(70e9, 1.4e12, law) > loss(70e9, 2.8e12, law)
        assert loss(1e30, 1e30, law) == pytest.approx(law.e, rel=1e-4)


def test_loss_of_chinchilla() -> None:
    """arXiv 2203.15556 gives 1.936 for 70B on 1.4T by its own fit."""
    assert loss(70e9, 1.4e12) == pytest.approx(1.936, abs=0.002)


# -- card time -----------------------------------------------------------------------------------------------------------


def timed(**fields: float) -> Estimate:
    shares = {"mfu": utilisation("gpu"), "goodput": constant("goodput")}
    for name, value in fields.items():
        shares[name] = Constant(name=name, value=value)
    flop = Estimate(name="flop", value=1e23, unit="flop")
    return card_time(flop, Cards(accelerator=accelerator("h100-sxm5-80gb"), n_card=64), site=site("CN"), **shares)


def test_card_time_lies_in_its_range_and_scales() -> None:
    time = timed()
    assert time.low is not None
    assert time.high is not None
    assert time.low < time.value < time.high
    assert timed(mfu=0.2).value == pytest.approx(2 * timed(mfu=0.4).value)
    assert timed(mfu=0.4, goodput=1.0).low == timed(mfu=0.4, goodput=1.0).high
    assert time["duration"].value == pytest.approx(time.value * 3600 / 64)


def test_costs_follow_card_time_with_the_same_relative_range() -> None:
    time = timed()
    for name in ("energy", "carbon", "electricity", "rent", "own", "duration"):
        cost = time[name]
        assert cost.value > 0
        assert cost.low is not None
        assert cost.low / cost.value == pytest.approx(time.low / time.value)  # type: ignore[operator]
        assert cost.formula
    place = site("CN")
    kwh = time["energy"].value / 3.6e6
    assert time["electricity"].value == pytest.approx(kwh * place.usd_per_kwh)
    assert time["carbon"].value == pytest.approx(kwh * place.gco2_per_kwh / 1000)
    assert kwh == pytest.approx(time.value * time["energy"]["power"].value * place.pue / 1000)
    assert time["own"].value > time["electricity"].value


def test_every_formula_holds_its_own_number() -> None:
    """A formula of numbers and + - * / ^ ( ) must evaluate to the value it explains."""
    checked = 0
    for path, node in ask(tokens="15T", users="1M").estimate.walk():
        text = node.formula.replace("^", "**")
        if not text or not set(text) <= set("0123456789.e+-*/() "):
            continue
        checked += 1
        value = float(eval(text, {"__builtins__": {}}))
        assert value == pytest.approx(node.value, rel=1e-4), path
    assert checked > 100


def test_sums_are_the_sums_of_their_children() -> None:
    for path, node in ask(purpose="ppo", users="1M").estimate.walk():
        if node.summed:
            assert math.fsum(child.value for child in node.children) == pytest.approx(node.value), path


def test_a_bare_rate_is_a_centre() -> None:
    (centre,) = cards_from("500P")
    assert centre.accelerator.peak("bf16") == 5e17
    (time,) = ask(tokens="15T", machines=("500P",), mfu="40 %", goodput="100 %").card_time
    assert time.value / 24 == pytest.approx(6 * parameter_count(find_model(MODEL).architecture) * 15e12 / (2e17 * 86400))


def test_cards_of_nodes_and_clusters_are_counted() -> None:
    (cards,) = cards_from("dgx-h100:8")
    assert cards.n_card == 64
    assert cards.power_w is not None
    assert cards.power_w > 700
    (alone,) = cards_from("h100-sxm5-80gb")
    assert alone.n_card is None
    with pytest.raises(SpecError):
        cards_from("h1oo")


# -- the answer ----------------------------------------------------------------------------------------------------------


def test_hardware_conventions_change_the_count_but_not_the_time() -> None:
    """MFU is defined on model FLOP, so counting recomputation must not add days."""
    model, hardware = ask(tokens="15T"), ask(tokens="15T", convention="8nd")
    assert hardware.flop.value == pytest.approx(model.flop.value * 8 / 6)
    assert hardware.card_time[0].value == model.card_time[0].value
    exact = ask(tokens="15T", convention="exact_causal")
    assert exact.card_time[0].value / model.card_time[0].value == pytest.approx(exact.flop.value / model.flop.value)


def test_exact_counts_grow_with_the_sequence_and_bracket_each_other() -> None:
    short, long = (ask(tokens="15T", convention="exact_causal", seq=text).flop for text in ("2048", "32768"))
    assert short.value < long.value
    assert long["exact_causal"].value < long["exact_full"].value


T5_11B = {
    "model_type": "t5",
    "d_model": 1024,
    "d_ff": 65536,
    "d_kv": 128,
    "num_heads": 128,
    "num_layers": 24,
    "vocab_size": 32128,
    "relative_attention_num_buckets": 32,
    "feed_forward_proj": "relu",
}


def test_an_encoder_decoder_counts_half_its_weights() -> None:
    arch = architecture_from_config(T5_11B, name="t5-11b")
    n = parameter_count(arch)
    found = demand(arch, cards=cards_from("a100-sxm4-80gb"), site=site("CN"), tokens=Tokens(count=1e12))
    assert found.convention == "3nd"
    assert found.flop.value == pytest.approx(3 * n * 1e12)
    assert found.flop.value == pytest.approx(3.3e22, rel=0.04)  # as published; N is 11.3B
    assert found.ladder[2].value == pytest.approx(3 * n * 1e8)
    assert "6nd" not in {node.name for node in found.flop.children}


def test_token_choices_exclude_each_other() -> None:
    with pytest.raises(SpecError, match="exclude each other"):
        Tokens(count=1e12, compute_optimal=True)
    with pytest.raises(SpecError, match="exclude each other"):
        Tokens(count=1e12, budget_flop=1e24)
    assert ask(compute_optimal=True).tokens.value == pytest.approx(20 * parameter_count(find_model(MODEL).architecture))


def test_a_budget_buys_its_tokens() -> None:
    found = ask(budget="3640 PFLOPS-days")
    assert found.flop.value == pytest.approx(3640e15 * 86400)


def test_a_rate_is_no_budget() -> None:
    for text in ("3640 PFLOPS", "3640 PFLOPS a day", "每天3640 PFLOPS"):
        with pytest.raises(SpecError, match="rate") as caught:
            ask(budget=text)
        assert caught.value.where == "--budget"
        assert "PFLOPS-days" in (caught.value.hint or "")


def test_lora_trains_only_its_adapters() -> None:
    arch = find_model(MODEL).architecture
    d, ff, layers, kv = 4096, 14336, 32, 1024
    # q and out: d x d; k and v: kv x d; up, gate and down: ff x d
    expected = 16 * layers * (2 * (d + d) + 2 * (kv + d) + 3 * (ff + d))
    found = ask(purpose="lora")
    assert found.state[0].value == pytest.approx(expected * 16)
    assert found.held.value == pytest.approx(expected * 16 + 2 * parameter_count(arch))
    assert ask(purpose="lora", lora_rank=32).state[0].value == pytest.approx(2 * found.state[0].value)
    assert found.flop.value == pytest.approx(4 * parameter_count(arch) * 1e8)


def test_rl_holds_several_models() -> None:
    n = parameter_count(find_model(MODEL).architecture)
    assert ask(purpose="sft").held.value == pytest.approx(16 * n)
    assert ask(purpose="dpo").held.value == pytest.approx((16 + 2) * n)
    assert ask(purpose="grpo").held.value == pytest.approx((16 + 2 + 2) * n)
    assert ask(purpose="ppo").held.value == pytest.approx((2 * 16 + 2 + 2) * n)


def test_rank_state_shrinks_with_stage_and_ranks() -> None:
    found = {node.name: node.value for node in ask().rank_state}
    for n_rank in listed("zero_ranks"):
        stages = [found[f"zero{i}_r{n_rank}"] for i in range(4)]
        assert stages == sorted(stages, reverse=True)
    assert found["zero3_r64"] == pytest.approx(found["zero3_r8"] / 8)


def test_asked_for_cards_are_errors_and_usual_ones_warnings() -> None:
    arch = find_model(MODEL).architecture
    cards = (*cards_from("mlu290-m5"), *cards_from("h100-sxm5-80gb"))
    with pytest.raises(MissingData):
        demand(arch, cards=cards, site=site("CN"))
    found = demand(arch, cards=cards, site=site("CN"), strict=False)
    assert [node.name for node in found.card_time] == ["h100-sxm5-80gb"]
    assert any("MLU290" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"purpose": "dream"}, "for"),
        ({"optimizer": "magic"}, "optimizer"),
        ({"convention": "7nd"}, "convention"),
        ({"convention": "3nd"}, "convention"),
        ({"convention": "6nd", "purpose": "dpo"}, "convention"),
        ({"mfu": "120 %"}, "mfu"),
        ({"goodput": "0"}, "goodput"),
        ({"tokens": "0"}, "--tokens"),
        ({"tokens": "15 TB"}, "--tokens"),
        ({"purpose": "serve"}, "for serve"),
        ({"tpot": "50 ms"}, "--tpot"),
        ({"users": "0.5"}, "serving load"),
        ({"purpose": "lora", "lora_rank": 0}, "lora-rank"),
        ({"region": "Atlantis"}, "catalog/regions"),
        ({"users": "1M", "weights": "int3"}, "weights"),
    ],
)
def test_refusals_name_the_place(fields: dict[str, object], where: str) -> None:
    with pytest.raises(SpecError) as caught:
        ask(**fields)
    assert caught.value.where == where
    assert caught.value.hint


# -- serving -------------------------------------------------------------------------------------------------------------

DENSE = Served(weight_byte=16e9, prefill_flop=16e9, decode_flop=16e9, kv_byte=150e6)
LOAD = Load(
    users=1e6,
    requests_per_user_day=Constant(name="requests", value=10),
    input_token=1000,
    output_token=300,
    peak_factor=Constant(name="peak", value=3),
    tpot_s=0.05,
)


def test_a_step_reads_or_computes_whichever_is_slower() -> None:
    read = step_s(DENSE, 1, bandwidth_byte_per_s=1e12, flop_per_s=1e15)
    assert read == pytest.approx((16e9 + 150e6) / 1e12)
    assert step_s(DENSE, 100, bandwidth_byte_per_s=1e15, flop_per_s=1e14) == pytest.approx(100 * 16e9 / 1e14)


def test_a_large_batch_reads_every_expert() -> None:
    moe = Served(weight_byte=100e9, expert_byte=90e9, expert_share=0.125, prefill_flop=1e10, decode_flop=1e10, kv_byte=1e8)
    assert moe.read_byte(1) == pytest.approx(10e9 + 90e9 / 8)
    assert moe.read_byte(1000) == pytest.approx(100e9)
    assert moe.read_byte(4) < moe.read_byte(8)


def test_the_batch_fills_memory_or_tpot() -> None:
    card = accelerator("a100-sxm4-80gb")
    one = replica(DENSE, LOAD, card, 1, dtype="bf16", bandwidth=0.7, compute=0.45, memory=0.9)
    assert one is not None
    memory, bandwidth = card.memory_byte, card.memory_bandwidth_byte_per_s
    assert memory is not None
    assert bandwidth is not None
    assert one.batch * DENSE.kv_byte + DENSE.weight_byte <= 0.9 * memory
    assert one.step_s <= LOAD.tpot_s
    speeds = {"bandwidth_byte_per_s": 0.7 * bandwidth, "flop_per_s": 0.45 * card.peak("bf16")}
    more = one.batch + 1
    assert more * DENSE.kv_byte + DENSE.weight_byte > 0.9 * memory or step_s(DENSE, more, **speeds) > LOAD.tpot_s


def test_more_users_longer_answers_and_tighter_limits_need_more_cards() -> None:
    cards, place = Cards(accelerator=accelerator("a100-sxm4-80gb")), site("CN")
    base = serving(DENSE, LOAD, cards, site=place)
    assert base.low is not None
    assert base.high is not None
    assert base.low <= base.value <= base.high
    for change in ({"users": 2e6}, {"output_token": 600}, {"input_token": 4000}, {"tpot_s": 0.02}):
        assert serving(DENSE, dataclasses.replace(LOAD, **change), cards, site=place).value >= base.value, change
    assert serving(DENSE, dataclasses.replace(LOAD, users=1e7), cards, site=place).value == pytest.approx(
        10 * base.value, rel=0.05
    )


def test_latent_attention_prefills_without_absorbing_its_projections() -> None:
    """DeepSeek-V3 decodes on the latent cache, which costs more FLOP a token than the plain form of prefill."""
    from suanchou.demand.answer import served_model

    model = served_model(find_model("deepseek-v3").architecture, dataclasses.replace(LOAD, input_token=8192), "fp8")
    assert model.decode_flop > 1.2 * model.prefill_flop
    assert model.expert_share == pytest.approx(8 / 256)
    assert model.weight_byte == pytest.approx(671e9, rel=0.001)


def test_what_cannot_be_served_is_refused() -> None:
    cards, place = Cards(accelerator=accelerator("a100-sxm4-80gb")), site("CN")
    huge = dataclasses.replace(DENSE, weight_byte=1e18)
    with pytest.raises(Infeasible, match="no replica"):
        serving(huge, LOAD, cards, site=place)
    with pytest.raises(Infeasible):
        serving(DENSE, dataclasses.replace(LOAD, tpot_s=1e-6), cards, site=place)


def test_weights_counted_for_adapters_are_matrices_of_the_model() -> None:
    roles = set(listed("lora.roles"))
    assert any(w.role in roles for w in weights(find_model(MODEL).architecture))
