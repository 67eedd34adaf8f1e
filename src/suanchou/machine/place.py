"""Where a machine stands: the price and the carbon of its electricity."""

from __future__ import annotations

from suanchou.catalog import Catalogue, catalogue
from suanchou.i18n import _
from suanchou.machine.cluster import Site

__all__ = ["default_region", "site"]


def site(region: str, *, pue: float | None = None) -> Site:
    """The site of a region; ``pue`` replaces the typical value of the region.

    Raises
    ------
    SpecError : no such region.
    MissingData : the region has no price, carbon factor or PUE.
    """
    record = catalogue().get("regions", region)
    return Site(
        region=record.id,
        usd_per_kwh=record.require("usd_per_kwh"),
        gco2_per_kwh=record.require("gco2_per_kwh"),
        pue=record.require("typical_pue") if pue is None else pue,
        sources=record.sources,
        warnings=record.warnings,
    )


def default_region(source: Catalogue, *, cluster_id: str, country: str, maker_country: str) -> tuple[str, str]:
    """The region taken when none is named, and why.

    A known cluster stands where it stands, else in its country; hardware without a place is taken to stand in China when its
    maker is Chinese, else in the United States.
    """
    for row in source.side_table("cluster_regions"):
        if row["cluster_id"] == cluster_id:
            return row["region"], ""
    for row in source.side_table("country_regions"):
        if country and row["country"] == country:
            return row["region"], row["note"]
    region = "CN" if "CN" in (country, maker_country) else "US"
    return region, _("electricity of region {region} is assumed; choose another with --region").format(region=region)
