"""The link between groups: how it is written, what it carries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suanchou.errors import MissingData, SpecError
from suanchou.machine import cluster
from suanchou.training.mixed_link import cross_link

FLEET = cluster(["dgx-h100:4", "dgx-a100-80gb:2"])


def test_by_default_every_node_sends_at_the_narrower_ports():
    link = cross_link(FLEET)
    assert link.assumed
    assert link.byte_per_s == min(group.node.nic_byte_per_s for group in FLEET.groups) == 200e9
    assert link.rate(0, 32) == pytest.approx(4 * 200e9 * link.frac)
    assert link.rate(1, 16) == pytest.approx(2 * 200e9 * link.frac)
    assert link.rate(1, 4) == pytest.approx(100e9 * link.frac)


def test_a_rate_is_that_of_one_node_unless_it_is_the_total():
    one, total = cross_link(FLEET, "100Gb/s"), cross_link(FLEET, "100 Gb/s total:30us")
    assert (one.byte_per_s, one.shared, total.byte_per_s, total.shared) == (12.5e9, False, 12.5e9, True)
    assert one.latency_s == FLEET.scale_out_latency_s
    assert total.latency_s == pytest.approx(30e-6)
    assert one.rate(0, 32) == pytest.approx(50e9 * one.frac)
    assert total.rate(0, 32) == total.rate(0, 8) == pytest.approx(12.5e9 * total.frac)


def test_no_node_sends_more_than_its_ports():
    link = cross_link(FLEET, "100Tb/s")
    assert link.rate(0, 8) == pytest.approx(FLEET.groups[0].node.nic_byte_per_s * link.frac)
    assert cross_link(FLEET, "1000Tb/s total").rate(1, 8) == pytest.approx(200e9 * link.frac)


def test_an_all_reduce_of_two_groups_sends_everything_once():
    link = cross_link(FLEET, "100Gb/s:1ms")
    slower = link.rate(1, 16)
    assert link.all_reduce_s(1e12, [(0, 32), (1, 16)]) == pytest.approx(link.launch_s + 2e-3 + 1e12 / slower)
    assert link.all_reduce_s(1e12, [(0, 32)]) == 0
    three = link.all_reduce_s(1e12, [(0, 32), (1, 16), (1, 16)])
    assert three == pytest.approx(link.launch_s + 4e-3 + 4 / 3 * 1e12 / slower)


def test_a_send_goes_at_the_slower_end():
    link = cross_link(FLEET, "100Gb/s:1us")
    assert link.send_s(1e9, (0, 32), (1, 8)) == pytest.approx(link.launch_s + 1e-6 + 1e9 / link.rate(1, 8))
    assert link.send_s(1e9, (0, 32), (1, 8)) == link.send_s(1e9, (1, 8), (0, 32))


@pytest.mark.parametrize("text", ["200Gb/s", "200Gb/s:7us", "1.6Tb/s total:50us"])
def test_the_text_reads_back(text):
    link = cross_link(FLEET, text)
    again = cross_link(FLEET, link.text)
    assert (again.byte_per_s, again.shared) == (link.byte_per_s, link.shared)
    assert again.latency_s == pytest.approx(link.latency_s)


@pytest.mark.parametrize(
    "text", ["", "fast", "200", "200 GB", "0Gb/s", "-1Gb/s", "200Gb/s:", "200Gb/s:3", "total", "10us:200Gb/s"]
)
def test_what_is_no_link(text):
    with pytest.raises(SpecError, match="--link"):
        cross_link(FLEET, text)


def test_unknown_ports_ask_for_a_link():
    first, second = FLEET.groups
    unknown = replace(FLEET, groups=(first, replace(second, node=replace(second.node, nic_byte_per_s=None))))
    with pytest.raises(MissingData, match="--link"):
        cross_link(unknown)
    assert cross_link(unknown, "100Gb/s").rate(1, 8) == pytest.approx(12.5e9 * cross_link(unknown, "100Gb/s").frac)
