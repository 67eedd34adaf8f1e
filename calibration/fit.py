"""Refit the cost model's constants: reads ``calibration/data``, writes ``efficiency_fitted.csv`` and ``docs/kernels.md``.

    PYTHONPATH=src python calibration/fit.py

Deterministic; a few minutes on one core.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import attention
import collectives
import gemm
import others
from report import write_page
from search import Constant, Error, Values, error, fit
from tables import Row, rows

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "src/suanchou/catalog/data/efficiency_fitted.csv"
PAGE = ROOT / "docs/kernels.md"
COLUMNS = ("part", "dtype", "quantity", "value", "unit", "grade", "source", "residual_frac", "n")

FAMILIES: dict[str, tuple[str, ...]] = {
    "nvidia-volta": ("v100-pcie-16gb",),
    "nvidia-ampere": ("a100-sxm4-80gb", "a100-pcie-80gb"),
    "nvidia-ampere-gddr": ("a40",),
    "nvidia-hopper": ("h100-sxm5-80gb", "h200-sxm-141gb"),
    "nvidia-ada": ("l40s",),
    "nvidia-blackwell": ("b200-sxm-180gb", "gb200"),
    "nvidia-blackwell-ultra": ("b300-sxm-288gb", "gb300"),
    "nvidia-blackwell-gddr": ("rtx-pro-6000-blackwell",),
    "intel-arc": ("arc-pro-b60",),
}
"""Families and the accelerators that stand for them. Each accelerator of a larger family has its own constants, too."""

ALONE = ("h20-96gb",)
"""Accelerators that their family does not describe: an H20 has a seventh of an H100's matrix rate and more bandwidth."""

NAMES = {
    "aic-0.12.0": "aiconfigurator 0.12.0",
    "simumax": "SimuMax @4dcaae5",
    "vidur": "vidur @7d47513",
    "frontier": "Frontier @a4b22df",
    "infersim": "InferSim @f2293da",
    "llmservingsim": "LLMServingSim @5daddb2",
    "apex_plus": "apex_plus @8769096",
}
CAST: Values = {"launch_s": 2e-6, "memory_frac": 0.8}
"""What a cast kernel is taken to cost where no streaming kernels were measured."""

_SECONDS = ("gemm_launch_s", "attention_launch_s", "launch_s")
_CLOCK = ("sustained_frac", "throttle_s")
"""The clock under load. Kernels in 4 bits end before the power limit acts: they cannot tell, and take what 8 bits tell."""

_DROPPED = ("throttle_s", "module_s")


@dataclass
class Result:
    """What was fitted: rows of the table and lines of the report."""

    rows: list[dict[str, str]] = field(default_factory=list)
    shapes: list[tuple[str, str, str, tuple[Error | None, ...]]] = field(default_factory=list)
    sources: list[tuple[str, str, str, Error | None, Error | None]] = field(default_factory=list)
    clocks: list[tuple[str, str, float, float]] = field(default_factory=list)
    links: list[tuple[str, str, tuple[Error | None, ...]]] = field(default_factory=list)

    def add(
        self, part: str, dtype: str, values: Values, used: tuple[Row, ...], tested: Error | None, *, note: str = ""
    ) -> None:
        """Rows of the table for these constants."""
        sources = sorted({NAMES[row["source"]] for row in used})
        for name, value in values.items():
            if name in _DROPPED:
                continue
            self.rows.append(
                {
                    "part": part,
                    "dtype": dtype,
                    "quantity": name,
                    "value": f"{value:.4g}",
                    "unit": "s" if name in _SECONDS else "frac" if name.endswith("_frac") else "1",
                    "grade": "derived" if note else "fitted",
                    "source": note or f"fitted by calibration/fit.py to {', '.join(sources)}",
                    "residual_frac": f"{tested.median:.3f}" if tested else "",
                    "n": str(len(used)),
                }
            )


