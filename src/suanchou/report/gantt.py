"""Gantt: a step's timeline as text, one row for every pipeline rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from suanchou.i18n import _, language
from suanchou.training.timeline import Timeline, gaps
from suanchou.units import fmt

__all__ = ["gantt"]

_MOST_ROWS = 24
_CELLS_PER_OPERATION = 3
_END_SHARE = 0.5
"""Where a step is too long to draw whole, its start gets this share of the width and its end the rest."""


class _Marks(NamedTuple):
    forward: str
    backward: str
    weight: str
    bubble: str
    tail: str
    cut: str


_UNICODE = _Marks("█", "▓", "░", "·", "=", "┊")
_ASCII = _Marks("F", "B", "W", ".", "=", "|")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A stretch of time drawn over ``n`` cells."""

    start_s: float
    end_s: float
    n: int

    def cell(self, at_s: float) -> int:
        """Cell of a moment; beyond the ends for moments outside."""
        return round((at_s - self.start_s) / (self.end_s - self.start_s) * self.n)


def _windows(line: Timeline, n: int) -> list[_Window]:
    """The whole step where every operation gets a few cells, else its start and its end."""
    longest = max(len(runs) for runs in line.runs)
    room = n / (_CELLS_PER_OPERATION * longest)
    if room >= 1 or line.micro_batches <= 2 * len(line.runs):
        return [_Window(start_s=0.0, end_s=line.step_s, n=n)]
    left = round((n - 1) * _END_SHARE)
    shown_s = line.pipeline_s * room
    tail_s = line.step_s - line.pipeline_s
    # What follows the pipeline must not crowd the drain out.
    end_s = line.step_s if tail_s < shown_s / 2 else line.pipeline_s + shown_s / 4
    return [
        _Window(start_s=0.0, end_s=shown_s * _END_SHARE, n=left),
        _Window(start_s=end_s - shown_s * (1 - _END_SHARE), end_s=end_s, n=n - 1 - left),
    ]


def _row(line: Timeline, rank: int, window: _Window, marks: _Marks) -> str:
    """One rank: each cell shows what runs there; neighbouring operations of one kind are told apart by their micro-batch."""
    cells = [marks.bubble] * window.n
    glyph = {"F": marks.forward, "B": marks.backward, "W": marks.weight}

    def paint(start_s: float, end_s: float, text: str, mark: str) -> None:
        a, b = window.cell(start_s), window.cell(end_s)
        for i in range(max(a, 0), min(b, window.n)):
            cells[i] = text[i - a] if i - a < len(text) and b - a > len(text) else mark

    for run in line.runs[rank]:
        paint(run.start_s, run.end_s, str(run.op.micro), glyph[run.op.phase])
    paint(line.pipeline_s, line.step_s, "", marks.tail)
    return "".join(cells)


def _axis(window: _Window) -> str:
    """Times at the two ends of a window."""
    left, right = (fmt(at, "s", lang=language(), digits=3) for at in (window.start_s, window.end_s))
    if _cells(left) + _cells(right) + 1 > window.n:
        return " " * window.n
    return left + " " * (window.n - _cells(left) - _cells(right)) + right


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _shown(p: int) -> Sequence[int | None]:
    """Ranks that get a row; ``None`` stands for those left out."""
    if p <= _MOST_ROWS:
        return range(p)
    half = _MOST_ROWS // 2
    return [*range(half), None, *range(p - half, p)]


def gantt(line: Timeline, width: int, *, ascii_only: bool = False) -> str:
    """The chart, at most ``width`` cells wide, with an axis and a legend.

    A cell shows the operation that runs in its middle; the first cells of an operation show its micro-batch.
    """
    marks = _ASCII if ascii_only else _UNICODE
    p = len(line.runs)
    label = max(_cells(_("rank {r}").format(r=r)) for r in (0, p - 1))
    n = max(20, width - label - 2 - 7)
    windows = _windows(line, n)
    rows = []
    for r in _shown(p):
        if r is None:
            rows.append(" " * (label + 2) + ("..." if ascii_only else "⋮"))
            continue
        name = _("rank {r}").format(r=r)
        waits = sum(gap.end_s - gap.start_s for gap in gaps(line, r)) / line.pipeline_s
        chart = marks.cut.join(_row(line, r, window, marks) for window in windows)
        rows.append(f"{' ' * (label - _cells(name))}{name}  {chart} {100 * waits:4.1f}%")
    axis = " " * (label + 2) + " ".join(_axis(window) for window in windows)
    phases = {run.op.phase for runs in line.runs for run in runs}
    legend = [(marks.forward, _("forward")), (marks.backward, _("backward"))]
    legend += [(marks.weight, _("weight gradients"))] if "W" in phases else []
    legend += [(marks.bubble, _("bubble")), (marks.tail, _("reduction, optimizer and the rest"))]
    legend += [(marks.cut, _("cut"))] if len(windows) > 1 else []
    title = _("One step, by pipeline rank; at the end of a row the share of time it waits")
    return "\n".join(
        [*_folded(title.split(), width, " "), axis, *rows, *_folded([f"{mark} {name}" for mark, name in legend], width, "  ")]
    )


def _folded(items: list[str], width: int, gap: str) -> list[str]:
    """Items side by side, on as many lines as they need."""
    lines = [""]
    for item in items:
        wider = lines[-1] + (gap if lines[-1] else "") + item
        if lines[-1] and _cells(wider) > width:
            lines.append(item)
        else:
            lines[-1] = wider
    return lines
