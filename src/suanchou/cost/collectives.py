"""Collectives: hierarchical alpha-beta times of all-reduce, all-gather, reduce-scatter, all-to-all and point-to-point.

A group of ``size`` ranks, ``stride`` apart, has ``inner`` of its ranks in every scale-up domain and spans ``outer`` domains.
A ring passes both levels at once, so the slower level decides its rate, and every rank of a domain brings its own share of
the network ports. Source of the forms: Thakur, Rabenseifner, Gropp 2005 (ring, pairwise exchange); the two-level split is
derived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from suanchou.cost.efficiency import Efficiency
from suanchou.errors import MissingData
from suanchou.machine.cluster import Cluster, Tier
from suanchou.model.operators import Num

__all__ = ["Fabric", "Members", "all_to_all_messages", "fabric", "members", "topology_frac"]


class Members(NamedTuple):
    """How a communicator lies on the machine: ranks per scale-up domain, domains, and all of them."""

    inner: Num
    outer: Num
    size: Num


def members(size: Num, stride: Num, domain: int) -> Members:
    """Members of groups of ``size`` ranks, ``stride`` apart, on domains of ``domain`` ranks."""
    inner = np.clip(np.floor(domain / np.asarray(stride, dtype=float)), 1, size)
    outer = np.ceil(size / inner)
    return Members(inner, outer, np.asarray(size, dtype=float))


def topology_frac(tier: Tier, inner: Num) -> Num:
    """Share of an accelerator's link bandwidth that a group of ``inner`` ranks inside the tier can use.

    A switch gives all of it. In a full mesh the links lead to fixed peers, so ``inner`` ranks use ``inner - 1`` of the
    ``size - 1`` links. In a hybrid cube mesh half of the links double up on the near peers. A torus group smaller than the
    domain lies on one of its axes.
    """
    peers = np.maximum(tier.size - 1, 1)
    share: Num = np.ones_like(np.asarray(inner, dtype=float))
    if tier.topology == "full-mesh":
        share = np.minimum(1.0, np.maximum(inner - 1, 1) / peers)
    elif tier.topology == "hybrid-cube-mesh":
        share = np.minimum(1.0, 2 * np.maximum(inner - 1, 1) / peers)
    elif tier.topology == "torus":
        share = np.where(np.asarray(inner) < tier.size, 0.5, 1.0)
    return share


def all_to_all_messages(n_rank: int, domain: int, *, hierarchical: bool) -> int:
    """Messages one rank sends in an all-to-all: to every peer, or first inside its domain and then once per domain.

    For 96,000 ranks in domains of 256: 95,999 and 629.
    """
    if not hierarchical:
        return n_rank - 1
    return (min(domain, n_rank) - 1) + (-(-n_rank // domain) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The two network levels of a homogeneous group of nodes, with the rates collectives reach on them.

    ``outer`` is ``None`` where one domain holds every rank. ``inner_frac`` is the share of the scale-up link in a large
    all-reduce, ``gather_frac`` in an all-gather or reduce-scatter, ``exchange_frac`` in an all-to-all, ``send_frac`` between
    two ranks. Inside a domain libraries switch protocols by size: small messages start at once at ``low_frac`` of the rate
    of large ones, which pay ``bulk_s`` first.
    """

    inner: Tier
    outer: Tier | None
    inner_frac: float
    outer_frac: float
    launch_s: float
    gather_frac: float | None = None
    exchange_frac: float | None = None
    send_frac: float | None = None
    low_frac: float = 1.0
    bulk_s: float = 0.0

    def _inner_s(self, sent: Num, inner: Num, share: Num | None) -> Num:
        """Time of ``sent`` bytes per rank over the scale-up link: between the protocols, nearer the quicker one."""
        used = self.inner_frac if share is None else share
        bulk = sent / (self.inner.bandwidth_byte_per_s * used * topology_frac(self.inner, inner))
        slower = bulk * (1.0 / self.low_frac - 1.0)
        return bulk + slower * self.bulk_s / np.maximum(slower + self.bulk_s, 1e-30)

    def _outer_rate(self) -> float:
        if self.outer is None:
            raise MissingData(
                "no network between scale-up domains is described", hint="use fewer accelerators or name the ports"
            )
        return self.outer.bandwidth_byte_per_s * self.outer_frac / self.outer.oversubscription

    def _outer_latency_s(self) -> float:
        return 0.0 if self.outer is None else self.outer.latency_s

    def ring_s(self, byte: Num, group: Members) -> Num:
        """All-gather or reduce-scatter of ``byte`` in total (the gathered size), by a two-level ring.

        Each rank passes on ``byte (n - 1) / n``; inside a domain over its link, between domains over its network ports, which
        carry ``1 / inner`` of it. Zero for a group of one.
        """
        return self._ring_s(byte, group, 1.0, self.gather_frac)

    def all_reduce_s(self, byte: Num, group: Members) -> Num:
        """All-reduce: a reduce-scatter and an all-gather in one call; inside one domain at its own rate (switches may add)."""
        gather = self.inner_frac if self.gather_frac is None else self.gather_frac
        return self._ring_s(byte, group, 2.0, np.where(group.outer > 1, gather, self.inner_frac))

    def _ring_s(self, byte: Num, group: Members, passes: float, share: Num | None) -> Num:
        sent = passes * byte * (group.size - 1) / group.size
        inner_s = np.where(group.inner > 1, self._inner_s(sent, group.inner, share), 0.0)
        if self.outer is None:
            outer_s: Num = np.zeros_like(inner_s)
        else:
            outer_s = np.where(group.outer > 1, sent / group.inner / self._outer_rate(), 0.0)
        latency = (group.inner - 1) * self.inner.latency_s + np.minimum(
            group.outer - 1, 2 * np.ceil(np.log2(np.maximum(group.outer, 1)))
        ) * self._outer_latency_s()
        return np.where(group.size > 1, self.launch_s + passes * latency + np.maximum(inner_s, outer_s), 0.0)

    def all_to_all_s(self, byte: Num, group: Members) -> Num:
        """All-to-all where each rank holds ``byte`` and sends ``1 / n`` of it to every member.

        Pairwise exchange; the share that leaves the domain crosses the network ports. Inside a domain messages to all peers are
        in flight together, so their latency grows with the logarithm of the peers.
        """
        inside = byte * (group.inner - 1) / group.size
        outside = byte * (group.size - group.inner) / group.size
        inner_s = np.where(group.inner > 1, self._inner_s(inside, group.inner, self.exchange_frac), 0.0)
        outer_s: Num = np.zeros_like(inner_s)
        if self.outer is not None:
            outer_s = np.where(group.outer > 1, outside / self._outer_rate(), 0.0)
        rounds = np.ceil(np.log2(np.maximum(group.inner, 1.0)))
        messages = rounds * self.inner.latency_s + (group.outer - 1) * self._outer_latency_s()
        return np.where(group.size > 1, self.launch_s + messages + np.maximum(inner_s, outer_s), 0.0)

    def send_s(self, byte: Num, stride: Num) -> Num:
        """One rank sends ``byte`` to the rank ``stride`` away."""
        stride = np.asarray(stride, dtype=float)
        share = self.inner_frac if self.send_frac is None else self.send_frac
        rate = self.inner.bandwidth_byte_per_s * share * topology_frac(self.inner, np.asarray(2.0))
        inside = self.launch_s + self.inner.latency_s + byte / rate
        if self.outer is None:
            return inside
        outside = self.launch_s + self.outer.latency_s + byte / self._outer_rate()
        return np.where(stride >= self.inner.size, outside, inside)


def fabric(cluster: Cluster, eff: Efficiency) -> Fabric:
    """The network of the first group of ``cluster`` as collectives see it: its scale-up domain and the widest level.

    A level between the two (islands joined over PCIe inside a node) is passed over as if it were the widest one.

    Where a node has islands, whatever leaves an island is priced as if it left the node.

    Raises
    ------
    MissingData : several nodes and no network ports known.
    """
    tiers = cluster.tiers
    eff = eff.over(tiers[0].topology)
    if len(tiers) == 1 and cluster.n_accelerator > tiers[0].size:
        node = cluster.groups[0].node
        raise MissingData(
            f"no network ports are known for {node.name}",
            where=f"nodes/{node.id}",
            hint="plan for one node, or add nic_gbps_each",
        )
    return Fabric(
        inner=tiers[0],
        outer=tiers[-1] if len(tiers) > 1 else None,
        inner_frac=eff.scale_up_frac,
        outer_frac=eff.scale_out_frac,
        launch_s=eff.collective_launch_s,
        gather_frac=eff.gather_frac,
        exchange_frac=eff.exchange_frac,
        send_frac=eff.send_frac,
        low_frac=eff.collective_low_frac,
        bulk_s=eff.collective_bulk_s,
    )
