"""Every bundled model: its operators multiply each of its matrices exactly once, and its totals hang together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from suanchou.catalog.catalogue import catalogue
from suanchou.errors import SpecError
from suanchou.model.activations import layer_activation_byte
from suanchou.model.architecture import Architecture, Layer, MoE
from suanchou.model.config import architecture_from_config
from suanchou.model.flop import decode_flop_per_token, executed_flop_per_token, flop_per_token
from suanchou.model.kv import kv_byte, state_byte
from suanchou.model.layer_operators import layer_backward, layer_forward
from suanchou.model.operators import Shape
from suanchou.model.parameters import active_parameter_count, distinct_layers, layer_weights

ONE_TOKEN = Shape(batch=1.0, seq=1.0)
NOT_MULTIPLIED = re.compile("conv|a_log|bias|position$")


def bundled(name: str) -> Architecture:
    text = catalogue().model_file(name).read_text(encoding="utf-8")
    try:
        return architecture_from_config(json.loads(text), name=name)
    except SpecError as error:
        if "unknown model_type" in str(error):
            pytest.skip(str(error))
        raise


def all_layers(arch: Architecture) -> Iterator[Layer]:
    encoder = arch.encoder.layers if arch.encoder else ()
    for layer, _ in distinct_layers((*encoder, *arch.layers, *arch.mtp)):
        yield layer


@pytest.fixture(params=catalogue().names("models"))
def arch(request: pytest.FixtureRequest) -> Architecture:
    return bundled(request.param)


def test_every_matrix_is_multiplied_once(arch: Architecture) -> None:
    for layer in all_layers(arch):
        moe = layer.ffn
        visited = moe.top_k / (moe.n_expert + moe.n_zero_expert) if isinstance(moe, MoE) else 0.0
        matrices = sum(
            weight.size * (visited if weight.role == "expert" else 1.0)
            for weight in layer_weights(layer, arch.d_model)
            if len(weight.shape) >= 2 and not weight.idle and not NOT_MULTIPLIED.search(weight.name)
        )
        forward, backward = (
            sum(float(op.flop) for op in ops(layer, arch.d_model, ONE_TOKEN) if "gemm" in op.kind)
            for ops in (layer_forward, layer_backward)
        )
        assert forward == pytest.approx(2 * matrices, rel=1e-9)
        assert backward == pytest.approx(4 * matrices, rel=1e-9)


def test_totals_hang_together(arch: Architecture) -> None:
    causal, full = (flop_per_token(arch, 2048, attention=kind) for kind in ("causal", "full"))
    assert causal.value <= full.value
    executed = [executed_flop_per_token(arch, 2048, recompute=kind).value for kind in ("none", "selective", "full")]
    assert causal.value <= executed[0] <= executed[1] <= executed[2] <= 8 / 6 * executed[0]
    if arch.encoder is None and arch.vision is None:
        # 6N, between the weights with and without the tables that are only looked up; scans add a little
        per_token = flop_per_token(arch, 1).value / 6
        assert 0.97 * active_parameter_count(arch, embedding=False) <= per_token <= 1.2 * active_parameter_count(arch)
        assert decode_flop_per_token(arch, 1).value <= 2.4 * active_parameter_count(arch)
    assert kv_byte(arch, 2048.0) + state_byte(arch) > 0
    for layer in all_layers(arch):
        kept = [float(layer_activation_byte(layer, arch.d_model, Shape(batch=1.0, seq=2048.0), r)) for r in ("none", "full")]
        assert kept[0] > kept[1] > 0
