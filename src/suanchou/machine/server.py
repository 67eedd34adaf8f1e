"""From a catalogue row to a Node: ranks, scale-up tier, islands, network ports."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from suanchou.catalog import Catalogue, Cell, Record, catalogue
from suanchou.catalog.records import Value
from suanchou.i18n import _
from suanchou.machine.accelerator import Accelerator
from suanchou.machine.cluster import Node, Tier, Topology
from suanchou.machine.device import accelerator

__all__ = ["link_latency", "made_up_node", "node", "node_from_record", "part_of"]

TOPOLOGIES: dict[str, Topology] = {
    "switch": "switch",
    "full-mesh": "full-mesh",
    "mesh": "full-mesh",
    "ring": "ring",
    "hybrid-cube-mesh": "hybrid-cube-mesh",
    "torus-2d": "torus",
    "torus-3d-ocs": "torus",
    "torus-6d": "torus",
    "pcie": "pcie",
    "fat-tree": "fat-tree",
    "single": "single",
}
"""Topology as written in nodes.csv -> topology of a Tier."""

AXES = {"torus-3d-ocs": 3, "torus-6d": 6}
"""Dimensions of a torus, where it has more than two."""


def node(name: str) -> Node:
    """The node of that catalogue name or alias.

    Raises
    ------
    SpecError : no such node.
    """
    return node_from_record(catalogue().get("nodes", name))


def link_latency(source: Catalogue, where: str, link: str) -> tuple[float, str]:
    """Latency per message in seconds of a link by its name, and where the figure comes from."""
    for row in source.side_table("networks"):
        if row["where"] == where and fnmatchcase(f" {link} ".casefold(), f"*{row['match'].strip('*')}*".casefold()):
            return float(row["latency_s"]), f"{row['link']} latency ({row['grade']}): {row['source']}"
    raise AssertionError("networks.csv ends with a row that matches every link")


def node_from_record(record: Record) -> Node:
    """The node a record of kind ``nodes`` describes."""
    source = catalogue()
    device = accelerator(record.text("accelerator_id"))
    packages = record.integer("accelerators_per_node") or 1
    domain = record.integer("scale_up_domain_size") or 1
    ranks = packages * device.dies
    warnings = list(record.warnings)
    scale_up, inner = _tiers(source, record, device, ranks=ranks, domain=domain * device.dies, warnings=warnings)
    count, rate = record.number("nic_count"), record.number("nic_gbps_each")
    nic = None if count is None or rate is None else count * rate * 1e9 / 8
    if nic is None:
        warnings.append(_("{name}: the network ports are not published; only one node can be planned").format(name=record.id))
    storage, storage_rate = record.number("local_nvme_tb"), record.number("local_nvme_gb_s")
    memory = record.number("host_memory_gb")
    if device.kind == "cpu" and device.memory_byte is None and memory is not None:
        device = replace(device, memory_byte=memory * 1e9 / ranks)
    return Node(
        id=record.id,
        name=record.title,
        accelerator=device,
        n_accelerator=ranks,
        n_package=packages,
        scale_up=scale_up,
        inner=inner,
        nic_byte_per_s=nic,
        host_memory_byte=None if memory is None else memory * 1e9,
        host_link_byte_per_s=device.host_link_byte_per_s,
        local_storage_byte=None if storage is None else storage * 1e12,
        local_storage_byte_per_s=None if storage_rate is None else storage_rate * 1e9,
        power_w=record.number("node_power_w"),
        sources=tuple(dict.fromkeys((*record.sources, *device.sources))),
        warnings=tuple(dict.fromkeys((*warnings, *device.warnings))),
    )


def _tiers(
    source: Catalogue, record: Record, device: Accelerator, *, ranks: int, domain: int, warnings: list[str]
) -> tuple[Tier, Tier | None]:
    """The scale-up tier, and the tier that joins the islands of one node if there are any. Adds to ``warnings``."""
    written = record.number("scale_up_gb_s_per_accelerator_unidirectional")
    bandwidth = None if written is None else written * 1e9 / device.dies
    layout = record.text("scale_up_topology") or "single"
    topology = TOPOLOGIES[layout]
    if bandwidth is None and device.link_byte_per_s is not None and topology != "pcie" and domain > 1:
        bandwidth = device.link_byte_per_s
        warnings.append(
            _("{name}: scale-up bandwidth is not published; that of the accelerator's link is taken").format(name=record.id)
        )
    host = _host_tier(source, device, ranks)
    if domain > 1 and bandwidth is not None:
        latency, origin = link_latency(source, "scale-up", "pcie" if topology == "pcie" else device.link_name)
        tier = Tier(
            name="scale-up", size=domain, topology=topology, bandwidth_byte_per_s=bandwidth, latency_s=latency,
            sources=(*record.sources, origin), axes=AXES.get(layout, 2),
        )  # fmt: skip
        return tier, host if domain < ranks else None
    if ranks > 1 and host is not None:
        if domain > 1:
            warnings.append(
                _("{name}: scale-up bandwidth is not published; the PCIe link to the host is taken, a lower bound").format(
                    name=record.id
                )
            )
        return host, None
    if ranks > 1:
        warnings.append(
            _("{name}: no link between its {n} devices is published; each is planned alone").format(name=record.id, n=ranks)
        )
    return _alone(device), None


def _host_tier(source: Catalogue, device: Accelerator, ranks: int) -> Tier | None:
    """All devices of a node through their host links; ``None`` when the link is unknown."""
    if device.host_link_byte_per_s is None:
        return None
    latency, origin = link_latency(source, "scale-up", "pcie")
    return Tier(
        name="host",
        size=ranks,
        topology="pcie",
        bandwidth_byte_per_s=device.host_link_byte_per_s,
        latency_s=latency,
        sources=(*device.sources, origin),
    )


def _alone(device: Accelerator) -> Tier:
    """The tier of a device without peers: whatever it moves, it moves in its own memory."""
    bandwidth = device.memory_bandwidth_byte_per_s
    return Tier(
        name="single",
        size=1,
        topology="single",
        bandwidth_byte_per_s=float("inf") if bandwidth is None else bandwidth,
        latency_s=0.0,
        sources=device.sources,
    )


def made_up_node(name: str) -> Node:
    """A node for an accelerator that no catalogue node has, after the template of its kind (``node_templates.csv``)."""
    source = catalogue()
    record = source.get("accelerators", name)
    kind = record.text("kind")
    template = next((row for row in source.side_table("node_templates") if row["kind"] == kind), {})
    count = int(template.get("accelerators_per_node") or 1)
    # A bridge joins a pair of cards, not all cards of a server.
    linked = record.number("link_gb_s_total_bidirectional") is not None and "bridge" not in record.text("link_name")
    written: dict[str, Value] = {
        "name": f"{count} x {record.title}",
        "accelerator_id": record.id,
        "accelerators_per_node": count,
        "scale_up_domain_size": count if linked else 1,
        "scale_up_topology": "single" if count == 1 else "full-mesh" if linked else "pcie",
        "nic_count": int(template["nic_count"]) if template.get("nic_count") else None,
        "nic_gbps_each": float(template["nic_gbps_each"]) if template.get("nic_gbps_each") else None,
    }
    origin = template.get("source", "assumed: one device per node, without a network")
    cells = {column: Cell(value=value, source=origin, grade="assumed") for column, value in written.items()}
    warning = _("{name}: no node of the catalogue has it; a node of {n} is assumed (node_templates.csv)").format(
        name=record.id, n=count
    )
    return node_from_record(Record(kind="nodes", id=f"{record.id}-x{count}", cells=cells, warnings=(warning,)))


def part_of(whole: Node, ranks: int) -> Node:
    """The same node with fewer ranks in use: smaller tiers, a smaller share of the power, fewer peers in a full mesh."""
    if ranks == whole.n_accelerator:
        return whole
    share = ranks / whole.n_accelerator
    return replace(
        whole,
        n_accelerator=ranks,
        n_package=-(-ranks // whole.accelerator.dies),
        scale_up=_shrunk(whole.scale_up, ranks),
        inner=None if whole.inner is None or ranks <= whole.scale_up.size else replace(whole.inner, size=ranks),
        power_w=None if whole.power_w is None else whole.power_w * share,
        warnings=(
            *whole.warnings,
            _("{name}: {n} of its {total} devices are used").format(name=whole.id, n=ranks, total=whole.n_accelerator),
        ),
    )


def _shrunk(tier: Tier, ranks: int) -> Tier:
    """A tier of at most ``ranks``; in a full mesh the links to the absent peers are lost."""
    if ranks >= tier.size:
        return tier
    bandwidth = tier.bandwidth_byte_per_s
    if tier.topology == "full-mesh" and ranks > 1:
        bandwidth *= (ranks - 1) / (tier.size - 1)
    return replace(tier, size=ranks, bandwidth_byte_per_s=bandwidth)
