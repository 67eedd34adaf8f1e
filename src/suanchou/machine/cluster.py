"""Node, Tier, Group and Cluster: accelerators and the wires between them. Bandwidths are one way, per accelerator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from suanchou.errors import MissingData, SpecError
from suanchou.machine.accelerator import Accelerator

__all__ = ["Cluster", "Group", "Node", "Site", "Tier"]

Topology = Literal["switch", "full-mesh", "ring", "hybrid-cube-mesh", "torus", "pcie", "fat-tree", "single"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One level of the network: ``size`` accelerators that reach each other over it.

    ``bandwidth_byte_per_s`` is what one accelerator sends, one way, when all its peers in the tier listen. In a ``full-mesh``
    a pair of accelerators gets only ``bandwidth / (size - 1)``. ``oversubscription`` divides traffic that leaves a leaf.
    ``axes`` is the number of dimensions of a ``torus``.
    """

    name: str
    size: int
    topology: Topology
    bandwidth_byte_per_s: float
    latency_s: float
    oversubscription: float = 1.0
    sources: tuple[str, ...] = ()
    axes: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A server: ranks (devices, not packages), its scale-up tier and its network ports.

    Parameters
    ----------
    n_accelerator : ranks per node.
    scale_up : the fast tier; its size may be below the node (islands) or above it (a supernode).
    inner : the tier that joins the islands of one node, when the scale-up tier is smaller than the node.
    nic_byte_per_s : all network ports of the node together, one way; ``None`` is unknown.
    host_link_byte_per_s : from one rank to the host, one way.
    power_w : of the whole node, accelerators included.
    """

    id: str
    name: str
    accelerator: Accelerator
    n_accelerator: int
    scale_up: Tier
    nic_byte_per_s: float | None
    inner: Tier | None = None
    n_package: int = 1
    local_storage_byte: float | None = None
    local_storage_byte_per_s: float | None = None
    host_memory_byte: float | None = None
    host_link_byte_per_s: float | None = None
    power_w: float | None = None
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """``n_node`` equal nodes."""

    node: Node
    n_node: int

    def __post_init__(self) -> None:
        if self.n_node < 1:
            raise SpecError("a group needs at least one node", where=self.node.id, hint="write for example dgx-h100:16")

    @property
    def n_accelerator(self) -> int:
        """Ranks in the group."""
        return self.n_node * self.node.n_accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where the machine stands: what power costs and emits."""

    region: str
    usd_per_kwh: float
    gco2_per_kwh: float
    pue: float
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One or more groups (a mixed fleet) and the network between nodes."""

    name: str
    groups: tuple[Group, ...]
    site: Site
    oversubscription: float = 1.0
    scale_out_latency_s: float = 5e-6
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def n_accelerator(self) -> int:
        """Ranks in all groups."""
        return sum(group.n_accelerator for group in self.groups)

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Network levels of the first group, smallest first; the last one spans the cluster.

        Raises
        ------
        MissingData : the cluster is larger than its scale-up tier and nobody has published the network ports of its nodes.
        """
        node = self.groups[0].node
        tiers = [node.scale_up]
        if node.inner is not None and self.n_accelerator > node.scale_up.size:
            tiers.append(node.inner)
        if self.n_accelerator > tiers[-1].size:
            if node.nic_byte_per_s is None:
                raise MissingData(
                    f"the network bandwidth of a {node.name} is not published",
                    where=f"nodes/{node.id}",
                    hint="give its nic_count and nic_gbps_each in nodes.csv of a catalogue folder of your own (--catalog DIR)",
                )
            tiers.append(
                Tier(
                    name="scale-out",
                    size=self.n_accelerator,
                    topology="fat-tree",
                    bandwidth_byte_per_s=node.nic_byte_per_s / node.n_accelerator,
                    latency_s=self.scale_out_latency_s,
                    oversubscription=self.oversubscription,
                    sources=node.sources,
                )
            )
        return tuple(tiers)

    @property
    def memory_byte(self) -> float:
        """Device memory of all groups together.

        Raises
        ------
        MissingData : the memory of an accelerator is unknown.
        """
        total = 0.0
        for group in self.groups:
            memory = group.node.accelerator.memory_byte
            if memory is None:
                device = group.node.accelerator
                raise MissingData(
                    f"the memory of {device.name} is unknown",
                    where=f"accelerators/{device.id}",
                    hint="give memory_gb in --catalog DIR",
                )
            total += memory * group.n_accelerator
        return total

    def peak(self, dtype: str) -> float:
        """Dense peak of all groups together in FLOP/s.

        Raises
        ------
        MissingData : an accelerator has no known peak in that type.
        """
        return sum(group.node.accelerator.peak(dtype) * group.n_accelerator for group in self.groups)
