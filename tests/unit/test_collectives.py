"""Collectives by hand, by enumeration and by walking rings: bytes, hops, levels, meshes, copies of tokens."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suanchou.cost.collectives import Fabric, Members, all_to_all_messages, distinct, fabric, members, topology_frac
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
    found = members(size, stride, 8)
    assert tuple(float(x) for x in found[:3]) == (inner, outer, size)
    assert (float(found.near), float(found.far)) == (inner, outer)


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
    assert slow.ring_s(0.0, members(16, 1, 8)) == pytest.approx(100 + 14 + 10)
    # An all-gather has no other way round 32 domains: 31 hops between them and 7 in each.
    assert slow.ring_s(0.0, members(256, 1, 8)) == pytest.approx(100 + 32 * 7 + 31 * 10)
    # An all-reduce is one call, and takes the tree where that is quicker: up and down 5 levels of domains.
    assert slow.all_reduce_s(0.0, members(8, 1, 8)) == pytest.approx(100 + 2 * 7)
    assert slow.all_reduce_s(0.0, members(256, 1, 8)) == pytest.approx(100 + 2 * (7 + 5 * 10))


def test_a_large_all_reduce_goes_round_the_ring():
    net = replace(NET, tree_frac=0.5, outer=replace(OUTER, latency_s=1.0))
    # 4 ranks on 4 domains: 2 x 300 of 400 byte and 2 x 3 hops, against 2 x 400 byte at half the rate and 2 x 2 hops.
    assert net.all_reduce_s(400.0, members(4, 8, 8)) == pytest.approx(60 + 6)
    assert net.all_reduce_s(4.0, members(4, 8, 8)) == pytest.approx(2 * 4 / 5 + 4)


def test_long_rings_are_slower_by_hops_and_by_crowding():
    group = members(64, 8, 8)
    assert replace(NET, crowd_frac=0.1).ring_s(640.0, group) == pytest.approx(63 * (1 + 0.1 * 6))
    # A hop of the protocol for large messages takes three times as long, and small messages avoid it.
    bulk = replace(NET, outer=replace(OUTER, latency_s=1.0), bulk_hop=3.0, low_frac=0.5)
    assert bulk.ring_s(640e6, group) - 63e6 == pytest.approx(3 * 63, rel=1e-3)
    assert bulk.ring_s(640e-6, group) - 63 == pytest.approx(2 * 63e-6, rel=1e-3)


def test_owners_broadcast_one_after_another():
    slow = replace(NET, inner=replace(INNER, latency_s=1.0), outer=replace(OUTER, latency_s=10.0), launch_s=100.0)
    # 16 ranks on two nodes: 1600 byte over eight ports, 14 hops inside and one between.
    assert slow.chain_s(1600.0, members(16, 1, 8), 5.0) == pytest.approx(1600 / 80 + 5 * (100 + 14 + 10))
    assert slow.chain_s(1600.0, members(1, 1, 8), 5.0) == 0.0


def _ring_traffic(size: int, stride: int, domain: int, byte: float) -> tuple[float, float]:
    """Byte the busiest link and the busiest set of ports carry when a ring passes shards on, edge by edge."""
    ranks = [i * stride for i in range(size)]
    inside, out = dict.fromkeys(ranks, 0.0), {rank // domain: 0.0 for rank in ranks}
    for i, rank in enumerate(ranks):
        follower = ranks[(i + 1) % size]
        sent = byte * (size - 1) / size
        if follower // domain == rank // domain:
            inside[rank] += sent
        else:
            out[rank // domain] += sent
    return max(inside.values()), max(out.values())


@pytest.mark.parametrize(("size", "stride"), [(8, 1), (16, 1), (64, 1), (4, 8), (8, 4), (16, 2), (2, 4)])
def test_a_ring_moves_what_its_edges_carry(size, stride):
    """Conservation: seconds times rate is the traffic of the busiest link, or of the ports that the group's ranks share."""
    group = members(size, stride, 8)
    inside, out = _ring_traffic(size, stride, 8, 1000.0)
    no_net = replace(NET, outer=replace(OUTER, bandwidth_byte_per_s=1e30))
    no_link = replace(NET, inner=replace(INNER, bandwidth_byte_per_s=1e30))
    assert no_net.ring_s(1000.0, group) * 100.0 == pytest.approx(inside)
    assert no_link.ring_s(1000.0, group) * 10.0 * float(group.inner) == pytest.approx(out)
    assert no_net.all_reduce_s(1000.0, group) * 100.0 == pytest.approx(2 * inside)


def test_all_to_all():
    # 8 ranks hold 80 byte each and keep an eighth: 70 byte over the link.
    assert NET.all_to_all_s(80.0, members(8, 1, 8)) == pytest.approx(0.7)
    # 16 ranks hold 160: 70 byte stay in the node, 80 leave it over this rank's port.
    assert NET.all_to_all_s(160.0, members(16, 1, 8)) == pytest.approx(80 / 10)
    assert NET.all_to_all_s(160.0, members(4, 8, 8)) == pytest.approx(120 / 10)


