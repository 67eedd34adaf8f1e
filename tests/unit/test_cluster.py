from __future__ import annotations

import math
from pathlib import Path

import pytest

from suanchou import catalog
from suanchou.errors import MissingData, SpecError
from suanchou.machine import cluster, node, site, usual_node


def test_nodes_by_count() -> None:
    machine = cluster(["dgx-h100:128"])
    (group,) = machine.groups
    assert (machine.name, group.n_node, machine.n_accelerator) == ("dgx-h100:128", 128, 1024)
    assert group.node.nic_byte_per_s == 8 * 400e9 / 8
    assert group.node.power_w == 10200
    scale_up, scale_out = machine.tiers
    assert (scale_up.size, scale_up.topology, scale_up.bandwidth_byte_per_s) == (8, "switch", 450e9)
    assert (scale_out.size, scale_out.bandwidth_byte_per_s) == (1024, 50e9)
    assert 0 < scale_up.latency_s < scale_out.latency_s < 1e-4


def test_full_mesh_keeps_its_topology() -> None:
    machine = cluster(["atlas-800t-a2:64"])
    scale_up, scale_out = machine.tiers
    assert (scale_up.size, scale_up.topology, scale_up.bandwidth_byte_per_s) == (8, "full-mesh", 196e9)
    assert scale_up.bandwidth_byte_per_s / (scale_up.size - 1) == 28e9  # what one pair gets
    assert scale_out.bandwidth_byte_per_s == 25e9
    assert machine.site.region == "CN"


def test_dual_die_packages_double_the_ranks() -> None:
    machine = cluster(["ascend-910c:64"])
    (group,) = machine.groups
    assert (group.node.id, group.n_node, group.node.n_package, group.node.n_accelerator) == ("atlas-800t-a3", 8, 8, 16)
    assert machine.n_accelerator == 128
    assert machine.memory_byte == 64 * 128 * 2**30
    assert machine.tiers[0].bandwidth_byte_per_s == 196e9
    assert machine.tiers[1].bandwidth_byte_per_s == 200e9 / 8  # 200 Gb/s of RDMA per die
    assert cluster(["ascend-910c-die:128"]).groups == machine.groups


def test_frontier_node_shows_eight_devices() -> None:
    frontier = node("frontier-node")
    assert (frontier.n_package, frontier.n_accelerator, frontier.accelerator.memory_byte) == (4, 8, 64 * 2**30)


def test_accelerators_fill_their_usual_node() -> None:
    machine = cluster(["h100-sxm5-80gb:64"])
    assert (machine.groups[0].node.id, machine.groups[0].n_node) == ("dgx-h100", 8)
    assert usual_node("kunlun-p800").id == "kunlun-p800-8"


def test_part_of_a_node() -> None:
    machine = cluster(["h100-sxm5-80gb:4"])
    (group,) = machine.groups
    assert (group.n_node, group.node.n_accelerator, machine.n_accelerator) == (1, 4, 4)
    (tier,) = machine.tiers
    assert (tier.size, tier.bandwidth_byte_per_s) == (4, 450e9)  # behind a switch nothing is lost
    assert group.node.power_w == 5100
    assert any("4 of its 8 devices" in text for text in machine.warnings)


def test_part_of_a_full_mesh_loses_the_links_to_absent_peers() -> None:
    (tier,) = cluster(["ascend-910b2:4"]).tiers
    assert tier.bandwidth_byte_per_s == pytest.approx(3 * 28e9)
    (single,) = cluster(["ascend-910b2:1"]).tiers
    assert single.size == 1


def test_count_that_does_not_fill_nodes_is_spread_evenly_or_refused() -> None:
    machine = cluster(["h100-sxm5-80gb:12"])
    assert (machine.groups[0].n_node, machine.groups[0].node.n_accelerator) == (2, 6)
    with pytest.raises(SpecError) as caught:
        cluster(["h100-sxm5-80gb:13"])
    assert caught.value.hint == "a DGX H100 has 8: write h100-sxm5-80gb:8 or h100-sxm5-80gb:16"


def test_islands_inside_a_node_are_joined_by_pcie() -> None:
    machine = cluster(["atlas-800-9000:512"])
    scale_up, inner, scale_out = machine.tiers
    assert (scale_up.size, scale_up.bandwidth_byte_per_s) == (4, 90e9)
    assert (inner.size, inner.topology) == (8, "pcie")
    assert inner.bandwidth_byte_per_s < scale_up.bandwidth_byte_per_s
    assert (scale_out.size, scale_out.bandwidth_byte_per_s) == (4096, 12.5e9)
    assert [tier.size for tier in cluster(["atlas-800-9000:1"]).tiers] == [4, 8]
    assert [tier.size for tier in cluster(["ascend-910a:4"]).tiers] == [4]


