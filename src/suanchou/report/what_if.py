"""The answer of ``suanchou plan --what-if`` as tables and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suanchou.estimate import Estimate
from suanchou.i18n import N_, _, language
from suanchou.report.chart import bar
from suanchou.report.plan import cause_name
from suanchou.report.report import Column, Report, Table
from suanchou.training.what_if import LAYOUT, Effect, Outcome, WhatIf
from suanchou.units import DAY_S, fmt

__all__ = ["what_if_report"]

_DEFINITIONS = ("TP", "PP", "DP", "EP", "CP", "SP", "ZeRO", "MFU", "goodput", "MTBF", "micro-batch")
_NOTHING = 0.0005
"""A smaller share of the wall time is nothing."""


def _days(seconds: float) -> str:
    return f"{seconds / DAY_S:,.3g}"


def _money(value: float | None) -> str:
    if value is None:
        return _("unknown")
    sign = "-" if value < 0 else ""
    return sign + fmt(abs(value), "usd", lang=language())


def _moved(effect: Effect, base: Outcome) -> str:
    name, share = effect.moved(base)
    words = _("another layout") if name == LAYOUT else _(cause_name(name))
    return _("nothing") if abs(share) < _NOTHING else f"{words} {100 * share:+.1f} %"


def _saved_usd(effect: Effect, base: Outcome) -> float | None:
    new = effect.outcome
    return None if new is None or base.money_usd is None or new.money_usd is None else base.money_usd - new.money_usd


def _effect_table(found: WhatIf) -> Table:
    base, rows = found.base, []
    most = max((effect.saved_s(base) for effect in found.effects), default=0.0)
    for effect in found.effects:
        if effect.outcome is None:
            rows.append((_(effect.change.label), "", "", "", _("no plan: {why}").format(why=effect.refused), ""))
            continue
        saved = effect.saved_s(base)
        rows.append(
            (
                _(effect.change.label),
                _days(saved),
                f"{100 * saved / base.time_s:.1f}",
                _money(_saved_usd(effect, base)),
                _moved(effect, base),
                bar(saved, most, 10),
            )
        )
    return Table(
        title=N_("What would help"),
        columns=(
            Column(name=N_("one change at a time"), align="left"),
            Column(name=N_("saved"), unit="d"),
            Column(name=N_("saved"), unit="%"),
            Column(name=N_("money saved")),
            Column(name=N_("mostly from"), align="left"),
            Column(name="", align="left", whole=True),
        ),
        rows=tuple(rows),
        note=N_("Each change is planned anew; prices stay as they are. Shares are of the wall time before."),
        main=True,
    )


def _layout_table(found: WhatIf) -> Table | None:
    rows = []
    for effect in found.effects:
        new = effect.outcome
        if new is None or new.strategy == found.base.strategy:
            continue
        kept = "" if effect.kept is None else _days(effect.saved_s(found.base, kept=True))
        rows.append((_(effect.change.label), kept, fmt(new.step_s, "s", lang=language()), new.strategy.label))
    if not rows:
        return None
    columns = (
        Column(name=N_("change"), align="left"),
        Column(name=N_("saved without"), unit="d"),
        Column(name=N_("step")),
        Column(name=N_("plan"), align="left"),
    )
    return Table(title=N_("Where another layout is best"), columns=columns, rows=tuple(rows))


def _causes(one: Outcome) -> list[dict[str, Any]]:
    ordered = sorted(one.causes_s.items(), key=lambda item: -item[1])
    return [{"cause": name, "share_frac": seconds / one.time_s} for name, seconds in ordered if seconds > 0.01 * one.time_s]


def _outcome(one: Outcome) -> dict[str, Any]:
    return {
        "label": one.strategy.label,
        "strategy": one.strategy.to_dict(),
        "step_s": one.step_s,
        "days": one.time_s / DAY_S,
        "money_usd": one.money_usd,
        "energy_j": one.energy_j,
        "takes": _causes(one),
    }


def _effect(effect: Effect, base: Outcome) -> dict[str, Any]:
    head = {"change": effect.change.name, "status": "planned" if effect.outcome else "refused", "reason": effect.refused}
    if effect.outcome is None:
        return head
    name, share = effect.moved(base)
    return (
        head
        | _outcome(effect.outcome)
        | {
            "days_saved": effect.saved_s(base) / DAY_S,
            "saved_frac": effect.saved_s(base) / base.time_s,
            "money_saved_usd": _saved_usd(effect, base),
            "same_layout": effect.outcome.strategy == base.strategy,
            "days_saved_same_layout": None if effect.kept is None else effect.saved_s(base, kept=True) / DAY_S,
            "moved": {"cause": name, "of_time_frac": share},
        }
    )


def _tree(found: WhatIf) -> Estimate:
    base = found.base
    children = tuple(
        Estimate(
            name=effect.change.name,
            value=effect.saved_s(base),
            unit="s",
            formula=f"{base.time_s:.6g} s - {effect.outcome.time_s:.6g} s with {effect.outcome.strategy.label}",
        )
        for effect in found.effects
        if effect.outcome is not None
    )
    return Estimate(name="what_if", value=base.time_s, unit="s", formula="wall time as it is; below: saved", children=children)


def what_if_report(found: WhatIf, *, inputs: Mapping[str, Any], scenario: Mapping[str, Any]) -> Report:
    """Tables and JSON of a what-if question."""
    base, plan = found.base, found.plan
    best = [effect for effect in found.effects if effect.saved_s(base) > _NOTHING * base.time_s][:3]
    headline = _("{model} on {n} x {chip}, {days} with {strategy}.").format(
        model=plan.problem.work.arch.name,
        n=f"{plan.n_rank:,}",
        chip=plan.problem.accelerator.name,
        days=fmt(base.time_s, "s", lang=language()),
        strategy=base.strategy.label,
    )
    if best:
        helps = ", ".join(
            _("{change} ({days} days)").format(change=_(effect.change.label), days=_days(effect.saved_s(base)))
            for effect in best
        )
        headline += " " + _("Most would help: {changes}.").format(changes=helps)
    layouts = _layout_table(found)
    warnings = plan.warnings + ((_("the search was interrupted: some changes are missing"),) if found.interrupted else ())
    return Report(
        kind="training-what-if",
        inputs=inputs,
        result={
            "base": _outcome(base),
            "changes": [_effect(effect, base) for effect in found.effects],
            "interrupted": found.interrupted,
        },
        estimate=_tree(found),
        headline=headline,
        tables=(_effect_table(found), *((layouts,) if layouts else ())),
        assumptions=plan.assumptions,
        warnings=warnings,
        definitions=_DEFINITIONS,
        scenario=scenario,
    )
