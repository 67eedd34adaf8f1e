"""A machine of one's own, written in YAML.

::

    name: our cluster
    region: CN-Tianjin
    pue: 1.25
    network: two-layer RoCE
    oversubscription: 2
    groups:
      - on: atlas-800t-a2:32
      - nodes: 4
        node:
          accelerator_id: h100-sxm5-80gb
          accelerators_per_node: 8
          scale_up_domain_size: 8
          scale_up_gb_s_per_accelerator_unidirectional: 450
          scale_up_topology: switch
          nic_count: 8
          nic_gbps_each: 400

A node has the columns of ``nodes.csv``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from suanchou.catalog import Catalogue, Cell, Record
from suanchou.catalog.schema import columns
from suanchou.catalog.tables import check_keys, parse_value, read_yaml
from suanchou.errors import SpecError
from suanchou.machine.cluster import Group
from suanchou.machine.fleet import MAX_COUNT, Fleet, argument
from suanchou.machine.server import node_from_record

__all__ = ["read_fleet"]

_KEYS = ("name", "region", "pue", "network", "oversubscription", "scale_out_latency_us", "groups", "source")


def read_fleet(source: Catalogue, path: Path) -> Fleet:
    """The fleet a YAML file describes.

    Raises
    ------
    SpecError : the file is unreadable, not YAML, has repeated or unknown keys, or a value that does not fit.
    """
    where = str(path)
    data = check_keys(read_yaml(path), _KEYS, where=where)
    entries = data.get("groups")
    if not isinstance(entries, list) or not entries:
        raise SpecError(
            "has no groups", where=f"{where}: groups", hint="write a list, for example: groups: [{on: dgx-h100:16}]"
        )
    groups: list[Group] = []
    warnings: list[str] = []
    for index, entry in enumerate(entries):
        place = f"{where}: groups[{index}]"
        fields = check_keys(entry, ("on", "node", "nodes"), where=place)
        if ("on" in fields) == ("node" in fields):
            raise SpecError("needs either on or node", where=place, hint="write on: dgx-h100:16, or node: {...} with nodes: 16")
        if "on" in fields:
            inner = argument(source, str(fields["on"]), where=f"{place}.on", files=False)
            groups += inner.groups
            warnings += inner.warnings
        else:
            groups.append(_own_group(fields, name=f"{path.stem}-{index}", origin=where, place=place))
    latency = _number(data, "scale_out_latency_us", where=where, minimum=0.0)
    return Fleet(
        name=str(data.get("name") or path.stem),
        groups=tuple(groups),
        region=str(data.get("region") or ""),
        pue=_number(data, "pue", where=where, minimum=1.0),
        network=str(data.get("network") or ""),
        oversubscription=_number(data, "oversubscription", where=where, minimum=1.0),
        scale_out_latency_s=None if latency is None else latency * 1e-6,
        sources=(str(data.get("source") or where),),
        warnings=tuple(warnings),
    )


def _number(data: Any, key: str, *, where: str, minimum: float) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < minimum:
        raise SpecError(f"{value!r} is not possible", where=f"{where}: {key}", hint=f"write a number of {minimum:g} or more")
    return float(value)


def _own_group(fields: Any, *, name: str, origin: str, place: str) -> Group:
    known = columns("nodes")
    written = check_keys(fields["node"], known, where=f"{place}.node")
    count = fields.get("nodes")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_COUNT:
        raise SpecError(f"{count!r} is not a number of nodes", where=f"{place}.nodes", hint="write a whole number of 1 or more")
    for needed in ("accelerator_id", "accelerators_per_node"):
        if not written.get(needed):
            raise SpecError(
                f"{needed} is missing", where=f"{place}.node", hint="a node names its accelerator and how many it has"
            )
    said = str(written.get("source") or origin)
    cells: dict[str, Cell] = {}
    for key, value in written.items():
        text = "" if value is None else str(value)
        cells[key] = Cell(
            value=parse_value(text, known[key], where=f"{place}.node.{key}"), unit=known[key].unit, source=said, grade="assumed"
        )
    record = Record(kind="nodes", id=str(written.get("id") or name), cells=cells, origin=(origin,))
    return Group(node=node_from_record(record), n_node=count)
