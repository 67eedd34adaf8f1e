"""``suanchou validate``: what the cost model predicts for published runs, beside what was measured."""

from __future__ import annotations

from pathlib import Path

import click

from suanchou.cli._options import OutputOptions, catalog_option, command, option, output_options
from suanchou.cli._output import emit
from suanchou.cli._progress import progress_bar
from suanchou.i18n import N_

__all__ = ["validate"]


@command(
    "validate",
    help=N_(
        "How wrong the predictions are: every published run of the built-in collection, or of your CSV files in the same"
        " columns, predicted from its configuration and compared with what was measured. Nothing is tuned per run; runs that"
        " cannot be predicted are listed with the reason."
    ),
)
@option(
    "--runs",
    "paths",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help=N_("CSV file of runs in the columns of training_runs.csv; may be repeated."),
)
@option(
    "--against", type=click.Choice(("null",)), help=N_("Set the null model beside: the median rate per accelerator and type.")
)
@option("--by", type=click.Choice(("source", "accelerator", "vendor", "stack")), help=N_("Also score every group of runs."))
@catalog_option
@output_options
def validate(
    paths: tuple[Path, ...], against: str | None, by: str | None, output: OutputOptions, catalog_dir: Path | None
) -> None:
    """Read the runs, predict, score, print."""
    from suanchou.catalog import use_catalog
    from suanchou.report.validate import validation_report
    from suanchou.validation.board import validate as judged

    with use_catalog(catalog_dir), progress_bar(quiet=output.quiet) as progress:
        board = judged(paths, progress=progress)
        inputs = {"runs": [str(path) for path in paths], "against": against, "by": by}
        report = validation_report(board, inputs=inputs, by=by, against=against)  # type: ignore[arg-type]  # click checked it
    emit(report, output)