def test_scale_up_domain_may_exceed_the_node() -> None:
    rack = cluster(["gb200-nvl72-tray:18"])
    assert [tier.size for tier in rack.tiers] == [72]
    assert rack.n_accelerator == 72
    pod = cluster(["gb200-superpod"])
    assert [tier.size for tier in pod.tiers] == [72, 576]
    assert [tier.size for tier in cluster(["cloudmatrix384"]).tiers] == [768]


def test_cards_without_a_link_meet_through_the_host() -> None:
    (tier,) = cluster(["t4-4:1"]).tiers
    assert (tier.topology, tier.size) == ("pcie", 4)
    assert tier.bandwidth_byte_per_s == pytest.approx(15.75e9, rel=1e-3)


def test_unpublished_link_is_bounded_by_pcie_with_a_warning() -> None:
    machine = cluster(["hygon-bw1000-8:2"])
    assert machine.tiers[0].topology == "pcie"
    assert any("lower bound" in text for text in machine.warnings)


def test_node_made_up_after_a_template_says_so() -> None:
    machine = cluster(["metax-n100:16"])
    assert any("a node of 8 is assumed" in text for text in machine.warnings)
    assert machine.groups[0].n_node == 2


def test_new_sunway_totals() -> None:
    """Published for 96,000 nodes: 37.44 million cores, 5.31 EFLOP/s in FP16, 9.216 PB."""
    machine = cluster(["sw26010pro-node:96000"])
    cores_per_chip = 6 * (64 + 1)
    assert machine.n_accelerator * cores_per_chip == 37_440_000
    assert machine.peak("fp16") == pytest.approx(5.31e18, rel=1e-3)
    assert machine.memory_byte == 9.216e15


def test_unpublished_network_is_missed_only_when_it_is_needed() -> None:
    alone = cluster(["sw26010pro-node:1"])
    assert len(alone.tiers) == 1
    assert any("network ports are not published" in text for text in alone.warnings)
    with pytest.raises(MissingData, match="network bandwidth of a New Sunway node"):
        _ = cluster(["new-sunway"]).tiers


