"""Report: the answer of a command, before it becomes a table, JSON, CSV or Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from suanchou.estimate import Estimate

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Column", "Report", "Table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its heading (translated when drawn) and its unit, which stands in the heading.

    The cells of a right-aligned column and of one that is ``whole`` are never broken over lines.
    """

    name: str
    unit: str = ""
    align: Literal["left", "right"] = "right"
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of ready-to-print cells. ``main`` marks the table that CSV prints."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    main: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a command answers.

    ``result`` and ``estimate`` go to JSON; ``headline`` and ``tables`` to a terminal, Markdown or CSV. ``command`` is the line
    that reproduces the answer; ``scenario`` the fully resolved inputs. CSV prints ``data`` where there is one, plain numbers,
    else the main table.
    """

    kind: str
    inputs: Mapping[str, Any]
    result: Mapping[str, Any]
    estimate: Estimate | None = None
    headline: str = ""
    tables: tuple[Table, ...] = ()
    data: Table | None = None
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    definitions: tuple[str, ...] = ()
    command: str = ""
    scenario: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON answer as plain data."""
        from suanchou.report.render import envelope

        return envelope(self)

    def __rich__(self) -> RenderableType:
        from suanchou.report.render import to_rich

        return to_rich(self)

    def _repr_html_(self) -> str:
        from suanchou.report.render import to_html

        return to_html(self)
