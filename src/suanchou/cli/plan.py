"""``suanchou plan``: the best way to train a model on the machines at hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from suanchou.cli._options import OutputOptions, argument, catalog_option, command, option, output_options, overrides_option
from suanchou.cli._output import emit
from suanchou.cli._progress import progress_bar
from suanchou.cli._timeline import draw, terminal_only
from suanchou.errors import SpecError
from suanchou.i18n import N_

__all__ = ["plan"]


def _pins(texts: tuple[str, ...]) -> dict[str, int]:
    """``tp=8`` and the like as degrees."""
    pins = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value.strip().isdigit():
            raise SpecError(f"{text!r} pins nothing", where="--pin", hint="write it as tp=8")
        pins[name.strip().lower()] = int(value)
    return pins


@command(
    "plan",
    help=N_(
        "The best way to train MODEL on the machines given: parallel layout, memory, step time, MFU, days, energy, money, what"
        " limits it, and why the other plans lose. MODEL is a name of the catalogue, a config.json, a model folder, or a"
        " scenario file (.yaml) that --dump-scenario wrote."
    ),
)
@argument("model")
@option("--on", multiple=True, metavar="MACHINES", help=N_("dgx-h100:128, h100-sxm5-80gb:64, a cluster or a YAML file."))
@option("--tokens", metavar="COUNT", help=N_("Tokens to train on: 15T, 2万亿."))
@option("--seq", type=int, metavar="COUNT", help=N_("Tokens per sequence."))
@option("--batch", type=int, metavar="COUNT", help=N_("Sequences per optimizer step."))
@option("--dtype", metavar="TYPE", help=N_("bf16, fp16, or fp8 to also try fp8 linear layers."))
@option("--stack", metavar="NAME", help=N_("Software stack; see: suanchou catalog list stacks."))
@option("--objective", metavar="WHAT", help=N_("time (default), money, energy or accelerators (the fewest)."))
@option("--deadline", metavar="TIME", help=N_("Longest wall time: 30 days."))
@option("--goodput", type=float, metavar="SHARE", help=N_("Share of wall time that advances the model."))
@option("--usd-per-hour", type=float, metavar="USD", help=N_("Rent of one accelerator per hour."))
@option("--region", metavar="NAME", help=N_("Where power is bought; see: suanchou catalog list regions."))
@option("--pin", multiple=True, metavar="NAME=DEGREE", help=N_("Keep a degree, for example tp=8; may be repeated."))
@option("--schedule", metavar="NAME", help=N_("Pipeline schedule to keep: 1f1b, zb-h1, zb-v or dualpipe."))
@option("--offload/--no-offload", default=None, help=N_("Whether host memory may hold states; if needed, by default."))
@option("--rivals", type=int, metavar="COUNT", help=N_("How many losing plans to show (5)."))
@option("--exhaustive", is_flag=True, default=None, help=N_("Price every strategy; fills the frontier of time and memory."))
@option("--gantt", is_flag=True, help=N_("Draw one step of the best plan as a chart, after the tables."))
@option(
    "--trace",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help=N_("Write one step of the best plan as a trace, for ui.perfetto.dev."),
)
@overrides_option
@catalog_option
@output_options
def plan(
    model: str,
    output: OutputOptions,
    catalog_dir: Path | None,
    overrides: tuple[str, ...],
    pin: tuple[str, ...],
    gantt: bool,
    trace: Path | None,
    **asked: Any,
) -> None:
    """Read the scenario, search, print."""
    from suanchou import spec
    from suanchou.catalog import use_catalog
    from suanchou.report.plan import plan_report
    from suanchou.training.scenario import Scenario, plan_for, resolved
    from suanchou.training.timeline import timeline

    if gantt:
        terminal_only(output)
    given: dict[str, Any] = {name: value for name, value in asked.items() if value not in (None, ())}
    if pin:
        given["pin"] = _pins(pin)
    path = Path(model)
    if path.suffix in (".yaml", ".yml"):
        base = spec.read(path)
        base = base | given
        where = model
    else:
        base, where = given | {"model": model}, "suanchou plan"
    if isinstance(base.get("on"), tuple):
        base["on"] = list(base["on"])
    for name, hint in (("on", "for example --on dgx-h100:128"), ("tokens", "for example --tokens 15T")):
        if name not in base:
            raise SpecError(f"--{name} is missing", where=where, hint=hint)
    scenario = spec.structure(spec.apply_overrides(base, overrides), Scenario, where)
    with use_catalog(catalog_dir), progress_bar(quiet=output.quiet) as progress:
        answer = plan_for(scenario, progress=progress)
        report = plan_report(answer, inputs=asdict(scenario), scenario=resolved(scenario, answer))
        line = timeline(answer.problem, answer.strategy) if gantt or trace else None
    emit(report, output)
    if line is not None:
        draw(line, output, about={"plan": report.headline}, gantt=gantt, trace=trace)
    if answer.found.interrupted:
        raise SystemExit(130)
