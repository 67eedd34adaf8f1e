"""Cross-fleet link: what the groups of a mixed fleet send each other, and how long a send or an all-reduce over it takes.

Accelerators of different vendors share no collective library; what passes between them goes over the network of the hosts
(TCP or RDMA), so the link is a rate and a latency, whatever the accelerators' own links are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from suanchou.cost.efficiency import efficiency
from suanchou.errors import MissingData, SpecError
from suanchou.i18n import _
from suanchou.machine.cluster import Cluster, Group
from suanchou.units import fmt, parse

__all__ = ["CrossLink", "cross_link"]

_EXAMPLE = (
    "write 200Gb/s (what one node sends), '1.6Tb/s total' (all nodes together), with a latency after a colon: 200Gb/s:10us"
)
_TOTAL = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossLink:
    """The network between the groups of a fleet.

    Parameters
    ----------
    groups : the groups, in the fleet's order.
    byte_per_s : what one node can send to other groups, one way; what all of them can together where ``shared``.
    latency_s : of one message.
    frac : share of the rate that large messages reach: the lowest of the groups' scale-out efficiencies.
    launch_s : fixed time of a call, the longest of the groups'.
    assumed : whether the rate is an assumption.
    """

    groups: tuple[Group, ...]
    byte_per_s: float
    shared: bool
    latency_s: float
    frac: float
    launch_s: float
    assumed: bool
    sources: tuple[str, ...] = ()

    def rate(self, index: int, ranks: float) -> float:
        """Bytes per second, one way, that ``ranks`` ranks of group ``index`` send to other groups together.

        Every rank brings its share of its node's ports, which may be narrower than the link.
        """
        node = self.groups[index].node
        ports = math.inf if node.nic_byte_per_s is None else node.nic_byte_per_s
        together = ranks / node.n_accelerator * (ports if self.shared else min(self.byte_per_s, ports))
        return (min(together, self.byte_per_s) if self.shared else together) * self.frac

    def send_s(self, byte: float, source: tuple[int, float], target: tuple[int, float]) -> float:
        """``byte`` in total from the ranks of one pipeline stage to those of another; a stage is (group, ranks)."""
        return self.launch_s + self.latency_s + byte / min(self.rate(*source), self.rate(*target))

    def all_reduce_s(self, byte: float, members: Sequence[tuple[int, int]]) -> float:
        """All-reduce of ``byte`` that every one of several (group, ranks) holds split over its ranks: a ring of groups.

        Each group sends and receives ``2 (n - 1) / n`` of the bytes; the slowest sets the pace. Zero for one group.
        """
        n = len(members)
        if n < 2:
            return 0.0
        slowest = min(self.rate(*member) for member in members)
        return self.launch_s + 2.0 * (n - 1) * self.latency_s + 2.0 * (n - 1) / n * byte / slowest

    @property
    def text(self) -> str:
        """The link as ``--link`` takes it."""
        rate = f"{self.byte_per_s * 8e-9:.10g}Gb/s"
        return f"{rate} {_TOTAL}:{self.latency_s * 1e6:.10g}us" if self.shared else f"{rate}:{self.latency_s * 1e6:.10g}us"

    @property
    def note(self) -> str:
        """One line that says what the link is."""
        values = {"rate": fmt(self.byte_per_s, "byte/s"), "latency": f"{self.latency_s * 1e6:.3g}", "share": self.frac}
        if self.assumed:
            return _(
                "link between groups: {rate} per node one way, the narrower network ports, {latency} us,"
                " {share:.0%} of it reached; no gradients hide on it (--link)"
            ).format(**values)
        if self.shared:
            return _(
                "link between groups: {rate} for all nodes together, one way, {latency} us, {share:.0%} of it reached;"
                " no gradients hide on it"
            ).format(**values)
        return _(
            "link between groups: {rate} per node one way, {latency} us, {share:.0%} of it reached; no gradients hide on it"
        ).format(**values)


def _written(text: str) -> tuple[float, bool, float | None]:
    """Rate in byte/s, whether it is that of all nodes together, and the latency if there is one."""
    head, colon, tail = text.partition(":")
    words = head.split()
    shared = bool(words) and words[-1].lower() == _TOTAL
    rate = parse(" ".join(words[:-1] if shared else words), "byte/s", where="--link")
    if not rate > 0:
        raise SpecError(f"{text!r} carries nothing", where="--link", hint=_EXAMPLE)
    if colon and not tail.strip():
        raise SpecError(f"{text!r} ends at the colon", where="--link", hint=_EXAMPLE)
    return rate, shared, parse(tail, "s", where="--link") if colon else None


def cross_link(cluster: Cluster, text: str | None = None) -> CrossLink:
    """The link between the groups of ``cluster``.

    ``text`` is ``200Gb/s`` (one node, one way), ``1.6Tb/s total`` (all nodes together), each with ``:latency``. Without it
    every node sends at the rate of the group whose nodes have the narrowest network ports.

    Raises
    ------
    SpecError : not a link.
    MissingData : no text, and a group's network ports are not published.
    """
    effs = [efficiency(group.node.accelerator) for group in cluster.groups]
    shared, latency_s = False, None
    if text is not None:
        rate, shared, latency_s = _written(text)
    else:
        for group in cluster.groups:
            if group.node.nic_byte_per_s is None:
                raise MissingData(
                    f"the network ports of a {group.node.name} are not published",
                    where=f"nodes/{group.node.id}",
                    hint="say what joins the groups: --link 200Gb/s",
                )
        rate = min(group.node.nic_byte_per_s for group in cluster.groups if group.node.nic_byte_per_s is not None)
    return CrossLink(
        groups=cluster.groups,
        byte_per_s=rate,
        shared=shared,
        latency_s=cluster.scale_out_latency_s if latency_s is None else latency_s,
        frac=min(eff.scale_out_frac for eff in effs),
        launch_s=max(eff.collective_launch_s for eff in effs),
        assumed=text is None,
        sources=tuple(dict.fromkeys(source for eff in effs for source in eff.source("scale_out_frac"))),
    )
