"""The catalogue as reports: lists, single entries and searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from suanchou.catalog import KINDS, Cell, Record, catalogue
from suanchou.catalog.schema import kind_spec
from suanchou.errors import MissingData, SpecError
from suanchou.i18n import N_, _
from suanchou.report.report import Column, Report, Table

__all__ = ["LISTED", "catalog_list", "catalog_search", "catalog_show"]

LISTED: dict[str, tuple[str, ...]] = {
    "accelerators": ("fp16_tflops", "bf16_tflops", "memory_gb", "memory_bandwidth_gb_s", "tdp_w"),
    "nodes": (
        "accelerator_id",
        "accelerators_per_node",
        "scale_up_domain_size",
        "scale_up_gb_s_per_accelerator_unidirectional",
        "nic_gbps_each",
    ),
    "clusters": ("operator", "country", "year", "node_id", "nodes"),
    "models": ("family", "date", "params_published", "training_tokens"),
    "stacks": ("title",),
    "regions": ("usd_per_kwh", "gco2_per_kwh", "typical_pue"),
    "notable": ("organization", "date", "parameters", "training_flop"),
    "epoch": ("organization", "date", "parameters", "training_flop"),
}
"""Columns of the list of each kind, after the id."""

_HEADINGS: dict[str, str] = {
    "year": N_("year"),
    "fp16_tflops": "FP16",
    "bf16_tflops": "BF16",
    "memory_gb": N_("memory"),
    "memory_bandwidth_gb_s": N_("bandwidth"),
    "tdp_w": N_("power"),
    "accelerator_id": N_("accelerator"),
    "accelerators_per_node": N_("per node"),
    "scale_up_domain_size": N_("domain"),
    "scale_up_gb_s_per_accelerator_unidirectional": N_("scale-up, one way"),
    "nic_gbps_each": N_("network port"),
    "operator": N_("operator"),
    "country": N_("country"),
    "node_id": N_("node"),
    "nodes": N_("nodes"),
    "title": N_("name"),
    "organization": N_("organisation"),
    "family": N_("family"),
    "date": N_("date"),
    "params_published": N_("parameters"),
    "parameters": N_("parameters"),
    "training_tokens": N_("tokens"),
    "training_flop": N_("training compute"),
    "usd_per_kwh": N_("price"),
    "gco2_per_kwh": N_("carbon"),
    "typical_pue": "PUE",
}
_FILTERS: dict[str, tuple[str, ...]] = {
    "vendor": ("vendor", "operator", "organization"),
    "country": ("country", "region"),
    "kind": ("kind", "scale_up_topology", "family", "domain"),
}
_NOT_ROWS = frozenset(
    {"id", "name", "title", "model", "region", "source", "link", "recalled", "notes", "price_note", "aliases", "sources"}
)
"""Columns that a single entry shows elsewhere: in its title, its remarks, its note or its sources."""


_GRADES = (N_("exact"), N_("measured"), N_("fitted"), N_("datasheet"), N_("derived"), N_("assumed"))
"""Evidence grades as they are printed."""


def shown(cell: Cell | None) -> str:
    """A value as text; ``unknown`` for what nobody has told us."""
    if cell is None or cell.value is None:
        return _("unknown")
    if isinstance(cell.value, float):
        number = cell.value
        return f"{number:.4g}" if number >= 1e7 else f"{number:,.6g}"
    return str(cell.value)


def _flags(cell: Cell) -> str:
    if cell.value is None:
        return ""
    return ", ".join(word for word, on in ((_("recalled"), cell.recalled), ("UNVERIFIED", cell.unverified)) if on)


def _numeric(record: Record, column: str) -> bool:
    return isinstance(record.value(column), (int, float))


def _matches(record: Record, wanted: Mapping[str, str]) -> bool:
    for name, text in wanted.items():
        if name == "country" and record.kind == "regions":
            values = [record.id.partition("-")[0].casefold()]
        else:
            values = [record.text(column).casefold() for column in _FILTERS[name]]
        exact = name == "country"
        if not any(text.casefold() == value if exact else text.casefold() in value for value in values if value):
            return False
    return True


def catalog_list(
    kind: str, *, vendor: str | None = None, country: str | None = None, only: str | None = None, top: int | None = None
) -> Report:
    """The entries of one kind, as a table of their main columns.

    Parameters
    ----------
    kind : accelerators, nodes, clusters, models, stacks, regions, notable, epoch or families.
    vendor : part of the vendor's, operator's or organisation's name.
    country : country code.
    only : kind of device (gpu, npu, cpu ...), topology, family or domain.
    top : at most this many entries.

    Raises
    ------
    SpecError : no such kind, or a filter that fits none of its columns.
    """
    if kind in ("families", "family"):
        return _families(top)
    spec = kind_spec(kind)
    wanted = {name: text for name, text in (("vendor", vendor), ("country", country), ("kind", only)) if text}
    found = catalogue().records(spec.name)
    for name in wanted:
        if found and not any(column in found[0].cells for column in _FILTERS[name]):
            raise SpecError(f"{spec.name} have no {name}", where=f"--{name}", hint="leave the option out")
    rows = [record for record in found if _matches(record, wanted)]
    return _list_report(
        spec.name,
        rows[:top] if top else rows,
        total=len(found),
        inputs={"kind": spec.name, **wanted} | ({"top": top} if top else {}),
    )


def _families(top: int | None) -> Report:
    """Model types whose configurations are understood."""
    from suanchou.model.config import supported_model_types

    types = supported_model_types()[:top]
    return Report(
        kind="catalog.list",
        inputs={"kind": "families"} | ({"top": top} if top else {}),
        result={"count": len(types), "entries": [{"id": name} for name in types]},
        headline=_("{n} model types").format(n=len(types)),
        tables=(
            Table(title="", columns=(Column(name="model_type", align="left"),), rows=tuple((t,) for t in types), main=True),
        ),
    )


def _list_report(kind: str, records: Sequence[Record], *, total: int, inputs: dict[str, Any]) -> Report:
    table = _list_table(kind, records)
    return Report(
        kind="catalog.list",
        inputs=inputs,
        result={
            "count": len(records),
            "entries": [{"id": r.id, **{name: cell.value for name, cell in r.cells.items()}} for r in records],
        },
        headline=_("{kind}: {n} of {total} entries").format(kind=kind, n=len(records), total=total),
        tables=(table,),
        sources=tuple(filter(None, (KINDS[kind].attribution,))),
    )


def _list_table(kind: str, records: Sequence[Record]) -> Table:
    names = [name for name in LISTED[kind] if any(name in record.cells for record in records)]
    columns = [Column(name=N_("id"), align="left", whole=kind not in ("notable", "epoch"))]
    for name in names:
        unit = next((record.cells[name].unit for record in records if name in record.cells), "")
        numeric = any(_numeric(record, name) for record in records)
        columns.append(Column(name=_HEADINGS[name], unit=unit, align="right" if numeric else "left"))
    rows = []
    for record in records:
        cells = [shown(record.cells.get(name)) if record.value(name) is not None else "-" for name in names]
        rows.append((_marked(record), *cells))
    note = _("- is unknown; * recalled; ! UNVERIFIED: see catalog show") if records else ""
    note = " · ".join(filter(None, (note, KINDS[kind].attribution)))
    return Table(title="", columns=tuple(columns), rows=tuple(rows), note=note, main=True)


def _marked(record: Record) -> str:
    cells = record.cells.values()
    mark = "!" if any(cell.unverified for cell in cells) else "*" if any(cell.recalled for cell in cells) else ""
    return record.id + mark


def catalog_show(name: str, *, kind: str | None = None) -> Report:
    """Everything that is known about one entry: each value with unit, evidence grade, flags and source.

    Parameters
    ----------
    name : id or alias, in any kind unless ``kind`` says which.

    Raises
    ------
    SpecError : no such entry.
    """
    source = catalogue()
    if kind is not None:
        found: tuple[Record, ...] = (source.get(kind, name),)
    else:
        found = source.find(name)
    if not found:
        hint = source.nearest(name, kinds=tuple(other for other in KINDS if other != "epoch"))
        raise SpecError(
            f"nothing called {name!r} in the catalogue",
            where="catalog show",
            hint=hint or f"try: suanchou catalog search {name}",
        )
    tables: list[Table] = []
    for record in found:
        tables += _entry_tables(record)
    return Report(
        kind="catalog.show",
        inputs={"name": name} | ({"kind": kind} if kind else {}),
        result={"entries": [_entry(record) for record in found]},
        headline="; ".join(_headline(record) for record in found),
        tables=tuple(tables),
        warnings=tuple(dict.fromkeys(text for record in found for text in (*record.warnings, *_planning_warnings(record)))),
        sources=tuple(dict.fromkeys(filter(None, (text for r in found for text in (KINDS[r.kind].attribution, *r.sources))))),
    )


def _entry(record: Record) -> dict[str, Any]:
    out = record.to_dict() | {"aliases": list(catalogue().aliases(record.kind, record.id))}
    if record.kind == "accelerators":
        out["planned_as"] = _planned(record)
    return out


def _headline(record: Record) -> str:
    about = [record.text(column) for column in ("vendor", "operator", "organization", "country", "year", "date")]
    return f"{record.title} ({_(KINDS[record.kind].title)} {record.id})" + "".join(f", {text}" for text in about if text)


def _entry_tables(record: Record) -> list[Table]:
    sources = list(dict.fromkeys(cell.source for cell in record.cells.values() if cell.source and cell.value is not None))
    rows = []
    for name, cell in record.cells.items():
        if name in _NOT_ROWS:
            continue
        evidence = []
        if cell.value is not None:
            evidence = [_(cell.grade)] if isinstance(cell.value, (int, float)) else []
            evidence += [f"[{sources.index(cell.source) + 1}]"] if cell.source else []
        remark = ", ".join(filter(None, (_flags(cell), cell.note, _remark_cell(record, name))))
        rows.append((name, shown(cell), cell.unit, " ".join(evidence), remark))
    headings = (N_("value of"), N_("value"), N_("unit"), N_("evidence"), N_("remark"))
    columns = tuple(Column(name=heading, align="left", whole=i == 0) for i, heading in enumerate(headings))
    tables = [Table(title=record.title, columns=columns, rows=tuple(rows), note=_note(record), main=True)]
    if record.kind == "accelerators":
        tables.append(_planning_table(record))
    listed = [(f"[{i + 1}]", text) for i, text in enumerate(sources)]
    listed += [(_("aliases"), text) for text in (", ".join(catalogue().aliases(record.kind, record.id)),) if text]
    if listed:
        columns = (Column(name=N_("no."), align="left"), Column(name=N_("source"), align="left"))
        tables.append(Table(title=N_("Sources"), columns=columns, rows=tuple(listed)))
    return tables


def _note(record: Record) -> str:
    return " · ".join(filter(None, (record.text("notes"), KINDS[record.kind].attribution)))


def _remark_cell(record: Record, name: str) -> str:
    """The note that stands in a column of its own beside a value."""
    return record.text("price_note") if name == "price_usd_approx" else ""


# -- how planners use an accelerator -----------------------------------------------------------------------------------


def _planned(record: Record) -> dict[str, Any]:
    """One rank of an accelerator as planners see it, in SI units."""
    from suanchou.machine import accelerator, training_dtype, usual_node

    device = accelerator(record.id)
    node = usual_node(record.id)
    try:
        dtype: str | None = training_dtype(device)
    except MissingData:
        dtype = None
    return {
        "ranks_per_package": device.dies,
        "family": list(device.family_path),
        "peak_flop_per_s": dict(device.peak_flop_per_s),
        "unsupported": dict(device.unsupported),
        "training_dtype": dtype,
        "memory_byte": device.memory_byte,
        "memory_bandwidth_byte_per_s": device.memory_bandwidth_byte_per_s,
        "host_link_byte_per_s": device.host_link_byte_per_s,
        "usual_node": node.id,
        "ranks_per_node": node.n_accelerator,
    }


def _planning_warnings(record: Record) -> tuple[str, ...]:
    if record.kind != "accelerators":
        return ()
    from suanchou.machine import accelerator

    return accelerator(record.id).warnings


def _planning_table(record: Record) -> Table:
    planned = _planned(record)
    peaks = ", ".join(f"{dtype} {rate / 1e12:.5g}" for dtype, rate in planned["peak_flop_per_s"].items())
    lacking = ", ".join(planned["unsupported"])
    memory, bandwidth = planned["memory_byte"], planned["memory_bandwidth_byte_per_s"]
    rows = (
        (_("devices per package, a rank each"), str(planned["ranks_per_package"])),
        (_("dense peak of a rank, TFLOP/s"), peaks or _("unknown")),
        (_("not in hardware"), lacking or "-"),
        (_("trains in"), planned["training_dtype"] or _("unknown")),
        (_("memory of a rank"), _("unknown") if memory is None else f"{memory / 1e9:.4g} GB = {memory / 2**30:.4g} GiB"),
        (_("memory bandwidth of a rank"), _("unknown") if bandwidth is None else f"{bandwidth / 1e9:.6g} GB/s"),
        (_("usual node"), f"{planned['usual_node']} ({planned['ranks_per_node']})"),
        (_("family"), " < ".join(planned["family"])),
    )
    columns = (Column(name=N_("as planned with"), align="left", whole=True), Column(name=N_("value"), align="left"))
    return Table(title="", columns=columns, rows=rows)


def catalog_search(text: str, *, kind: str | None = None) -> Report:
    """Entries in which every word of ``text`` occurs, whatever the column; the Epoch AI survey only when asked for by kind.

    Raises
    ------
    SpecError : no text, no such kind, or nothing found.
    """
    kinds = (kind_spec(kind).name,) if kind else tuple(name for name in KINDS if name != "epoch")
    found = catalogue().search(text, kinds=kinds)
    if not found:
        hint = catalogue().nearest(text, kinds=kinds) or "try fewer words, or: suanchou catalog list KIND"
        raise SpecError(f"nothing in the catalogue matches {text!r}", where="catalog search", hint=hint)
    rows = tuple((_(KINDS[record.kind].title), _marked(record), record.title) for record in found)
    columns = (
        Column(name=N_("kind"), align="left"),
        Column(name=N_("id"), align="left", whole=kind not in ("notable", "epoch")),
        Column(name=N_("name"), align="left"),
    )
    return Report(
        kind="catalog.search",
        inputs={"text": text} | ({"kind": kind} if kind else {}),
        result={"count": len(found), "entries": [{"kind": r.kind, "id": r.id, "name": r.title} for r in found]},
        headline=_("{n} entries").format(n=len(found)),
        tables=(Table(title="", columns=columns, rows=rows, main=True),),
    )
