"""``suanchou compare``: where the difference between two plans comes from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from suanchou.cli._options import OutputOptions, argument, catalog_option, command, output_options
from suanchou.cli._output import emit
from suanchou.errors import SpecError
from suanchou.i18n import N_

__all__ = ["compare"]


@command(
    "compare",
    help=N_(
        "Show where the difference between two plans comes from: days, step time, memory, money and energy, cause by cause, and"
        " the layouts side by side. A and B are JSON files that suanchou plan -o wrote, or scenario files (.yaml), which are"
        " planned."
    ),
)
@argument("a")
@argument("b")
@catalog_option
@output_options
def compare(a: str, b: str, output: OutputOptions, catalog_dir: Path | None) -> None:
    """Read or plan both, compare."""
    from suanchou.catalog import use_catalog
    from suanchou.report.compare import compare as compared

    with use_catalog(catalog_dir):
        report = compared(_answer(a), _answer(b), names=(a, b))
    emit(report, output)


def _answer(path: str) -> dict[str, Any]:
    """The JSON answer of a file, or that of the plan of a scenario file."""
    from suanchou.report.explain import read_file
    from suanchou.report.plan import plan_report
    from suanchou.training.plan import Plan
    from suanchou.training.scenario import plan_for, scenario_from_file

    if Path(path).suffix not in (".yaml", ".yml"):
        return read_file(path)
    scenario = scenario_from_file(Path(path))
    answer = plan_for(scenario)
    if not isinstance(answer, Plan):
        raise SpecError("a mixed fleet cannot be compared", where=path, hint="compare plans on machines of one kind")
    return plan_report(answer, inputs=asdict(scenario), scenario={}).to_dict()
