"""The catalogue: what is known about accelerators, nodes, clusters, regions, models and software stacks.

Everything is data in files: a user folder may add to it or replace single values. This room imports neither numpy nor any
room above it.
"""

from __future__ import annotations

from suanchou.catalog.catalogue import (
    Catalogue,
    catalogue,
    find,
    get,
    model_file,
    names,
    records,
    search,
    set_user_catalog,
    use_catalog,
)
from suanchou.catalog.records import Cell, Record
from suanchou.catalog.schema import KINDS, ColumnSpec, KindSpec

__all__ = [
    "KINDS",
    "Catalogue",
    "Cell",
    "ColumnSpec",
    "KindSpec",
    "Record",
    "catalogue",
    "find",
    "get",
    "model_file",
    "names",
    "records",
    "search",
    "set_user_catalog",
    "use_catalog",
]