def test_operator_may_supply_what_nobody_published(tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text(
        "id,scale_up_gb_s_per_accelerator_unidirectional,nic_count,nic_gbps_each\nsw26010pro-node,16,1,128\n", encoding="utf-8"
    )
    with catalog.use_catalog(tmp_path):
        machine = cluster(["new-sunway:512"])
        scale_up, scale_out = machine.tiers
    assert (scale_up.size, scale_up.bandwidth_byte_per_s) == (256, 16e9)
    assert (scale_out.bandwidth_byte_per_s, scale_out.oversubscription) == (16e9, 5.33)


def test_cluster_of_the_catalogue() -> None:
    machine = cluster(["selene"])
    assert (machine.n_accelerator, machine.site.region, machine.oversubscription) == (4480, "US", 1.0)
    assert machine.tiers[1].bandwidth_byte_per_s == 1600e9 / 8 / 8
    assert cluster(["selene:64"]).n_accelerator == 512
    assert cluster(["meta-24k-roce"]).tiers[1].oversubscription == 7
    assert cluster(["tianjin-ai-centre"]).site.region == "CN-Tianjin"
    assert cluster(["cloudmatrix384"]).site.pue == 1.1
    assert cluster(["alps"]).site.region == "FR"
    with pytest.raises(SpecError, match="560 nodes"):
        cluster(["selene:561"])
    with pytest.raises(MissingData, match="number of nodes"):
        cluster(["天河星逸"])
    assert cluster(["天河星逸:16"]).n_accelerator == 16


def test_mixed_fleet_keeps_the_order() -> None:
    machine = cluster(["dgx-a100-80gb:16", "atlas-800t-a2:32"])
    assert [group.node.id for group in machine.groups] == ["dgx-a100-80gb", "atlas-800t-a2"]
    assert machine.n_accelerator == 128 + 256
    assert machine.name == "dgx-a100-80gb:16 + atlas-800t-a2:32"
    assert machine.peak("bf16") == pytest.approx(128 * 312e12 + 256 * 353.9e12)


def test_region_and_pue() -> None:
    assert cluster(["dgx-h100:1"]).site.region == "US"
    here = cluster(["dgx-h100:1"], region="贵州", pue=1.2)
    assert (here.site.region, here.site.pue) == ("CN-Guizhou", 1.2)
    with pytest.raises(SpecError, match="no region 'Atlantis'"):
        site("Atlantis")
    assert any("--region" in text for text in cluster(["dgx-h100:1"]).warnings)
    assert not any("--region" in text for text in here.warnings)


@pytest.mark.parametrize(
    ("spec", "what", "hint"),
    [
        ("dgx-h100:0", "no machine", "1 or more"),
        ("dgx-h100:-4", "no machine", "1 or more"),
        ("dgx-h100:many", "'many' in 'dgx-h100:many' is not a count", "NODE:COUNT"),
        ("dgx-h100:", "is not a count", "NODE:COUNT"),
        ("dgx-h100:1.5", "not a whole number", ""),
        ("dgx-h100:nan", "is not a count", ""),
        ("dgx-h100:1e400", "not a whole number", ""),
        ("dgx-h100:100000000000", "more than", "check"),
        ("dgx-h100", "how many dgx-h100?", "dgx-h100:8"),
        ("h100", "how many h100-sxm5-80gb?", "h100-sxm5-80gb:8"),
        ("dgx-h1000:4", "no node, accelerator or cluster 'dgx-h1000'", "dgx-h100"),
        ("selen", "no node, accelerator or cluster 'selen'", "selene"),
        (":8", "no node, accelerator or cluster ''", ""),
        ("", "an empty machine", ""),
        ("no/such/file.yaml", "cannot be read", ""),
    ],
)
def test_bad_arguments(spec: str, what: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        cluster([spec])
    assert what in caught.value.what
    assert hint in (caught.value.hint or "")
    assert caught.value.where


def test_counts_people_write() -> None:
    assert cluster(["dgx-h100:1,024"]).groups[0].n_node == 1024
    assert cluster(["dgx-h100:1e3"]).groups[0].n_node == 1000
    with pytest.raises(SpecError, match="no machine is given"):
        cluster([])


OWN = """
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
"""


def test_machine_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN, encoding="utf-8")
    machine = cluster([str(path)])
    assert (machine.name, machine.n_accelerator) == ("our cluster", 288)
    assert (machine.site.region, machine.site.pue, machine.oversubscription) == ("CN-Tianjin", 1.25, 2)
    own = machine.groups[1].node
    assert (own.scale_up.bandwidth_byte_per_s, own.nic_byte_per_s) == (450e9, 400e9)


@pytest.mark.parametrize(
    ("old", "new", "what", "where"),
    [
        ("pue:", "puee:", "unknown key 'puee'", "mine.yaml"),
        ("pue: 1.25", "pue: 0.5", "0.5 is not possible", "pue"),
        ("nodes: 4", "nodes: 0", "0 is not a number of nodes", "groups[1].nodes"),
        ("nodes: 4", "nodes: yes", "'yes' is not a number of nodes", "groups[1].nodes"),
        ("nic_count: 8", "nic_cnt: 8", "unknown key 'nic_cnt'", "groups[1].node"),
        ("nic_gbps_each: 400", "nic_gbps_each: 400 Gb", "'400 Gb' is not a number", "groups[1].node.nic_gbps_each"),
        ("accelerators_per_node: 8", "accelerators_per_node:", "accelerators_per_node is missing", "groups[1].node"),
        ("scale_up_topology: switch", "scale_up_topology: swich", "'swich' is not allowed", "scale_up_topology"),
        ("h100-sxm5-80gb", "h1000", "no accelerator 'h1000'", "accelerators"),
        ("on: atlas-800t-a2:32", "on: other.yaml", "no node, accelerator or cluster", "groups[0].on"),
        ("on: atlas-800t-a2:32", "of: atlas-800t-a2:32", "unknown key 'of'", "groups[0]"),
        ("groups:", "groups: []\nname2:", "unknown key 'name2'", "mine.yaml"),
        ("region: CN-Tianjin", "region: CN-Tianjin\nregion: CN", "twice", "mine.yaml"),
    ],
)
def test_bad_file(tmp_path: Path, old: str, new: str, what: str, where: str) -> None:
    path = tmp_path / "mine.yaml"
    assert old in OWN
    path.write_text(OWN.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        cluster([str(path)])
    assert what in caught.value.what
    assert where in (caught.value.where or "")


def test_file_without_groups(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("groups: 3\n", encoding="utf-8")
    with pytest.raises(SpecError, match="has no groups"):
        cluster([str(path)])


@pytest.mark.parametrize("name", catalog.names("accelerators"))
def test_every_accelerator_can_be_asked_for(name: str) -> None:
    machine = cluster([f"{name}:1"])
    assert machine.n_accelerator == machine.groups[0].node.accelerator.dies if name != "ascend-910c-die" else 1
    (tier, *_) = machine.tiers
    assert tier.bandwidth_byte_per_s > 0
    assert not math.isnan(tier.bandwidth_byte_per_s)


@pytest.mark.parametrize("name", catalog.names("nodes"))
def test_every_node_can_be_built(name: str) -> None:
    built = node(name)
    assert built.n_accelerator == built.n_package * built.accelerator.dies
    assert built.scale_up.latency_s >= 0
    if built.inner is not None:
        assert built.scale_up.size < built.inner.size == built.n_accelerator


@pytest.mark.parametrize("name", catalog.names("clusters"))
def test_every_cluster_can_be_built(name: str) -> None:
    nodes = catalog.get("clusters", name).value("nodes")
    machine = cluster([name if nodes else f"{name}:2"])
    assert machine.site.usd_per_kwh > 0
    assert machine.oversubscription >= 1