def parts() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every part of the table that gets fitted constants, with the accelerators it is fitted on."""
    for family, members in FAMILIES.items():
        yield family, members
        if len(members) > 1:
            yield from ((one, (one,)) for one in members)
    yield from ((one, (one,)) for one in ALONE)


def sustained_source(row: Row) -> bool:
    """Timings of a training stack on a chip at its power limit: they set the sustained clock, not the shape constants."""
    return row["source"] == "simumax" and row["accelerator_id"] == "b200-sxm-180gb"


def fit_gemm(result: Result, part: str, members: tuple[str, ...], stream: Values) -> dict[str, Values]:
    """GEMMs of one part in every data type with enough rows."""
    found = {}
    for dtype in ("*", "fp8", "fp4", "int8"):
        data = gemm.table(
            dtype,
            lambda row: (
                row["accelerator_id"] in members
                and not sustained_source(row)
                and not (len(members) > 1 and "acc out=fp32" in row["note"])
                and not (row["accelerator_id"] == "h100-sxm5-80gb" and row["dtype"] == "int8")
            ),
        )
        if len(data.rows) < 200:
            continue
        base = None if dtype == "*" else stream
        clock = {name: found["fp8"][name] for name in _CLOCK} if dtype == "fp4" and "fp8" in found else None
        values = gemm.fitted(data, base, clock)
        tested = gemm.held_out(data, base, clock)
        if dtype == "*":
            values |= sustained(part, members, values, result)
        result.add(part, dtype, values, data.rows, tested[0])
        result.shapes.append(("GEMM", part, dtype, tested))
        found[dtype] = values
    return found


def sustained(part: str, members: tuple[str, ...], values: Values, result: Result) -> Values:
    """The sustained clock and the cost of accumulation from kernels of a training stack, where there are any."""
    data = gemm.table("*", lambda row: row["accelerator_id"] in members and sustained_source(row))
    if not data.rows:
        result.clocks.append((part, "benchmark loops", values["sustained_frac"], values["throttle_s"]))
        return {}
    free = {name: gemm.CONSTANTS[name] for name in ("sustained_frac", "throttle_s")}
    free["accumulate_frac"] = Constant(0.3, 0.02, 1.0)
    found = fit(free, lambda v: gemm.predict(data, {**values, **v}), data.time, data.weight)
    result.clocks.append((part, "benchmark loops", values["sustained_frac"], values["throttle_s"]))
    result.clocks.append((part, "training stack", found["sustained_frac"], found["throttle_s"]))
    return found


def fit_attention(result: Result, part: str, members: tuple[str, ...]) -> Values | None:
    """Attention of one part; backward where it was measured."""
    data = attention.table(*members)
    if len(data.rows) < 20:
        return None
    values = attention.fitted(data, {})
    tested = attention.held_out(data, {})
    result.add(part, "*", values, data.rows, tested[0])
    result.shapes.append(("attention forward", part, "*", tested))
    back = attention.table(*members, phases=("train_bwd",))
    if back.rows:
        both = attention.fitted(back, values, phase="backward")
        inside = error(attention.predict(back, both), back.time)
        result.add(part, "*", {"attention_backward_frac": both["attention_backward_frac"]}, back.rows, inside)
        result.shapes.append(("attention backward (in sample)", part, "*", (inside, None, None)))
        values["attention_backward_frac"] = both["attention_backward_frac"]
    return values


def fit_others(result: Result, part: str, members: tuple[str, ...]) -> Values:
    """Streaming kernels."""
    table = others.stream_rows(*members)
    if not table:
        return dict(CAST)
    values, tested, null = others.stream(table)
    result.add(part, "*", values, table, tested)
    result.shapes.append(("streaming", part, "*", (tested, None, null)))
    return {**CAST, **values}


def fit_grouped(result: Result, part: str, members: tuple[str, ...], values: Values) -> None:
    """Grouped GEMMs of a training stack, at its clock."""
    table = others.grouped_rows(*members)
    if not table:
        return
    found, tested, null = others.grouped(table, values)
    result.add(part, "*", found, table, tested)
    result.shapes.append(("grouped GEMM", part, "*", (tested, None, null)))


def derive_accumulation(result: Result) -> None:
    """One value for NVIDIA: the mean of the accelerators whose training GEMMs accumulate in fp32."""
    known = {row["part"]: float(row["value"]) for row in result.rows if row["quantity"] == "accumulate_frac"}
    measured = {part: value for part, value in known.items() if part not in FAMILIES}
    note = f"mean of the values fitted on {', '.join(sorted(measured))}"
    result.rows = [row for row in result.rows if row["quantity"] != "accumulate_frac" or row["part"] in measured]
    result.add("nvidia", "*", {"accumulate_frac": sum(measured.values()) / len(measured)}, (), None, note=note)


def derive_backward(result: Result, fitted: dict[str, Values]) -> None:
    """Backward shares of parts without training kernels: the mean ratio to forward of those that have them."""
    known = [
        v["attention_backward_frac"] / v["attention_forward_frac"] for v in fitted.values() if "attention_backward_frac" in v
    ]
    ratio = sum(known) / len(known)
    note = f"fitted forward share x {ratio:.3f}, the mean backward over forward of the parts with training kernels"
    for part, values in fitted.items():
        if "attention_backward_frac" not in values:
            result.add(part, "*", {"attention_backward_frac": ratio * values["attention_forward_frac"]}, (), None, note=note)


SOURCE_TESTS: tuple[tuple[str, str, str, str, str], ...] = (
    ("*", "aic-0.12.0", "a100-sxm4-80gb", "simumax", "a100-pcie-80gb"),
    ("*", "aic-0.12.0", "a100-sxm4-80gb", "vidur", "a100-pcie-80gb"),
    ("*", "aic-0.12.0", "h100-sxm5-80gb", "vidur", "h100-sxm5-80gb"),
    ("*", "vidur", "h100-sxm5-80gb", "aic-0.12.0", "h100-sxm5-80gb"),
    ("*", "aic-0.12.0", "h100-sxm5-80gb", "aic-0.12.0", "h200-sxm-141gb"),
    ("*", "aic-0.12.0", "h100-sxm5-80gb", "frontier", "h800-sxm5-80gb"),
    ("fp8", "aic-0.12.0", "h100-sxm5-80gb", "infersim", "h800-sxm5-80gb"),
    ("fp8", "aic-0.12.0", "h100-sxm5-80gb", "infersim", "h20-96gb"),
    ("*", "aic-0.12.0", "b200-sxm-180gb", "simumax", "b200-sxm-180gb"),
    ("*", "aic-0.12.0", "b200-sxm-180gb", "aic-0.12.0", "gb200"),
    ("*", "aic-0.12.0", "b300-sxm-288gb", "aic-0.12.0", "gb300"),
    ("fp8", "aic-0.12.0", "b200-sxm-180gb", "aic-0.12.0", "b300-sxm-288gb"),
    ("*", "aic-0.12.0", "rtx-pro-6000-blackwell", "llmservingsim", "rtx-pro-6000-blackwell"),
    ("*", "aic-0.12.0", "l40s", "vidur", "a40"),
)
"""Data type, source and accelerator fitted on, source and accelerator predicted."""


def test_sources(result: Result) -> None:
    """Predict sources, and accelerators, that the fit has not seen."""
    for dtype, source, one, other_source, other in SOURCE_TESTS:
        base = None if dtype == "*" else CAST
        train = gemm.table(dtype, lambda row: row["source"] == source and row["accelerator_id"] == one)  # noqa: B023
        test = gemm.table(dtype, lambda row: row["source"] == other_source and row["accelerator_id"] == other)  # noqa: B023
        values = gemm.fitted(train, base)
        result.sources.append(
            (
                dtype,
                f"{NAMES[source]}, {one}",
                f"{NAMES[other_source]}, {other}",
                error(gemm.predict(test, values, base=base), test.time),
                error(gemm.roofline_null(train, test), test.time),
            )
        )


LINKS: dict[str, tuple[str, ...]] = {
    "nvidia-ampere": ("a100-sxm4-80gb",),
    "nvidia-hopper": ("h100-sxm5-80gb", "h200-sxm-141gb"),
    "nvidia-blackwell": ("b200-sxm-180gb", "gb200"),
    "nvidia-blackwell-ultra": ("b300-sxm-288gb", "gb300"),
    "pcie": ("rtx-pro-6000-blackwell", "v100-pcie-16gb"),
}
"""Families (and PCIe) whose links are the mean of these accelerators'."""