@pytest.mark.parametrize(("size", "stride"), [(8, 1), (16, 1), (4, 8), (16, 2)])
def test_an_all_to_all_moves_what_its_pairs_carry(size, stride):
    ranks = [i * stride for i in range(size)]
    near = sum(other // 8 == 0 and other != 0 for other in ranks) * 1000.0 / size
    far = sum(other // 8 != 0 for other in ranks) * 1000.0 / size
    no_net = replace(NET, outer=replace(OUTER, bandwidth_byte_per_s=1e30))
    no_link = replace(NET, inner=replace(INNER, bandwidth_byte_per_s=1e30))
    assert no_net.all_to_all_s(1000.0, members(size, stride, 8)) * 100.0 == pytest.approx(near)
    assert no_link.all_to_all_s(1000.0, members(size, stride, 8)) * 10.0 == pytest.approx(far)


def _drawn(parts: int, n_expert: int, top_k: int, n_group: int, top_group: int) -> float:
    """Mean number of parts with a chosen expert over every choice a router can make."""
    size, held = n_expert // n_group, n_expert // parts
    found = []
    for groups in combinations(range(n_group), top_group):
        allowed = [g * size + i for g in groups for i in range(size)]
        found += [len({expert // held for expert in chosen}) for chosen in combinations(allowed, top_k)]
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("parts", "n_expert", "top_k", "n_group", "top_group"),
    [
        (4, 8, 2, 1, 1),
        (8, 8, 3, 1, 1),
        (1, 8, 2, 1, 1),
        (2, 8, 8, 1, 1),
        (4, 12, 3, 4, 2),
        (12, 12, 3, 4, 2),
        (2, 12, 3, 4, 2),
        (2, 12, 4, 6, 3),
        (3, 12, 2, 6, 1),
    ],
)
def test_distinct_parts_by_enumeration(parts, n_expert, top_k, n_group, top_group):
    expected = _drawn(parts, n_expert, top_k, n_group, top_group)
    assert float(distinct(parts, n_expert, top_k, n_group=n_group, top_group=top_group)) == pytest.approx(expected)


def test_deepseek_v3_reaches_four_nodes_of_eight_at_most():
    assert 3.5 < float(distinct(8, 256, 8, n_group=8, top_group=4)) < 4
    assert 5 < float(distinct(8, 256, 8)) < 5.5
    np.testing.assert_allclose(distinct(np.array([1.0, 8.0, 1.0]), 256, 8), [1.0, float(distinct(8, 256, 8)), 1.0])


def test_dispatch_sends_one_copy_to_a_node_and_one_to_a_rank():
    group = members(16, 1, 8)
    # 100 byte of tokens: 1.5 nodes of 2 are hit, half of them over this rank's port; 6 ranks, 7 of 8 copies over the link.
    assert NET.dispatch_s(100.0, group, 6.0, 1.5) == pytest.approx(max(600 * 7 / 8 / 100, 150 / 2 / 10))
    quick = replace(NET, outer=replace(OUTER, bandwidth_byte_per_s=1e9))
    assert quick.dispatch_s(100.0, group, 6.0, 1.5) == pytest.approx(600 * 7 / 8 / 100)
    # Kernels write every copy, this rank's own as well.
    assert replace(quick, dispatch_byte_per_s=60.0).dispatch_s(100.0, group, 6.0, 1.5) == pytest.approx(10.0)
    assert NET.dispatch_s(100.0, members(1, 1, 8), 1.0, 1.0) == 0.0


@pytest.mark.parametrize(
    ("stride", "n_stage"), [(1, 8), (4, 4), (4, 2), (8, 4), (2, 16), (16, 3), (1, 12), (4, 7), (1, 1), (8, 1)]
)
def test_sends_by_walking_the_stages(stride, n_stage):
    """TP 4 and PP 4 on nodes of 8 cross the network once, at the second boundary."""
    found = NET.sends_s(50.0, stride, float(n_stage))
    places = [stage * stride // 8 for stage in range(n_stage)]
    sends = [5.0 if a != b else 0.5 for a, b in pairwise(places)]
    assert float(found.chain) == pytest.approx(sum(sends))
    assert float(found.slowest) == pytest.approx(max(sends, default=0.0))


def test_islands_of_a_node():
    """Two islands of 4 in a node of 8, joined at 20 byte/s; 4 nodes."""
    host = Tier(name="host", size=8, topology="pcie", bandwidth_byte_per_s=20.0, latency_s=0.0)
    net = replace(NET, inner=replace(INNER, size=4), middle=host)
    node, all_nodes = members(8, 1, 4, 8), members(32, 1, 4, 8)
    assert (float(node.inner), float(node.outer), float(node.near), float(node.far)) == (4, 2, 8, 1)
    assert (float(all_nodes.outer), float(all_nodes.near), float(all_nodes.far)) == (8, 8, 4)
    # In a node 700 of 800 byte pass every boundary: over one link at 100, or between islands over four at 20 byte/s.
    assert net.ring_s(800.0, node) == pytest.approx(max(700 / 100, 700 / 4 / 20))
    # Over nodes all eight ranks bring their port.
    assert net.ring_s(3200.0, all_nodes) == pytest.approx(max(3100 / 100, 3100 / 4 / 20, 3100 / 8 / 10))
    # 80 byte each: 30 stay in the island, 40 go to the other one.
    assert net.all_to_all_s(80.0, node) == pytest.approx(max(30 / 100, 40 / 20))
    # Stages two ranks apart: 16 of them are on 8 islands and 4 nodes, so 8 sends stay, 4 cross a node, 3 leave one.
    found = net.sends_s(50.0, 2.0, 16.0)
    assert float(found.chain) == pytest.approx(8 * 0.5 + 4 * 2.5 + 3 * 5.0)
    assert float(found.slowest) == pytest.approx(5.0)


@given(
    byte=st.floats(1.0, 1e12),
    size=st.sampled_from([2, 3, 4, 8, 16, 64, 1024]),
    stride=st.sampled_from([1, 2, 4, 8, 16, 64]),
    more=st.floats(1.0, 100.0),
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_more_bandwidth_is_never_slower(byte, size, stride, more):
    real = fabric(cluster(["dgx-h100:1024"]), efficiency(cluster(["dgx-h100:1024"]).groups[0].node.accelerator))
    group = members(size, stride, 8)
    for better in (
        replace(real, inner=replace(real.inner, bandwidth_byte_per_s=real.inner.bandwidth_byte_per_s * more)),
        replace(real, outer=replace(real.outer, bandwidth_byte_per_s=real.outer.bandwidth_byte_per_s * more)),
        replace(real, crowd_frac=real.crowd_frac / more),
        replace(real, bulk_hop=1.0 + (real.bulk_hop - 1.0) / more),
        replace(real, dispatch_byte_per_s=real.dispatch_byte_per_s * more),
    ):
        for name, args in (
            ("ring_s", ()),
            ("all_reduce_s", ()),
            ("all_to_all_s", ()),
            ("chain_s", (7.0,)),
            ("dispatch_s", (3.0, 2.0)),
        ):
            assert getattr(better, name)(byte, group, *args) <= getattr(real, name)(byte, group, *args) * (1 + 1e-12)
        assert better.sends_s(byte, stride, float(size)).chain <= real.sends_s(byte, stride, float(size)).chain * (1 + 1e-12)


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


@pytest.mark.parametrize(("inner", "share"), [(2, 1 / 3), (4, 1 / 3), (8, 1 / 3), (16, 2 / 3), (32, 2 / 3), (64, 1.0)])
def test_a_group_in_a_torus_of_three_dimensions(inner, share):
    """4 x 4 x 4: up to 4 ranks lie on one axis, 16 fill two."""
    tier = replace(INNER, topology="torus", size=64, axes=3)
    assert float(topology_frac(tier, inner)) == pytest.approx(share)
    assert cluster(["tpu-v5p-host:16"]).tiers[0].axes == 3
    assert cluster(["tpu-v5e-host:2"]).tiers[0].axes == 2


def test_two_nodes_of_a100_are_as_quick_as_the_ports_their_ranks_bring():
    """Measured: large all-reduces over two nodes, 1, 2 and 4 ranks in each (Vidur profiles, NCCL, 64 MiB)."""
    rate = {1: 5.87, 2: 11.86, 4: 22.42}  # bus bandwidth, GB/s
    port = replace(
        NET, inner=replace(INNER, bandwidth_byte_per_s=300e9), outer=replace(OUTER, bandwidth_byte_per_s=rate[1] * 1e9)
    )
    byte = 64 * 2**20
    for ranks, measured in rate.items():
        n = 2 * ranks
        seconds = float(port.all_reduce_s(byte, Members(ranks, 2, n)))
        assert 2 * (n - 1) / n * byte / seconds == pytest.approx(measured * 1e9, rel=0.06)


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
    assert net.middle is not None
    assert net.middle.name == "host"
    within = fabric(cluster(["atlas-800-9000:1"]), efficiency(machines.groups[0].node.accelerator))
    assert within.outer is None
    assert within.middle is not None
    # What crosses the islands goes over the host link, at the rate measured over PCIe.
    assert within.middle_frac == efficiency(machines.groups[0].node.accelerator).over("pcie").scale_up_frac


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
