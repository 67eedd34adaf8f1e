"""Units: what parses, what is refused and with which question, and how numbers are printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from suanchou.errors import SpecError
from suanchou.units import UNITS, fmt, fmt_byte, fmt_pflops_days, parse

DAY = 86_400.0
SRC = Path(__file__).parents[2] / "src"


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("3.35 TB/s", "byte/s", 3.35e12),
        ("每秒3.35 TB", "byte/s", 3.35e12),
        ("3.35 TB per second", "byte/s", 3.35e12),
        ("2 GiB/s", "byte/s", 2 * 2**30),
        ("400 Gb/s", "byte/s", 50e9),
        ("400 Gbps", "byte/s", 50e9),
        ("400 Gbit/s", "byte/s", 50e9),
        ("80 GiB", "byte", 80 * 2**30),
        ("80GB", "byte", 80e9),
        ("512 kB", "byte", 512e3),
        ("1e9 bytes", "byte", 1e9),
        ("1,024 B", "byte", 1024),
        ("1 PFLOP", "flop", 1e15),
        ("2.5 ZFLOP", "flop", 2.5e21),
        ("3640 PFLOPS-days", "flop", 3640e15 * DAY),
        ("3640 PFLOPS-day", "flop", 3640e15 * DAY),
        ("3640 PFLOPS days", "flop", 3640e15 * DAY),
        ("3,640 petaflop/s-days", "flop", 3640e15 * DAY),
        ("3640 PF-days", "flop", 3640e15 * DAY),
        ("3640PFd", "flop", 3640e15 * DAY),
        ("3640 P·天", "flop", 3640e15 * DAY),
        ("2 EFLOPS-hours", "flop", 7.2e21),
        ("989 TFLOPS", "flop/s", 989e12),
        ("989 tflops", "flop/s", 989e12),
        ("989 TFLOP/s", "flop/s", 989e12),
        ("312 TF", "flop/s", 312e12),
        ("1979 TOPS", "flop/s", 1979e12),
        ("500P", "flop/s", 5e17),
        ("1.5E", "flop/s", 1.5e18),
        ("1.002 EFLOPS", "flop/s", 1.002e18),
        ("105 ZFLOPS", "flop/s", 1.05e23),
        ("12.3 ms", "s", 0.0123),
        ("5 µs", "s", 5e-6),
        ("3 d 4 h", "s", 3 * DAY + 4 * 3600),
        ("1小时30分", "s", 5400),
        ("30天", "s", 30 * DAY),
        ("700 W", "w", 700),
        ("3千瓦", "w", 3000),
        ("1.2 GWh", "j", 1.2e9 * 3600),
        ("100 度", "j", 100 * 3.6e6),
        ("1000千瓦时", "j", 1000 * 3.6e6),
        ("$1.23 M", "usd", 1.23e6),
        ("1.2 M USD", "usd", 1.2e6),
        ("123 万美元", "usd", 1.23e6),
        ("$2.5/h", "usd/h", 2.5),
        ("2.5 USD per GPU-hour", "usd/h", 2.5),
        ("30.2 亿元", "cny", 3.02e9),
        ("8万元", "cny", 8e4),
        ("¥18/h", "cny/h", 18),
        ("18 元/卡时", "cny/h", 18),
        ("$84/MWh", "usd/kwh", 0.084),
        ("0.6元/度", "cny/kwh", 0.6),
        ("1000 卡时", "card_h", 1000),
        ("3万卡天", "card_h", 720_000),
        ("100 GPU-days", "card_h", 2400),
        ("15T", "1", 15e12),
        ("70b", "1", 70e9),
        ("1.5万亿 tokens", "1", 1.5e12),
        ("2万亿", "1", 2e12),
        ("350亿参数", "1", 35e9),
        ("百万", "1", None),
        ("5百万", "1", 5e6),
        ("3千万", "1", 3e7),
        ("4百亿", "1", 4e10),
        ("1e12", "1", 1e12),
        ("12", "1", 12),
        ("0", "1", 0),
        ("45 %", "frac", 0.45),
        ("0.45", "frac", 0.45),
    ],
)
def test_parse(text: str, unit: str, value: float | None) -> None:
    if value is None:
        with pytest.raises(SpecError):
            parse(text, unit)
    else:
        assert parse(text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "unit", "says"),
    [
        ("400 Gb", "byte", "gigabits (did you mean 400 GB?)"),
        ("400 gb", "byte", "did you mean 400 GB or 400 Gb?"),
        ("400 gb/s", "byte/s", "did you mean 400 GB/s or 400 Gb/s?"),
        ("400 GBps", "byte/s", "did you mean 400 GB/s (bytes) or 400 Gb/s (bits)?"),
        ("80 GB", "byte/s", "did you mean 80 GB/s?"),
        ("80 GB/s", "byte", "is a data rate, and an amount is wanted"),
        ("80", "byte", "80 what?"),
        ("80 G", "byte", "did you mean 80 GB or 80 GiB?"),
        ("3640 PFLOPS", "flop", "did you mean 3640 PFLOPS-days = 3.14e+23 FLOP?"),
        ("3640 PFLOPS a day", "flop", "PFLOPS is already a rate"),
        ("3640 PFLOPS per day", "flop/s", "did you mean 3640 PFLOPS-days = 3.14e+23 FLOP?"),
        ("3640 PFLOPS/day", "flop", "PFLOPS is already a rate"),
        ("每天3640 PFLOPS", "flop", "PFLOPS is already a rate"),
        ("每天 3640P", "flop", "P is already a rate"),
        ("3640 PFLOPS-days", "flop/s", "is an amount of compute, and a rate is wanted"),
        ("3 TFLOPs", "flop", "3 TFLOP (an amount) or 3 TFLOPS (a rate)?"),
        ("3 TFLOPs", "flop/s", "3 TFLOP (an amount) or 3 TFLOPS (a rate)?"),
        ("30.2亿元", "usd", "no exchange rate is assumed"),
        ("$5", "cny", "no exchange rate is assumed"),
        ("3 m", "s", "write min or d"),
        ("2 months", "s", "write min or d"),
        ("700 mw", "w", "m is milli, M is mega"),
        ("1,5 GB", "byte", "do not group thousands"),
        ("-1 GB", "byte", "negative"),
        ("1e999 GB", "byte", "too large"),
        ("nan", "1", "not a number"),
        ("inf", "1", "not a number"),
        ("", "1", "empty value"),
        ("   ", "s", "empty value"),
        ("a lot", "byte", "not a number"),
        ("5亿万", "1", "is not a count"),
        ("5 parsec", "s", "is not a time"),
        ("3 d 90", "s", "is not a time"),
        ("4 h 3 d", "s", "is not a time"),
        ("5 kg", "1", "is not a count"),
    ],
)
def test_refused_with_the_question(text: str, unit: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text, unit, where="--it")
    assert says in str(caught.value)
    assert caught.value.where == "--it"
    assert caught.value.hint


def test_long_garbage_is_not_echoed_whole() -> None:
    with pytest.raises(SpecError) as caught:
        parse("x" * 10_000, "byte")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("value", "unit", "en", "zh"),
    [
        (85.5e9, "byte", "85.5 GB", "85.5 GB"),
        (3.35e12, "byte/s", "3.35 TB/s", "3.35 TB/s"),
        (1.98e15, "flop", "1.98 PFLOP", "1.98 PFLOP"),
        (1.98e15, "flop/s", "1.98 PFLOP/s", "1.98 PFLOP/s"),
        (999.96e9, "byte", "1 TB", "1 TB"),
        (3 * DAY + 4 * 3600, "s", "3 d 4 h", "3 天 4 小时"),
        (3599.9, "s", "1 h", "1 小时"),
        (59.99, "s", "1 min", "1 分钟"),
        (0.0123, "s", "12.3 ms", "12.3 ms"),
        (2194 * DAY, "s", "2,194 d", "2,194 天"),
        (0.0, "s", "0 s", "0 秒"),
        (1.23e6, "usd", "$1.23 M", "123 万美元"),
        (18.0, "cny/h", "¥18/h", "18 元/h"),
        (0.084, "usd/kwh", "$0.084/kWh", "0.084 美元/kWh"),
        (70.6e9, "1", "70.6 B", "706 亿"),
        (15e12, "1", "15 T", "15 万亿"),
        (-2.5e6, "1", "-2.5 M", "-250 万"),
        (1.2e9 * 3600, "j", "1.2 GWh", "1.2 GWh"),
        (720_000, "card_h", "720 K card-h", "72 万卡时"),
        (0.189, "frac", "18.9 %", "18.9 %"),
    ],
)
def test_fmt(value: float, unit: str, en: str, zh: str) -> None:
    assert fmt(value, unit) == en
    assert fmt(value, unit, lang="zh") == zh


def test_bytes_both_ways_and_pflops_days() -> None:
    assert fmt_byte(85.5e9) == "85.5 GB"
    assert fmt_byte(85.5e9, binary=True) == "79.6 GiB"
    assert fmt_pflops_days(3.143e23) == "3,638 PFLOPS-days"


def test_not_a_number_is_never_printed() -> None:
    with pytest.raises(ValueError, match="cannot print"):
        fmt(float("nan"), "byte")
    with pytest.raises(ValueError, match="no such unit"):
        fmt(1.0, "furlong")
    with pytest.raises(ValueError, match="no such unit"):
        parse("1", "furlong")


def test_every_unit_has_an_example_that_parses() -> None:
    """The hint of a refusal shows an example; the example itself must parse."""
    for unit in UNITS:
        with pytest.raises(SpecError) as caught:
            parse("", unit)
        example = (caught.value.hint or "").removeprefix("write for example ").split(" or ")[-1].split(", ")[-1]
        assert parse(example, unit) > 0


def test_units_needs_no_numpy() -> None:
    code = "import sys, suanchou.units; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(SRC)})
