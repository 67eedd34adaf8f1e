"""What kinds of entries there are, in which file each lives and what its columns mean (``data/columns.csv``)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from suanchou.errors import SpecError
from suanchou.i18n import N_

__all__ = ["DATA_DIR", "KINDS", "ColumnSpec", "KindSpec", "columns", "kind_spec"]

DATA_DIR = Path(__file__).with_name("data")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSpec:
    """One column of a kind.

    ``type`` is ``id``, ``text``, ``number``, ``integer``, ``flag``, ``pcie``, ``source``, ``notes``, ``grade``,
    ``choice:a|b`` or ``ref:KIND``; ``grade`` is ``row`` (that of the row) or a fixed evidence grade.
    """

    name: str
    type: str
    unit: str
    grade: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSpec:
    """One kind of entry: its plural name, its file, what one entry is, and the line its licence asks to print with it."""

    name: str
    file: str
    title: str
    attribution: str = ""


_EPOCH = "Data: Epoch AI, CC BY 4.0 (rows of 2026 in notable: Our World in Data, CC BY 4.0)"

KINDS: dict[str, KindSpec] = {
    spec.name: spec
    for spec in (
        KindSpec(name="accelerators", file="accelerators.csv", title=N_("accelerator")),
        KindSpec(name="nodes", file="nodes.csv", title=N_("node")),
        KindSpec(name="clusters", file="clusters.csv", title=N_("cluster")),
        KindSpec(name="models", file="models.csv", title=N_("model")),
        KindSpec(name="stacks", file="stacks.yaml", title=N_("software stack")),
        KindSpec(name="regions", file="electricity_and_cost.csv", title=N_("region")),
        KindSpec(name="notable", file="notable_models.csv", title=N_("notable model"), attribution=_EPOCH),
        KindSpec(name="epoch", file="epoch_models.csv", title=N_("model of the Epoch AI survey"), attribution=_EPOCH),
    )
}
"""Kinds by name, in the order they are listed."""


def kind_spec(name: str) -> KindSpec:
    """The kind of that name; singular forms are accepted.

    Raises
    ------
    SpecError : no such kind.
    """
    for candidate in (name, f"{name}s"):
        if candidate in KINDS:
            return KINDS[candidate]
    raise SpecError(f"no kind {name!r} in the catalogue", where="catalog", hint=f"choose one of: {', '.join(KINDS)}")


@cache
def _all_columns() -> dict[str, dict[str, ColumnSpec]]:
    found: dict[str, dict[str, ColumnSpec]] = {}
    with (DATA_DIR / "columns.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            spec = ColumnSpec(
                name=row["column"], type=row["type"], unit=row["unit"], grade=row["grade"], meaning=row["meaning"]
            )
            found.setdefault(row["kind"], {})[spec.name] = spec
    return found


def columns(kind: str) -> dict[str, ColumnSpec]:
    """Columns of a kind by name, in file order; empty for a kind whose entries describe themselves (stacks)."""
    return _all_columns().get(kind, {})
