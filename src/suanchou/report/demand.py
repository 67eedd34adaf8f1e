"""The answer of ``suanchou demand`` as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suanchou.demand import Demand
from suanchou.demand.data import conventions, optimizers
from suanchou.estimate import Estimate
from suanchou.i18n import N_, _, language
from suanchou.report.report import Column, Report, Table
from suanchou.units import PFLOPS_DAY, fmt, fmt_byte

__all__ = ["demand_report"]

_DEFINITIONS = ("MFU", "HFU", "goodput", "ZeRO", "KV cache")
_PURPOSES = {
    "pretrain": N_("pre-training"),
    "continue": N_("continued pre-training"),
    "sft": N_("supervised fine-tuning"),
    "lora": N_("LoRA fine-tuning"),
    "qlora": N_("QLoRA fine-tuning"),
    "dpo": N_("DPO"),
    "ppo": N_("PPO"),
    "grpo": N_("GRPO"),
    "serve": N_("serving"),
}
_TERMS = {
    "forward": N_("forward"),
    "backward": N_("backward"),
    "backward_activations": N_("backward, activations only"),
    "recompute": N_("forward again"),
    "policy_forward": N_("policy forward"),
    "policy_backward": N_("policy backward"),
    "reference_forward": N_("reference forward"),
    "reward_forward": N_("reward forward"),
    "value_forward": N_("value forward"),
    "generate": N_("generation"),
    "policy_train": N_("policy training"),
    "value_train": N_("value training"),
}
_RUNGS = {
    "scratch": N_("from scratch"),
    "continue": N_("continue pre-training"),
    "sft": N_("fine-tune (SFT)"),
    "lora": N_("LoRA"),
    "rag": N_("retrieval (RAG)"),
}
_COUNTS = {
    "6nd": N_("6ND: forward 2, backward 4"),
    "8nd": N_("8ND: forward again (full recompute)"),
    "3nd": N_("3ND: encoder-decoder"),
    "exact_causal": N_("exact, causal attention"),
    "exact_full": N_("exact, full attention"),
}


def _text(value: float, unit: str) -> str:
    return fmt(value, unit, lang=language())


def _count(value: float) -> str:
    """A count with enough digits to compare rows: 73,495 or 1.2e+07."""
    if value >= 1e7:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _flop_cell(value: float) -> str:
    mantissa, _e, exponent = f"{value:.3e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _find(node: Estimate, name: str) -> Estimate | None:
    return next((child for child in node.children if child.name == name), None)


def _cell(node: Estimate, name: str, unit: str) -> str:
    found = _find(node, name)
    return "?" if found is None else _text(found.value, unit)


def _band(node: Estimate, scale: float = 1.0) -> str:
    if node.low is None or node.high is None:
        return ""
    return f"{_text(node.low * scale, '1')} - {_text(node.high * scale, '1')}"


def _flop_cells(flop: float, d: Demand) -> tuple[str, str, str]:
    return _flop_cell(flop), _count(flop / PFLOPS_DAY), _flop_cell(flop / d.tokens.value)


def _flop_table(d: Demand) -> Table:
    titles = {name: item.title for name, item in conventions().items()}
    rows = []
    for node in d.flop.children:
        label = _(_COUNTS.get(node.name) or _TERMS.get(node.name) or titles.get(node.name, node.name))
        mark = "* " if node.name == d.convention else ""
        rows.append((mark + label, *_flop_cells(node.value, d)))
    if d.flop.summed:
        rows.append((_("all"), *_flop_cells(d.flop.value, d)))
    note = _("* the count in use; exact counts at {n} tokens per sequence. PFLOPS-days: a rate held for days.")
    return Table(
        title=N_("Compute"),
        columns=(
            Column(name=N_("count"), align="left"),
            Column(name="FLOP"),
            Column(name="PFLOPS-days"),
            Column(name=N_("FLOP per token")),
        ),
        rows=tuple(rows),
        note="" if d.flop.summed else note.format(n=f"{d.seq:,.0f}"),
    )


def _card_table(d: Demand) -> Table:
    timed = any(_find(node, "duration") for node in d.card_time)
    columns = [
        Column(name=N_("accelerator"), align="left"),
        Column(name=N_("card-days")),
        Column(name=N_("range")),
        Column(name=N_("fewest cards")),
    ]
    if timed:
        columns += [Column(name=N_("time")), Column(name=N_("range"))]
    rows = []
    for node in d.card_time:
        least, time = _find(node, "least_cards"), _find(node, "duration")
        row = [
            node.name,
            _text(node.value / 24, "1"),
            _band(node, 1 / 24),
            "?" if least is None else f"{least.value:,.0f}",
        ]
        if timed and time is not None:
            row += [_text(time.value, "s"), f"{_days(time.low)} - {_days(time.high)}"]
        elif timed:
            row += ["", ""]
        rows.append(tuple(row))
    note = N_("Fewest cards: their memory just holds the training state, without activations. ?: not published.")
    return Table(title=N_("Card time"), columns=tuple(columns), rows=tuple(rows), note=note, main=True)


def _days(seconds: float | None) -> str:
    return "?" if seconds is None else _text(seconds, "s")


def _money_table(d: Demand) -> Table:
    parts = (("energy", "j"), ("electricity", "usd"), ("rent", "usd"), ("own", "usd"))
    rows = []
    for node in d.card_time:
        carbon = _find(node, "carbon")
        tonnes = "?" if carbon is None else f"{_count(carbon.value / 1e3)} t"
        cells = [_cell(node, name, unit) for name, unit in parts]
        rows.append((node.name, cells[0], tonnes, *cells[1:]))
    return Table(
        title=N_("Energy and money"),
        columns=(
            Column(name=N_("accelerator"), align="left"),
            Column(name=N_("energy")),
            Column(name="CO2"),
            Column(name=N_("electricity")),
            Column(name=N_("rent")),
            Column(name=N_("own")),
        ),
        rows=tuple(rows),
        note=N_("Own: the cards' price over their life, and electricity. Either rent or own, not both."),
    )


def _both(value: float) -> tuple[str, str]:
    return fmt_byte(value), fmt_byte(value, binary=True)


_BYTE_COLUMNS = (Column(name=N_("bytes")), Column(name=N_("binary")))


def _memory_table(d: Demand) -> Table:
    rows = [(_("weights") + f", {node.name}", *_both(node.value)) for node in d.weights]
    state = d.state[0]
    rows.append((_("training state") + f", {state.name}", *_both(state.value)))
    rows.append((_("checkpoint") + f", {state.name}", *_both(d.checkpoint.value)))
    rows.append((_("KV cache per token"), *_both(d.kv.value)))
    return Table(title=N_("Memory"), columns=(Column(name=N_("what"), align="left"), *_BYTE_COLUMNS), rows=tuple(rows))


def _state_table(d: Demand) -> Table:
    recipes = optimizers()
    rows = []
    for node in d.state:
        recipe = recipes[node.name]
        byte = f"{recipe.weight:g}+{recipe.gradient:g}+{recipe.master:g}+{recipe.moments:g}={recipe.training:g}"
        rows.append((node.name, byte, *_both(node.value)))
    return Table(
        title=N_("Training state by optimizer"),
        columns=(
            Column(name=N_("recipe"), align="left"),
            Column(name=N_("byte per parameter"), align="left"),
            *_BYTE_COLUMNS,
        ),
        rows=tuple(rows),
        note=N_("weights + gradients + master copy + moments; no activations"),
    )


def _rank_table(d: Demand) -> Table:
    cells: dict[str, list[str]] = {}
    for node in d.rank_state:
        stage, _r, ranks = node.name.partition("_r")
        cells.setdefault(ranks, [ranks]).append(fmt_byte(node.value))
        assert stage.startswith("zero")
    return Table(
        title=N_("Training state of one rank"),
        columns=(Column(name=N_("data-parallel ranks")), *(Column(name=f"ZeRO-{i}" if i else N_("no ZeRO")) for i in range(4))),
        rows=tuple(tuple(row) for row in cells.values()),
    )


def _ladder_table(d: Demand) -> Table:
    base = next(node.value for node in d.ladder if node.name == "sft")
    time = d.card_time[0] if d.card_time else None
    columns = [
        Column(name=N_("way"), align="left"),
        Column(name="FLOP"),
        Column(name="PFLOPS-days"),
        Column(name=N_("times SFT")),
    ]
    if time is not None:
        columns.append(Column(name=_("card-days") + f" {time.name}"))
    rows = []
    for node in d.ladder:
        row = [_(_RUNGS[node.name]), _flop_cell(node.value), _count(node.value / PFLOPS_DAY), _count(node.value / base)]
        if time is not None:
            row.append(_count(time.value / 24 * node.value / d.model_flop.value))
        rows.append(tuple(row))
    note = N_("Tokens: 20 per parameter from scratch, 50 B continued, 100 M for SFT and LoRA; RAG embeds 10 B once.")
    return Table(title=N_("Ways to a domain model"), columns=tuple(columns), rows=tuple(rows), note=note)


def _serving_table(d: Demand) -> Table:
    rows = []
    for node in d.serving:
        rows.append(
            (
                node.name,
                f"{node.value:,.0f}",
                _band(node),
                f"{node['cards_per_replica'].value:,.0f}",
                f"{node['batch'].value:,.0f}",
                _text(node["decode_step"].value, "s"),
                _cell(node, "usd_per_million", "usd"),
                _cell(node, "energy_per_million", "j"),
            )
        )
    return Table(
        title=N_("Serving, first estimate"),
        columns=(
            Column(name=N_("accelerator"), align="left"),
            Column(name=N_("cards")),
            Column(name=N_("range")),
            Column(name=N_("per replica")),
            Column(name=N_("batch")),
            Column(name="TPOT"),
            Column(name=N_("rent per M tokens")),
            Column(name=N_("energy per M tokens")),
        ),
        rows=tuple(rows),
        note=N_("No queueing, scheduling or communication; per million output tokens. `suanchou deploy` simulates them."),
        main=not d.card_time,
    )


def _headline(d: Demand) -> str:
    active = d.active_parameters.value
    size = _text(d.parameters.value, "1")
    if active != d.parameters.value:
        size = _("{total} parameters, {active} active").format(total=size, active=_text(active, "1"))
    else:
        size = _("{total} parameters").format(total=size)
    if d.purpose == "serve":
        return _("{model} ({size}): {flop} per generated token").format(
            model=d.model, size=size, flop=_text(d.flop.value / d.tokens.value, "flop")
        )
    return _("{model} ({size}), {purpose} on {tokens} tokens: {flop} FLOP = {days} PFLOPS-days").format(
        model=d.model,
        size=size,
        purpose=_(_PURPOSES[d.purpose]),
        tokens=_text(d.tokens.value, "1"),
        flop=_flop_cell(d.flop.value),
        days=_count(d.flop.value / PFLOPS_DAY),
    )


def _loss_line(d: Demand) -> tuple[str, ...]:
    if d.loss is None:
        return ()
    low, high = d.loss.low, d.loss.high
    assert low is not None
    assert high is not None
    text = _("Chinchilla law: loss {loss} nats per token ({low} - {high}), at {factor} times the compute-optimal tokens")
    over = d.loss["over_training"].value
    return (text.format(loss=f"{d.loss.value:.3f}", low=f"{low:.3f}", high=f"{high:.3f}", factor=_count(over)),)


def _sources(root: Estimate) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source for _path, node in root.walk() for source in node.sources))


def demand_report(d: Demand, *, inputs: Mapping[str, Any]) -> Report:
    """The answer as a report: compute, card time, memory, training state, the ladder of a domain model, serving."""
    training = d.purpose != "serve"
    tables = [_flop_table(d)] if training else []
    tables += [_card_table(d), _money_table(d)] if d.card_time else []
    tables += [_serving_table(d)] if d.serving else []
    tables.append(_memory_table(d))
    if training:
        tables += [_state_table(d), _rank_table(d), _ladder_table(d)]
    root = d.estimate
    return Report(
        kind="demand",
        inputs=inputs,
        result={"purpose": d.purpose, "convention": d.convention},
        estimate=root,
        headline=_headline(d),
        tables=tuple(tables),
        assumptions=(*_loss_line(d), *d.assumptions),
        warnings=d.warnings,
        sources=_sources(root),
        definitions=_DEFINITIONS,
        scenario=inputs,
    )
