"""LoRA: what a frozen model with adapters executes and trains, against hand counts."""

from __future__ import annotations

import pytest

from suanchou.model.layer_operators import layer_backward, layer_forward
from suanchou.model.operators import Shape
from suanchou.model.parameters import parameter_count
from suanchou.model.source import find_model
from suanchou.training.adapters import adapter_backward, adapter_forward, trained_frac, without_weight_gradients

ARCH = find_model("llama-2-7b").architecture
LAYER = ARCH.layers[0]
SHAPE = Shape(batch=2.0, seq=512.0)


def test_trained_parameters_by_hand():
    """Four square projections of 4096 in each of 32 layers: 2 r 4096 parameters each."""
    assert trained_frac(ARCH, 16) * parameter_count(ARCH) == pytest.approx(32 * 4 * 16 * (4096 + 4096))
    assert trained_frac(ARCH, 0) == 1.0


def test_a_frozen_layer_runs_half_of_its_matrix_backward():
    def products(ops):
        return sum(op.flop for op in ops if op.kind == "gemm")

    backward = layer_backward(LAYER, ARCH.d_model, SHAPE)
    frozen = without_weight_gradients(backward, 16)
    assert products(frozen) == pytest.approx(products(layer_forward(LAYER, ARCH.d_model, SHAPE)))
    assert products(backward) == pytest.approx(2 * products(frozen))
    assert without_weight_gradients(backward, 0) == backward


def test_adapter_flop_follow_rank_and_tokens():
    one = sum(op.flop for op in adapter_forward(LAYER, ARCH.d_model, SHAPE, 16))
    assert one == pytest.approx(2 * 1024 * 4 * 16 * (4096 + 4096))
    assert sum(op.flop for op in adapter_backward(LAYER, ARCH.d_model, SHAPE, 16)) == pytest.approx(2 * one)
    assert adapter_forward(LAYER, ARCH.d_model, SHAPE, 0) == adapter_backward(LAYER, ARCH.d_model, SHAPE, 0) == ()
