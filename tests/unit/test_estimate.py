"""The tree every number stands in."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suanchou.errors import SpecError
from suanchou.estimate import Estimate, total, worst_grade

numbers = st.floats(min_value=0, max_value=1e30)
names = st.sampled_from(["a", "b", "c"])
leaves = st.builds(
    Estimate,
    name=names,
    value=numbers,
    unit=st.just("s"),
    formula=st.sampled_from(["", "1 + 1"]),
    sources=st.sampled_from([(), ("book",)]),
    assumptions=st.sampled_from([(), ("x", "y")]),
    grade=st.sampled_from(["exact", "measured", "assumed"]),
    low=st.none() | numbers,
    high=st.none() | numbers,
)


def parent(name: str, children: list[Estimate]) -> Estimate:
    """A sum whose parts have names of their own, as every real tree has."""
    return total(name, "s", tuple(replace(child, name=f"{child.name}{i}") for i, child in enumerate(children)))


trees = st.recursive(leaves, lambda inner: st.builds(parent, names, st.lists(inner, min_size=1, max_size=3)), max_leaves=6)


@given(trees)
def test_json_round_trip(tree):
    assert Estimate.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


@given(trees)
def test_sums_hold_everywhere(tree):
    for _path, node in tree.walk():
        if node.summed:
            assert node.value == math.fsum(child.value for child in node.children)


@given(trees)
def test_every_path_leads_to_its_node(tree):
    for path, node in tree.walk():
        assert path == tree.name or tree.find(path.partition(".")[2]) is node


def test_a_total_is_as_certain_as_its_least_certain_part():
    parts = (
        Estimate(name="a", value=1.0, unit="s", grade="measured"),
        Estimate(name="b", value=2.0, unit="s", grade="assumed"),
    )
    node = total("sum", "s", parts)
    assert (node.value, node.grade, node.formula) == (3.0, "assumed", "a + b")
    assert total("sum", "s", parts, grade="fitted", formula="f").grade == "fitted"
    assert worst_grade() == "exact"
    assert worst_grade("datasheet", "fitted") == "datasheet"


def test_lookup():
    tree = total("sum", "s", (Estimate(name="a", value=1.0, unit="s"),))
    assert tree["a"].value == 1.0
    with pytest.raises(KeyError):
        tree["b"]
    with pytest.raises(SpecError, match=r"a\.b: no estimate 'b' under 'a' \(there is: nothing\)"):
        tree.find("a.b")


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        Estimate(name="x", value=float("nan"), unit="s")
