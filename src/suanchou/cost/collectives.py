"""Collectives: hierarchical alpha-beta times of all-reduce, all-gather, reduce-scatter, all-to-all, dispatch and sends.

A group of ``size`` ranks, ``stride`` apart, has ``inner`` of its ranks in every scale-up domain and spans ``outer`` domains;
where a node holds several domains (islands), ``near`` of its ranks share a node. A ring passes all levels at once, so the
slowest level decides its rate, and every rank of a node brings its own share of the network ports: with one rank per node a
group gets one rank's share, with all of them it gets all ports. Other groups are taken to communicate at the same time on the
rest.

Three things make long rings slower than short ones. A ring of ``n`` ranks has ``n - 1`` hops, whatever it carries, and the
protocol for large messages takes ``bulk_hop`` times as long per hop (NCCL src/graph/tuning.cc: 14.0 and 4.0 us between nodes,
3.4 and 1.9 us over NVLink). An all-reduce may go up and down a double tree instead, whose depth grows with the logarithm but
whose rate is a little lower. And flows that spread over a fat tree by hashing meet on its links: each doubling of the domains
costs ``crowd_frac`` of the time.

Sources of the forms: Thakur, Rabenseifner, Gropp 2005 (ring, pairwise exchange); Sanders, Speck, Traeff 2009 (two trees); the
split by levels is derived.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from suanchou.cost.efficiency import Efficiency
from suanchou.errors import MissingData
from suanchou.machine.cluster import Cluster, Tier
from suanchou.model.operators import Num

__all__ = ["Fabric", "Members", "Sends", "all_to_all_messages", "distinct", "fabric", "members", "topology_frac"]


class Members(NamedTuple):
    """How a communicator lies on the machine: ranks per scale-up domain, domains, all of them, and ranks per node of islands.

    ``node`` is ``None`` where no level lies between the scale-up domain and the network.
    """

    inner: Num
    outer: Num
    size: Num
    node: Num | None = None

    @property
    def near(self) -> Num:
        """Ranks that reach each other without the network."""
        return self.inner if self.node is None else self.node

    @property
    def far(self) -> Num:
        """Places that only the network joins: domains, or nodes of several domains."""
        return self.outer if self.node is None else np.ceil(self.size / self.node)


class Sends(NamedTuple):
    """Sends along a chain of pipeline stages: all of them one after another, and the slowest one."""

    chain: Num
    slowest: Num


def _within(size: Num, stride: Num, domain: int) -> Num:
    return np.clip(np.floor(domain / np.asarray(stride, dtype=float)), 1, size)


def members(size: Num, stride: Num, domain: int, node: int | None = None) -> Members:
    """Members of groups of ``size`` ranks, ``stride`` apart, on domains of ``domain`` ranks, in nodes of ``node``."""
    inner = _within(size, stride, domain)
    outer = np.ceil(size / inner)
    return Members(inner, outer, np.asarray(size, dtype=float), None if node is None else _within(size, stride, node))


def topology_frac(tier: Tier, inner: Num) -> Num:
    """Share of an accelerator's link bandwidth that a group of ``inner`` ranks inside the tier can use.

    A switch gives all of it. In a full mesh the links lead to fixed peers, so ``inner`` ranks use ``inner - 1`` of the
    ``size - 1`` links. In a hybrid cube mesh half of the links double up on the near peers. A torus group smaller than the
    domain lies on one axis, or on as many as it fills.
    """
    peers = np.maximum(tier.size - 1, 1)
    share: Num = np.ones_like(np.asarray(inner, dtype=float))
    if tier.topology == "full-mesh":
        share = np.minimum(1.0, np.maximum(inner - 1, 1) / peers)
    elif tier.topology == "hybrid-cube-mesh":
        share = np.minimum(1.0, 2 * np.maximum(inner - 1, 1) / peers)
    elif tier.topology == "torus":
        filled = np.floor(np.log(np.maximum(inner, 1.0)) / math.log(max(tier.size, 2)) * tier.axes + 1e-9)
        share = np.where(np.asarray(inner) < tier.size, np.clip(filled, 1, tier.axes) / tier.axes, 1.0)
    return share


def all_to_all_messages(n_rank: int, domain: int, *, hierarchical: bool) -> int:
    """Messages one rank sends in an all-to-all: to every peer, or first inside its domain and then once per domain.

    For 96,000 ranks in domains of 256: 95,999 and 629.
    """
    if not hierarchical:
        return n_rank - 1
    return (min(domain, n_rank) - 1) + (-(-n_rank // domain) - 1)


def _log_choose(n: float, k: float) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _missed(n: float, gone: float, k: int) -> float:
    """Probability that ``k`` of ``n`` drawn without return leave ``gone`` of them out."""
    return math.exp(_log_choose(n - gone, k) - _log_choose(n, k)) if n - gone >= k else 0.0


@cache
def _distinct(parts: float, n_expert: int, top_k: int, n_group: int, top_group: int) -> float:
    allowed = n_expert * top_group / n_group
    if parts >= n_group:
        hit = 1.0 - _missed(allowed, n_expert / parts, top_k)
        return parts * top_group / n_group * hit
    held = n_group / parts
    hit = 0.0
    for chosen in range(1, min(int(held), top_group) + 1):
        if top_group - chosen <= n_group - held:
            ways = _log_choose(held, chosen) + _log_choose(n_group - held, top_group - chosen) - _log_choose(n_group, top_group)
            hit += math.exp(ways) * (1.0 - _missed(allowed, chosen * n_expert / n_group, top_k))
    return parts * hit


def distinct(parts: Num, n_expert: int, top_k: int, *, n_group: int = 1, top_group: int = 1) -> Num:
    """Expected number of ``parts`` (ranks, or domains) that hold at least one of a token's experts.

    The parts hold equal shares of ``n_expert`` experts in order; a token chooses ``top_group`` of ``n_group`` groups of experts
    and in them ``top_k`` experts, all choices alike likely. Without groups this is
    ``parts (1 - C(E - E / parts, k) / C(E, k))``. Derived; checked by drawing.
    """
    wanted = np.asarray(parts, dtype=float)
    values, where = np.unique(wanted, return_inverse=True)
    found = np.array([_distinct(float(value), n_expert, top_k, n_group, top_group) for value in values])
    return found[where].reshape(wanted.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The network levels of a homogeneous group of nodes, with the rates collectives reach on them.

    ``outer`` is ``None`` where no network is needed; ``middle`` joins the islands of one node. ``inner_frac`` is the share of
    the scale-up link in a large all-reduce, ``gather_frac`` in an all-gather or reduce-scatter, ``exchange_frac`` in an
    all-to-all, ``send_frac`` between two ranks. Inside a domain libraries switch protocols by size: small messages start at
    once at ``low_frac`` of the rate of large ones, which pay ``bulk_s`` first. ``bulk_hop``, ``tree_frac`` (rate of the tree
    over that of the ring) and ``crowd_frac`` are those of the module's text. ``dispatch_byte_per_s`` bounds kernels that hand
    tokens to experts.
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
    middle: Tier | None = None
    middle_frac: float = 1.0
    bulk_hop: float = 1.0
    tree_frac: float = 1.0
    crowd_frac: float = 0.0
    dispatch_byte_per_s: float = math.inf

    def _inner_s(self, sent: Num, inner: Num, share: Num | None) -> Num:
        """Time of ``sent`` bytes per rank over the scale-up link: between the protocols, nearer the quicker one."""
        used = self.inner_frac if share is None else share
        bulk = sent / (self.inner.bandwidth_byte_per_s * used * topology_frac(self.inner, inner))
        return self._protocol_s(bulk, self.bulk_s)

    def _protocol_s(self, bulk: Num, start: Num) -> Num:
        slower = bulk * (1.0 / self.low_frac - 1.0)
        return bulk + slower * start / np.maximum(slower + start, 1e-30)

    def _middle_rate(self) -> float:
        return math.inf if self.middle is None else self.middle.bandwidth_byte_per_s * self.middle_frac

    def _outer_rate(self) -> float:
        if self.outer is None:
            raise MissingData(
                "no network between scale-up domains is described", hint="use fewer accelerators or name the ports"
            )
        return self.outer.bandwidth_byte_per_s * self.outer_frac / self.outer.oversubscription

    def _outer_s(self, sent: Num, far: Num) -> Num:
        """Time of ``sent`` bytes per rank through its share of the ports, among ``far`` places."""
        if self.outer is None:
            return np.zeros_like(np.asarray(sent * far, dtype=float))
        crowd = 1.0 + self.crowd_frac * np.log2(np.maximum(far, 1.0))
        return np.where(far > 1, sent / self._outer_rate() * crowd, 0.0)

    def _latencies_s(self) -> tuple[float, float, float]:
        """Of a hop inside a domain, between islands of a node and between nodes."""
        between = self.inner.latency_s if self.middle is None else self.middle.latency_s
        return self.inner.latency_s, between, 0.0 if self.outer is None else self.outer.latency_s

    def ring_s(self, byte: Num, group: Members) -> Num:
        """All-gather or reduce-scatter of ``byte`` in total (the gathered size), by a ring through all levels.

        Each rank passes on ``byte (n - 1) / n``; inside a domain over its link, between domains over its network ports, which
        carry ``1 / inner`` of it. Of the ``n - 1`` hops, one per node goes over the network. Zero for a group of one.
        """
        sent = byte * (group.size - 1) / group.size
        return np.where(group.size > 1, self.launch_s + self._ring_s(sent, group, 1.0, self.gather_frac), 0.0)

    def all_reduce_s(self, byte: Num, group: Members) -> Num:
        """All-reduce: a reduce-scatter and an all-gather in one call, or a double tree between nodes, whichever is quicker.

        Inside one domain at a rate of its own (switches may add).
        """
        gather = self.inner_frac if self.gather_frac is None else self.gather_frac
        share = np.where(group.outer > 1, gather, self.inner_frac)
        sent = 2.0 * byte * (group.size - 1) / group.size
        found = self._ring_s(sent, group, 2.0, share)
        if self.outer is not None:
            found = np.where(group.far > 1, np.minimum(found, self._tree_s(2.0 * byte, group, share)), found)
        return np.where(group.size > 1, self.launch_s + found, 0.0)

    def _levels_s(self, sent: Num, group: Members, share: Num | None, outer_frac: float) -> Num:
        """The slowest level of ``sent`` bytes per rank that pass all of them."""
        slowest = np.where(group.inner > 1, self._inner_s(sent, group.inner, share), 0.0)
        slowest = np.maximum(slowest, self._outer_s(sent / group.near, group.far) / outer_frac)
        if self.middle is None:
            return slowest
        return np.maximum(slowest, np.where(group.near > group.inner, sent / group.inner / self._middle_rate(), 0.0))

    def _ring_s(self, sent: Num, group: Members, passes: float, share: Num | None) -> Num:
        near_s, between_s, far_s = self._latencies_s()
        hops = (group.size - group.outer) * near_s + (group.outer - group.far) * between_s + (group.far - 1.0) * far_s
        bulk_s = np.where(group.far > 1, (self.bulk_hop - 1.0) * passes * hops, 0.0)
        slowest = self._levels_s(sent, group, share, 1.0)
        return passes * hops + self._protocol_s(slowest, bulk_s)

    def _tree_s(self, sent: Num, group: Members, share: Num | None) -> Num:
        near_s, between_s, far_s = self._latencies_s()
        down = (group.inner - 1.0) * near_s + (group.near / group.inner - 1.0) * between_s
        hops = 2.0 * (down + np.log2(np.maximum(group.far, 1.0)) * far_s)
        slowest = self._levels_s(sent, group, share, self.tree_frac)
        return hops + self._protocol_s(slowest, (self.bulk_hop - 1.0) * hops)

    def chain_s(self, byte: Num, group: Members, messages: Num) -> Num:
        """``messages`` broadcasts of ``byte`` together, one after another, each down a chain of all ranks.

        A shard that belongs to one rank as whole tensors comes back this way. Each call waits for its last hop.
        """
        sent = np.asarray(byte, dtype=float)
        near_s, between_s, far_s = self._latencies_s()
        hops = (group.size - group.outer) * near_s + (group.outer - group.far) * between_s + (group.far - 1.0) * far_s
        each = self.launch_s + self.bulk_hop * hops
        return np.where(group.size > 1, messages * each + self._levels_s(sent, group, self.gather_frac, 1.0), 0.0)

    def all_to_all_s(self, byte: Num, group: Members) -> Num:
        """All-to-all where each rank holds ``byte`` and sends ``1 / n`` of it to every member.

        Pairwise exchange; the share that leaves the domain crosses the network ports. Inside a domain messages to all peers are
        in flight together, so their latency grows with the logarithm of the peers.
        """
        inside = byte * (group.inner - 1) / group.size
        outside = byte * (group.size - group.near) / group.size
        slowest = np.where(group.inner > 1, self._inner_s(inside, group.inner, self.exchange_frac), 0.0)
        slowest = np.maximum(slowest, self._outer_s(outside, group.far))
        if self.middle is not None:
            slowest = np.maximum(slowest, byte * (group.near - group.inner) / group.size / self._middle_rate())
        return np.where(group.size > 1, self.launch_s + self._exchange_latency_s(group) + slowest, 0.0)

    def _exchange_latency_s(self, group: Members) -> Num:
        near_s, _, far_s = self._latencies_s()
        return np.ceil(np.log2(np.maximum(group.near, 1.0))) * near_s + (group.far - 1.0) * far_s

    def dispatch_s(self, byte: Num, group: Members, rank_copies: Num, node_copies: Num) -> Num:
        """Tokens of ``byte`` per rank go to experts: one copy to every node that needs it, and there one to every rank.

        ``rank_copies`` and ``node_copies`` are the distinct ranks and nodes a token needs (:func:`distinct`). The network
        carries ``node_copies (far - 1) / far`` of a rank's tokens, the scale-up link ``rank_copies (inner - 1) / inner`` (what
        arrives at a node is handed on there), and the kernels write all copies. Levels run together. Source: DeepSeek-V3
        arXiv 2412.19437 section 3.2.2.
        """
        copies = byte * rank_copies
        inside = copies * (group.inner - 1) / group.inner
        slowest = np.where(group.inner > 1, self._inner_s(inside, group.inner, self.exchange_frac), 0.0)
        slowest = np.maximum(slowest, copies / self.dispatch_byte_per_s)
        slowest = np.maximum(slowest, self._outer_s(byte * node_copies * (group.far - 1) / group.far, group.far))
        if self.middle is not None:
            slowest = np.maximum(slowest, copies * (group.near - group.inner) / group.near / self._middle_rate())
        return np.where(group.size > 1, self.launch_s + self._exchange_latency_s(group) + slowest, 0.0)

    def send_s(self, byte: Num, stride: Num) -> Num:
        """One rank sends ``byte`` to the rank ``stride`` away, seen from the first rank of a domain."""
        return self.sends_s(byte, stride, 2.0).slowest

    def sends_s(self, byte: Num, stride: Num, n_stage: Num) -> Sends:
        """Each of ``n_stage`` stages, ``stride`` ranks apart, sends ``byte`` per rank to the next one.

        Stages that share a domain use its links; a chain that is longer than a domain crosses to the next one as often as it
        has to, so TP 4 and PP 4 on nodes of 8 cross once.
        """
        stride = np.asarray(stride, dtype=float)
        share = self.inner_frac if self.send_frac is None else self.send_frac
        near_s, between_s, far_s = self._latencies_s()
        rate = self.inner.bandwidth_byte_per_s * share * topology_frac(self.inner, np.asarray(2.0))
        inside = self.launch_s + near_s + byte / rate
        boundaries = n_stage - 1.0
        leave = np.ceil(n_stage / _within(n_stage, stride, self.inner.size)) - 1.0
        chain, slowest = (boundaries - leave) * inside, np.where(leave < boundaries, inside, 0.0)
        if self.middle is not None:
            far = np.ceil(n_stage / _within(n_stage, stride, self.middle.size)) - 1.0
            crossing = self.launch_s + between_s + byte / self._middle_rate()
            chain, slowest = chain + (leave - far) * crossing, np.where(leave > far, np.maximum(slowest, crossing), slowest)
            leave = far
        if self.outer is None:
            return Sends(chain + leave * inside, np.where(leave > 0, inside, slowest))
        outside = self.launch_s + far_s + byte / self._outer_rate()
        return Sends(chain + leave * outside, np.where(leave > 0, np.maximum(slowest, outside), slowest))


def fabric(cluster: Cluster, eff: Efficiency) -> Fabric:
    """The network of the first group of ``cluster`` as collectives see it: scale-up domain, node of islands, network.

    Raises
    ------
    MissingData : several nodes and no network ports known.
    """
    tiers = cluster.tiers
    whole, eff = eff, eff.over(tiers[0].topology)
    node = cluster.groups[0].node
    if len(tiers) == 1 and cluster.n_accelerator > tiers[0].size:
        raise MissingData(
            f"no network ports are known for {node.name}",
            where=f"nodes/{node.id}",
            hint="plan for one node, or add nic_gbps_each",
        )
    islands = len(tiers) > 1 and tiers[1].name == "host"
    return Fabric(
        inner=tiers[0],
        outer=tiers[-1] if len(tiers) > 1 + islands else None,
        inner_frac=eff.scale_up_frac,
        outer_frac=eff.scale_out_frac,
        launch_s=eff.collective_launch_s,
        gather_frac=eff.gather_frac,
        exchange_frac=eff.exchange_frac,
        send_frac=eff.send_frac,
        low_frac=eff.collective_low_frac,
        bulk_s=eff.collective_bulk_s,
        middle=tiers[1] if islands else None,
        middle_frac=whole.over(tiers[1].topology).scale_up_frac if islands else 1.0,
        bulk_hop=eff.collective_bulk_hop,
        tree_frac=eff.collective_tree_frac,
        crowd_frac=eff.scale_out_crowd_frac,
        dispatch_byte_per_s=eff.dispatch_byte_per_s,
    )
