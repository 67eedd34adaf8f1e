"""Known answers: published amounts of compute, memory and growth that the library must reproduce from N and D.

Values and tolerances are those of the papers named beside them; every number is computed by the functions the commands use.
"""

from __future__ import annotations

import csv
from datetime import date
from importlib.resources import files

import pytest

from suanchou.catalog import catalogue
from suanchou.demand.cards import card_h
from suanchou.demand.data import conventions, optimizers, purposes, weight_formats
from suanchou.demand.flop import training_flop
from suanchou.demand.ladder import ladder
from suanchou.demand.memory import checkpoint_estimate, state_byte_per_param, weight_estimate
from suanchou.demand.scaling import over_training
from suanchou.demand.serving import critical_batch
from suanchou.machine import accelerator
from suanchou.model.kv import kv_byte_per_token
from suanchou.model.parameters import active_parameter_count, parameter_count
from suanchou.model.source import find_model
from suanchou.trends.growth import annual_growth, doubling_months, fit_growth, year_of
from suanchou.units import DAY_S, GIB, PFLOPS_DAY, parse

B, T = 1e9, 1e12


def flop(n: float, d: float, convention: str = "6nd") -> float:
    return float(training_flop(n, d, conventions()[convention]))


@pytest.mark.parametrize(
    ("n", "d", "convention", "expected", "rel"),
    [
        pytest.param(
            174.6 * B, 300 * B, "6nd", parse("3637 PFLOPS-days", "flop"), 0.005, id="GPT-3, arXiv 2005.14165 table D.1"
        ),
        pytest.param(245.73 * B, 180 * B, "8nd", parse("4095 PFLOPS-days", "flop"), 0.001, id="Yuan 1.0, arXiv 2110.04725"),
        pytest.param(175 * B, 300 * B, "8nd", 4.3e23, 0.03, id="OPT-175B"),
        pytest.param(50.6 * B, 569 * B, "8nd", 2.36e23, 0.03, id="BloombergGPT"),
        pytest.param(11 * B, 1 * T, "3nd", 3.3e22, 0.01, id="T5-11B"),
        pytest.param(52 * B, 7 * T, "hunyuan-large", 3.49e24, 0.005, id="Hunyuan-Large, arXiv 2411.02265"),
    ],
)
def test_published_training_compute(n: float, d: float, convention: str, expected: float, rel: float) -> None:
    assert flop(n, d, convention) == pytest.approx(expected, rel=rel)


def test_bagualu_is_a_fifth_of_the_machine() -> None:
    """1.002 EFLOPS on 96,000 nodes of 55.3 TFLOPS are 18.9 % of the half-precision peak."""
    peak = 96_000 * accelerator("sw26010-pro").peak("fp16")
    assert parse("1.002 EFLOPS", "flop/s") / peak == pytest.approx(0.189, abs=0.0005)
    assert peak == pytest.approx(parse("5.31 EFLOPS", "flop/s"), rel=0.001)


@pytest.mark.parametrize(("n", "gib"), [(8.03 * B, 105), (70.6 * B, 912), (405.9 * B, 5290)])
def test_mlperf_storage_checkpoints_are_14_byte_per_parameter_in_gib(n: float, gib: float) -> None:
    size = checkpoint_estimate(n, optimizers()["adam-mixed"]).value
    assert size / GIB == pytest.approx(gib, rel=0.03)
    assert size / 1e9 != pytest.approx(gib, rel=0.03), "read as decimal GB the rule fails, so the unit matters"


def frontier(first: int, last: int) -> tuple[list[float], list[float]]:
    text = (files("suanchou.catalog") / "data" / "epoch_models.csv").read_text(encoding="utf-8")
    years, values = [], []
    for row in csv.DictReader(text.splitlines()):
        if row["frontier"] and row["training_flop"] and first <= int(row["date"][:4]) <= last:
            years.append(year_of(date.fromisoformat(row["date"])))
            values.append(float(row["training_flop"]))
    return years, values


