"""The answer of ``suanchou validate`` as tables: the scoreboard, the groups, the worst runs and the refused ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from suanchou.i18n import N_, _
from suanchou.report.report import Column, Report, Table
from suanchou.validation.board import Board, By, Part, RunSet, memory_error
from suanchou.validation.policy import notes
from suanchou.validation.predict import Prediction
from suanchou.validation.score import Group, Summary, as_dict

__all__ = ["validation_report"]

_PARTS: tuple[tuple[Part, str], ...] = (("trusted", "A+B"), ("complete", "A+B full"), ("C", "C"))
"""Parts of a set, and what tables call them."""
_BY = {"source": N_("source"), "accelerator": N_("accelerator"), "vendor": N_("vendor"), "stack": N_("stack")}
_DEFINITIONS = ("MFU", "HFU", "dense peak", "TP", "PP", "DP", "micro-batch")


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return ""
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _score_cells(found: Summary) -> tuple[str, ...]:
    return (
        _percent(found.median_abs_frac),
        _percent(found.p90_abs_frac),
        _percent(found.bias_frac, sign=True),
        f"{_percent(found.within_10_frac)} {_percent(found.within_20_frac)}",
        _percent(found.coverage_frac),
        _percent(found.null_median_abs_frac),
    )


_SCORE_COLUMNS = (
    Column(name=N_("median"), unit="%"),
    Column(name="P90", unit="%"),
    Column(name=N_("bias"), unit="%"),
    Column(name=N_("within 10 20"), unit="%"),
    Column(name=N_("covered"), unit="%"),
    Column(name=N_("null"), unit="%"),
)


def _label(part: RunSet, words: str, found: Summary) -> str:
    return f"{_short(part)} {words} {found.predicted}/{found.n}"


def _short(part: RunSet) -> str:
    return {"training_runs": "runs", "training_sweep_single_node": "sweep"}.get(part.name, part.name)


def _board_table(board: Board) -> Table:
    rows = []
    for part in board.sets:
        for name, words in _PARTS:
            members = part.part(name)
            if members and not (name == "complete" and members == part.part("trusted")):
                rows.append((_label(part, words, part.score(members)), *_score_cells(part.score(members))))
    return Table(
        title=N_("Predicted against published"),
        columns=(Column(name=N_("set"), align="left", whole=True), *_SCORE_COLUMNS),
        rows=tuple(rows),
        note=N_("A+B, C: trust, with runs predicted of all; full: complete layouts. Bias below zero: steps too short."),
        main=True,
    )


def _by_table(part: RunSet, by: By) -> Table:
    return Table(
        title=_("{set}, by {what}").format(set=part.name, what=_(_BY[by])),
        columns=(Column(name=_BY[by], align="left"), *_SCORE_COLUMNS),
        rows=tuple(
            (f"{name or _('refused')} {found.predicted}/{found.n}", *_score_cells(found)) for name, found in part.by(by).items()
        ),
    )


def _honest_table(board: Board, against: str | None) -> Table:
    """Constants fitted on all runs, constants that never saw the run's source, and the null model both ways."""
    rows = []
    for part in board.sets:
        for which, words in _PARTS[:2]:
            members = part.part(which)
            if not members or (which == "complete" and members == part.part("trusted")):
                continue
            found, out = part.score(members), part.score(part.held_out_rows(members))
            pairs = [(found.median_abs_frac, found.p90_abs_frac), (out.median_abs_frac, out.p90_abs_frac)]
            if against:
                pairs += [part.null_quantiles(members, out=left) or (None, None) for left in (False, True)]
            label = f"{_short(part)} {words}".replace(" A+B full", " full")
            rows.append((label, *(_percent(value) for pair in pairs for value in pair)))
        means = part.macro_means if against else part.macro_means[:2]
        rows.append((f"{_short(part)} macro", *(text for value in means for text in (_percent(value), ""))))
    names = [N_("on all"), N_("left out")]
    names += [N_("null"), N_("null, others")] if against else []
    columns = [Column(name=N_("set"), align="left", whole=True)]
    for name in names:
        columns += [Column(name=name, unit="%"), Column(name="P90", unit="%")]
    note = N_("Left out: constants fitted without the run's source. Macro: mean error, every source and accelerator alike.")
    if against:
        note = N_(
            "Left out: constants fitted without the run's source. Macro: mean error, every source and accelerator alike."
            " The null model knows one median rate per accelerator and type, of all sources or of others."
        )
    return Table(title=N_("Fitted constants"), columns=tuple(columns), rows=tuple(rows), note=note)


