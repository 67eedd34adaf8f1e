"""Record and Cell: one catalogue entry, every value with its unit, source and evidence grade."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suanchou.errors import MissingData
from suanchou.estimate import Grade

__all__ = ["Cell", "Record", "Value"]

Value = float | int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value.

    Parameters
    ----------
    value : ``None`` means that nobody has told us, never zero.
    unit : as written in the file, for example ``GB/s``.
    source, note : where it comes from and the remarks of its row.
    grade : how well it is known.
    recalled : written from memory of the source, which should be checked before relying on it.
    unverified : no document of the maker backs the row.
    """

    value: Value
    unit: str = ""
    source: str = ""
    grade: Grade = "datasheet"
    note: str = ""
    recalled: bool = False
    unverified: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "value": self.value,
            "unit": self.unit,
            "source": self.source,
            "grade": self.grade,
            "recalled": self.recalled,
            "unverified": self.unverified,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One entry of the catalogue.

    ``warnings`` says what to mind when using it (recalled, UNVERIFIED, unpublished, how an ambiguous name was read);
    ``origin`` names the files it came from.
    """

    kind: str
    id: str
    cells: Mapping[str, Cell]
    warnings: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()

    def value(self, column: str) -> Value:
        """The value in a column; ``None`` when it is unknown or the entry has no such column."""
        cell = self.cells.get(column)
        return None if cell is None else cell.value

    def number(self, column: str) -> float | None:
        """A numeric column as a float; ``None`` is unknown."""
        value = self.value(column)
        return float(value) if isinstance(value, (int, float)) else None

    def integer(self, column: str) -> int | None:
        """A counted column; ``None`` is unknown."""
        value = self.value(column)
        return value if isinstance(value, int) else None

    def text(self, column: str) -> str:
        """A text column; empty when unknown."""
        value = self.value(column)
        return "" if value is None else str(value)

    def require(self, column: str, *, hint: str = "") -> float:
        """A numeric column that must be known.

        Raises
        ------
        MissingData : it is not.
        """
        number = self.number(column)
        if number is None:
            raise MissingData(
                f"{column} of {self.id} is unknown",
                where=f"{self.kind}/{self.id}",
                hint=hint or "give it in a catalogue folder of your own (--catalog DIR)",
            )
        return number

    @property
    def title(self) -> str:
        """The full name, or the id where there is none."""
        return self.text("title") or self.text("name") or self.id

    @property
    def sources(self) -> tuple[str, ...]:
        """Distinct sources of the cells, in order."""
        return tuple(dict.fromkeys(cell.source for cell in self.cells.values() if cell.source and cell.value is not None))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "kind": self.kind,
            "id": self.id,
            "cells": {name: cell.to_dict() for name, cell in self.cells.items()},
            "warnings": list(self.warnings),
            "origin": list(self.origin),
        }
