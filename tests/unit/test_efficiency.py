"""The efficiency table: complete for every accelerator, narrowest entry first, in physical range."""

from __future__ import annotations

import csv
from dataclasses import fields
from importlib import resources

import pytest

from suanchou.catalog import catalogue
from suanchou.cost.efficiency import QUANTITIES, Efficiency, efficiency
from suanchou.errors import SuanchouError
from suanchou.machine import Accelerator, accelerator


def _rows():
    text = resources.files("suanchou.catalog").joinpath("data/efficiency.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _device(family: str, kind: str = "gpu") -> Accelerator:
    return Accelerator(
        id="x",
        name="X",
        vendor="V",
        country="C",
        kind=kind,
        family=family,
        peak_flop_per_s={"bf16": 1e15},
        memory_byte=8e10,
        memory_bandwidth_byte_per_s=2e12,
    )


def test_every_field_is_a_described_quantity():
    assert {item.name for item in fields(Efficiency)} == {*QUANTITIES, "entries"}


def test_a_measured_family_wins_over_the_default():
    table = {(row["family"], row["quantity"]): row for row in _rows()}
    hopper = efficiency(accelerator("h100-sxm5-80gb"))
    for name in QUANTITIES:
        row = table.get(("nvidia-hopper", name)) or table["default", name]
        assert getattr(hopper, name) == float(row["value"]) == hopper.entries[name].value
        assert hopper.entries[name].grade == row["grade"]
        assert hopper.entries[name].source == row["source"]
    assert hopper.entries["gemm_frac"].family == "nvidia-hopper"
    assert hopper.entries["k_half"].family == "default"


def test_a_family_nobody_measured_is_assumed_throughout():
    unknown = efficiency(_device("no-such-family"))
    assert set(unknown.assumed) == {name for name, entry in unknown.entries.items() if entry.grade == "assumed"}
    assert {entry.family for entry in unknown.entries.values()} == {"default"}
    assert set(unknown.assumed) >= {"gemm_frac", "memory_frac", "scale_out_frac"}
    assert "gemm_frac" not in efficiency(accelerator("h100-sxm5-80gb")).assumed


def test_sources_do_not_repeat():
    eff = efficiency(accelerator("a100-sxm4-80gb"))
    both = eff.source("gemm_frac", "launch_s", "gemm_frac")
    assert both == (eff.entries["gemm_frac"].source, eff.entries["launch_s"].source)


def test_every_accelerator_of_the_catalogue_has_values_in_physical_range():
    seen = 0
    for record in catalogue().records("accelerators"):
        try:
            device = accelerator(record.id)
        except SuanchouError:
            continue
        eff = efficiency(device)
        for name in QUANTITIES:
            value = getattr(eff, name)
            assert value > 0, (record.id, name)
            if name.endswith("_frac"):
                assert value <= 1, (record.id, name)
        assert eff.blend_power >= 1
        assert eff.launch_s < 1e-3
        seen += 1
    assert seen > 50


@pytest.mark.parametrize("row", _rows(), ids=lambda row: f"{row['family']}.{row['quantity']}")
def test_rows_name_known_quantities_grades_and_sources(row):
    assert row["quantity"] in QUANTITIES
    assert row["grade"] in ("measured", "fitted", "datasheet", "derived", "assumed")
    assert row["source"].strip()


def test_no_row_twice():
    keys = [(row["family"], row["quantity"]) for row in _rows()]
    assert len(keys) == len(set(keys))
