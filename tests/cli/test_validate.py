"""``suanchou validate`` on small files: the contract of its JSON answer, refusals, and the tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from suanchou.catalog.catalogue import DATA_DIR

SUMMARY = {
    "n",
    "predicted",
    "median_abs_frac",
    "mean_abs_frac",
    "p90_abs_frac",
    "bias_frac",
    "within_10_frac",
    "within_20_frac",
    "coverage_frac",
    "null_median_abs_frac",
}
ROW = {
    "run_id",
    "source",
    "accelerator_id",
    "trust",
    "metric_kind",
    "published",
    "predicted",
    "low",
    "high",
    "error_frac",
    "held_out_error_frac",
    "status",
    "reason",
}


@pytest.fixture
def few(tmp_path) -> Path:
    """Every thirtieth open run, and one on a machine that nobody knows."""
    with open(Path(DATA_DIR) / "training_runs.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [*rows[::30], {**rows[0], "run_id": "odd", "accelerator_id": "abacus"}]
    path = tmp_path / "few.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(chosen)
    return path


def test_json_keeps_its_contract(suanchou, few):
    first = suanchou("validate", "--runs", str(few), "--json", "--by", "source", "--against", "null")
    assert first.code == 0, first.err
    result = json.loads(first.out)["result"]
    assert set(result["summary"]) == SUMMARY
    assert all(set(row) == ROW for row in result["rows"])
    trusted = [row for row in result["rows"] if row["trust"] != "C"]
    assert result["summary"]["n"] == len(trusted)
    assert result["summary"]["predicted"] == sum(row["status"] == "predicted" for row in trusted) == len(trusted) - 1
    odd = next(row for row in result["rows"] if row["run_id"] == "odd")
    assert odd["status"] == "refused"
    assert "abacus" in odd["reason"]
    assert odd["predicted"] is odd["error_frac"] is None
    for row in trusted:
        if row["status"] == "predicted":
            assert row["error_frac"] == pytest.approx(row["predicted"] / row["published"] - 1)
            assert 0 < row["low"] < row["high"]
    assert suanchou("validate", "--runs", str(few), "--json", "--by", "source", "--against", "null").out == first.out


def test_tables_name_what_is_not_predicted(suanchou, few):
    shown = suanchou("validate", "--runs", str(few), "--format", "md", "--against", "null", "--by", "stack")
    assert shown.code == 0
    for words in (
        "Predicted against published",
        "Fitted constants",
        "Not predicted",
        "odd",
        "composer",
        "missed by most",
    ):
        assert words in shown.out


def test_a_wrong_file_is_refused(suanchou, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    failed = suanchou("validate", "--runs", str(path))
    assert failed.code == 3
    assert "run_id" in failed.err
    assert suanchou("validate", "--runs", str(tmp_path / "absent.csv")).code == 2