def test_frontier_compute_doubles_every_five_months() -> None:
    """Data: Epoch AI. 5.4 months over 2010-2025 (4.61 times a year, R2 0.97), 4.8 months over 2012-2018."""
    long, short = fit_growth(*frontier(2010, 2025)), fit_growth(*frontier(2012, 2018))
    assert long.doubling_months == pytest.approx(5.4, abs=0.05)
    assert long.per_year == pytest.approx(4.61, abs=0.01)
    assert long.r2 == pytest.approx(0.97, abs=0.005)
    assert long.n == 71
    assert short.doubling_months == pytest.approx(4.8, abs=0.05)


def test_the_older_doubling_time() -> None:
    """300,000 times in 62.4 months is a doubling every 3.43 months, 11.3 times a year."""
    assert doubling_months(3e5, 62.4) == pytest.approx(3.43, abs=0.005)
    assert 2 ** (12 / doubling_months(3e5, 62.4)) == pytest.approx(11.3, abs=0.05)


def test_both_editions_of_the_2030_forecast_share_a_base() -> None:
    """105 ZFLOPS at 500 times (2021 edition) and 864 ZFLOPS at 4000 times (2024) start from the same 0.21 ZFLOPS."""
    old, new = parse("105 ZFLOPS", "flop/s") / 500, parse("864 ZFLOPS", "flop/s") / 4000
    assert old == pytest.approx(parse("0.21 ZFLOPS", "flop/s"))
    assert new == pytest.approx(old, rel=0.03)
    assert annual_growth(1, 500, 10) == pytest.approx(0.86, abs=0.005)


@pytest.mark.parametrize(
    ("first", "last", "years", "rate"), [(155.2, 1271.4, 5, 0.523), (259.9, 1117.4, 5, 0.339)], ids=["2021-2026", "2022-2027"]
)
def test_forecast_growth_of_intelligent_compute(first: float, last: float, years: float, rate: float) -> None:
    assert annual_growth(first, last, years) == pytest.approx(rate, abs=0.0005)


# N and active N in billions, D in trillions, PFLOPS-days, A100-days, 910B-days, days of a 500 PFLOPS centre,
# weights in GB at 16, 8 and 4 bits, KV cache in KiB per token, checkpoint in TB, bundled model
TABLE = {
    "GPT-3": (174.6, 174.6, 0.3, 3637, 25908, 24186, 18.2, (349, 175, 87), 4608, 2.44, "gpt-3-175b"),
    "Gopher": (280, 280, 0.3, 5833, 41548, 38785, 29.2, (560, 280, 140), 5120, 3.92, "gopher-280b"),
    "MT-NLG": (530, 530, 0.27, 9938, 70780, 66074, 49.7, (1060, 530, 265), 8400, 7.42, "mt-nlg-530b"),
    "PaLM": (540.4, 540.4, 0.78, 29269, 208468, 194607, 146, (1081, 540, 270), 118, 7.56, "palm-540b"),
    "Chinchilla": (70, 70, 1.4, 6806, 48473, 45250, 34.0, (140, 70, 35), 2560, 0.98, "chinchilla-70b"),
    "BLOOM": (176.2, 176.2, 0.366, 4480, 31907, 29785, 22.4, (352, 176, 88), 3920, 2.47, "bloom-176b"),
    "ChatGLM-6B": (6.2, 6.2, 1, 431, 3067, 2863, 2.2, (12.4, 6.2, 3.1), 448, 0.09, "chatglm-6b"),
    "LLaMA-7B": (6.7, 6.7, 1, 465, 3314, 3094, 2.3, (13.4, 6.7, 3.4), 512, 0.09, "llama-7b"),
    "LLaMA-13B": (13, 13, 1, 903, 6430, 6003, 4.5, (26, 13, 6.5), 800, 0.18, "llama-13b"),
    "LLaMA-65B": (65.2, 65.2, 1.4, 6339, 45149, 42147, 31.7, (130, 65, 33), 2560, 0.91, "llama-65b"),
    "Llama 2 70B": (70, 70, 2, 9722, 69247, 64642, 48.6, (140, 70, 35), 320, 0.98, "llama-2-70b"),
    "Llama 3.1 405B": (405, 405, 15.6, 438750, 3.13e6, 2.92e6, 2194, (810, 405, 203), 504, 5.67, "llama-3.1-405b"),
    "Qwen2.5-72B": (72.7, 72.7, 18, 90875, 647e3, 604e3, 454, (145, 73, 36), 320, 1.02, "qwen2.5-72b"),
    "Pangu Ultra": (135, 135, 13.2, 123750, 881e3, 823e3, 619, (270, 135, 68), 376, 1.89, "pangu-ultra-135b"),
    "DeepSeek-V3": (671, 37, 14.8, 38028, 271e3, 253e3, 190, (1342, 671, 336), 69, 9.39, "deepseek-v3"),
    "Qwen3-235B": (235, 22, 36, 55000, 392e3, 366e3, 275, (470, 235, 118), 188, 3.29, "qwen3-235b-a22b"),
    "GLM-4.5": (355, 32, 23, 51111, 364e3, 340e3, 256, (710, 355, 178), 368, 4.97, "glm-4.5"),
    "Kimi K2": (1040, 32, 15.5, 34444, 245e3, 229e3, 172, (2080, 1040, 520), 69, 14.6, "kimi-k2"),
}
ROWS = [pytest.param(*row[:10], id=name) for name, row in TABLE.items()]
BUNDLED = [pytest.param(*row, id=name) for name, row in TABLE.items() if row[-1] in catalogue().names("models")]


