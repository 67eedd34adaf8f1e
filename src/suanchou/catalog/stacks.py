"""Software stacks: one YAML mapping per stack, each value plain or with its own source and grade."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from suanchou.catalog.records import Cell, Value
from suanchou.catalog.tables import Row, read_yaml
from suanchou.errors import SpecError
from suanchou.estimate import Grade

__all__ = ["read_stacks", "stack_cells"]

_CELL_KEYS = {"value", "unit", "source", "grade", "note", "recalled"}


def read_stacks(path: Path) -> dict[str, Row]:
    """Stacks by name; nested values are kept as JSON text in the cells.

    Raises
    ------
    SpecError : not YAML, or not a mapping of names to mappings.
    """
    data = read_yaml(path)
    found: dict[str, Row] = {}
    for name, fields in data.items():
        if not isinstance(fields, dict):
            raise SpecError(f"stack {name!r} is not a mapping", where=str(path), hint="write: name: {field: value, ...}")
        cells = {str(key): json.dumps(value, ensure_ascii=False, default=str) for key, value in fields.items()}
        found[str(name)] = Row(id=str(name), cells=cells, path=path, line=0)
    return found


def _plain(value: Any) -> Value:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, (int, float, str)):
        return value
    return json.dumps(value, ensure_ascii=False)


def stack_cells(row: Row) -> Mapping[str, Cell]:
    """Cells of a stack. A field is a value, or a mapping with ``value`` and any of unit, source, grade, note, recalled."""
    fields = {name: json.loads(text) for name, text in row.cells.items()}
    source = fields.get("source") or "; ".join(str(item) for item in fields.get("sources", []))
    cells: dict[str, Cell] = {}
    for name, field in fields.items():
        if isinstance(field, dict) and "value" in field and set(field) <= _CELL_KEYS:
            grade = field.get("grade", "derived")
            if grade not in get_args(Grade):
                hint = f"choose one of: {', '.join(get_args(Grade))}"
                raise SpecError(f"no evidence grade {grade!r}", where=f"{row.path}: {row.id}.{name}", hint=hint)
            cells[name] = Cell(
                value=_plain(field["value"]),
                unit=field.get("unit", ""),
                source=field.get("source", source),
                grade=grade,
                note=field.get("note", ""),
                recalled=bool(field.get("recalled", False)),
            )
        else:
            cells[name] = Cell(value=_plain(field), source=source, grade="derived")
    return cells
