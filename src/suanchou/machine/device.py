"""From a catalogue row to an Accelerator: dies, matrix-unit peaks, data types, families."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from suanchou.catalog import Catalogue, Record, catalogue
from suanchou.errors import MissingData, SpecError
from suanchou.i18n import _
from suanchou.machine.accelerator import Accelerator

__all__ = ["accelerator", "training_dtype"]

PEAK_COLUMNS = {
    "fp64": "fp64_tflops",
    "fp32": "fp32_tflops",
    "tf32": "tf32_tflops",
    "fp16": "fp16_tflops",
    "bf16": "bf16_tflops",
    "fp8": "fp8_tflops",
    "fp4": "fp4_tflops",
    "int8": "int8_tops",
    "int4": "int4_tops",
}
"""Data type -> column of its dense peak."""


def accelerator(name: str) -> Accelerator:
    """The device of that catalogue name or alias; of a package with several dies, one die.

    Raises
    ------
    SpecError : no such accelerator.
    """
    return _build(catalogue(), catalogue().get("accelerators", name))


def training_dtype(device: Accelerator) -> str:
    """The 16-bit type to train in: bf16 where its rate is known, else fp16, else fp32 (processors).

    Raises
    ------
    MissingData : none of the three rates is known.
    """
    for dtype in ("bf16", "fp16", "fp32"):
        if dtype in device.peak_flop_per_s:
            return dtype
    device.peak("bf16")
    raise AssertionError("peak() raises for an absent type")


def dies_of(source: Catalogue, name: str) -> int:
    """Devices per package."""
    for row in source.side_table("dies"):
        if row["accelerator_id"] == name:
            return int(row["dies"])
    return 1


def byte_per_gb(source: Catalogue, memory_kind: str) -> float:
    """What a "GB" of this memory is: stacked and graphics memory is sold in binary gigabytes, the rest is read as written."""
    for row in source.side_table("memory_units"):
        if memory_kind.startswith(row["memory_kind"]):
            return float(row["byte_per_gb"])
    return 1e9


def family_path(source: Catalogue, name: str, kind: str) -> tuple[str, ...]:
    """Families of an accelerator, narrowest first, ending at its kind."""
    family = next((row["family"] for row in source.side_table("families") if row["accelerator_id"] == name), kind)
    parents = {row["family"]: row["parent"] for row in source.side_table("family_tree")}
    path = [family]
    while parents.get(path[-1]):
        path.append(parents[path[-1]])
        if len(path) > len(parents) + 1:
            raise SpecError(f"family {family!r} is its own ancestor", where="family_tree.csv", hint="remove the loop")
    return tuple(path)


def dtype_support(source: Catalogue, path: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Data type -> (``native | software | limited | none | unknown``, remark), the narrowest family that says so."""
    found: dict[str, tuple[str, str]] = {}
    for family in path:
        for row in source.side_table("dtype_support"):
            if row["family"] == family:
                found.setdefault(row["dtype"], (row["support"], row["remark"]))
    return found


def _peaks(source: Catalogue, record: Record, support: Mapping[str, tuple[str, str]]) -> tuple[dict[str, float], list[str]]:
    """Peaks of the whole package in FLOP/s by type, and what to mind about them."""
    warnings: list[str] = []
    peaks: dict[str, float] = {}
    for dtype, column in PEAK_COLUMNS.items():
        rate = record.number(column)
        if rate is not None and support.get(dtype, ("native", ""))[0] != "none":
            peaks[dtype] = rate * 1e12
    for row in source.side_table("gemm_peaks"):
        if row["accelerator_id"] == record.id:
            headline = peaks.get(row["dtype"])
            peaks[row["dtype"]] = float(row["tflops"]) * 1e12
            if headline is not None:
                shown = f"{headline / 1e12:g} -> {float(row['tflops']):g} TFLOP/s"
                warnings.append(f"{record.id}: {row['dtype']} {shown}: {row['reason']}")
    if "bf16" not in peaks and "fp16" in peaks and support.get("bf16", ("unknown", ""))[0] == "native":
        peaks["bf16"] = peaks["fp16"]
        warnings.append(_("{name}: the bf16 rate is not published; the fp16 rate is taken for it").format(name=record.id))
    return peaks, warnings


@cache
def _lane_byte_per_s(source: Catalogue) -> dict[str, float]:
    return {row["generation"]: float(row["gb_s_per_lane_one_way"]) * 1e9 for row in source.side_table("pcie")}


def host_link_byte_per_s(source: Catalogue, record: Record) -> float | None:
    """Link from the package to its host, one way; ``None`` for a processor or when it is unknown."""
    for row in source.side_table("host_links"):
        if row["accelerator_id"] == record.id:
            return float(row["gb_s_one_way"]) * 1e9
    width = record.text("pcie")
    if not width or record.text("kind") == "cpu":
        return None
    generation, _, lanes = width.partition("x")
    per_lane = _lane_byte_per_s(source).get(generation)
    if per_lane is None:
        raise MissingData(
            f"the rate of PCIe {generation} is unknown", where=f"accelerators/{record.id}", hint="add it to pcie.csv"
        )
    return per_lane * int(lanes)


def _share(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _build(source: Catalogue, record: Record) -> Accelerator:
    dies = dies_of(source, record.id)
    kind = record.text("kind") or "unknown kind"
    path = family_path(source, record.id, kind)
    support = dtype_support(source, path)
    peaks, notes = _peaks(source, record, support)
    warnings = [*record.warnings, *notes]
    if len(path) == 1:
        warnings.append(
            _("{name}: belongs to no family (families.csv); the efficiency of any {kind} is used").format(
                name=record.id, kind=kind
            )
        )
    if dies > 1:
        warnings.append(_("{name}: {n} devices per package; a rank is one of them").format(name=record.id, n=dies))
    return Accelerator(
        id=record.id,
        name=record.title,
        vendor=record.text("vendor"),
        country=record.text("country"),
        kind=kind,
        family=path[0],
        family_path=path,
        peak_flop_per_s={dtype: rate / dies for dtype, rate in peaks.items()},
        memory_byte=_share(record.number("memory_gb"), byte_per_gb(source, record.text("memory_kind")) / dies),
        memory_bandwidth_byte_per_s=_share(record.number("memory_bandwidth_gb_s"), 1e9 / dies),
        link_byte_per_s=_share(record.number("link_gb_s_total_bidirectional"), 1e9 / 2 / dies),
        link_name=record.text("link_name"),
        host_link_byte_per_s=_share(host_link_byte_per_s(source, record), 1 / dies),
        dies=dies,
        tdp_w=_share(record.number("tdp_w"), 1 / dies),
        price_usd=_share(record.number("price_usd_approx"), 1 / dies),
        rent_usd_per_h=_share(record.number("rent_usd_per_hour_approx"), 1 / dies),
        unsupported={dtype: remark for dtype, (level, remark) in support.items() if level == "none"},
        sources=record.sources,
        warnings=tuple(warnings),
    )
