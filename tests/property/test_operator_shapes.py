"""Operators broadcast: pricing many shapes at once equals pricing each alone."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suanchou.model.architecture import (
    MLP,
    Architecture,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    MoE,
    Norm,
    SparseIndexer,
    StateSpace,
)
from suanchou.model.layer_operators import (
    embedding_backward,
    embedding_forward,
    head_backward,
    head_forward,
    layer_backward,
    layer_forward,
)
from suanchou.model.operators import Operator, Shape
from suanchou.model.parameters import layer_weights

D = 1024
GQA = Attention(n_head=16, n_kv_head=4, d_head=64, window=96, qk_norm="head", output_gate=True)
LAYERS = {
    "gpt": Layer(
        mixer=Attention(n_head=16, n_kv_head=16, d_head=64, rotary=False),
        ffn=MLP(d_ff=4096, gated=False),
        norms=(Norm(kind="layer"),) * 2,
    ),
    "llama": Layer(mixer=GQA, ffn=MLP(d_ff=2816), norms=(Norm(),) * 2),
    "moe": Layer(
        mixer=replace(GQA, window=None),
        ffn=MoE(n_expert=32, top_k=4, expert=MLP(d_ff=512), shared=MLP(d_ff=512), shared_gate=True),
        norms=(Norm(),) * 2,
    ),
    "latent": Layer(
        mixer=LatentAttention(
            n_head=16,
            kv_rank=64,
            d_nope=32,
            d_rope=16,
            d_value=32,
            q_rank=96,
            indexer=SparseIndexer(n_head=8, d_head=32, top_k=64),
        ),
        ffn=MoE(n_expert=32, top_k=4, expert=MLP(d_ff=512), d_latent=256),
        norms=(Norm(),) * 2,
    ),
    "delta": Layer(
        mixer=LinearAttention(kind="gated-delta", n_key_head=8, n_value_head=16, d_key=64, d_value=32, conv_kernel=4),
        ffn=None,
        norms=(Norm(),),
    ),
    "lightning": Layer(
        mixer=LinearAttention(kind="lightning", n_key_head=16, n_value_head=16, d_key=64, d_value=64),
        ffn=None,
        norms=(Norm(),),
    ),
    "mamba": Layer(
        mixer=StateSpace(kind="mamba1", d_inner=2048, d_state=16, conv_kernel=4, dt_rank=64, norm=True),
        hybrid=StateSpace(kind="mamba2", d_inner=2048, d_state=128, conv_kernel=4, n_head=32, n_group=4, norm=True),
        ffn=None,
        norms=(Norm(),),
    ),
    "kda": Layer(
        mixer=LinearAttention(
            kind="gated-delta", n_key_head=16, n_value_head=16, d_key=64, d_value=32, channel_decay=True, gate_rank=48
        ),
        ffn=MoE(n_expert=32, top_k=4, expert=MLP(d_ff=512), n_zero_expert=32),
        norms=(Norm(),),
    ),
    "griffin": Layer(
        mixer=StateSpace(kind="rg-lru", d_inner=2048, d_state=1, conv_kernel=4, n_head=16),
        hybrid=StateSpace(kind="short-conv", d_inner=1024, d_state=0, conv_kernel=4),
        ffn=None,
        norms=(Norm(),),
    ),
    "cross": Layer(
        mixer=GQA, cross=replace(GQA, cross=True, causal=False, window=None), ffn=MLP(d_ff=2816), norms=(Norm(),) * 3
    ),
}
ARCH = Architecture(
    name="t", family="t", d_model=D, vocab=32000, layers=(LAYERS["llama"],), max_position=4096, n_position=4096, d_embed=512,
    embedding_norm=Norm(kind="layer"),
)  # fmt: skip

powers = st.sampled_from([1.0, 2.0, 4.0, 8.0])
shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 8).map(float),
        "seq": st.integers(1, 4096).map(float),
        "tp": powers,
        "cp": powers,
        "ep": powers,
        "expert_tp": powers,
        "sp": st.sampled_from([0.0, 1.0]),
        "imbalance": st.floats(1.0, 3.0),
        "encoder_seq": st.integers(1, 512).map(float),
    }
)
kinds = st.fixed_dictionaries({"attention": st.sampled_from(["flash", "sdpa", "eager"]), "fused": st.booleans()})


def numbers(op: Operator) -> list[object]:
    return [getattr(op, f.name) for f in fields(op) if f.name not in {"name", "kind"}]


@pytest.mark.parametrize("what", [*LAYERS, "ends"])
@settings(max_examples=30, deadline=None)
@given(many=st.lists(shapes, min_size=2, max_size=5), kind=kinds)
def test_many_equals_one(what: str, many: list[dict[str, float]], kind: dict[str, object]) -> None:
    def ops(shape: Shape) -> tuple[Operator, ...]:
        if what == "ends":
            return tuple(
                op for f in (embedding_forward, embedding_backward, head_forward, head_backward) for op in f(ARCH, shape)
            )
        return layer_forward(LAYERS[what], D, shape) + layer_backward(LAYERS[what], D, shape)

    together = ops(Shape(**{name: np.array([one[name] for one in many]) for name in many[0]}, **kind))
    for i, one in enumerate(many):
        for a, b in zip(together, ops(Shape(**one, **kind)), strict=True):
            assert (a.name, a.kind) == (b.name, b.kind)
            for x, y in zip(numbers(a), numbers(b), strict=True):
                assert np.broadcast_to(x, len(many))[i] == y, (a.name, x, y)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@settings(max_examples=30, deadline=None)
@given(one=shapes, kind=kinds)
def test_ranks_share_the_flop(layer: Layer, one: dict[str, float], kind: dict[str, object]) -> None:
    """Degrees that divide everything split the FLOP exactly; only the sparse indexer is whole on every TP rank."""

    def flop(ops: tuple[Operator, ...]) -> float:
        return sum(op.flop for op in ops if ".indexer." not in op.name)

    one = one | {"imbalance": 1.0, "sp": 1.0, "tp": min(one["tp"], 4.0), "encoder_seq": None}
    whole = Shape(**one | {"tp": 1.0, "cp": 1.0, "ep": 1.0, "expert_tp": 1.0}, **kind)
    ranked = Shape(**one, **kind)
    for call in (layer_forward, layer_backward):
        total = flop(call(layer, D, whole))
        shared = flop(call(layer, D, ranked)) * one["tp"] * one["cp"]
        assert shared == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_every_matrix_is_multiplied_once(layer: Layer) -> None:
    """GEMM FLOP forward is 2 per token and weight of every matrix (of experts: those a token visits); backward twice."""
    shape = Shape(batch=3.0, seq=128.0)
    visited = layer.ffn.top_k / (layer.ffn.n_expert + layer.ffn.n_zero_expert) if isinstance(layer.ffn, MoE) else 0.0
    weight = sum(
        w.size * (visited if w.role == "expert" else 1.0)
        for w in layer_weights(layer, D)
        if len(w.shape) >= 2 and not re.search("conv|a_log|bias", w.name)
    )
    forward = sum(op.flop for op in layer_forward(layer, D, shape) if "gemm" in op.kind)
    backward = sum(op.flop for op in layer_backward(layer, D, shape) if "gemm" in op.kind)
    assert forward == pytest.approx(2 * 3 * 128 * weight, rel=1e-12)
    assert backward == pytest.approx(2 * forward, rel=1e-12)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_names_are_unique_and_numbers_positive(layer: Layer) -> None:
    shape = Shape(batch=1.0, seq=128.0)
    for ops in (layer_forward(layer, D, shape), layer_backward(layer, D, shape)):
        names = [op.name for op in ops]
        assert len(set(names)) == len(names)
        assert all(op.byte > 0 and op.launches >= 1 and (op.flop > 0) == (op.kind != "memory") for op in ops)
