"""A Report as JSON, CSV, Markdown or text. JSON is never translated and carries no time stamp: same input, same bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from suanchou import __version__
from suanchou.i18n import _
from suanchou.report.glossary import definition
from suanchou.report.report import Column, Report, Table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

__all__ = ["SCHEMA_VERSION", "envelope", "to_csv", "to_html", "to_json", "to_markdown", "to_rich"]

SCHEMA_VERSION = 1
_SHORT = 3
"""How many assumptions are listed unless all are asked for."""

_GAP = 2
"""Cells between two columns."""

_HEADING = 9
"""A heading over narrow numbers may be this wide before it wraps."""

_FOLDED = 8
"""Narrowest column of text, in which words are broken when nothing else helps."""


def _plain(value: Any) -> Any:
    """Plain data for json: dataclasses, mappings with text keys, sequences, NumPy scalars and arrays, paths."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def envelope(report: Report) -> dict[str, Any]:
    """The JSON answer: what was asked, what came out, and why it may be believed.

    The estimate tree stands under ``result.estimate``; ``definitions`` spells out the terms the report uses.
    """
    result = dict(report.result)
    if report.estimate is not None:
        result["estimate"] = report.estimate.to_dict()
    plain: dict[str, Any] = _plain(
        {
            "kind": report.kind,
            "schema_version": SCHEMA_VERSION,
            "suanchou_version": __version__,
            "command": report.command,
            "inputs": report.inputs,
            "result": result,
            "assumptions": report.assumptions,
            "warnings": report.warnings,
            "sources": report.sources,
            "definitions": {term: definition(term) for term in report.definitions},
        }
    )
    return plain


def to_json(report: Report) -> str:
    """The envelope as text with sorted keys.

    Raises
    ------
    ValueError : a number is infinite or not a number; a report must not hold one.
    """
    return json.dumps(envelope(report), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _heading(column: Column) -> str:
    name = _(column.name)
    return f"{name} [{column.unit}]" if column.unit else name


def _main_table(report: Report) -> Table | None:
    return next((table for table in report.tables if table.main), report.tables[0] if report.tables else None)


def to_csv(report: Report) -> str:
    """The table of plain numbers, else the main (or the first) table as printed; a heading row, then the cells."""
    table = report.data or _main_table(report)
    if table is None:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_heading(column) for column in table.columns])
    writer.writerows(table.rows)
    return text.getvalue()


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _markdown_table(table: Table) -> list[str]:
    lines = [f"### {_(table.title)}", ""] if table.title else []
    lines.append(_markdown_row([_heading(column) for column in table.columns]))
    lines.append("|" + "|".join("---:" if column.align == "right" else ":---" for column in table.columns) + "|")
    lines += [_markdown_row(list(row)) for row in table.rows]
    return [*lines, "", *([_(table.note), ""] if table.note else [])]


