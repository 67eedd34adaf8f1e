"""Time of a layer: what tensor parallelism moves in a narrower type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from suanchou.training.layer_time import layer_time
from suanchou.training.problem import Problem
from suanchou.training.strategy import Strategy


@pytest.fixture(scope="module")
def llama(problem):
    return problem("llama-3.1-70b", "dgx-h100:1", seq=8192, batch=8)


def tensor_s(given: Problem, **layout: int) -> float:
    return float(np.asarray(layer_time(given, Strategy(tp=8, **layout)).tensor_forward))


def test_gathers_carry_the_narrow_type_and_reductions_the_wide_one(llama):
    """Of a reduce-scatter and an all-gather of equal volume the second is halved: three quarters of the bytes."""
    wide, narrow = tensor_s(llama, sp=1, fp8=0), tensor_s(llama, sp=1, fp8=1)
    tokens, d = 8192, llama.work.arch.d_model
    group = llama.group(8, 1)
    both = 2 * 2  # two blocks, scattered and gathered
    assert wide == pytest.approx(both * llama.fabric.ring_s(2.0 * tokens * d, group))
    assert narrow == pytest.approx(both * llama.fabric.ring_s(1.5 * tokens * d, group))
    assert 0.74 < narrow / wide < 0.8


def test_only_sequence_parallelism_gathers_inputs(llama):
    assert tensor_s(llama, sp=0, fp8=1) == tensor_s(llama, sp=0, fp8=0)
    plain = Problem(work=llama.work, cluster=llama.cluster, stack=replace(llama.stack, narrow_gather=False))
    assert tensor_s(plain, sp=1, fp8=1) == tensor_s(plain, sp=1, fp8=0) == tensor_s(llama, sp=1, fp8=0)


def test_layers_run_in_the_narrow_type_and_the_head_does_not(llama):
    """An fp8 recipe wraps transformer layers; logits stay a product in bf16."""
    wide, narrow = (layer_time(llama, Strategy(tp=8, fp8=fp8)) for fp8 in (0, 1))
    assert float(np.asarray(narrow.head)) == float(np.asarray(wide.head))
    assert float(np.asarray(narrow.embedding)) == float(np.asarray(wide.embedding))
    assert float(np.asarray(narrow.forward)) < float(np.asarray(wide.forward))
