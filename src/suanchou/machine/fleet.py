"""From what a user writes after ``--on`` to a Cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from suanchou.catalog import Catalogue, catalogue
from suanchou.errors import MissingData, SpecError
from suanchou.i18n import _
from suanchou.machine.cluster import Cluster, Group, Node
from suanchou.machine.device import dies_of
from suanchou.machine.place import default_region, site
from suanchou.machine.server import link_latency, made_up_node, node, part_of

__all__ = ["cluster", "usual_node"]

MAX_COUNT = 10_000_000
_FORMS = "write NODE:COUNT (dgx-h100:16), ACCELERATOR:COUNT (h100-sxm5-80gb:64), a cluster's name, or a YAML file"
_COUNT = re.compile(r"[+-]?[\d_,]*\.?\d*(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Groups and what is said about the network and the place they share; ``None`` and empty are unsaid."""

    name: str
    groups: tuple[Group, ...]
    cluster_id: str = ""
    country: str = ""
    region: str = ""
    pue: float | None = None
    network: str = ""
    oversubscription: float | None = None
    scale_out_latency_s: float | None = None
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def cluster(specs: Sequence[str], *, region: str | None = None, pue: float | None = None, where: str = "--on") -> Cluster:
    """The cluster of one or more ``--on`` arguments; several make a mixed fleet, in the order given.

    Parameters
    ----------
    specs : ``NODE:COUNT``, ``ACCELERATOR:COUNT`` (packages, put into the node that usually carries them), a cluster's name
        (``NAME:COUNT`` takes some of its nodes), or the path of a YAML file.
    region : where it stands; by default the place of a named cluster, China for Chinese accelerators, else the US.
    pue : power usage effectiveness instead of that of the cluster or region.
    where : what error messages call the argument.

    Raises
    ------
    SpecError : a malformed argument, an unknown name or an impossible count.
    MissingData : a named cluster whose number of nodes is not published.
    """
    if isinstance(specs, str):
        specs = (specs,)
    if not specs:
        raise SpecError("no machine is given", where=where, hint=_FORMS)
    source = catalogue()
    fleets = [argument(source, spec.strip(), where=where) for spec in specs]
    return _assemble(source, fleets, name=" + ".join(fleet.name for fleet in fleets), region=region, pue=pue)


def _assemble(source: Catalogue, fleets: Sequence[Fleet], *, name: str, region: str | None, pue: float | None) -> Cluster:
    groups = tuple(group for fleet in fleets for group in fleet.groups)
    first = fleets[0]
    warnings = [warning for fleet in fleets for warning in fleet.warnings]
    for group in groups:
        warnings += group.node.warnings
    chosen, reason = region or first.region, ""
    if not chosen:
        maker = groups[0].node.accelerator.country
        chosen, reason = default_region(source, cluster_id=first.cluster_id, country=first.country, maker_country=maker)
    place = site(chosen, pue=pue if pue is not None else first.pue)
    if reason:
        warnings.append(reason)
    latency, origin = link_latency(source, "scale-out", first.network)
    tapers = [fleet.oversubscription for fleet in fleets if fleet.oversubscription is not None]
    return Cluster(
        name=name,
        groups=groups,
        site=place,
        oversubscription=max(tapers, default=1.0),
        scale_out_latency_s=latency if first.scale_out_latency_s is None else first.scale_out_latency_s,
        sources=tuple(dict.fromkeys((*(s for fleet in fleets for s in fleet.sources), *place.sources, origin))),
        warnings=tuple(dict.fromkeys((*warnings, *place.warnings))),
    )


# -- one argument ------------------------------------------------------------------------------------------------------


def argument(source: Catalogue, spec: str, *, where: str, files: bool = True) -> Fleet:
    """The fleet of one argument. ``files`` allows the path of a YAML file.

    Raises
    ------
    SpecError : see :func:`cluster`.
    """
    if not spec:
        raise SpecError("an empty machine", where=where, hint=_FORMS)
    if files and spec.lower().endswith((".yaml", ".yml", ".json")):
        from suanchou.machine.fleet_file import read_fleet

        return read_fleet(source, Path(spec))
    name, colon, written = spec.rpartition(":")
    if not colon:
        return _whole(source, spec, where=where)
    count = _parse_count(written, spec, where=where)
    if source.resolve("nodes", name):
        whole = node(name)
        return Fleet(
            name=f"{whole.id}:{count}", groups=(Group(node=whole, n_node=count),), warnings=_reading(source, "nodes", name)
        )
    if source.resolve("accelerators", name):
        return packed(source, name, count, where=where)
    if source.resolve("clusters", name):
        return _site_cluster(source, name, count, where=where)
    raise _unknown(source, name, where=where)