def to_markdown(report: Report) -> str:
    """Everything a reader needs, ready to paste into an issue."""
    lines = [f"**{report.headline}**", ""] if report.headline else []
    for table in report.tables:
        lines += _markdown_table(table)
    for title, items in (
        (_("Warnings"), report.warnings),
        (_("Assumptions"), report.assumptions),
        (_("Sources"), report.sources),
    ):
        if items:
            lines += [f"### {title}", "", *(f"- {item}" for item in items), ""]
    if report.command:
        lines += [f"### {_('Reproduce')}", "", "```", report.command, "```", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def to_html(report: Report) -> str:
    """A small HTML fragment for notebooks: headline and tables."""
    from html import escape

    parts = [f"<p><strong>{escape(report.headline)}</strong></p>"] if report.headline else []
    for table in report.tables:
        align = [column.align for column in table.columns]
        head = "".join(f"<th>{escape(_heading(column))}</th>" for column in table.columns)
        rows = (
            "<tr>"
            + "".join(f'<td style="text-align:{a}">{escape(cell)}</td>' for a, cell in zip(align, row, strict=True))
            + "</tr>"
            for row in table.rows
        )
        caption = f"<caption>{escape(_(table.title))}</caption>" if table.title else ""
        parts.append(f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")
    parts += [f"<p>{escape(_('warning'))}: {escape(text)}</p>" for text in report.warnings]
    return "\n".join(parts)


def _wrapped(heading: str, width: int) -> str:
    """A heading on several lines of at most ``width`` cells where it can be broken: at blanks, or inside Chinese text."""
    from rich.cells import cell_len, chop_cells

    words = [
        part for word in heading.split() for part in (chop_cells(word, max(width, 4)) if cell_len(word) > len(word) else [word])
    ]
    lines: list[str] = []
    for word in words:
        if lines and cell_len(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def _fitted(widths: list[int], least: list[int], room: int) -> list[int]:
    """Column widths that fit: the widest column gives way, first down to its longest word, then further; numbers never."""
    widths = list(widths)
    for floor in (least, [min(width, _FOLDED) for width in least]):
        while sum(widths) > room:
            free = [i for i, width in enumerate(widths) if width > floor[i] and least[i] > 0]
            if not free:
                break
            widths[max(free, key=lambda i: (widths[i], i))] -= 1
    return widths


@dataclasses.dataclass(frozen=True, slots=True)
class _Drawn:
    """A table that chooses its column widths when it knows how wide the terminal is."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich import box
        from rich.cells import cell_len
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        headings, widths, least = [], [], []
        for i, column in enumerate(self.table.columns):
            cells = [row[i] for row in self.table.rows]
            widest = max((cell_len(cell) for cell in cells), default=1)
            left = column.align == "left"
            headings.append(_heading(column) if left else _wrapped(_heading(column), max(widest, _HEADING)))
            widths.append(max(widest, *(cell_len(line) for line in headings[-1].split("\n"))))
            words = (cell_len(word) for cell in [*cells, headings[-1]] for word in cell.split())
            # In a column of numbers only the heading wraps: 0 keeps the whole width.
            least.append(max(words, default=1) if left and not column.whole else 0)
        room = options.max_width - _GAP * (len(widths) - 1)
        n_line = max(heading.count("\n") for heading in headings)
        for column, heading, width in zip(self.table.columns, headings, _fitted(widths, least, room), strict=True):
            bottom = "\n" * (n_line - heading.count("\n")) + heading
            no_wrap = column.align == "right" or column.whole
            drawn.add_column(Text(bottom), justify=column.align, width=width, no_wrap=no_wrap, overflow="fold")
        for row in self.table.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        yield drawn


def _rich_table(table: Table) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    title = [Text(_(table.title), style="bold")] if table.title else []
    note = [Text(_(table.note), style="dim")] if table.note else []
    return Group(*title, _Drawn(table), *note)


def to_rich(report: Report, *, quiet: bool = False, verbose: bool = False) -> RenderableType:
    """What a terminal shows: headline, tables, then warnings, assumptions, sources and the command in short form."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(report.headline, style="bold")] if report.headline else []
    for table in report.tables:
        parts += [Text(""), _rich_table(table)] if parts else [_rich_table(table)]
    if quiet:
        return Group(*parts)
    notes: list[RenderableType] = [Text(f"{_('warning')}: {text}", style="yellow") for text in report.warnings]
    notes += _listed(_("assumes"), report.assumptions, verbose)
    notes += _listed(_("source"), report.sources, True) if verbose else []
    if report.command:
        notes.append(Text(f"{_('reproduce')}: {report.command}", style="dim"))
    return Group(*parts, *([Text("")] if parts and notes else []), *notes)


def _listed(label: str, items: tuple[str, ...], every: bool) -> list[RenderableType]:
    from rich.text import Text

    shown = items if every else items[:_SHORT]
    lines: list[RenderableType] = [Text(f"{label}: {item}", style="dim") for item in shown]
    if len(items) > len(shown):
        lines.append(Text(_("{n} more assumptions: -v").format(n=len(items) - len(shown)), style="dim"))
    return lines
