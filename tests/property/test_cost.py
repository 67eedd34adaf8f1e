"""Costs of kernels and collectives: many at once equal one by one, more is never slower, units scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suanchou.cost.collectives import Fabric, members
from suanchou.cost.efficiency import efficiency
from suanchou.cost.kernels import blend, kernel_s
from suanchou.machine import accelerator
from suanchou.machine.cluster import Tier
from suanchou.model.operators import Operator

DEVICES = [accelerator(name) for name in ("h100-sxm5-80gb", "a100-sxm4-80gb", "ascend-910b2", "mi300x")]
TOPOLOGIES = ("switch", "full-mesh", "hybrid-cube-mesh", "torus", "pcie", "ring")
KINDS = ("gemm", "grouped_gemm", "attention", "scan", "memory")

sizes = st.integers(1, 100_000).map(float)
powers = st.integers(0, 12).map(lambda i: 2.0**i)
fast = settings(derandomize=True, max_examples=80, deadline=None)


kinds = st.sampled_from(KINDS)


@st.composite
def operators(draw, kind=kinds):
    m, n, k, count = draw(sizes), draw(sizes), draw(sizes), float(draw(st.integers(1, 64)))
    kind = draw(kind)
    return Operator(
        name="x",
        kind=kind,
        flop=0.0 if kind == "memory" else 2 * m * n * k * count,
        byte=draw(st.floats(0, 1e12)),
        m=m,
        n=n,
        k=k,
        count=count,
        launches=float(draw(st.integers(1, 8))),
    )


@st.composite
def fabrics(draw):
    domain = draw(st.sampled_from((1, 2, 4, 8, 16, 64, 72)))
    inner = Tier(
        name="link",
        size=domain,
        topology=draw(st.sampled_from(TOPOLOGIES)),
        bandwidth_byte_per_s=draw(st.floats(1e9, 1e12)),
        latency_s=draw(st.floats(0, 1e-5)),
    )
    outer = Tier(
        name="net",
        size=100_000,
        topology="fat-tree",
        bandwidth_byte_per_s=draw(st.floats(1e8, 1e11)),
        latency_s=draw(st.floats(0, 1e-4)),
        oversubscription=draw(st.floats(1, 8)),
    )
    shares = {"inner_frac": draw(st.floats(0.1, 1)), "outer_frac": draw(st.floats(0.1, 1))}
    return Fabric(inner=inner, outer=outer, launch_s=1e-5, **shares)


@given(kind=st.sampled_from(KINDS), data=st.data(), device=st.sampled_from(DEVICES))
@fast
def test_many_operators_are_priced_as_each_alone(kind, data, device):
    many = [data.draw(operators(st.just(kind))) for _ in range(5)]
    numbers = ("flop", "byte", "m", "n", "k", "count", "launches")
    together = Operator(name="x", kind=kind, **{name: np.array([getattr(op, name) for op in many]) for name in numbers})
    eff = efficiency(device)
    for phase in ("forward", "backward"):
        seconds = kernel_s(together, device, eff, dtype="bf16", phase=phase)
        for i, op in enumerate(many):
            assert seconds[i] == pytest.approx(float(kernel_s(op, device, eff, dtype="bf16", phase=phase)), rel=1e-12)


@given(op=operators(), device=st.sampled_from(DEVICES), more=st.floats(1, 100))
@fast
def test_more_peak_or_bandwidth_is_never_slower(op, device, more):
    eff = efficiency(device)
    before = float(kernel_s(op, device, eff, dtype="bf16"))
    wide = replace(device, memory_bandwidth_byte_per_s=device.memory_bandwidth_byte_per_s * more)
    strong = replace(device, peak_flop_per_s={"bf16": device.peak("bf16") * more})
    for better in (wide, strong):
        assert float(kernel_s(op, better, eff, dtype="bf16")) <= before * (1 + 1e-12)


@given(op=operators(), device=st.sampled_from(DEVICES), scale=st.floats(0.01, 100))
@fast
def test_kernel_time_is_inverse_to_all_rates(op, device, scale):
    eff = replace(efficiency(device), launch_s=0.0, gemm_launch_s=0.0, attention_launch_s=0.0)
    scaled = replace(
        device,
        peak_flop_per_s={"bf16": device.peak("bf16") * scale},
        memory_bandwidth_byte_per_s=device.memory_bandwidth_byte_per_s * scale,
    )
    one, other = (float(kernel_s(op, d, eff, dtype="bf16")) for d in (device, scaled))
    assert other * scale == pytest.approx(one, rel=1e-9)


@given(op=operators(), device=st.sampled_from(DEVICES))
@fast
def test_no_kernel_beats_peak_bandwidth_or_launch(op, device):
    eff = efficiency(device)
    seconds = float(kernel_s(op, device, eff, dtype="bf16"))
    assert seconds >= op.byte / device.memory_bandwidth_byte_per_s
    assert seconds >= op.flop / device.peak("bf16")
    assert seconds >= op.launches * eff.launch_s


@given(a=st.floats(0, 1e6), b=st.floats(0, 1e6), power=st.floats(1, 50))
@fast
def test_blend_lies_between_maximum_and_sum(a, b, power):
    joined = float(blend(a, b, power))
    assert max(a, b) * (1 - 1e-12) <= joined <= (a + b) * (1 + 1e-9)


@given(net=fabrics(), byte=st.floats(1, 1e12), size=powers, stride=powers)
@fast
def test_groups_are_priced_as_each_alone(net, byte, size, stride):
    byte_many, size_many = np.array([byte, 1.0, 2 * byte]), np.array([size, 1.0, 8.0])
    stride_many = np.array([stride, 4.0, 1.0])
    group = members(size_many, stride_many, net.inner.size)
    for name in ("ring_s", "all_reduce_s", "all_to_all_s"):
        seconds = getattr(net, name)(byte_many, group)
        for i in range(3):
            alone = members(size_many[i], stride_many[i], net.inner.size)
            assert seconds[i] == pytest.approx(float(getattr(net, name)(byte_many[i], alone)), rel=1e-12)
    sends = net.send_s(byte_many, stride_many)
    for i in range(3):
        assert sends[i] == pytest.approx(float(net.send_s(byte_many[i], stride_many[i])), rel=1e-12)


def seconds_of(net: Fabric, byte: float, size: float, stride: float) -> list[float]:
    group = members(size, stride, net.inner.size)
    return [
        *(float(np.asarray(getattr(net, name)(byte, group))) for name in ("ring_s", "all_reduce_s", "all_to_all_s")),
        float(np.asarray(net.send_s(byte, stride))),
    ]


@given(net=fabrics(), byte=st.floats(0, 1e12), size=powers, stride=powers, more=st.floats(1, 50))
@fast
def test_more_bandwidth_less_latency_or_fewer_bytes_are_never_slower(net, byte, size, stride, more):
    before = seconds_of(net, byte, size, stride)
    better = [
        replace(net, inner=replace(net.inner, bandwidth_byte_per_s=net.inner.bandwidth_byte_per_s * more)),
        replace(net, outer=replace(net.outer, bandwidth_byte_per_s=net.outer.bandwidth_byte_per_s * more)),
        replace(net, inner=replace(net.inner, latency_s=net.inner.latency_s / more)),
        replace(net, outer=replace(net.outer, latency_s=net.outer.latency_s / more)),
        replace(net, outer=replace(net.outer, oversubscription=1.0)),
        replace(net, launch_s=0.0),
    ]
    for other in better:
        for new, old in zip(seconds_of(other, byte, size, stride), before, strict=True):
            assert new <= old * (1 + 1e-12)
    for new, old in zip(seconds_of(net, byte / more, size, stride), before, strict=True):
        assert new <= old * (1 + 1e-12)


@given(net=fabrics(), byte=st.floats(1, 1e12), size=powers, stride=powers, scale=st.floats(0.01, 100))
@fast
def test_collective_time_is_inverse_to_all_rates(net, byte, size, stride, scale):
    free = replace(net, launch_s=0.0, inner=replace(net.inner, latency_s=0.0), outer=replace(net.outer, latency_s=0.0))
    scaled = replace(
        free,
        inner=replace(free.inner, bandwidth_byte_per_s=free.inner.bandwidth_byte_per_s * scale),
        outer=replace(free.outer, bandwidth_byte_per_s=free.outer.bandwidth_byte_per_s * scale),
    )
    for one, other in zip(seconds_of(free, byte, size, stride), seconds_of(scaled, byte, size, stride), strict=True):
        assert other * scale == pytest.approx(one, rel=1e-9)


@given(net=fabrics(), byte=st.floats(1, 1e12), size=powers.filter(lambda n: n > 1), stride=powers)
@fast
def test_no_ring_beats_the_bytes_that_must_arrive(net, byte, size, stride):
    """A rank cannot receive what it lacks faster than by link and port together."""
    ring = float(net.ring_s(byte, members(size, stride, net.inner.size)))
    lacking = byte * (size - 1) / size
    assert ring >= lacking / (net.inner.bandwidth_byte_per_s + net.outer.bandwidth_byte_per_s)


@given(net=fabrics(), byte=st.floats(1, 1e12), stride=powers)
@fast
def test_a_group_of_one_sends_nothing(net, byte, stride):
    assert seconds_of(net, byte, 1.0, stride)[:3] == [0.0, 0.0, 0.0]


@given(size=st.integers(1, 4096), stride=st.integers(1, 512), domain=st.sampled_from((1, 2, 4, 8, 16, 72, 384)))
@fast
def test_members_make_up_the_group(size, stride, domain):
    group = members(size, stride, domain)
    assert 1 <= group.inner <= max(1, domain / stride)
    assert group.inner * group.outer >= size > group.inner * (group.outer - 1)
