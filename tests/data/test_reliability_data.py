"""Failure rates and checkpoint rates: complete, in order, and agreeing with each other."""

from __future__ import annotations

from importlib import resources
from typing import get_args

import pytest
import yaml

from suanchou.estimate import Grade
from suanchou.training.defaults import default

TEXT = resources.files("suanchou.catalog").joinpath("data/reliability.yaml").read_text(encoding="utf-8")
ENTRIES = yaml.safe_load(TEXT)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_value_has_a_range_a_source_and_a_grade(name):
    entry = ENTRIES[name]
    assert set(entry) == {"value", "low", "high", "source", "grade"}
    assert 0 <= entry["low"] < entry["value"] < entry["high"]
    assert entry["grade"] in get_args(Grade)
    assert len(entry["source"]) > 20 or entry["grade"] == "assumed"
    assert default(name).value == entry["value"]


def test_no_name_hides_another():
    other = resources.files("suanchou.catalog").joinpath("data/training_defaults.yaml").read_text(encoding="utf-8")
    assert not set(yaml.safe_load(other)) & set(ENTRIES)


def test_failure_rates_by_their_own_sources():
    """Rates per accelerator from counts: 419 stops of 16,384 in 54 days; one per 7.9 h of 1,024; 2.34 per 1,000 days of 8."""
    one = default("accelerator_mtbf_h")
    assert one.value == pytest.approx(54 * 24 * 16_384 / 419, rel=0.005)
    assert one.low == pytest.approx(7.9 * 1024, rel=0.005)
    assert one.high == pytest.approx(1000 * 24 * 8 / 2.34, rel=0.005)
    assert default("planned_stop_per_day").value == pytest.approx(47 / 54, rel=0.005)


def test_checkpoint_rates_by_their_own_sources():
    """2.3 TB by 384 processes in 40 s; 0.245 GB/s by 8; 10 GiB/s per node of 8."""
    one = default("checkpoint_process_byte_per_s")
    assert one.value == pytest.approx(2.3e12 / 384 / 40, rel=0.01)
    assert one.low == pytest.approx(0.245e9 / 8, rel=0.03)
    assert one.high == pytest.approx(10 * 2**30 / 8, rel=0.04)
