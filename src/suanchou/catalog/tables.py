"""Reading catalogue files: strict about columns and values, every complaint with file, line and column."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from suanchou.catalog.naming import did_you_mean, fold
from suanchou.catalog.schema import ColumnSpec, columns
from suanchou.errors import SpecError
from suanchou.estimate import Grade
from suanchou.spec import parse

__all__ = [
    "MAX_FILE_BYTE",
    "Row",
    "check_keys",
    "entry_id",
    "parse_value",
    "read_models",
    "read_rows",
    "read_table",
    "read_text",
    "read_yaml",
]

MAX_FILE_BYTE = 20_000_000
_PCIE = re.compile(r"\d\.\dx\d{1,3}")
_REGION_NOTE = re.compile(r"\s*\(.*\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The written cells of one entry and where they stand."""

    id: str
    cells: Mapping[str, str]
    path: Path
    line: int


def read_text(path: Path) -> str:
    """The text of a catalogue file.

    Raises
    ------
    SpecError : a folder, too large, unreadable, or not UTF-8.
    """
    try:
        if path.is_dir():
            raise SpecError("is a folder, not a file", where=str(path), hint="name the file itself")
        if path.stat().st_size > MAX_FILE_BYTE:
            raise SpecError("is larger than 20 MB", where=str(path), hint="a catalogue file is a small table")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError("is not UTF-8 text", where=str(path), hint="save it as UTF-8") from None
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", where=str(path), hint="check the path") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file.

    Raises
    ------
    SpecError : unreadable, not well formed, or a key that stands twice in one mapping.
    """
    return parse(read_text(path), str(path), suffix=path.suffix.lower())


def check_keys(found: Any, known: Iterable[str], *, where: str) -> Mapping[str, Any]:
    """``found`` as a mapping whose keys are all known.

    Raises
    ------
    SpecError : not a mapping, or an unknown key.
    """
    names = tuple(known)
    if not isinstance(found, dict):
        raise SpecError("is not a mapping", where=where, hint=f"write keys such as: {', '.join(names)}")
    for key in found:
        if key not in names:
            hint = did_you_mean(str(key), names, otherwise=f"known keys: {', '.join(names)}")
            raise SpecError(f"unknown key {key!r}", where=where, hint=hint)
    return found


def read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows of any CSV file as (line, cells), with the shape checked.

    Raises
    ------
    SpecError : no header, duplicate columns, or a row with more cells than the header.
    """
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
            raise SpecError("has no header line", where=str(path), hint="the first line names the columns")
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise SpecError(f"column {twice!r} stands twice in the header", where=f"{path}:1", hint="keep one of them")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                raise SpecError(
                    f"{len(cells)} cells under {len(header)} columns",
                    where=f"{path}:{reader.line_num}",
                    hint="put quotes around a cell that contains a comma",
                )
            rows.append((reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=False))))
    except csv.Error as error:
        raise SpecError(f"is not a CSV file: {error}", where=f"{path}:{reader.line_num}", hint="check the quotes") from None
    return rows


def parse_value(text: str, column: ColumnSpec, *, where: str) -> float | int | str | None:
    """The value written in a cell; ``None`` for an empty one.

    Raises
    ------
    SpecError : the text does not fit the column.
    """
    if text == "":
        return None
    if column.type in ("number", "integer", "flag"):
        return _parse_number(text, column, where=where)
    if column.type == "pcie" and not _PCIE.fullmatch(text):
        raise SpecError(f"{text!r} is not a PCIe width", where=where, hint="write generation and lanes, for example 5.0x16")
    if column.type == "grade" or column.type.startswith("choice:"):
        choices = get_args(Grade)[1:] if column.type == "grade" else column.type.removeprefix("choice:").split("|")
        if text not in choices:
            raise SpecError(f"{text!r} is not allowed here", where=where, hint=f"choose one of: {', '.join(choices)}")
    return text


def _parse_number(text: str, column: ColumnSpec, *, where: str) -> float | int:
    try:
        number = float(text)
    except ValueError:
        unit = f" in {column.unit}" if column.unit else ""
        raise SpecError(
            f"{text!r} is not a number", where=where, hint=f"write a plain number{unit}, without the unit"
        ) from None
    if not math.isfinite(number) or number < 0:
        raise SpecError(f"{text!r} is not a possible value", where=where, hint="leave the cell empty when it is unknown")
    if column.type == "number":
        return number
    if number != int(number) or (column.type == "flag" and number not in (0, 1)):
        raise SpecError(
            f"{text!r} is not allowed here", where=where, hint="0 or 1" if column.type == "flag" else "a whole number"
        )
    return int(number)


def _check_header(kind: str, path: Path, header: Mapping[str, str], key: str) -> None:
    known = columns(kind)
    for name in header:
        if name not in known:
            hint = did_you_mean(name, known, otherwise=f"known columns: {', '.join(known)}")
            raise SpecError(f"unknown column {name!r}", where=f"{path}:1", hint=hint)
    if key not in header:
        raise SpecError(f"the column {key!r} is missing", where=f"{path}:1", hint="it names the entry")


def entry_id(kind: str, text: str) -> str:
    """The id of a row: its key, without the note in brackets that region names carry."""
    return _REGION_NOTE.sub("", text) if kind == "regions" else text


def read_table(kind: str, path: Path, *, check: bool) -> dict[str, Row]:
    """Rows of a kind by id. ``check`` parses every cell now; otherwise a cell is parsed when it is asked for.

    Raises
    ------
    SpecError : unknown columns, a missing or repeated id, or a cell that does not fit its column.
    """
    known = columns(kind)
    key = next(column.name for column in known.values() if column.type == "id")
    found: dict[str, Row] = {}
    folded: dict[str, int] = {}
    for number, (line, cells) in enumerate(read_rows(path)):
        if number == 0:
            _check_header(kind, path, cells, key)
        name = entry_id(kind, cells[key])
        if not name:
            raise SpecError("an entry without a name", where=f"{path}:{line}, column {key}", hint="give it an id")
        if fold(name) in folded:
            raise SpecError(
                f"{name!r} stands twice (first in line {folded[fold(name)]})",
                where=f"{path}:{line}, column {key}",
                hint="keep one of the two rows",
            )
        folded[fold(name)] = line
        if check:
            for column, text in cells.items():
                parse_value(text, known[column], where=f"{path}:{line}, column {column}")
        found[name] = Row(id=name, cells=cells, path=path, line=line)
    return found


def read_models(folder: Path, *, check: bool) -> dict[str, Row]:
    """Models by name: every ``models/*.json`` of a folder, with its row of ``models.csv`` where it has one.

    Raises
    ------
    SpecError : the table is malformed, or names a model without a file.
    """
    path = folder / "models.csv"
    listed = read_table("models", path, check=check) if path.exists() else {}
    files = {file.stem: file for file in sorted((folder / "models").glob("*.json"))}
    for name, row in listed.items():
        if name not in files:
            where = f"{path}:{row.line}, column name"
            raise SpecError(f"model {name!r} has no file models/{name}.json", where=where, hint="add its config.json there")
    found: dict[str, Row] = {}
    for name, file in files.items():
        known = listed.get(name)
        cells = dict(known.cells) if known is not None else {"name": name}
        found[name] = Row(id=name, cells=cells, path=file, line=known.line if known is not None else 0)
    return found
