"""Dealing layers to stages and sequences to groups, against trying every way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suanchou.training.mixed_data import Curve, deal
from suanchou.training.mixed_stages import deal_layers

seconds = st.floats(0.01, 10.0)
stage = st.tuples(seconds, st.floats(0.0, 5.0), st.integers(0, 8))


def splits(total, parts):
    """Every way to write ``total`` as ``parts`` numbers of at least one."""
    for cuts in itertools.combinations(range(1, total), parts - 1):
        yield tuple(b - a for a, b in itertools.pairwise((0, *cuts, total)))


@settings(max_examples=150, deadline=None)
@given(st.lists(stage, min_size=1, max_size=4), st.integers(1, 11))
def test_layers_are_dealt_as_well_as_can_be(stages, n_layer):
    per_layer, extra, most = zip(*stages, strict=True)

    def times(layers):
        return [c * n + e for c, e, n in zip(per_layer, extra, layers, strict=True)]

    possible = [
        layers
        for layers in (splits(n_layer, len(stages)) if n_layer >= len(stages) else ())
        if all(n <= cap for n, cap in zip(layers, most, strict=True))
    ]
    found = deal_layers(per_layer, extra, most, n_layer)
    if not possible:
        assert found is None
        return
    assert found in possible
    best = min(max(times(layers)) for layers in possible)
    assert max(times(found)) == pytest.approx(best, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.integers(1, 12), seconds, min_size=1, max_size=8),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 24),
)
def test_sequences_are_dealt_as_well_as_can_be(groups, batch):
    curves = [
        Curve(np.array(sorted(group), dtype=np.int64), np.array([group[n] for n in sorted(group)]), np.zeros(len(group), int))
        for group in groups
    ]
    possible = [shares for shares in itertools.product(*groups) if sum(shares) == batch]
    found = deal(curves, batch)
    if not possible:
        assert found is None
        return
    shares = [int(curve.sequences[i]) for curve, i in zip(curves, found, strict=True)]
    assert sum(shares) == batch
    best = min(max(group[n] for group, n in zip(groups, shares, strict=True)) for shares in possible)
    assert max(group[n] for group, n in zip(groups, shares, strict=True)) == best


@given(st.lists(st.tuples(seconds, st.floats(0.0, 5.0)), min_size=1, max_size=6), st.integers(6, 60))
def test_more_memory_never_deals_worse(stages, n_layer):
    per_layer, extra = zip(*stages, strict=True)

    def slowest(most):
        dealt = deal_layers(per_layer, extra, [most] * len(stages), n_layer)
        return np.inf if dealt is None else max(c * n + e for c, e, n in zip(per_layer, extra, dealt, strict=True))

    found = [slowest(most) for most in range(1, n_layer + 1, 7)]
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(found))