def _group_table(title: str, groups: Sequence[Group]) -> Table:
    rows = tuple(
        (g.name, f"{g.n}", "" if g.spearman is None else f"{g.spearman:.2f}", _percent(g.regret_frac))
        for g in sorted(groups, key=lambda g: -g.n)
    )
    columns = (
        Column(name=N_("group"), align="left"),
        Column(name=N_("runs")),
        Column(name=N_("rank correlation")),
        Column(name=N_("regret"), unit="%"),
    )
    return Table(title=title, columns=columns, rows=rows)


def _memory_table(board: Board) -> Table | None:
    found = [pair for part in board.sets for pair in ((part.name, part.memory), *part.memory_by_source.items())]
    rows = tuple(
        (
            name,
            f"{m.n}",
            _percent(m.median_abs_frac),
            _percent(m.p90_abs_frac),
            _percent(m.bias_frac, sign=True),
            "" if m.in_band_frac is None else _percent(m.in_band_frac),
        )
        for name, m in found
        if m is not None
    )
    columns = (
        Column(name=N_("set"), align="left", whole=True),
        Column(name=N_("runs")),
        Column(name=N_("median error"), unit="%"),
        Column(name="P90", unit="%"),
        Column(name=N_("bias"), unit="%"),
        Column(name=N_("in band"), unit="%"),
    )
    return Table(title=N_("Peak memory"), columns=columns, rows=rows) if rows else None


def _worst_table(part: RunSet) -> Table:
    columns = (
        Column(name=N_("run"), align="left", whole=True),
        Column(name=N_("metric"), align="left"),
        Column(name=N_("published")),
        Column(name=N_("predicted")),
        Column(name=N_("time error"), unit="%"),
        Column(name=N_("what the step is made of; what was assumed"), align="left"),
    )
    rows = tuple(
        (
            p.run.run_id,
            p.run.metric_kind,
            _number(p.run.published),
            _number(p.predicted),
            _percent(p.time_frac, sign=True),
            "; ".join(text for text in (_shares(p), _reason(p)) if text),
        )
        for p in part.worst()
    )
    return Table(title=_("{set}: missed by most").format(set=part.name), columns=columns, rows=rows)


def _refused_table(board: Board) -> Table | None:
    rows = tuple((p.run.run_id, p.reason) for p in board.rows if p.status == "refused")
    columns = (Column(name=N_("run"), align="left"), Column(name=N_("reason"), align="left"))
    return Table(title=N_("Not predicted"), columns=columns, rows=rows) if rows else None


def causes(p: Prediction) -> dict[str, float]:
    """Shares of the predicted step by cause."""
    if p.laid is None:
        return {}
    step = p.laid.priced.step
    m, total = float(step.micro_batches), float(step.total)
    parts = {name: m * float(value) for name, value in step.slowest._asdict().items()}
    parts |= {
        "pipeline_bubble": float(step.bubble),
        "pipeline_send": float(step.pipeline_send),
        "gradient_reduce": float(step.gradient_reduce),
        "updated_weights": float(step.parameter_gather),
        "optimizer": float(step.optimizer),
        "straggler": float(step.straggler),
        "host_step": float(step.host_step),
    }
    return {name: value / total for name, value in parts.items() if value}


