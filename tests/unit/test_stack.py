"""Software stacks: values with sources, inheritance, defaults by vendor."""

from __future__ import annotations

from dataclasses import fields

import pytest

from suanchou.catalog import catalogue
from suanchou.errors import SpecError
from suanchou.training.stack import Stack, default_stack, stack

NAMES = [record.id for record in catalogue().records("stacks")]


@pytest.mark.parametrize("name", NAMES)
def test_every_stack_is_complete_and_plausible(name):
    s = stack(name)
    assert s.name == name
    assert set(s.sources) == {item.name for item in fields(Stack)} - {"name", "title", "sources"}
    for source in s.sources.values():
        text, _, grade = source.rpartition(" [")
        assert text.strip()
        assert grade in ("measured]", "fitted]", "datasheet]", "derived]", "assumed]")
    assert set(s.zero_stages) <= {0, 1, 2, 3}
    assert s.zero_stages
    for item in fields(Stack):
        if item.name.startswith("overlap_") or item.name.endswith("_frac"):
            assert 0 <= getattr(s, item.name) <= 1, item.name
    assert s.allocator_frac <= s.allocator_high_frac
    assert s.attention in ("flash", "eager")


def test_a_stack_inherits_what_it_does_not_say():
    parent, child = stack("megatron-core"), stack("megatron-2021")
    assert child.attention == "eager"
    assert parent.attention == "flash"
    assert child.zero_stages == (0,)
    assert child.weight_byte == parent.weight_byte
    assert child.sources["weight_byte"] == parent.sources["weight_byte"]


@pytest.mark.parametrize(
    ("vendor", "name"),
    [("NVIDIA", "megatron-core"), ("Huawei", "mindspeed"), ("AMD", "torch-fsdp2"), ("nobody", "torch-fsdp2")],
)
def test_default_by_vendor(vendor, name):
    assert default_stack(vendor).name == name


def test_unknown_stack_is_refused():
    with pytest.raises(SpecError) as caught:
        stack("megatron")
    assert caught.value.hint
