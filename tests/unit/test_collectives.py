"""Collectives by hand: rings, all-to-alls, the share of a mesh, network ports between domains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from suanchou.cost.collectives import Fabric, Members, all_to_all_messages, fabric, members, topology_frac
from suanchou.cost.efficiency import efficiency
from suanchou.errors import MissingData
from suanchou.machine import cluster
from suanchou.machine.cluster import Tier

INNER = Tier(name="link", size=8, topology="switch", bandwidth_byte_per_s=100.0, latency_s=0.0)
OUTER = Tier(name="net", size=64, topology="fat-tree", bandwidth_byte_per_s=10.0, latency_s=0.0)
NET = Fabric(inner=INNER, outer=OUTER, inner_frac=1.0, outer_frac=1.0, launch_s=0.0)


@pytest.mark.parametrize(
    ("size", "stride", "inner", "outer"),
    [
        (1, 1, 1, 1),
        (8, 1, 8, 1),
        (16, 1, 8, 2),
        (4, 2, 4, 1),
        (8, 2, 4, 2),
        (4, 8, 1, 4),
        (4, 16, 1, 4),
        (2, 4, 2, 1),
        (12, 1, 8, 2),
        (6, 3, 2, 3),
    ],
)
def test_members_by_hand(size, stride, inner, outer):
    assert tuple(float(x) for x in members(size, stride, 8)) == (inner, outer, size)


def test_members_by_counting_ranks():
    """Ranks of the first group, laid on domains of 8 one by one."""
    for size in (1, 2, 4, 8, 16, 32):
        for stride in (1, 2, 4, 8, 16):
            domains = [rank * stride // 8 for rank in range(size)]
            found = members(size, stride, 8)
            assert float(found.inner) == domains.count(0)
            assert float(found.outer) == len(set(domains))


def test_all_to_all_messages_of_the_supernode():
    # 255 peers in the supernode and one message to each of the 374 others.
    assert all_to_all_messages(96_000, 256, hierarchical=False) == 95_999
    assert all_to_all_messages(96_000, 256, hierarchical=True) == 629
    assert all_to_all_messages(8, 256, hierarchical=True) == 7
    assert all_to_all_messages(1, 8, hierarchical=True) == 0
    assert all_to_all_messages(10, 4, hierarchical=True) == 3 + 2


def test_ring_inside_a_domain():
    # 8 ranks, 800 byte gathered: each receives 700 byte at 100 byte/s.
    assert NET.ring_s(800.0, members(8, 1, 8)) == pytest.approx(7.0)
    assert NET.all_reduce_s(800.0, members(8, 1, 8)) == pytest.approx(14.0)
    assert NET.ring_s(800.0, members(2, 1, 8)) == pytest.approx(4.0)


def test_ring_between_domains():
    # One rank a domain: 4 ranks, 300 of 400 byte over a port of 10 byte/s.
    assert NET.ring_s(400.0, members(4, 8, 8)) == pytest.approx(30.0)


def test_tensor_parallel_over_nodes_uses_all_ports():
    """16 ranks on two nodes: 1500 byte leave a node over eight ports, so over 80 byte/s."""
    assert NET.ring_s(1600.0, members(16, 1, 8)) == pytest.approx(1500 / 80)
    # With one port a node the same group takes eight times as long; with very quick ports the link decides.
    one_port = replace(NET, outer=replace(OUTER, bandwidth_byte_per_s=10 / 8))
    assert one_port.ring_s(1600.0, members(16, 1, 8)) == pytest.approx(8 * 1500 / 80)
    quick = replace(NET, outer=replace(OUTER, bandwidth_byte_per_s=1e9))
    assert quick.ring_s(1600.0, members(16, 1, 8)) == pytest.approx(15.0)


def test_ring_latency_and_launch():
    slow = replace(NET, inner=replace(INNER, latency_s=1.0), outer=replace(OUTER, latency_s=10.0), launch_s=100.0)
    assert slow.ring_s(0.0, members(8, 1, 8)) == pytest.approx(100 + 7)
    assert slow.ring_s(0.0, members(16, 1, 8)) == pytest.approx(100 + 7 + 10)
    # Many domains go round a tree, not a ring: 2 log2(32) instead of 31 hops.
    assert slow.ring_s(0.0, members(256, 1, 8)) == pytest.approx(100 + 7 + 2 * 5 * 10)
    # An all-reduce is one call.
    assert slow.all_reduce_s(0.0, members(8, 1, 8)) == pytest.approx(100 + 2 * 7)


def test_all_to_all():
    # 8 ranks hold 80 byte each and keep an eighth: 70 byte over the link.
    assert NET.all_to_all_s(80.0, members(8, 1, 8)) == pytest.approx(0.7)
    # 16 ranks hold 160: 70 byte stay in the node, 80 leave it over this rank's port.
    assert NET.all_to_all_s(160.0, members(16, 1, 8)) == pytest.approx(80 / 10)
    assert NET.all_to_all_s(160.0, members(4, 8, 8)) == pytest.approx(120 / 10)


def test_send():
    assert NET.send_s(50.0, 1.0) == pytest.approx(0.5)
    assert NET.send_s(50.0, 8.0) == pytest.approx(5.0)
    alone = replace(NET, outer=None)
    assert alone.send_s(50.0, 4.0) == pytest.approx(0.5)


def test_each_kind_of_collective_has_its_own_share_of_the_link():
    net = replace(NET, inner_frac=0.5, gather_frac=0.25, exchange_frac=0.2, send_frac=0.1)
    group = members(8, 1, 8)
    assert net.all_reduce_s(800.0, group) == pytest.approx(14.0 / 0.5)
    assert net.ring_s(800.0, group) == pytest.approx(7.0 / 0.25)
    assert net.all_to_all_s(80.0, group) == pytest.approx(0.7 / 0.2)
    assert net.send_s(50.0, 1.0) == pytest.approx(0.5 / 0.1)
    # Over several domains an all-reduce is a reduce-scatter and an all-gather: no switch adds up what comes from elsewhere.
    quick = replace(net, outer=replace(OUTER, bandwidth_byte_per_s=1e9))
    assert quick.all_reduce_s(1600.0, members(16, 1, 8)) == pytest.approx(30.0 / 0.25)


def test_small_messages_start_at_once_and_large_ones_run_faster():
    net = replace(NET, low_frac=0.25, bulk_s=3.0)
    group = members(8, 1, 8)
    # 7e-6 s at full rate: a quarter of the rate and nothing to wait for; 7e6 s: the start is all that is added.
    assert net.ring_s(8e-4, group) == pytest.approx(4 * 7e-6, rel=1e-4)
    assert net.ring_s(8e8, group) - 7e6 == pytest.approx(3.0, rel=1e-4)
    # Where both protocols cost the same extra, half of it remains: 1 s at full rate, 3 s more either way.
    assert net.ring_s(800 / 7, group) == pytest.approx(1.0 + 1.5)


@pytest.mark.parametrize("name", ["ring_s", "all_reduce_s", "all_to_all_s"])
def test_a_group_of_one_is_free(name):
    dear = replace(NET, launch_s=1.0, inner=replace(INNER, latency_s=1.0))
    assert getattr(dear, name)(1e9, members(1, 1, 8)) == 0.0


def test_oversubscription_divides_what_leaves_the_domain():
    taper = replace(NET, outer=replace(OUTER, oversubscription=4.0))
    for name, args in (("ring_s", (400.0, members(4, 8, 8))), ("send_s", (40.0, 8.0))):
        assert getattr(taper, name)(*args) == pytest.approx(4 * getattr(NET, name)(*args))
    assert taper.ring_s(800.0, members(8, 1, 8)) == NET.ring_s(800.0, members(8, 1, 8))


@pytest.mark.parametrize(
    ("topology", "inner", "share"),
    [
        ("switch", 2, 1.0),
        ("full-mesh", 2, 1 / 7),
        ("full-mesh", 4, 3 / 7),
        ("full-mesh", 8, 1.0),
        ("hybrid-cube-mesh", 2, 2 / 7),
        ("hybrid-cube-mesh", 8, 1.0),
        ("torus", 4, 0.5),
        ("torus", 8, 1.0),
    ],
)
def test_share_of_the_links_a_group_can_use(topology, inner, share):
    tier = replace(INNER, topology=topology)
    assert float(topology_frac(tier, inner)) == pytest.approx(share)


def test_a_pair_in_an_ascend_910b_node_gets_28_of_196_gb_per_s():
    machines = cluster(["atlas-800t-a2:2"])
    net = fabric(machines, efficiency(machines.groups[0].node.accelerator))
    assert net.inner.topology == "full-mesh"
    assert net.inner.bandwidth_byte_per_s == pytest.approx(196e9)
    assert net.inner.bandwidth_byte_per_s * float(topology_frac(net.inner, 2)) == pytest.approx(28e9)
    free = {"inner_frac": 1.0, "gather_frac": None, "exchange_frac": None, "send_frac": None, "low_frac": 1.0, "bulk_s": 0.0}
    ideal = replace(net, launch_s=0.0, inner=replace(net.inner, latency_s=0.0), **free)
    assert float(ideal.send_s(28e9, 1.0)) == pytest.approx(1.0)
    # Two ranks gather 2 x 28 GB in the time eight gather 8 x 28 GB over all their links.
    assert float(ideal.ring_s(56e9, members(2, 1, 8))) == pytest.approx(1.0)
    assert float(ideal.ring_s(8 * 28e9, members(8, 1, 8))) == pytest.approx(1.0)


def test_the_fabric_of_a_cluster():
    machines = cluster(["dgx-h100:16"])
    eff = efficiency(machines.groups[0].node.accelerator)
    net = fabric(machines, eff)
    assert (net.inner.size, net.inner_frac, net.outer_frac) == (8, eff.scale_up_frac, eff.scale_out_frac)
    assert net.outer is not None
    assert net.outer.bandwidth_byte_per_s == pytest.approx(8 * 400e9 / 8 / 8)
    assert fabric(cluster(["dgx-h100:1"]), eff).outer is None


def test_what_leaves_an_island_of_many_nodes_is_bound_by_the_network():
    machines = cluster(["atlas-800-9000:4"])
    assert [tier.name for tier in machines.tiers] == ["scale-up", "host", "scale-out"]
    net = fabric(machines, efficiency(machines.groups[0].node.accelerator))
    assert net.outer is not None
    assert net.outer.bandwidth_byte_per_s == pytest.approx(12.5e9)
    within = fabric(cluster(["atlas-800-9000:1"]), efficiency(machines.groups[0].node.accelerator))
    assert within.outer is not None
    assert within.outer.name == "host"


def test_accelerators_joined_by_pcie_do_not_borrow_the_rates_of_nvlink():
    eff = efficiency(cluster(["h100-pcie-80gb:8"]).groups[0].node.accelerator)
    assert eff.over("switch") is eff
    assert eff.over("pcie").scale_up_frac < 0.5 < eff.scale_up_frac
    assert eff.over("pcie").entries["scale_up_frac"].part == "pcie"
    assert eff.over("pcie").gemm_frac == eff.gemm_frac


def test_between_domains_without_a_network_is_refused():
    alone = replace(NET, outer=None)
    with pytest.raises(MissingData, match="network"):
        alone._outer_rate()


def test_arrays_of_groups():
    groups = Members(*(np.array(column, dtype=float) for column in ((1, 8, 8), (1, 1, 2), (1, 8, 16))))
    np.testing.assert_allclose(NET.ring_s(np.array([1.0, 800.0, 1600.0]), groups), [0.0, 7.0, 18.75])
