"""Properties of units: printing and reading back agree, order is kept, garbage never leaks through."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suanchou.errors import SpecError
from suanchou.units import UNITS, fmt, parse

values = st.floats(min_value=1e-3, max_value=1e26, allow_nan=False).map(lambda x: float(f"{x:.6g}"))


@given(
    values,
    st.sampled_from(["byte", "byte/s", "flop", "flop/s", "w", "j", "usd", "cny", "1", "usd/h"]),
    st.sampled_from(["en", "zh"]),
)
def test_what_is_printed_reads_back(value: float, unit: str, lang: str) -> None:
    assert parse(fmt(value, unit, lang=lang, digits=6), unit) == pytest.approx(value, rel=5.1e-6)


@given(st.floats(min_value=1e-6, max_value=1e10), st.sampled_from(["en", "zh"]))
def test_durations_read_back_within_their_smaller_part(seconds: float, lang: str) -> None:
    assert parse(fmt(seconds, "s", lang=lang), "s") == pytest.approx(seconds, rel=0.02)


@given(st.floats(min_value=1e-3, max_value=1e6), st.sampled_from(["k", "M", "G", "T", "P", "E"]))
def test_decimal_and_binary_bytes_differ_by_the_known_ratio(number: float, prefix: str) -> None:
    power = "kMGTPE".index(prefix) + 1
    ratio = parse(f"{number!r} {prefix.upper()}iB", "byte") / parse(f"{number!r} {prefix}B", "byte")
    assert ratio == pytest.approx((1024 / 1000) ** power, rel=1e-12)


@given(st.floats(min_value=1e-3, max_value=1e9), st.sampled_from(["G", "T", "P", "E", "Z"]))
def test_a_rate_is_never_an_amount(number: float, prefix: str) -> None:
    for text in (f"{number!r} {prefix}FLOPS", f"{number!r} {prefix}FLOPS a day", f"每天{number!r} {prefix}FLOPS"):
        with pytest.raises(SpecError) as caught:
            parse(text, "flop")
        assert "days" in (caught.value.hint or "")
    day = parse(f"{number!r} {prefix}FLOPS-days", "flop")
    assert day == pytest.approx(86_400 * parse(f"{number!r} {prefix}FLOPS", "flop/s"), rel=1e-12)


@given(st.floats(max_value=-1e-9, allow_infinity=False), st.sampled_from(UNITS))
def test_negative_values_are_refused(number: float, unit: str) -> None:
    with pytest.raises(SpecError):
        parse(repr(number), unit)


@given(st.text(max_size=40), st.sampled_from(UNITS))
def test_any_text_gives_a_finite_value_or_a_spec_error(text: str, unit: str) -> None:
    try:
        value = parse(text, unit)
    except SpecError:
        return
    assert math.isfinite(value)
    assert value >= 0
