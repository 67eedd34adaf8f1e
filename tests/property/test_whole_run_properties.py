"""What must hold of sweeps and what-ifs, whatever the question."""

from __future__ import annotations

import itertools

import pytest

from suanchou.training.scenario import Scenario
from suanchou.training.search import TIE_FRAC
from suanchou.training.sweep import parse_axis, sweep
from suanchou.training.what_if import what_if

CASES = {
    "dense": Scenario(model="llama-3.1-8b", on=("dgx-h100:4",), tokens="1T", seq=4096, batch=256),
    "experts": Scenario(model="mixtral-8x7b", on=("dgx-h100:8",), tokens="1T", seq=4096, batch=256),
    "domestic": Scenario(model="llama-2-7b", on=("atlas-800t-a2:4",), tokens="1T", seq=4096, batch=256),
    "small": Scenario(model="gpt2-xl", on=("dgx-a100-80gb:1",), tokens="100B", seq=1024, batch=256),
}


@pytest.mark.parametrize("name", ["dense", "small", "domestic"])
@pytest.mark.parametrize("scaling", ["strong", "weak"])
def test_scaling_is_at_most_linear_where_memory_is_no_limit(name, scaling):
    """From machines on which a replica fits one accelerator, nothing recomputed; ties between plans may hide a few percent."""
    found = sweep(CASES[name], parse_axis("nodes=4..32"), scaling=scaling)
    assert not found.first.strategy.full_frac
    assert found.first.strategy.tp == found.first.strategy.pp == 1
    for point in found.points:
        assert found.efficiency_frac(point) <= 1 + TIE_FRAC


@pytest.mark.parametrize("name", CASES)
def test_more_machines_are_never_slower(name):
    found = sweep(CASES[name], parse_axis("nodes=1..16"))
    rates = [point.token_per_s for point in found.points if point.plan]
    assert all(later >= earlier / (1 + TIE_FRAC) for earlier, later in itertools.pairwise(rates))


@pytest.mark.parametrize("name", CASES)
def test_better_machines_are_never_slower(name):
    found = what_if(CASES[name])
    for effect in found.effects:
        if effect.change.on not in ("case", "group") or effect.change.optional:
            assert effect.outcome is not None
            assert effect.saved_s(found.base) >= -1e-6 * found.base.time_s, effect.change.name
