"""``suanchou trace``: one step of a saved plan, operation by operation."""

from __future__ import annotations

from pathlib import Path

import click

from suanchou.cli._options import OutputOptions, argument, catalog_option, command, option, output_options
from suanchou.cli._output import emit
from suanchou.cli._timeline import draw, terminal_only
from suanchou.i18n import N_

__all__ = ["trace"]


@command(
    "trace",
    help=N_(
        "One step of a plan as a timeline: every forward and backward of every pipeline rank, what they are made of, bubbles,"
        " communication and memory. PLAN is the JSON file that suanchou plan -o FILE.json wrote. The table sums up each rank;"
        " --trace writes all of it for ui.perfetto.dev; --gantt draws it here."
    ),
)
@argument("plan")
@option("--gantt", is_flag=True, help=N_("Draw the step as a chart, after the table."))
@option(
    "--trace",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help=N_("Write the step as a trace, for ui.perfetto.dev."),
)
@catalog_option
@output_options
def trace(plan: str, gantt: bool, file: Path | None, catalog_dir: Path | None, output: OutputOptions) -> None:
    """Read a saved plan, walk one step of it, print."""
    from suanchou.catalog import use_catalog
    from suanchou.report.explain import read_file
    from suanchou.report.timeline import saved_timeline, timeline_report

    if gantt:
        terminal_only(output)
    with use_catalog(catalog_dir):
        line, label = saved_timeline(read_file(plan), where=plan)
    emit(timeline_report(line, inputs={"plan": plan}, label=label), output)
    if gantt or file:
        draw(line, output, about={"plan": label}, gantt=gantt, trace=file)
