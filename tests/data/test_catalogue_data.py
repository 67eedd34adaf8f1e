"""The catalogue files themselves: shape, units, sources, and figures that must agree with each other."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from suanchou import catalog
from suanchou.catalog.catalogue import SIDE_TABLES
from suanchou.catalog.naming import fold
from suanchou.catalog.schema import DATA_DIR, KINDS, columns
from suanchou.catalog.tables import parse_value, read_rows
from suanchou.estimate import Grade
from suanchou.machine.device import PEAK_COLUMNS, dtype_support, family_path

CSV_KINDS = [name for name in KINDS if KINDS[name].file.endswith(".csv")]
ROW_COUNTS = {"accelerators": 264, "nodes": 130, "clusters": 53, "regions": 58, "notable": 106, "epoch": 976}
"""Rows of the survey that was taken over; the project has added to the first two."""


def rows(kind: str) -> list[tuple[int, dict[str, str]]]:
    return read_rows(DATA_DIR / KINDS[kind].file)


def side(name: str) -> list[dict[str, str]]:
    return [cells for _, cells in read_rows(DATA_DIR / f"{name}.csv")]


def accelerators() -> Iterator[catalog.Record]:
    return iter(catalog.records("accelerators"))


@pytest.mark.parametrize("kind", CSV_KINDS)
def test_every_cell_fits_its_column(kind: str) -> None:
    known = columns(kind)
    for line, cells in rows(kind):
        for name, text in cells.items():
            parse_value(text, known[name], where=f"{kind}:{line}, column {name}")
            assert text == text.strip()
            if known[name].type == "text" and kind == "epoch":
                continue  # the survey itself grades some rows "Unknown"
            assert text.casefold() not in ("nan", "none", "n/a", "null", "-", "unknown"), (
                f"{kind}:{line} {name}: leave it empty"
            )


@pytest.mark.parametrize("kind", CSV_KINDS)
def test_every_row_has_a_source_and_a_name_of_its_own(kind: str) -> None:
    source = next(spec.name for spec in columns(kind).values() if spec.type == "source")
    key = next(spec.name for spec in columns(kind).values() if spec.type == "id")
    seen: set[str] = set()
    for line, cells in rows(kind):
        if kind != "epoch":  # the survey lacks a link in a few rows
            assert cells[source], f"{kind}:{line} has no source"
        assert fold(cells[key]) not in seen, f"{kind}:{line} stands twice"
        seen.add(fold(cells[key]))


@pytest.mark.parametrize(("kind", "count"), ROW_COUNTS.items())
def test_no_row_of_the_survey_is_lost(kind: str, count: int) -> None:
    assert len(catalog.names(kind)) >= count


@pytest.mark.parametrize("kind", KINDS)
def test_units_stand_in_the_column_name(kind: str) -> None:
    for spec in columns(kind).values():
        for suffix, unit in (
            ("_tflops", "TFLOP/s"),
            ("_gb", "GB"),
            ("_gb_s", "GB/s"),
            ("_w", "W"),
            ("_mb", "MB"),
            ("_tb", "TB"),
        ):
            if spec.name.endswith(suffix) and spec.type == "number":
                assert spec.unit == unit, spec.name


def test_references_resolve() -> None:
    for kind in CSV_KINDS:
        for spec in columns(kind).values():
            if spec.type.startswith("ref:"):
                target = set(catalog.names(spec.type.removeprefix("ref:")))
                assert {cells[spec.name] for _, cells in rows(kind)} <= target, f"{kind}.{spec.name}"


def test_aliases_are_unique_and_resolve() -> None:
    table = side("aliases")
    assert len(table) >= 150
    taken: dict[str, tuple[str, str]] = {}
    for kind in ("accelerators", "nodes", "clusters"):
        for name in catalog.names(kind):
            assert taken.setdefault(fold(name), (kind, name)) == (kind, name), f"{name} names two entries"
    for row in table:
        assert row["id"] in catalog.names(row["kind"]), row
        if row["kind"] in ("accelerators", "nodes", "clusters"):
            entry = (row["kind"], row["id"])
            assert fold(row["alias"]) not in taken, f"{row['alias']} names {taken.get(fold(row['alias']))} too"
            taken[fold(row["alias"])] = entry
        assert catalog.get(row["kind"], row["alias"]).id == row["id"]
    assert sum(any("一" <= character <= "鿿" for character in row["alias"]) for row in table) >= 150


@pytest.mark.parametrize("name", SIDE_TABLES)
def test_side_tables_have_no_stray_ids(name: str) -> None:
    known = {"accelerator_id": "accelerators", "node_id": "nodes", "cluster_id": "clusters", "region": "regions"}
    for row in side(name):
        for column, kind in known.items():
            if column in row:
                assert row[column] in catalog.names(kind), f"{name}: {row}"
        for column in ("source", "reason"):
            if column in row:
                assert row[column], f"{name}: no {column}: {row}"
        if "grade" in row:
            assert row["grade"] in get_args(Grade), f"{name}: {row}"


def test_cell_grades_name_written_cells() -> None:
    for row in side("cell_grades"):
        record = catalog.get(row["kind"], row["id"])
        assert record.value(row["column"]) is not None, row
        assert row["grade"] in get_args(Grade)
        assert row["reason"]


def test_every_accelerator_has_a_family_that_leads_to_its_kind() -> None:
    source = catalog.catalogue()
    families = {row["family"] for row in side("family_tree")}
    assert {row["family"] for row in side("families")} <= families
    for record in accelerators():
        path = family_path(source, record.id, record.text("kind"))
        assert len(path) >= 2, record.id
        assert path[-1] in ("gpu", "npu", "tpu", "cpu", "soc", "manycore"), record.id


def test_no_peak_in_a_type_the_hardware_lacks() -> None:
    source = catalog.catalogue()
    for record in accelerators():
        support = dtype_support(source, family_path(source, record.id, record.text("kind")))
        assert {"bf16", "fp8", "fp4", "int8"} <= set(support), record.id
        for dtype, (level, _) in support.items():
            if level == "none":
                assert record.value(PEAK_COLUMNS[dtype]) is None, f"{record.id} {dtype}"


def test_family_tree_has_no_loops_and_no_orphans() -> None:
    parents = {row["family"]: row["parent"] for row in side("family_tree")}
    assert all(parent in parents for parent in parents.values() if parent)
    for family in parents:
        path = [family]
        while parents[path[-1]]:
            path.append(parents[path[-1]])
            assert len(path) == len(set(path)), family


def test_memory_is_read_in_a_plausible_time() -> None:
    """Bandwidth over capacity: devices read their whole memory between once and some hundred times a second."""
    for record in accelerators():
        memory, bandwidth = record.number("memory_gb"), record.number("memory_bandwidth_gb_s")
        if memory and bandwidth:
            assert 0.3 < bandwidth / memory < 110, record.id


def test_narrower_types_are_not_slower() -> None:
    for record in accelerators():
        fp16, fp32, fp64 = (record.number(f"{name}_tflops") for name in ("fp16", "fp32", "fp64"))
        bf16, fp8, fp4 = (record.number(f"{name}_tflops") for name in ("bf16", "fp8", "fp4"))
        for wide, narrow in ((fp64, fp32), (fp32, fp16), (fp16, fp8), (bf16, fp8), (fp8, fp4)):
            if wide is not None and narrow is not None:
                assert narrow >= 0.999 * wide, record.id


def test_fp8_is_twice_bf16_on_nvidia_data_centre_parts() -> None:
    exceptions = {"rubin-r200"}  # announced with more than twice
    checked = 0
    for record in accelerators():
        bf16, fp8 = record.number("bf16_tflops"), record.number("fp8_tflops")
        family = family_path(catalog.catalogue(), record.id, "gpu")
        if "nvidia-hbm" in family and bf16 and fp8 and record.id not in exceptions:
            assert fp8 == pytest.approx(2 * bf16, rel=0.03), record.id
            checked += 1
    assert checked >= 10


def test_matrix_unit_peaks_do_not_exceed_the_headline() -> None:
    for row in side("gemm_peaks"):
        headline = catalog.get("accelerators", row["accelerator_id"]).number(PEAK_COLUMNS[row["dtype"]])
        assert headline is None or float(row["tflops"]) <= headline, row


def test_published_die_is_its_share_of_the_package() -> None:
    for row in side("dies"):
        if row["die_id"]:
            die, package = catalog.get("accelerators", row["die_id"]), catalog.get("accelerators", row["accelerator_id"])
            for column in ("fp16_tflops", "bf16_tflops", "int8_tops", "memory_gb", "memory_bandwidth_gb_s"):
                assert die.require(column) * int(row["dies"]) == package.require(column), column


def test_node_links_agree_with_the_accelerator() -> None:
    """One way is at most half of the both-ways total a vendor prints."""
    for record in catalog.records("nodes"):
        one_way = record.number("scale_up_gb_s_per_accelerator_unidirectional")
        both = catalog.get("accelerators", record.text("accelerator_id")).number("link_gb_s_total_bidirectional")
        if one_way is not None and both is not None and record.text("scale_up_topology") != "pcie":
            assert one_way <= 0.51 * both, record.id


def test_node_power_covers_its_accelerators() -> None:
    for record in catalog.records("nodes"):
        power = record.number("node_power_w")
        each = catalog.get("accelerators", record.text("accelerator_id")).number("tdp_w")
        if power is not None and each is not None:
            assert power >= 0.75 * each * record.require("accelerators_per_node"), record.id


def test_cluster_network_is_that_of_its_nodes_or_less() -> None:
    for record in catalog.records("clusters"):
        carrier = catalog.get("nodes", record.text("node_id"))
        count, each = carrier.number("nic_count"), carrier.number("nic_gbps_each")
        stated = record.number("network_gbps_per_node")
        if count and each and stated:
            assert stated <= 1.01 * count * each, record.id


def test_regions_are_plausible() -> None:
    for record in catalog.records("regions"):
        assert 0.01 < record.require("usd_per_kwh") < 0.6, record.id
        assert 0 < record.require("gco2_per_kwh") < 1000, record.id
        assert 1 <= record.require("typical_pue") < 2, record.id


def test_links_have_a_latency_and_a_last_resort() -> None:
    table = side("networks")
    for where in ("scale-up", "scale-out"):
        latencies = [float(row["latency_s"]) for row in table if row["where"] == where]
        assert all(1e-7 < latency < 1e-3 for latency in latencies)
        assert [row["match"] for row in table if row["where"] == where][-1] == "*"


def test_pcie_doubles_every_generation() -> None:
    rates = {row["generation"]: float(row["gb_s_per_lane_one_way"]) for row in side("pcie")}
    assert rates["3.0"] * 16 == pytest.approx(15.75, rel=1e-3)
    assert rates["4.0"] == pytest.approx(2 * rates["3.0"], rel=1e-4)
    assert rates["5.0"] == pytest.approx(4 * rates["3.0"], rel=1e-4)
    used = {record.text("pcie").partition("x")[0] for record in accelerators() if record.text("pcie")}
    assert used <= set(rates)


def test_files_are_plain_utf8_with_unix_line_ends() -> None:
    for path in sorted(Path(DATA_DIR).glob("*.csv")):
        data = path.read_bytes()
        assert not data.startswith(b"\xef\xbb\xbf"), path.name
        assert b"\r" not in data, path.name
        widths = {len(row) for row in csv.reader(data.decode().splitlines())}
        assert len(widths) == 1, f"{path.name}: rows of different width"


def test_licences_are_stated_for_every_file() -> None:
    text = (Path(__file__).parents[2] / "DATA_LICENSES.md").read_text(encoding="utf-8")
    for path in sorted(Path(DATA_DIR).iterdir()):
        assert f"`{path.name}`" in text or (path.is_dir() and f"`{path.name}/*.json`" in text), path.name
    for line in ("Data: Epoch AI", "CC BY 4.0", "Copyright (c) 2023 Code Carbon NGO", "Permission is hereby granted"):
        assert line in text