@pytest.mark.parametrize(("n", "active", "d", "pfd", "a100", "ascend", "centre", "gb", "kv_kib", "ckpt"), ROWS)
def test_the_table_of_models(
    n: float,
    active: float,
    d: float,
    pfd: float,
    a100: float,
    ascend: float,
    centre: float,
    gb: tuple[float, float, float],
    kv_kib: float,
    ckpt: float,
) -> None:
    """Six FLOP per active parameter and token; 312 TFLOPS at 45 %, 376 TFLOPS at 40 %, 500 PFLOPS at 40 %."""
    amount = flop(active * B, d * T)
    # The last digits of the printed values come from N before it was rounded for printing.
    assert amount / PFLOPS_DAY == pytest.approx(pfd, rel=0.002)
    assert card_h(amount, 312e12, 0.45) / 24 == pytest.approx(a100, rel=0.0025)
    assert card_h(amount, 376e12, 0.40) / 24 == pytest.approx(ascend, rel=0.0025)
    assert card_h(amount, parse("500P", "flop/s"), 0.40) / 24 == pytest.approx(centre, rel=0.025 if centre < 10 else 0.003)
    for name, expected in zip(("bf16", "int8", "int4"), gb, strict=True):
        # Rounded to the digits printed: to a tenth for ChatGLM and LLaMA-7B, else to a whole GB, halves either way.
        slack = 0.0501 if expected != int(expected) else 0.501
        assert weight_estimate(n * B, weight_formats()[name]).value / 1e9 == pytest.approx(expected, abs=slack)
    assert checkpoint_estimate(n * B, optimizers()["adam-mixed"]).value / 1e12 == pytest.approx(
        ckpt, abs=0.0501 if ckpt > 10 else 0.0101
    )


@pytest.mark.parametrize(("n", "active", "d", "pfd", "a100", "ascend", "centre", "gb", "kv_kib", "ckpt", "bundled"), BUNDLED)
def test_bundled_models_agree_with_the_table(
    n: float,
    active: float,
    d: float,
    pfd: float,
    a100: float,
    ascend: float,
    centre: float,
    gb: tuple[float, float, float],
    kv_kib: float,
    ckpt: float,
    bundled: str,
) -> None:
    """The same rows from the bundled config.json: parameters as published, cache per token exact."""
    arch = find_model(bundled).architecture
    assert parameter_count(arch) == pytest.approx(n * B, rel=0.025)
    met = active_parameter_count(arch)
    assert met == pytest.approx(active * B, rel=0.055)
    assert flop(met, d * T) / PFLOPS_DAY == pytest.approx(pfd, rel=0.055)
    assert round(float(kv_byte_per_token(arch)) / 1024) == kv_kib


@pytest.mark.parametrize(
    ("model", "byte"),
    [("gpt-3-175b", 4_718_592), ("llama-2-70b", 327_680), ("deepseek-v3", 70_272), ("llama-3.1-405b", 516_096)],
)
def test_cache_bytes_per_token(model: str, byte: int) -> None:
    assert kv_byte_per_token(find_model(model).architecture) == byte