def _reading(source: Catalogue, kind: str, name: str) -> tuple[str, ...]:
    """What to mind about the way an ambiguous name was read."""
    found = source.resolve(kind, name)
    return (
        (_("{name!r} is read as {id}: {note}").format(name=name, id=found[0], note=found[1]),)
        if found is not None and found[1]
        else ()
    )


def _unknown(source: Catalogue, name: str, *, where: str) -> SpecError:
    near = source.nearest(name, kinds=("nodes", "accelerators", "clusters"))
    return SpecError(f"no node, accelerator or cluster {name!r} in the catalogue", where=where, hint=near or _FORMS)


def _whole(source: Catalogue, spec: str, *, where: str) -> Fleet:
    """An argument without a count: a cluster's name."""
    if source.resolve("clusters", spec):
        return _site_cluster(source, spec, None, where=where)
    for kind in ("nodes", "accelerators"):
        found = source.resolve(kind, spec)
        if found:
            raise SpecError(f"how many {found[0]}?", where=where, hint=f"write a count, for example {found[0]}:8")
    raise _unknown(source, spec, where=where)


def _parse_count(text: str, spec: str, *, where: str) -> int:
    if not text or not _COUNT.fullmatch(text) or not any(character.isdigit() for character in text):
        raise SpecError(f"{text!r} in {spec!r} is not a count", where=where, hint=_FORMS)
    number = float(text.replace("_", "").replace(",", ""))
    if number != int(min(max(number, -1e18), 1e18)):
        raise SpecError(f"{text} is not a whole number", where=where, hint="write a whole number of nodes or accelerators")
    count = int(number)
    if count < 1:
        raise SpecError(f"{count} is no machine to plan for", where=where, hint="write a count of 1 or more")
    if count > MAX_COUNT:
        raise SpecError(f"{count:,} is more than the {MAX_COUNT:,} this tool plans for", where=where, hint="check the count")
    return count


# -- accelerators into nodes -------------------------------------------------------------------------------------------


def usual_node(name: str) -> Node:
    """The node that usually carries an accelerator; made up after a template when the catalogue has none."""
    source = catalogue()
    found = source.get("accelerators", name).id
    for row in source.side_table("default_nodes"):
        if row["accelerator_id"] == found:
            return node(row["node_id"])
    carriers = source.matching("nodes", "accelerator_id", found)
    return node(carriers[0]) if carriers else made_up_node(found)


def packed(source: Catalogue, name: str, count: int, *, where: str) -> Fleet:
    """``count`` packages (or dies, when the name is that of a die) in as few equal nodes as hold them."""
    record = source.get("accelerators", name)
    whole = usual_node(record.id)
    is_die = any(row["die_id"] == record.id for row in source.side_table("dies"))
    ranks = count if is_die else count * dies_of(source, record.id)
    fewest = -(-ranks // whole.n_accelerator)
    n_node = next((n for n in range(fewest, 2 * fewest + 1) if ranks % n == 0), None)
    if n_node is None:
        per_node = whole.n_accelerator // (1 if is_die else whole.accelerator.dies)
        low, high = count // per_node * per_node, -(-count // per_node) * per_node
        raise SpecError(
            f"{count} {record.id} do not fill equal nodes",
            where=where,
            hint=f"a {whole.name} has {per_node}: write {record.id}:{low} or {record.id}:{high}",
        )
    group = Group(node=part_of(whole, ranks // n_node), n_node=n_node)
    return Fleet(name=f"{record.id}:{count}", groups=(group,), warnings=_reading(source, "accelerators", name))


# -- clusters of the catalogue -----------------------------------------------------------------------------------------


def _site_cluster(source: Catalogue, name: str, count: int | None, *, where: str) -> Fleet:
    record = source.get("clusters", name)
    all_nodes = record.integer("nodes")
    if count is None and all_nodes is None:
        node_id = record.text("node_id")
        raise MissingData(
            f"the number of nodes of {record.title} is not published",
            where=f"clusters/{record.id}",
            hint=f"say how many: {record.id}:COUNT or {node_id}:COUNT",
        )
    if count is not None and all_nodes is not None and count > all_nodes:
        raise SpecError(f"{record.title} has {all_nodes:,} nodes", where=where, hint=f"write {record.id}:{all_nodes} or less")
    nodes = count or all_nodes or 1
    carrier = node(record.text("node_id"))
    rate = record.number("network_gbps_per_node")
    if rate is not None:
        carrier = replace(carrier, nic_byte_per_s=rate * 1e9 / 8)
    return Fleet(
        name=record.id if count is None else f"{record.id}:{count}",
        groups=(Group(node=carrier, n_node=nodes),),
        cluster_id=record.id,
        country=record.text("country"),
        pue=record.number("pue"),
        network=record.text("network"),
        oversubscription=record.number("oversubscription"),
        sources=record.sources,
        warnings=record.warnings,
    )
