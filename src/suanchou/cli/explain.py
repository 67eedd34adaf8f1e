"""``suanchou explain``: where a number of a saved result comes from."""

from __future__ import annotations

import sys

from suanchou.cli._options import OutputOptions, argument, command, output_options
from suanchou.cli._output import emit
from suanchou.i18n import N_

__all__ = ["explain"]


@command(
    "explain",
    help=N_(
        "Show where a number comes from: its formula with the numbers put in, its assumptions, its sources and the numbers it"
        " was computed from. RESULT is a JSON file written by any command, or - for standard input; without PATH the tree of"
        " all numbers is shown."
    ),
)
@argument("result")
@argument("path", required=False)
@output_options
def explain(result: str, path: str | None, output: OutputOptions) -> None:
    """Read a saved answer and explain one of its numbers."""
    from suanchou.report.explain import explain as explained
    from suanchou.report.explain import read_envelope, read_file

    data = read_envelope(sys.stdin.read(), "standard input") if result == "-" else read_file(result)
    emit(explained(data, path, where=result), output)
