"""Stages by hand; the event walk checks the rest."""

from __future__ import annotations

import numpy as np
import pytest

from suanchou.training.pipeline import Halves, in_flight, parameter_copies, pipeline_s, stage_ends, stage_layers


@pytest.mark.parametrize(
    ("n_layer", "pp", "virtual", "expected"),
    [
        (32, 1, 1, (32, 32, 32)),
        (32, 2, 1, (16, 16, 16)),
        (33, 2, 1, (17, 16, 16)),
        (32, 4, 2, (8, 8, 8)),
        # 80 over 3: 26 each and two left over, one for the middle, one for the first.
        (80, 3, 1, (27, 27, 26)),
        (34, 4, 1, (8, 9, 8)),
        # 126 layers and embedding and head are 128 places: 16 stages of 8, the outer ones hold 7 layers.
        (126, 16, 8, (7, 8, 7)),
        (126, 16, 1, (7, 8, 7)),
    ],
)
def test_layers_of_stages(n_layer, pp, virtual, expected):
    assert tuple(float(x) for x in stage_layers(n_layer, pp, virtual)) == expected


def test_layers_of_many_pipelines_at_once():
    pp, virtual = np.array([1.0, 2.0, 4.0, 16.0]), np.array([1.0, 1.0, 2.0, 8.0])
    many = stage_layers(126, pp, virtual)
    for i in range(4):
        one = stage_layers(126, float(pp[i]), float(virtual[i]))
        assert tuple(column[i] for column in many) == tuple(float(x) for x in one)


def test_in_flight_of_1f1b():
    assert [float(in_flight(4, 1, 16, stage)) for stage in range(4)] == [4, 3, 2, 1]
    assert float(in_flight(4, 1, 2)) == 2


def test_in_flight_of_the_interleaved_schedule():
    # Narayanan et al. 2021: 2 (p - r - 1) + (v - 1) p chunks in the warm-up, one more in the steady state.
    assert float(in_flight(4, 2, 16, 0)) == (2 * 3 + 4 + 1) / 2
    assert float(in_flight(4, 2, 16, 3)) == (4 + 1) / 2
    assert float(in_flight(4, 2, 4, 0)) == 4


def test_seconds_of_equal_stages():
    one, nothing = Halves(1.0, 2.0), Halves(0.0, 0.0)
    assert float(pipeline_s(16, 4, 1, 8, one, nothing, nothing)) == pytest.approx((8 + 3) * 4 * 3.0)
    assert float(pipeline_s(16, 4, 4, 8, one, nothing, nothing)) == pytest.approx(8 * 12.0 + 3 * 12.0 / 4)
    assert float(pipeline_s(16, 1, 1, 8, one, nothing, nothing)) == pytest.approx(8 * 48.0)


def test_many_pipelines_at_once():
    pp, virtual = np.array([1.0, 2.0, 4.0, 4.0, 2.0, 8.0]), np.array([1.0, 1.0, 2.0, 1.0, 7.0, 1.0])
    m, layer = np.array([8.0, 1.0, 8.0, 2.0, 4.0, 3.0]), Halves(np.linspace(1, 2, 6), np.linspace(2, 3, 6))
    ends = Halves(0.3, 0.2), Halves(1.0, 2.5)
    many = pipeline_s(40, pp, virtual, m, layer, *ends)
    one = [pipeline_s(40, pp[i], virtual[i], m[i], Halves(layer[0][i], layer[1][i]), *ends) for i in range(6)]
    assert np.asarray(many) == pytest.approx(np.array(one), rel=1e-12)


def test_schedules_are_priced_side_by_side():
    code = np.array([0.0, 1.0, 2.0, 3.0, 0.0])
    virtual, pp, m = np.array([1.0, 1.0, 2.0, 1.0, 2.0]), np.array([4.0, 4.0, 8.0, 8.0, 4.0]), np.full(5, 32.0)
    layer = Halves(np.linspace(1, 2, 5), np.linspace(2, 3, 5), np.linspace(0.8, 0.9, 5))
    ends = Halves(0.3, 0.2, 0.2), Halves(1.0, 2.5, 1.0)
    many = pipeline_s(32, pp, virtual, m, layer, *ends, code)
    for i in range(5):
        one = pipeline_s(32, pp[i], virtual[i], m[i], Halves(*(half[i] for half in layer)), *ends, code[i])
        assert float(many[i]) == pytest.approx(float(one), rel=1e-12)


def test_splitting_the_backward_saves_time_and_never_work():
    layer, ends = Halves(1.0, 2.0, 0.9), (Halves(0.0, 0.0), Halves(0.0, 0.0))
    plain, zb, both = (float(pipeline_s(64, 8, 1, 32, layer, *ends, code)) for code in (0, 1, 3))
    work = 32 * 8 * 3.0
    assert work < both < zb < plain


@pytest.mark.parametrize(
    ("schedule", "first", "last"), [(0, (1, 0), (0, 1)), (1, (1, 0), (0, 1)), (2, (1, 1), (0, 0)), (3, (1, 1), (1, 1))]
)
def test_who_holds_embedding_and_head(schedule, first, last):
    for stage, expected in (("first", first), ("middle", (0, 0)), ("last", last)):
        assert tuple(float(end) for end in stage_ends(4, schedule, stage)) == expected
    assert tuple(float(end) for end in stage_ends(1, 0, "middle")) == (1, 1)
    assert float(parameter_copies(schedule)) == (2 if schedule == 3 else 1)
