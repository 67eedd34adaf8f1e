"""The efficiency table: complete for every accelerator, narrowest entry first, in physical range."""

from __future__ import annotations

import csv
from dataclasses import fields, replace
from importlib import resources

import pytest

from suanchou.catalog import catalogue
from suanchou.cost.efficiency import QUANTITIES, Efficiency, efficiency
from suanchou.cost.fitted import Factors, fitted_factors, fitted_table
from suanchou.errors import SuanchouError
from suanchou.machine import Accelerator, accelerator


def _rows(name="efficiency.csv"):
    text = resources.files("suanchou.catalog").joinpath(f"data/{name}").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


ROWS = (*_rows(), *_rows("efficiency_fitted.csv"))


PLAIN = Factors({})
"""The tables as they are, without what was fitted to published runs."""


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
    assert {item.name for item in fields(Efficiency)} == {*QUANTITIES, "entries", "variants"}


def test_the_nearest_part_wins_and_a_fit_before_a_single_figure():
    table = {(row["part"], row["quantity"]): row for row in ROWS if row["dtype"] == "*"}
    h100 = efficiency(accelerator("h100-sxm5-80gb"), PLAIN)
    for name in QUANTITIES:
        path = ("h100-sxm5-80gb", "nvidia-hopper", "nvidia-hbm", "nvidia", "gpu", "default")
        row = next(table[part, name] for part in path if (part, name) in table)
        assert getattr(h100, name) == float(row["value"]) == h100.entries[name].value
        assert h100.entries[name].grade == row["grade"]
        assert h100.entries[name].source == row["source"]
    assert h100.entries["gemm_frac"].part == "h100-sxm5-80gb"
    assert h100.entries["gemm_frac"].residual_frac < 0.1
    assert h100.entries["core"].part == "nvidia-hopper"
    assert h100.entries["split_k"].part == "default"
    assert efficiency(accelerator("h100-pcie-80gb")).entries["gemm_frac"].part == "nvidia-hopper"


def test_a_narrow_type_has_constants_of_its_own():
    h100 = efficiency(accelerator("h100-sxm5-80gb"), PLAIN)
    assert h100.for_dtype("bf16") is h100 is h100.for_dtype("fp16")
    fp8 = h100.for_dtype("fp8")
    assert fp8.entries["gemm_frac"].dtype == "fp8"
    assert fp8.gemm_frac == fp8.entries["gemm_frac"].value < h100.gemm_frac
    assert fp8.core == h100.core
    assert fp8.for_dtype("fp8") is fp8
    assert h100.for_dtype("tf32") is h100


def test_what_was_replaced_stays_replaced():
    h100 = replace(efficiency(accelerator("h100-sxm5-80gb")), core=7.0)
    assert h100.for_dtype("fp8").core == 7.0


def test_an_unmeasured_share_follows_the_one_it_resembles():
    iluvatar = efficiency(accelerator("bi-v150"))
    assert iluvatar.gemm_memory_frac == iluvatar.memory_frac == 0.37
    assert iluvatar.gemm_launch_s == iluvatar.launch_s


def test_a_family_nobody_measured_is_assumed_throughout():
    unknown = efficiency(_device("no-such-family"), PLAIN)
    assert set(unknown.assumed) == {name for name, entry in unknown.entries.items() if entry.grade == "assumed"}
    assert {entry.part for entry in unknown.entries.values()} == {"default"}
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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['part']}.{row['dtype']}.{row['quantity']}")
def test_rows_name_known_quantities_grades_and_sources(row):
    assert row["quantity"] in QUANTITIES
    assert row["grade"] in ("measured", "fitted", "datasheet", "derived", "assumed")
    assert row["source"].strip()


def test_no_row_twice():
    for table in (_rows(), _rows("efficiency_fitted.csv")):
        keys = [(row["part"], row["dtype"], row["quantity"]) for row in table]
        assert len(keys) == len(set(keys))


def test_a_kernel_generation_outweighs_a_nearer_part():
    """Shares measured with today's kernels on one accelerator say nothing about those of an older generation."""
    device = accelerator("h100-sxm5-80gb")
    best, second, first = (efficiency(device).with_attention(kernel) for kernel in ("best", "flash-2", "flash-1"))
    assert best.entries["attention_forward_frac"].part == "h100-sxm5-80gb"
    assert second.entries["attention_forward_frac"].dtype == "flash-2"
    assert first.attention_forward_frac < second.attention_forward_frac < best.attention_forward_frac
    assert first.attention_backward_frac < second.attention_backward_frac < best.attention_backward_frac
    assert second.gemm_frac == best.gemm_frac


def test_fitted_factors_multiply_what_the_tables_say():
    """Factors on everything, on the family and on the part, and on a type; a share stays below one."""
    device = accelerator("h100-sxm5-80gb")
    plain = efficiency(device, PLAIN)
    moved = efficiency(
        device,
        Factors(
            {
                ("efficiency", "*", "gemm_frac", "*"): 0.9,
                ("efficiency", "nvidia-hopper", "gemm_frac", "*"): 0.8,
                ("efficiency", "*", "gemm_frac", "fp8"): 0.5,
                ("efficiency", "google-tpu", "gemm_frac", "*"): 0.1,
                ("efficiency", "default", "gemm_frac", "*"): 0.1,
                ("efficiency", "*", "memory_frac", "*"): 3.0,
                ("stack", "*", "host_layer_s", "*"): 7.0,
            }
        ),
    )
    assert moved.gemm_frac == pytest.approx(0.72 * plain.gemm_frac)
    assert moved.for_dtype("fp8").gemm_frac == pytest.approx(0.36 * plain.for_dtype("fp8").gemm_frac)
    assert moved.memory_frac == 1.0
    assert moved.launch_s == plain.launch_s
    assert moved.entries["gemm_frac"].grade == "fitted"
    assert efficiency(_device("x"), Factors({("efficiency", "default", "gemm_frac", "*"): 0.5})).gemm_frac == pytest.approx(
        0.5 * efficiency(_device("x"), PLAIN).gemm_frac
    )


def test_a_source_left_out_has_factors_of_its_own():
    table = fitted_table()
    assert len(table) > 50
    sources = list(table[0].without)
    assert len(sources) > 20
    everything, without = fitted_factors(), fitted_factors(sources[0])
    assert fitted_factors("a source that nobody knows").values == everything.values
    assert without.values.keys() == everything.values.keys()
    assert without.values != everything.values
    for row in table:
        assert 0.02 < row.factor < 50
        assert row.n_run > 0
        assert 1 <= row.n_source <= len(sources)
        assert set(row.without) == set(sources)
