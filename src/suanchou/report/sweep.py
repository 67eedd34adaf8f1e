"""The answer of ``suanchou plan --sweep`` as tables, plain numbers and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suanchou.estimate import Estimate
from suanchou.i18n import N_, _, language
from suanchou.report.chart import bar
from suanchou.report.report import Column, Report, Table
from suanchou.training.plan import Plan
from suanchou.training.sweep import Axis, Point, Sweep
from suanchou.units import fmt

__all__ = ["sweep_report"]

_AXES = {
    "nodes": N_("nodes"),
    "accelerators": N_("accelerators"),
    "seq": N_("tokens per sequence"),
    "batch": N_("sequences per step"),
    "tokens": N_("tokens"),
}
_DEFINITIONS = (
    "TP",
    "PP",
    "DP",
    "EP",
    "CP",
    "SP",
    "ZeRO",
    "MFU",
    "HFU",
    "goodput",
    "micro-batch",
    "strong scaling",
    "weak scaling",
)
_RUN = (("time", "s"), ("energy", "j"), ("carbon", "kg"), ("money", "usd"))


def _text(value: float, unit: str) -> str:
    return fmt(value, unit, lang=language())


def _value(axis: Axis, value: int) -> str:
    return _text(value, "1") if axis.name == "tokens" else f"{value:,}"


def _part(plan: Plan, name: str) -> float | None:
    """A number of the whole run, where it is known."""
    found = next((child for child in plan.estimate.children if child.name == name), None)
    return None if found is None else found.value


def _or_unknown(value: float | None, unit: str) -> str:
    return _("unknown") if value is None else _text(value, unit)


def _scaling_table(found: Sweep) -> Table:
    most = max(point.token_per_s for point in found.points)
    rows = []
    for point in found.points:
        efficiency = found.efficiency_frac(point)
        name = _value(found.axis, point.value)
        if point.plan is None:
            rows.append((name, *[""] * (6 if found.scaling else 5)))
            continue
        chart = bar(point.token_per_s, most, 10) if efficiency is None else bar(efficiency, _most_efficient(found), 10)
        rows.append(
            (
                name,
                f"{point.plan.problem.work.global_batch:,}" if found.axis.name != "batch" else f"{point.plan.n_rank:,}",
                _text(point.plan.step_s, "s"),
                _text(point.token_per_s, "1"),
                f"{100 * point.plan.estimate['utilisation'].value:.1f}",
                *([] if efficiency is None else [f"{100 * efficiency:.1f}"]),
                chart,
            )
        )
    columns = (
        Column(name=_AXES[found.axis.name]),
        Column(name=N_("sequences per step") if found.axis.name != "batch" else N_("ranks")),
        Column(name=N_("step")),
        Column(name=N_("tokens per second")),
        Column(name="MFU", unit="%"),
        *((Column(name=N_("efficiency"), unit="%"),) if found.scaling else ()),
        Column(name="", align="left", whole=True),
    )
    title = {"strong": N_("Strong scaling"), "weak": N_("Weak scaling"), None: N_("Throughput")}[found.scaling]
    notes = {
        "strong": N_("Sequences per step do not grow with the machine."),
        "weak": N_("Sequences per step grow with the machine."),
    }
    efficiency_is = N_("Efficiency: tokens per second and accelerator over those of the first row.")
    note = f"{_(notes[found.scaling])} {_(efficiency_is)}" if found.scaling else ""
    return Table(title=title, columns=columns, rows=tuple(rows), note=note, main=True)


def _most_efficient(found: Sweep) -> float:
    return max(found.efficiency_frac(point) or 0.0 for point in found.points)


def _run_table(found: Sweep) -> Table:
    rows = []
    for point in found.points:
        name = _value(found.axis, point.value)
        if point.plan is None:
            rows.append((name, "", "", "", "", _("no plan: {why}").format(why=point.refused)))
            continue
        share = point.plan.estimate["time"]["goodput"].value
        numbers = (_or_unknown(_part(point.plan, part), unit) for part, unit in _RUN if part != "carbon")
        time, energy, money = numbers
        rows.append((name, time, f"{100 * share:.1f}", energy, money, point.plan.strategy.label))
    columns = (
        Column(name=_AXES[found.axis.name]),
        Column(name=N_("wall time")),
        Column(name=N_("goodput"), unit="%"),
        Column(name=N_("energy")),
        Column(name=N_("money")),
        Column(name=N_("plan"), align="left"),
    )
    return Table(title=N_("What the run takes"), columns=columns, rows=tuple(rows))


def _numbers(found: Sweep, point: Point) -> dict[str, Any]:
    """One point as plain data."""
    head: dict[str, Any] = {"value": point.value, "status": "planned" if point.plan else "refused", "reason": point.refused}
    if point.plan is None:
        return head
    plan, work = point.plan, point.plan.problem.work
    utilisation = plan.estimate["utilisation"]
    return head | {
        "n_rank": plan.n_rank,
        "seq": work.seq,
        "global_batch": work.global_batch,
        "token": work.token,
        "label": plan.strategy.label,
        "strategy": plan.strategy.to_dict(),
        "step_s": plan.step_s,
        "token_per_s": point.token_per_s,
        "mfu": utilisation["mfu"].value,
        "hfu": utilisation["hfu"].value,
        "efficiency_frac": found.efficiency_frac(point),
        "memory_byte": plan.estimate["memory"].value,
        "goodput_frac": plan.estimate["time"]["goodput"].value,
        "days": plan.days,
        "energy_j": _part(plan, "energy"),
        "carbon_kg": _part(plan, "carbon"),
        "money_usd": _part(plan, "money"),
    }


def _data(found: Sweep) -> Table:
    """Everything but the nested parts, one column per number."""
    points = [{key: value for key, value in _numbers(found, point).items() if key != "strategy"} for point in found.points]
    names = max((list(point) for point in points), key=len)
    rows = tuple(tuple("" if point.get(name) is None else str(point[name]) for name in names) for point in points)
    return Table(title="", columns=tuple(Column(name=name) for name in names), rows=rows)


def _tree(found: Sweep) -> Estimate:
    """The points with their main numbers; a plan alone explains each further."""
    children = []
    for point in found.points:
        if point.plan is None:
            continue
        work = point.plan.problem.work
        leaves = [point.plan.estimate["step"], point.plan.estimate["utilisation"]["mfu"]]
        leaves += [child for child in point.plan.estimate.children if child.name in dict(_RUN)]
        children.append(
            Estimate(
                name=f"{found.axis.name}_{point.value}",
                value=point.token_per_s,
                unit="token/s",
                formula=f"{work.batch_token} tokens / {point.plan.step_s:.6g} s",
                children=tuple(_leaf(leaf) for leaf in leaves),
            )
        )
    best = max(children, key=lambda child: child.value)
    return Estimate(
        name="sweep", value=best.value, unit="token/s", formula=f"the highest, at {best.name}", children=tuple(children)
    )


def _leaf(one: Estimate) -> Estimate:
    return Estimate(
        name=one.name, value=one.value, unit=one.unit, formula=one.formula, grade=one.grade, low=one.low, high=one.high
    )


def sweep_report(found: Sweep, *, inputs: Mapping[str, Any], scenario: Mapping[str, Any]) -> Report:
    """Tables, plain numbers and JSON of a sweep."""
    planned = [point for point in found.points if point.plan is not None]
    last = planned[-1]
    assert last.plan is not None
    ends = {
        "model": last.plan.problem.work.arch.name,
        "chip": last.plan.problem.accelerator.name,
        "axis": _(_AXES[found.axis.name]),
        "first": _value(found.axis, planned[0].value),
        "last": _value(found.axis, last.value),
        "rate": f"{last.token_per_s / planned[0].token_per_s:.3g}",
    }
    efficiency = found.efficiency_frac(last)
    if efficiency is None:
        headline = _("{model} on {chip}, {axis} from {first} to {last}: {rate} times the tokens per second.").format(**ends)
    else:
        headline = _(
            "{model} on {chip}, {axis} from {first} to {last}: {rate} times the tokens per second, {share:.0%} efficiency."
        ).format(**ends, share=efficiency)
    warnings = dict.fromkeys(text for point in planned if point.plan for text in point.plan.warnings)
    if found.interrupted:
        warnings[_("the sweep was interrupted: these are the points so far")] = None
    return Report(
        kind="training-sweep",
        inputs=inputs,
        result={
            "axis": found.axis.name,
            "scaling": found.scaling,
            "points": [_numbers(found, point) for point in found.points],
            "interrupted": found.interrupted,
        },
        estimate=_tree(found),
        headline=headline,
        tables=(_scaling_table(found), _run_table(found)),
        data=_data(found),
        assumptions=found.first.assumptions,
        warnings=tuple(warnings),
        definitions=_DEFINITIONS,
        scenario=scenario,
    )
