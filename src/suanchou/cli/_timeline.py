"""A timeline as a trace file, or as a chart in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suanchou.cli._options import OutputOptions
from suanchou.errors import SpecError
from suanchou.i18n import _

if TYPE_CHECKING:
    from suanchou.training.timeline import Timeline

__all__ = ["draw", "terminal_only"]


def terminal_only(output: OutputOptions) -> None:
    """Refuse to draw a chart into a file or another format.

    Raises
    ------
    SpecError : the output is no table on standard output.
    """
    if output.format != "table" or output.path is not None:
        raise SpecError("a chart is drawn in the terminal only", where="--gantt", hint="--trace FILE.json keeps the timeline")


def _ascii_only() -> bool:
    """Whether standard output cannot show block characters."""
    try:
        "█▓░·┊".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def draw(line: Timeline, output: OutputOptions, *, about: Mapping[str, Any], gantt: bool, trace: Path | None) -> None:
    """Print the chart, write the trace, or both.

    Raises
    ------
    SpecError : the file cannot be written.
    """
    from suanchou.cli._output import write_atomically

    if gantt:
        from rich.console import Console

        from suanchou.report.gantt import gantt as chart

        text = chart(line, Console().width, ascii_only=_ascii_only())
        click.echo(("" if output.quiet else "\n") + text)
    if trace is not None:
        from suanchou.report.trace import trace_json

        write_atomically(trace, trace_json(line, about))
        if not output.quiet:
            click.echo(_("wrote {path}").format(path=trace), err=True)
