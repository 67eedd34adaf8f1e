"""The answer of ``suanchou trace``: one step of a saved plan, summed up by pipeline rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suanchou import spec
from suanchou.errors import SpecError
from suanchou.i18n import N_, _, language
from suanchou.report.report import Column, Report, Table
from suanchou.training.scenario import Scenario, problem_for
from suanchou.training.schedule import SCHEDULES
from suanchou.training.strategy import Strategy
from suanchou.training.timeline import COMMUNICATION, Timeline, gaps, timeline
from suanchou.units import fmt, fmt_byte

__all__ = ["saved_timeline", "timeline_report"]


def saved_timeline(data: Mapping[str, Any], *, where: str) -> tuple[Timeline, str]:
    """The timeline of the best plan in a saved answer of ``suanchou plan``, and the plan's short name.

    Raises
    ------
    SpecError : the file is no answer of ``suanchou plan``, or one of another version.
    MissingData : the catalogue no longer has what the plan needs.
    """
    if data.get("kind") != "training-plan":
        raise SpecError(
            f"a {data.get('kind', 'result')!r} result is no plan", where=where, hint="give what suanchou plan -o wrote"
        )
    try:
        strategy = Strategy.from_dict(data["result"]["strategy"])
        inputs = dict(data["inputs"])
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(f"broken plan: {type(error).__name__}: {error}", where=where, hint="plan again and save it") from None
    scenario = spec.structure(inputs, Scenario, where)
    return timeline(problem_for(scenario, int(strategy.n_rank)), strategy), strategy.label


def _rank(line: Timeline, rank: int) -> dict[str, float]:
    """Seconds of a step by kind, and the most memory, on one rank."""
    seconds = {"forward_s": 0.0, "backward_s": 0.0, "weight_gradient_s": 0.0, "communication_s": 0.0}
    names = {"F": "forward_s", "B": "backward_s", "W": "weight_gradient_s"}
    for run in line.runs[rank]:
        for part in line.parts[run.op.phase, run.op.stage]:
            seconds["communication_s" if part.name in COMMUNICATION else names[run.op.phase]] += part.seconds
    seconds["bubble_s"] = sum(gap.end_s - gap.start_s for gap in gaps(line, rank))
    seconds["after_s"] = line.step_s - line.pipeline_s
    peak = max(byte for _at, byte in line.activation[rank])
    return seconds | {"activation_peak_byte": peak, "memory_peak_byte": line.memory[rank] + peak}


_COLUMNS = (
    ("forward_s", N_("forward")),
    ("backward_s", N_("backward")),
    ("weight_gradient_s", N_("weight gradients")),
    ("communication_s", N_("communication")),
    ("bubble_s", N_("bubble")),
    ("after_s", N_("after the pipeline")),
)


def timeline_report(line: Timeline, *, inputs: Mapping[str, Any], label: str) -> Report:
    """Table and JSON of a timeline."""
    ranks = [_rank(line, r) for r in range(len(line.runs))]
    shown = [item for item in _COLUMNS if any(rank[item[0]] for rank in ranks)]
    rows = tuple(
        (
            str(r),
            *(fmt(rank[name], "s", lang=language(), digits=3) for name, _title in shown),
            fmt_byte(rank["memory_peak_byte"], binary=True),
        )
        for r, rank in enumerate(ranks)
    )
    columns = (Column(name=N_("rank")), *(Column(name=title) for _name, title in shown), Column(name=N_("most memory")))
    return Report(
        kind="timeline",
        inputs=inputs,
        result={
            "label": label,
            "schedule": line.schedule,
            "micro_batches": line.micro_batches,
            "step_s": line.step_s,
            "pipeline_s": line.pipeline_s,
            "bubble_frac": line.bubble_frac,
            "ranks": ranks,
        },
        headline=_("{plan}: a step of {step} under {schedule}; pipeline ranks wait {share} of it on average").format(
            plan=label,
            step=fmt(line.step_s, "s", lang=language()),
            schedule=SCHEDULES[line.schedule].label,
            share=f"{100 * line.bubble_frac * line.pipeline_s / line.step_s:.1f} %",
        ),
        tables=(Table(title=N_("One step, by pipeline rank"), columns=columns, rows=rows, main=True),),
        definitions=("PP", "micro-batch"),
    )
