"""``suanchou plan``: the best way to train a model on the machines at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suanchou.cli._options import OutputOptions, argument, catalog_option, command, option, output_options, overrides_option
from suanchou.cli._output import emit
from suanchou.cli._progress import progress_bar
from suanchou.cli._timeline import draw, terminal_only
from suanchou.errors import SpecError
from suanchou.i18n import N_

if TYPE_CHECKING:
    from suanchou.report.report import Report
    from suanchou.training.scenario import Scenario
    from suanchou.training.timeline import Timeline

__all__ = ["plan"]

Progress = Callable[[int, int], None] | None


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
@option("--link", metavar="RATE[:LATENCY]", help=N_("What a node sends to other groups of a mixed fleet: 200Gb/s:10us."))
@option("--tokens", metavar="COUNT", help=N_("Tokens to train on: 15T, 2万亿."))
@option("--seq", type=int, metavar="COUNT", help=N_("Tokens per sequence."))
@option("--batch", type=int, metavar="COUNT", help=N_("Sequences per optimizer step."))
@option("--dtype", metavar="TYPE", help=N_("bf16, fp16, or fp8 to also try fp8 linear layers."))
@option("--stack", metavar="NAME", help=N_("Software stack; see: suanchou catalog list stacks."))
@option("--objective", metavar="WHAT", help=N_("time (default), money, energy or accelerators (the fewest)."))
@option("--deadline", metavar="TIME", help=N_("Longest wall time: 30 days."))
@option(
    "--goodput",
    type=float,
    metavar="SHARE",
    help=N_("Share of wall time that advances the model; by default it follows from the next five."),
)
@option("--node-mtbf", metavar="TIME", help=N_("Mean time between failures of one node: 250 days."))
@option("--checkpoint-interval", metavar="TIME", help=N_("Work between two checkpoints: 30 min; the best one by default."))
@option("--checkpoint-bandwidth", metavar="RATE", help=N_("At which the whole job writes a checkpoint: 50 GB/s."))
@option("--checkpoint", metavar="WHEN", help=N_("async (default, written behind the steps) or sync."))
@option("--restart", metavar="TIME", help=N_("From a failure until the job reads its checkpoint: 8 min."))
@option("--usd-per-hour", type=float, metavar="USD", help=N_("Rent of one accelerator per hour."))
@option("--region", metavar="NAME", help=N_("Where power is bought; see: suanchou catalog list regions."))
@option("--pin", multiple=True, metavar="NAME=DEGREE", help=N_("Keep a degree, for example tp=8; may be repeated."))
@option("--schedule", metavar="NAME", help=N_("Pipeline schedule to keep: 1f1b, zb-h1, zb-v or dualpipe."))
@option("--offload/--no-offload", default=None, help=N_("Whether host memory may hold states; if needed, by default."))
@option("--rivals", type=int, metavar="COUNT", help=N_("How many losing plans to show (5)."))
@option("--exhaustive", is_flag=True, default=None, help=N_("Price every strategy; fills the frontier of time and memory."))
@option("--sweep", metavar="AXIS=RANGE", help=N_("Plan at many values: nodes=8..4096, accelerators=, seq=, batch=, tokens=."))
@option("--scaling", metavar="WHICH", help=N_("With --sweep of machines: strong (default, same batch) or weak (it grows)."))
@option("--what-if", is_flag=True, help=N_("One change at a time, planned again: which one would help most."))
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
    sweep: str | None,
    scaling: str | None,
    what_if: bool,
    gantt: bool,
    trace: Path | None,
    **asked: Any,
) -> None:
    """Read the scenario, search, print."""
    from suanchou.catalog import use_catalog

    if sweep and what_if:
        raise SpecError("--sweep and --what-if are two questions", where="--what-if", hint="ask them one by one")
    if scaling not in (None, "strong", "weak"):
        raise SpecError(f"no scaling is called {scaling!r}", where="--scaling", hint="strong or weak")
    if (gantt or trace) and (sweep or what_if):
        raise SpecError("a chart or a trace shows one plan", where="--gantt" if gantt else "--trace", hint="ask for one plan")
    if scaling and not (sweep or "").startswith(("nodes", "accelerators")):
        raise SpecError("the machine does not vary", where="--scaling", hint="add --sweep nodes=8..4096")
    scenario = _scenario(model, asked | ({"pin": _pins(pin)} if pin else {}), overrides)
    if gantt:
        terminal_only(output)
    line: Timeline | None = None
    with use_catalog(catalog_dir), progress_bar(quiet=output.quiet) as progress:
        if sweep:
            report, interrupted = _sweep(scenario, sweep, scaling or "strong", progress)
        elif what_if:
            report, interrupted = _what_if(scenario, progress)
        else:
            report, interrupted, line = _plan(scenario, progress, drawn=gantt or trace is not None)
    emit(report, output)
    if line is not None:
        draw(line, output, about={"plan": report.headline}, gantt=gantt, trace=trace)
    if interrupted:
        raise SystemExit(130)


def _scenario(model: str, asked: dict[str, Any], overrides: tuple[str, ...]) -> Scenario:
    """The scenario of a file or of options, with options over the file and ``--set`` over both."""
    from suanchou import spec
    from suanchou.training.scenario import Scenario

    given: dict[str, Any] = {name: value for name, value in asked.items() if value not in (None, ())}
    path = Path(model)
    if path.suffix in (".yaml", ".yml"):
        base, where = spec.read(path) | given, model
    else:
        base, where = given | {"model": model}, "suanchou plan"
    if isinstance(base.get("on"), tuple):
        base["on"] = list(base["on"])
    for name, hint in (("on", "for example --on dgx-h100:128"), ("tokens", "for example --tokens 15T")):
        if name not in base:
            raise SpecError(f"--{name} is missing", where=where, hint=hint)
    return spec.structure(spec.apply_overrides(base, overrides), Scenario, where)


def _plan(scenario: Scenario, progress: Progress, *, drawn: bool) -> tuple[Report, bool, Timeline | None]:
    from suanchou.report.mixed import mixed_report
    from suanchou.report.plan import plan_report
    from suanchou.training.plan import Plan
    from suanchou.training.scenario import plan_for, resolved
    from suanchou.training.timeline import timeline

    answer = plan_for(scenario, progress=progress)
    words = {"inputs": asdict(scenario), "scenario": resolved(scenario, answer)}
    if isinstance(answer, Plan):
        line = timeline(answer.problem, answer.strategy) if drawn else None
        return plan_report(answer, **words), answer.found.interrupted, line
    if drawn:
        raise SpecError("a mixed fleet has no chart or trace yet", where="--on", hint="ask for machines of one kind")
    return mixed_report(answer, **words), answer.interrupted, None


def _what_if(scenario: Scenario, progress: Progress) -> tuple[Report, bool]:
    from suanchou.report.what_if import what_if_report
    from suanchou.training.scenario import resolved
    from suanchou.training.what_if import what_if

    answer = what_if(scenario, progress=progress)
    report = what_if_report(answer, inputs=asdict(scenario), scenario=resolved(scenario, answer.plan))
    return report, answer.interrupted


def _sweep(scenario: Scenario, axis: str, scaling: Any, progress: Progress) -> tuple[Report, bool]:
    from suanchou.report.sweep import sweep_report
    from suanchou.training.sweep import parse_axis, sweep

    answer = sweep(scenario, parse_axis(axis), scaling=scaling, progress=progress)
    inputs = asdict(scenario)
    report = sweep_report(answer, inputs=inputs | {"sweep": axis, "scaling": answer.scaling}, scenario=inputs)
    return report, answer.interrupted