def _shares(p: Prediction) -> str:
    largest = sorted(causes(p).items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {share:.0%}" for name, share in largest)


def _reason(p: Prediction) -> str:
    if p.laid is None:
        return p.reason
    return f"assumed: {', '.join(p.laid.assumed)}" if p.laid.assumed else ""


def _row(p: Prediction, held_out: Prediction, interval: tuple[float, float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {
        "run_id": p.run.run_id,
        "source": p.run.source,
        "accelerator_id": p.run.accelerator_id,
        "trust": p.run.trust,
        "metric_kind": p.run.metric_kind,
        "published": p.run.published,
        "predicted": p.predicted,
        "low": low,
        "high": high,
        "error_frac": p.error_frac,
        "held_out_error_frac": held_out.error_frac,
        "status": p.status,
        "reason": _reason(p),
    }


def _detail(p: Prediction) -> dict[str, Any]:
    """How the run was read: stack, strategy, causes of the predicted step."""
    if p.laid is None:
        return {}
    return {
        "stack": p.laid.problem.stack.name,
        "strategy": p.laid.strategy.to_dict(),
        "step_s": p.step_s,
        "measured_step_s": p.measured_step_s,
        "time_error_frac": p.time_frac,
        "cause_frac": causes(p),
        "memory_error_frac": memory_error(p),
    }


def _set(part: RunSet, by: By | None) -> dict[str, Any]:
    macro, macro_out, macro_null, macro_null_out = part.macro_means
    out: dict[str, Any] = {}
    for name, _words in _PARTS:
        out[name] = as_dict(part.score(part.part(name)))
        members = part.part(name)
        seen, left_out = part.null_quantiles(members), part.null_quantiles(members, out=True)
        unseen = part.score(part.held_out_rows(members))
        out[name]["held_out_median_abs_frac"] = unseen.median_abs_frac
        out[name]["held_out_p90_abs_frac"] = unseen.p90_abs_frac
        out[name]["held_out_bias_frac"] = unseen.bias_frac
        out[name]["null_p90_abs_frac"] = seen and seen[1]
        out[name]["null_other_sources_median_abs_frac"] = left_out and left_out[0]
        out[name]["null_other_sources_p90_abs_frac"] = left_out and left_out[1]
    out |= {
        "macro_mean_abs_frac": macro,
        "held_out_macro_mean_abs_frac": macro_out,
        "null_macro_mean_abs_frac": macro_null,
        "null_other_sources_macro_mean_abs_frac": macro_null_out,
        "memory": part.memory,
    }
    out |= {"rank_groups": part.rank_groups, "plan_groups": part.plan_groups}
    if by is not None:
        out[f"by_{by}"] = {name: as_dict(found) for name, found in part.by(by).items()}
    return out


def _result(board: Board, by: By | None) -> dict[str, Any]:
    first = board.sets[0]
    return {
        "summary": as_dict(first.score(first.part("trusted"))),
        "rows": [
            _row(p, part.held_out[p.run.run_id], part.intervals.get(p.run.run_id)) for part in board.sets for p in part.rows
        ],
        "sets": {part.name: _set(part, by) for part in board.sets},
        "detail": {p.run.run_id: _detail(p) for p in board.rows},
    }


def _headline(board: Board) -> str:
    first = board.sets[0]
    found = first.score(first.part("trusted"))
    if found.median_abs_frac is None:
        return _("{set}: none of {n} runs could be predicted.").format(set=first.name, n=found.n)
    return _(
        "{set}: {predicted} of {n} runs of trust A and B predicted; median error {median} %, P90 {p90} %;"
        " the null model's median is {null} %."
    ).format(
        set=first.name,
        predicted=found.predicted,
        n=found.n,
        median=_percent(found.median_abs_frac),
        p90=_percent(found.p90_abs_frac),
        null=_percent(found.null_median_abs_frac),
    )


def validation_report(board: Board, *, inputs: Mapping[str, Any], by: By | None = None, against: str | None = None) -> Report:
    """The report of a validation.

    ``summary`` in the JSON answer is that of trust A and B of the first set; ``sets`` holds the others.
    """
    tables = [_board_table(board)]
    tables.append(_honest_table(board, against))
    if by is not None:
        tables += [_by_table(part, by) for part in board.sets]
    memory, refused = _memory_table(board), _refused_table(board)
    tables += [memory] if memory else []
    for part in board.sets:
        if part.plan_groups:
            tables.append(
                _group_table(_("{set}: plans for one model on one machine").format(set=part.name), part.plan_groups[:12])
            )
        if part.rank_groups:
            tables.append(
                _group_table(_("{set}: step times of one source on one accelerator").format(set=part.name), part.rank_groups)
            )
        tables.append(_worst_table(part))
    tables += [refused] if refused else []
    return Report(
        kind="validation",
        inputs=inputs,
        result=_result(board, by),
        headline=_headline(board),
        tables=tuple(tables),
        assumptions=notes(),
        sources=tuple(sorted({p.run.source for p in board.rows})),
        definitions=_DEFINITIONS,
    )
