"""From written rows to a Record: evidence grades, flags and warnings."""

from __future__ import annotations

from functools import cache

from suanchou.catalog.records import Cell, Record
from suanchou.catalog.schema import DATA_DIR, ColumnSpec, columns
from suanchou.catalog.stacks import stack_cells
from suanchou.catalog.tables import Row, parse_value, read_rows
from suanchou.estimate import Grade
from suanchou.i18n import _

__all__ = ["build_record"]

UNVERIFIED = "UNVERIFIED"
UNPUBLISHED = "vendor has not published"


@cache
def _cell_grades() -> dict[tuple[str, str, str], tuple[Grade, str]]:
    """Cells whose grade differs from that of their row: (kind, id, column) -> (grade, reason)."""
    rows = read_rows(DATA_DIR / "cell_grades.csv")
    return {(row["kind"], row["id"], row["column"]): (row["grade"], row["reason"]) for _line, row in rows}  # type: ignore[misc]


def _source_of(kind: str, row: Row) -> str:
    column = next((spec.name for spec in columns(kind).values() if spec.type == "source"), "source")
    return row.cells.get(column, "") or ("" if row.path.is_relative_to(DATA_DIR) else str(row.path))


def _cells_of(kind: str, name: str, row: Row, *, built_in: bool) -> dict[str, Cell]:
    notes = row.cells.get("notes", "")
    unverified = UNVERIFIED in notes
    recalled = row.cells.get("recalled", "") == "1"
    source = _source_of(kind, row)
    exceptions = _cell_grades() if built_in else {}
    cells: dict[str, Cell] = {}
    for spec in columns(kind).values():
        if spec.name not in row.cells or spec.type == "grade":
            continue
        value = parse_value(row.cells[spec.name], spec, where=f"{row.path}:{row.line}, column {spec.name}")
        grade, reason = exceptions.get((kind, name, spec.name), (_grade(kind, spec, row, unverified=unverified), ""))
        cells[spec.name] = Cell(
            value=value,
            unit=spec.unit,
            source=source,
            grade=grade,
            note=reason,
            recalled=recalled,
            unverified=unverified and spec.type == "number",
        )
    return cells


def _grade(kind: str, spec: ColumnSpec, row: Row, *, unverified: bool) -> Grade:
    """Evidence grade of a cell without an entry of its own in ``cell_grades.csv``."""
    if spec.grade != "row":
        return spec.grade  # type: ignore[return-value]
    if spec.type not in ("number", "integer"):
        return "datasheet"
    if row.cells.get("grade"):
        return row.cells["grade"]  # type: ignore[return-value]
    if unverified:
        return "assumed"
    if kind in ("notable", "epoch"):
        sure = f"{row.cells.get('confidence', '')} {row.cells.get('source', '')}".casefold()
        return "assumed" if "speculative" in sure else "derived"
    return "datasheet"


def _warnings(cells: dict[str, Cell], name: str, notes: str) -> list[str]:
    found = []
    if any(cell.unverified for cell in cells.values()):
        found.append(_("{name}: UNVERIFIED: no document of the maker backs its figures").format(name=name))
    if any(cell.recalled for cell in cells.values()):
        found.append(
            _("{name}: recalled: figures written from memory of the source, check them before relying on them").format(
                name=name
            )
        )
    if UNPUBLISHED in notes:
        found.append(_("{name}: the vendor has not published every figure; empty cells are unknown").format(name=name))
    return found


def build_record(kind: str, name: str, rows: tuple[Row, ...], *, note: str = "") -> Record:
    """The record of an entry from its rows, weakest first."""
    if kind == "stacks":
        cells = stack_cells(rows[-1])
        return Record(kind=kind, id=name, cells=cells, warnings=(note,) if note else (), origin=(str(rows[-1].path),))
    merged: dict[str, Cell] = {
        spec.name: Cell(value=None, unit=spec.unit) for spec in columns(kind).values() if spec.type != "grade"
    }
    for row in rows:
        written = _cells_of(kind, name, row, built_in=row.path.is_relative_to(DATA_DIR))
        merged |= {column: cell for column, cell in written.items() if cell.value is not None or merged[column].value is None}
    notes = str(merged["notes"].value or "") if "notes" in merged else ""
    warnings = ([note] if note else []) + _warnings(merged, name, notes)
    return Record(
        kind=kind, id=name, cells=merged, warnings=tuple(warnings), origin=tuple(dict.fromkeys(str(row.path) for row in rows))
    )
