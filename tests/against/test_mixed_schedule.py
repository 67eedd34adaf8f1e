"""Pipelines through several groups against an event walk of 1F1B over their unequal stages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_walk import walk

from suanchou.machine import cluster
from suanchou.model.source import find_model
from suanchou.training.mixed_fleet import Space, fleet
from suanchou.training.mixed_pipeline import PipelineSearch

FORWARD = 1 / 3
"""Share of the forward in a stage's time."""


def walked(seconds, m):
    return walk([[FORWARD * t] for t in seconds], [[(1 - FORWARD) * t] for t in seconds], m).step_s


def closed(seconds, m):
    return (m - 1) * max(seconds) + math.fsum(seconds)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.1, 3.0), min_size=2, max_size=7), st.integers(1, 12))
def test_the_closed_form_is_never_too_short_and_little_too_long(seconds, m):
    slowest = int(np.argmax(seconds))
    behind = math.fsum(max(seconds) - t for t in seconds[slowest + 1 :])
    found = walked(seconds, m)
    assert found <= closed(seconds, m) * (1 + 1e-12)
    assert found >= closed(seconds, m) - behind - 1e-9


@pytest.mark.parametrize(
    "on", [("dgx-h100:1", "dgx-a100-80gb:2"), ("dgx-a100-80gb:2", "dgx-h100:1"), ("dgx-a100-80gb:1", "atlas-800t-a2:2")]
)
def test_dealt_layers_walk_as_priced(on):
    given_fleet = fleet(find_model("llama-3.1-8b").architecture, cluster(on), token=1e12, seq=4096, global_batch=64)
    mix = PipelineSearch(fleet=given_fleet, space=Space(fixed={"tp": 4})).best(given_fleet.members)
    seconds = [t for part in mix.parts for t in part.stage_s]
    m = mix.parts[0].micro_batches
    apart = ("pipeline_send", "cross_send", "gradient_reduce", "parameter_gather", "optimizer", "straggler", "host_step")
    priced = mix.step_s - math.fsum(mix.causes[name] for name in apart)
    assert priced == pytest.approx(closed(seconds, m), rel=1e-9)
    assert walked(seconds, m) == pytest.approx(priced, rel=0.02)
