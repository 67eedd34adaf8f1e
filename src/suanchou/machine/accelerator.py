"""Accelerator: one device as software sees it (a die of a dual-die package), in SI units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from suanchou.errors import MissingData

__all__ = ["Accelerator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One rank's device.

    Parameters
    ----------
    peak_flop_per_s : dense matrix peak by data type (``fp32 tf32 fp16 bf16 fp8 fp4 int8 int4 fp64``); a type nobody has
        published is absent. For parts whose headline adds vector units, the matrix-unit rate.
    memory_byte, memory_bandwidth_byte_per_s : of this device (half of a dual-die package); ``None`` is unknown.
    link_byte_per_s : scale-up link, one way, all peers together.
    dies : devices per package; all per-device figures here are already divided by it.
    family : key of the efficiency table; ``family_path`` goes on from it to ever wider families, ending at the kind.
    tdp_w, price_usd, rent_usd_per_h : per device; ``None`` is unknown.
    unsupported : data types the hardware lacks, with a remark each.
    host_link_byte_per_s : to the host, one way.
    sources, warnings : shown with every plan that uses the device.
    """

    id: str
    name: str
    vendor: str
    country: str
    kind: str
    family: str
    peak_flop_per_s: Mapping[str, float]
    memory_byte: float | None
    memory_bandwidth_byte_per_s: float | None
    link_byte_per_s: float | None = None
    dies: int = 1
    tdp_w: float | None = None
    price_usd: float | None = None
    rent_usd_per_h: float | None = None
    family_path: tuple[str, ...] = ()
    unsupported: Mapping[str, str] = field(default_factory=dict)
    host_link_byte_per_s: float | None = None
    link_name: str = ""
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def peak(self, dtype: str) -> float:
        """Dense peak in FLOP/s.

        Raises
        ------
        MissingData : the hardware has no such type, or the vendor has not published this rate; the hint says what is known.
        """
        try:
            return self.peak_flop_per_s[dtype]
        except KeyError:
            known = ", ".join(sorted(self.peak_flop_per_s)) or "no rate at all"
            what = f"no {dtype} peak is published for {self.name}"
            if dtype in self.unsupported:
                remark = self.unsupported[dtype]
                what = f"{self.name} has no {dtype} in hardware" + (f": {remark}" if remark else "")
            raise MissingData(
                what,
                where=f"accelerators/{self.id}",
                hint=f"known: {known}; choose one with --dtype, or give a measured value in a catalogue file of your own",
            ) from None