def test_optimizer_states_and_zero() -> None:
    """ZeRO, arXiv 1910.02054: 16 byte per parameter become 4 + 12/R, 2 + 14/R and 16/R; ZeRO-Infinity counts 20."""
    adam = optimizers()["adam-mixed"]
    assert adam.training == 16
    for rank in (1, 8, 1024):
        expected = (16, 4 + 12 / rank, 2 + 14 / rank, 16 / rank)
        assert [state_byte_per_param(adam, zero=z, n_rank=rank) for z in range(4)] == pytest.approx(expected)
    assert optimizers()["zero-infinity"].training == 20
    # "1T parameters need at least 800 V100 of 32 GB just to hold the training state": 20 GB of state on each.
    assert 1e12 * adam.training / 800 == pytest.approx(20e9)


def test_cost_ladder_of_a_13b_model() -> None:
    """From scratch on 260B tokens 2.0e22, continued on 50B 3.9e21, SFT 7.8e18, LoRA 5.2e18, RAG 6e18: 2600 : 500 : 1."""
    rungs = {rung.name: rung.value for rung in ladder(13 * B)}
    assert rungs == pytest.approx(
        {"scratch": 2.0e22, "continue": 3.9e21, "sft": 7.8e18, "lora": 5.2e18, "rag": 6e18}, rel=0.015
    )
    assert rungs["scratch"] / rungs["sft"] == pytest.approx(2600)
    assert rungs["continue"] / rungs["sft"] == pytest.approx(500)


def test_meditron_cost_a_fortieth_of_its_base() -> None:
    """48.1B tokens on Llama 2 70B: 2.02e22 FLOP, 2.4 % of pre-training."""
    assert flop(70 * B, 48.1 * B) == pytest.approx(2.02e22, rel=0.005)
    assert flop(70 * B, 48.1 * B) / flop(70 * B, 2 * T) == pytest.approx(0.024, abs=0.0005)


def test_over_training_of_llama_3_8b() -> None:
    assert over_training(8 * B, 15 * T) == pytest.approx(94, abs=0.5)


def test_flop_per_token_of_tuning_methods() -> None:
    """Multiples of N per token: full tuning 6, LoRA 4, QLoRA 6 (recompute), DPO 8, PPO 20, GRPO without value model."""
    per_param = {name: item.per_param for name, item in purposes().items()}
    assert per_param["sft"] == 6
    assert per_param["lora"] == 4
    assert per_param["qlora"] == 6
    assert per_param["dpo"] == 8
    assert per_param["ppo"] == 20
    assert per_param["grpo"] == per_param["ppo"] - 2 - 6


def test_critical_batch() -> None:
    """peak * 2 byte / (2 * bandwidth): 153 on an A100 80GB; 235 on a 910B at its headline 376 TFLOPS."""
    a100, ascend = accelerator("a100-sxm4-80gb"), accelerator("ascend-910b2")
    assert critical_batch(a100, dtype="bf16") == pytest.approx(153, abs=0.5)
    assert critical_batch(ascend, dtype="bf16") * 376e12 / ascend.peak("bf16") == pytest.approx(235, abs=0.5)


@pytest.mark.parametrize(
    ("run", "n", "device_tflops", "hours", "amount", "implied"),
    [
        ("GPT-3", 10_000, 125, 355.2, 3.14e23, 0.196),
        ("Gopher", 4_096, 123, 920, 6.31e23, 0.378),
        ("OPT-175B", 1_024, 312, 793.5, 4.3e23, 0.471),
        ("BLOOM", 384, 312, 2_808, 3.66e23, 0.302),
    ],
)
def test_implied_utilisation_inverts_card_time(
    run: str, n: int, device_tflops: float, hours: float, amount: float, implied: float
) -> None:
    """The utilisation at which the formula gives the hours that the run took."""
    assert card_h(amount, device_tflops * 1e12, implied) == pytest.approx(n * hours, rel=0.01)


def test_days_of_the_claimed_centres() -> None:
    """3640 PFLOPS-days are 7.28 days of one 500 PFLOPS centre at its peak, 18.2 at 40 %."""
    amount = parse("3640 PFLOPS-days", "flop")
    assert card_h(amount, parse("500P", "flop/s"), 1.0) * 3600 / DAY_S == pytest.approx(7.28)
    assert card_h(amount, parse("500P", "flop/s"), 0.4) * 3600 / DAY_S == pytest.approx(18.2)
