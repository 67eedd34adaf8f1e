"""Bars of text."""

from __future__ import annotations

import pytest

from suanchou.report.chart import bar


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "████"), (0.5, "██"), (0.53125, "██▏"), (0.99, "████"), (1e-9, "▏"), (0.0, ""), (-1.0, ""), (2.0, "████")],
)
def test_bars(value, text):
    assert bar(value, 1.0, 4) == text


def test_no_scale_no_bar():
    assert bar(1.0, 0.0) == ""
