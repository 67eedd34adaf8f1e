"""The fitted constants against the measured kernels: the table is what the scripts give, and prices real kernels well."""

from __future__ import annotations

import csv
import gzip
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from suanchou.cost.efficiency import efficiency
from suanchou.cost.fitted import Factors
from suanchou.cost.kernels import kernel_s
from suanchou.machine import accelerator
from suanchou.model.operators import Operator

CALIBRATION = Path(__file__).parents[2] / "calibration"


@pytest.fixture(scope="module")
def scripts():
    """The calibration scripts import each other by name."""
    sys.path.insert(0, str(CALIBRATION))
    yield
    sys.path.remove(str(CALIBRATION))


@pytest.mark.usefixtures("scripts")
def test_the_table_is_what_the_scripts_fit():
    import fit

    result = fit.Result()
    fit.fit_gemm(result, "nvidia-ampere-gddr", fit.FAMILIES["nvidia-ampere-gddr"], dict(fit.CAST))
    text = resources.files("suanchou.catalog").joinpath("data/efficiency_fitted.csv").read_text(encoding="utf-8")
    kept = {(row["part"], row["dtype"], row["quantity"]): row for row in csv.DictReader(text.splitlines())}
    assert len(result.rows) == 7
    for row in result.rows:
        old = kept[row["part"], row["dtype"], row["quantity"]]
        assert float(row["value"]) == pytest.approx(float(old["value"]), rel=0.02)
        assert (row["n"], row["source"]) == (old["n"], old["source"])


def _gemms(device: str, source: str, note: str = "") -> tuple[Operator, np.ndarray]:
    with gzip.open(CALIBRATION / "data" / "gemm.csv.gz", "rt", encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["accelerator_id"], row["source"]) == (device, source)
            and row["dtype"] in ("bf16", "fp16")
            and note in row["note"]
            and min(int(row[name]) for name in "mnk") >= 512
        ]
    m, n, k, time = (np.array([float(row[name]) for row in rows]) for name in ("m", "n", "k", "time_us"))
    output = 8.0 if "fp32" in note else 2.0
    byte = 2.0 * (m * k + k * n) + output * m * n
    return Operator(name="x", kind="gemm", flop=2.0 * m * n * k, byte=byte, m=m, n=n, k=k), time * 1e-6


@pytest.mark.parametrize(
    ("device", "source", "note", "at_most"),
    [
        ("h100-sxm5-80gb", "vidur", "", 0.08),
        ("a100-pcie-80gb", "simumax", "out=bf16", 0.04),
        ("a100-pcie-80gb", "simumax", "acc out=fp32", 0.04),
        ("b200-sxm-180gb", "simumax", "out=bf16", 0.08),
        ("b200-sxm-180gb", "simumax", "acc out=fp32", 0.08),
    ],
)
def test_training_gemms_are_priced_within_a_few_percent(device, source, note, at_most):
    op, measured = _gemms(device, source, note)
    chip = accelerator(device)
    predicted = kernel_s(op, chip, efficiency(chip, Factors({})), dtype="bf16")
    assert len(measured) > 50
    assert np.median(np.abs(predicted / measured - 1.0)) < at_most
