"""Explain: from a saved JSON answer back to the formula, the sources and the assumptions of any of its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suanchou.errors import SpecError
from suanchou.estimate import Estimate
from suanchou.i18n import N_, _, language
from suanchou.report.report import Column, Report, Table
from suanchou.units import fmt

__all__ = ["explain", "read_envelope", "read_file"]

_SIZE_CAP_BYTE = 64 * 2**20


def read_envelope(text: str, where: str) -> dict[str, Any]:
    """The JSON answer of any command.

    Raises
    ------
    SpecError : not JSON, or not an answer of suanchou.
    """
    if len(text) > _SIZE_CAP_BYTE:
        raise SpecError(
            "the file is too large to be a result", where=where, hint="give the file written by --json or -o FILE.json"
        )
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"not JSON: {error}", where=where, hint="give the file written by --json or -o FILE.json") from None
    if not isinstance(data, dict) or not isinstance(data.get("result"), dict):
        raise SpecError("not a result of suanchou", where=where, hint="give the file written by --json or -o FILE.json")
    return data


def read_file(path: str) -> dict[str, Any]:
    """Like :func:`read_envelope`, from a file.

    Raises
    ------
    SpecError : the file cannot be read, or is not a result.
    """
    try:
        if Path(path).is_file() and Path(path).stat().st_size > _SIZE_CAP_BYTE:
            raise SpecError("the file is too large to be a result", where=path, hint="give the file written by -o FILE.json")
        return read_envelope(Path(path).read_text(encoding="utf-8"), path)
    except UnicodeDecodeError:
        raise SpecError("not a text file", where=path, hint="give the file written by --json or -o FILE.json") from None
    except OSError as error:
        raise SpecError(f"cannot read: {error.strerror}", where=path, hint="give the file written by -o FILE.json") from None


def _tree(data: Mapping[str, Any], where: str) -> Estimate:
    found = data["result"].get("estimate")
    if found is None:
        raise SpecError(
            f"a {data.get('kind', 'result')!r} result holds no estimates", where=where, hint="it has nothing to explain"
        )
    try:
        return Estimate.from_dict(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"broken estimate: {type(error).__name__}: {error}", where=f"{where}: result.estimate") from None


def _node(root: Estimate, path: str) -> Estimate:
    """The node at a path that may or may not start with the root's own name."""
    if path == root.name:
        return root
    first, _dot, rest = path.partition(".")
    if first == root.name and rest and not any(child.name == first for child in root.children):
        path = rest
    return root.find(path)


def _si(value: float, unit: str) -> str:
    """The value as it stands in the file."""
    return f"{value:,.6g} {unit}" if abs(value) < 1e6 else f"{value:.6g} {unit}"


def _human(value: float, unit: str) -> str:
    """The value as people write it; units that have no such form stay as they are."""
    try:
        return fmt(value, unit, lang=language(), digits=4)
    except ValueError:
        return _si(value, unit)


def _rows(node: Estimate, lead: str = "", child_lead: str = "") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [(lead + node.name, _human(node.value, node.unit), _(node.grade))]
    for i, child in enumerate(node.children):
        last = i == len(node.children) - 1
        rows += _rows(child, child_lead + ("└─ " if last else "├─ "), child_lead + ("   " if last else "│  "))
    return rows


_GRADES = (N_("exact"), N_("measured"), N_("fitted"), N_("datasheet"), N_("derived"), N_("assumed"))
_TREE_COLUMNS = (
    Column(name=N_("name"), align="left"),
    Column(name=N_("value")),
    Column(name=N_("grade"), align="left"),
)
_FIELD_COLUMNS = (Column(name=N_("field"), align="left"), Column(name=N_("content"), align="left"))


def _fields(node: Estimate, path: str) -> Table:
    shown, stored = _human(node.value, node.unit), _si(node.value, node.unit)
    rows = [(_("path"), path), (_("value"), shown if shown == stored else f"{shown} ({stored})")]
    if node.low is not None or node.high is not None:
        ends = ("?" if end is None else _human(end, node.unit) for end in (node.low, node.high))
        rows.append((_("range"), " .. ".join(ends)))
    if node.formula:
        rows.append((_("formula"), node.formula))
    rows.append((_("grade"), _(node.grade)))
    rows += [(_("assumes"), text) for text in node.assumptions]
    rows += [(_("source"), text) for text in node.sources]
    return Table(title="", columns=_FIELD_COLUMNS, rows=tuple(rows), main=not node.children)


def explain(data: Mapping[str, Any], path: str | None = None, *, where: str = "result") -> Report:
    """What a number of a saved answer is made of.

    Without ``path``: the tree of all numbers. With a dotted path: value, range, formula with the numbers put in, evidence
    grade, assumptions, sources and the numbers it was computed from.

    Raises
    ------
    SpecError : the answer holds no estimates, or none of that name; the hint lists what is there.
    """
    root = _tree(data, where)
    node = root if path is None else _node(root, path)
    shown: dict[str, Any] = node.to_dict() if path is not None else {name: item.value for name, item in root.walk()}
    tables: list[Table] = [] if path is None else [_fields(node, path)]
    if path is None:
        tables.append(Table(title="", columns=_TREE_COLUMNS, rows=tuple(_rows(node)), main=True))
    elif node.children:
        rows = tuple((child.name, _human(child.value, child.unit), _(child.grade)) for child in node.children)
        title = N_("computed from, as a sum") if node.summed else N_("computed from")
        tables.append(Table(title=title, columns=_TREE_COLUMNS, rows=rows, main=True))
    return Report(
        kind="explain",
        inputs={"kind": data.get("kind"), "path": path},
        result={"explained": shown},
        headline=str(data.get("command", "")) if path is None else "",
        tables=tuple(tables),
    )