def fit_links(result: Result) -> None:
    """Collectives inside scale-up domains."""
    for part, members in LINKS.items():
        found = []
        for one in members:
            data = collectives.table(one)
            values, tested = collectives.fitted(data), collectives.held_out(data)
            result.add(one, "*", values, data.rows, tested[0])
            result.links.append((f"{NAMES['aic-0.12.0']} and others, {one}", f"{one}, sizes kept out", tested))
            found.append(values)
        mean = {name: sum(v[name] for v in found if name in v) / sum(name in v for v in found) for name in found[0] | found[-1]}
        result.add(part, "*", mean, (), None, note=f"mean of the values fitted on {', '.join(members)}")
    a100 = collectives.fitted(collectives.table("a100-sxm4-80gb"))
    h200 = collectives.fitted(collectives.table("h200-sxm-141gb", "aic-0.12.0"))
    for one, values, name, source in (
        ("a100-sxm4-80gb", a100, "a100-sxm4-80gb", "vidur"),
        ("a100-sxm4-80gb", a100, "a800-sxm4-80gb", "frontier"),
        ("h200-sxm-141gb", h200, "h200-sxm-141gb", "apex_plus"),
        ("h200-sxm-141gb", h200, "h100-sxm5-80gb", "apex_plus"),
    ):
        data = collectives.table(name, source)
        large = data.byte >= 1e6
        predicted = collectives.predict(data, {"send_frac": values["gather_frac"], **values})
        pair = (error(predicted, data.time), error(predicted[large], data.time[large]), None)
        result.links.append((f"{NAMES['aic-0.12.0']}, {one}", f"{NAMES[source]}, {name}", pair))


def main() -> None:
    """Fit everything and write the table and the page."""
    result = Result()
    forward: dict[str, Values] = {}
    for part, members in parts():
        print(part, flush=True)
        stream = fit_others(result, part, members)
        values = fit_gemm(result, part, members, stream)
        if "*" in values:
            fit_grouped(result, part, members, values["*"])
        found = fit_attention(result, part, members)
        if found:
            forward[part] = found
    derive_backward(result, forward)
    derive_accumulation(result)
    test_sources(result)
    fit_links(result)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(result.rows)
    write_page(
        PAGE, result, {name: len(rows(name)) for name in ("gemm", "attention", "grouped_gemm", "elementwise", "collectives")}
    )


if __name__ == "__main__":
    main()
