"""The answer of ``suanchou compare``: two plans side by side, and their differences by cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suanchou.estimate import Estimate
from suanchou.i18n import N_, _, language
from suanchou.report.chart import bar
from suanchou.report.plan import cause_name, component_name
from suanchou.report.report import Column, Report, Table
from suanchou.training.compare import TOKENS, Comparison, Delta, Side, Waterfall, compare_sides, side
from suanchou.units import DAY_S, fmt, fmt_byte

__all__ = ["compare"]

_DEFINITIONS = ("TP", "PP", "DP", "EP", "CP", "SP", "ZeRO", "MFU", "goodput", "MTBF", "micro-batch", "GiB")
_FACTORS = {
    "accelerators": N_("accelerators"),
    "time": N_("wall time"),
    "hourly_price": N_("price of an accelerator-hour"),
    "power": N_("power per accelerator"),
    TOKENS: N_("tokens to train on"),
}
_TITLES = {
    "time": N_("Wall time"),
    "step": N_("Step time"),
    "memory": N_("Memory per accelerator"),
    "money": N_("Money"),
    "energy": N_("Energy"),
}
_LAYOUT = {
    "tp": "TP",
    "cp": "CP",
    "pp": "PP",
    "dp": "DP",
    "ep": "EP",
    "virtual_stages": N_("pipeline chunks per stage"),
    "micro_batch": N_("micro-batch"),
    "sequence_parallel": N_("sequence parallelism"),
    "fp8": N_("linear layers in fp8"),
    "zero": N_("ZeRO stage"),
    "zero_within": N_("ZeRO within"),
    "recompute": N_("recomputation"),
    "recompute_frac": N_("recomputed layers"),
    "context_parallel_by": N_("context parallelism by"),
    "offload_weight": N_("weights in host memory"),
    "offload_optimizer": N_("optimizer states in host memory"),
    "offload_activation": N_("activations in host memory"),
}


def _text(value: float, unit: str) -> str:
    if unit == "byte":
        return fmt_byte(value, binary=True)
    return fmt(value, unit, lang=language())


def _in_table(value: float, unit: str, waterfall: Waterfall) -> str:
    """Wall times in days, which stay short; all else as usual."""
    if waterfall.name == "time" and unit == "s":
        return _("{days} d").format(days=f"{value / DAY_S:,.3g}")
    return _text(value, unit)


def _signed(value: float, waterfall: Waterfall) -> str:
    sign = "-" if value < 0 else "+" if value > 0 else ""
    return sign + _in_table(abs(value), waterfall.unit, waterfall)


def _or_unknown(value: float | None, unit: str) -> str:
    return _("unknown") if value is None else _text(value, unit)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    return f"{value:.0%}" if isinstance(value, float) else str(value)


def _side_rows(one: Side) -> list[tuple[str, str]]:
    return [
        (_("model"), str(one.inputs.get("model", ""))),
        (_("machines"), " + ".join(map(str, one.inputs.get("on", ())))),
        (_("ranks"), f"{one.n_rank:,}"),
        (_("software stack"), one.stack),
        (_("tokens per step"), _text(one.batch_token, "1")),
        (_("tokens"), _text(one.token, "1")),
        (_("plan"), one.label),
    ]


def _result_rows(one: Side) -> list[tuple[str, str]]:
    step = sum(one.step_s.values())
    return [
        (_("step time"), _text(step, "s")),
        ("MFU", f"{100 * one.mfu:.1f} %"),
        (_("memory"), _text(sum(one.memory_byte.values()), "byte")),
        (_("goodput"), f"{100 * one.goodput:.1f} %"),
        (_("wall time"), _text(one.time_s, "s")),
        (_("money"), _or_unknown(one.money_usd, "usd")),
        (_("energy"), _or_unknown(one.energy_j, "j")),
    ]


def _layout_rows(found: Comparison) -> list[tuple[str, str, str]]:
    """Fields of the layout that differ."""
    a, b = found.a.strategy, found.b.strategy
    names = [name for name in dict.fromkeys((*_LAYOUT, *a, *b)) if a.get(name) != b.get(name)]
    return [(_(_LAYOUT.get(name, name)), _written(a.get(name, "")), _written(b.get(name, ""))) for name in names]


def _side_table(found: Comparison) -> Table:
    pairs = zip(_side_rows(found.a), _side_rows(found.b), strict=True)
    rows = [(name, first, second) for (name, first), (_name, second) in pairs]
    rows += _layout_rows(found)
    pairs = zip(_result_rows(found.a), _result_rows(found.b), strict=True)
    rows += [(name, first, second) for (name, first), (_name, second) in pairs]
    return Table(
        title=N_("Plans side by side"),
        columns=(
            Column(name=N_("what"), align="left"),
            Column(name="A", align="left"),
            Column(name="B", align="left"),
            Column(name=""),
        ),
        rows=tuple((*row, "" if row[1] == row[2] else "≠") for row in rows),
    )


def _cause(name: str, waterfall: Waterfall) -> str:
    if name in _FACTORS:
        return _(_FACTORS[name])
    return _(component_name(name) if waterfall.name == "memory" else cause_name(name))


_FACTOR_UNIT = {"hourly_price": "usd/h", "power": "w", "accelerators": "1", TOKENS: "1"}


def _cells(delta: Delta, waterfall: Waterfall) -> tuple[str, str]:
    """A cause on both sides in its own unit."""
    unit = _FACTOR_UNIT.get(delta.cause, waterfall.unit)
    a, b = delta.a, delta.b
    if delta.cause == "time":
        unit, a, b = "s", a * 3600.0, b * 3600.0
    elif delta.cause == "power":
        a, b = a / 3600.0, b / 3600.0
    return _in_table(a, unit, waterfall), _in_table(b, unit, waterfall)


def _waterfall_table(waterfall: Waterfall) -> Table:
    most = max((abs(delta.change) for delta in waterfall.deltas), default=0.0)
    rows = []
    for delta in waterfall.deltas:
        if not (delta.a or delta.b):
            continue
        chart = ("-" if delta.change < 0 else "+") + bar(abs(delta.change), most, 8) if delta.change else ""
        share = f"{100 * delta.change / waterfall.a:+.1f}" if delta.change else "0.0"
        rows.append((_cause(delta.cause, waterfall), *_cells(delta, waterfall), _signed(delta.change, waterfall), share, chart))
    ends = (_in_table(waterfall.a, waterfall.unit, waterfall), _in_table(waterfall.b, waterfall.unit, waterfall))
    whole = f"{100 * waterfall.change / waterfall.a:+.1f}" if waterfall.change else "0.0"
    rows.append((_("all"), *ends, _signed(waterfall.change, waterfall), whole, ""))
    title = N_("Step time per million tokens") if waterfall.per_token else _TITLES[waterfall.name]
    return Table(
        title=title,
        columns=(
            Column(name=N_("cause"), align="left"),
            Column(name="A"),
            Column(name="B"),
            Column(name=N_("change")),
            Column(name=N_("of A"), unit="%"),
            Column(name="", align="left", whole=True),
        ),
        rows=tuple(rows),
        note=N_("The plans take different numbers of tokens per step.") if waterfall.per_token else "",
        main=waterfall.name == "time",
    )


def _plain(waterfall: Waterfall | None) -> dict[str, Any] | None:
    if waterfall is None:
        return None
    return {
        "unit": waterfall.unit,
        "per": "1e6 tokens" if waterfall.per_token else "",
        "a": waterfall.a,
        "b": waterfall.b,
        "change": waterfall.change,
        "causes": [{"cause": d.cause, "a": d.a, "b": d.b, "change": d.change} for d in waterfall.deltas],
    }


def _plain_side(one: Side) -> dict[str, Any]:
    return {
        "name": one.name,
        "label": one.label,
        "strategy": dict(one.strategy),
        "stack": one.stack,
        "n_rank": one.n_rank,
        "batch_token": one.batch_token,
        "token": one.token,
        "mfu": one.mfu,
        "goodput_frac": one.goodput,
        "days": one.time_s / DAY_S,
        "money_usd": one.money_usd,
        "energy_j": one.energy_j,
    }


def _tree(found: Comparison) -> Estimate:
    children = tuple(
        Estimate(
            name=waterfall.name,
            value=waterfall.change,
            unit=waterfall.unit,
            formula=f"{waterfall.b:.6g} - {waterfall.a:.6g}" + (" per million tokens" if waterfall.per_token else ""),
            children=tuple(
                Estimate(name=d.cause, value=d.change, unit=waterfall.unit, formula=f"from {d.a:.6g} to {d.b:.6g}")
                for d in waterfall.deltas
            ),
        )
        for waterfall in found.waterfalls
    )
    return Estimate(
        name="difference", value=found.time.change, unit="s", formula="wall time of B less that of A", children=children
    )


def _headline(found: Comparison) -> str:
    a, b = found.a.time_s, found.b.time_s
    if found.time.change == 0:
        return _("Both plans take {time}.").format(time=_text(a, "s"))
    if found.time.change < 0:
        text = _("B takes {b}, {share:.1%} less than A's {a}.")
    else:
        text = _("B takes {b}, {share:.1%} more than A's {a}.")
    most = found.time.deltas[0]
    why = _("Mostly: {cause} {share:+.1%}.").format(cause=_cause(most.cause, found.time), share=most.change / a)
    return text.format(a=_text(a, "s"), b=_text(b, "s"), share=abs(found.time.change) / a) + " " + why


def compare(a: Mapping[str, Any], b: Mapping[str, Any], *, names: tuple[str, str] = ("A", "B")) -> Report:
    """Where the difference between two plans comes from.

    Parameters
    ----------
    a, b : JSON answers of ``suanchou plan``, parsed (or ``Report.to_dict()``).
    names : what errors and JSON call them.

    Raises
    ------
    SpecError : one of them is no plan.
    """
    found = compare_sides(side(a, names[0]), side(b, names[1]))
    warnings = dict.fromkeys(text for data in (a, b) for text in data.get("warnings", ()))
    return Report(
        kind="training-comparison",
        inputs={"a": names[0], "b": names[1]},
        result={"a": _plain_side(found.a), "b": _plain_side(found.b)}
        | {name: _plain(getattr(found, name)) for name in ("step", "memory", "time", "money", "energy")},
        estimate=_tree(found),
        headline=_headline(found),
        tables=(_side_table(found), *(_waterfall_table(waterfall) for waterfall in found.waterfalls)),
        warnings=tuple(warnings),
        definitions=_DEFINITIONS,
    )
