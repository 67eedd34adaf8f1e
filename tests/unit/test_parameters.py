"""Weights: names, shapes, shards and roles; totals and active parameters of published models."""

from __future__ import annotations

from typing import get_args

import pytest

from suanchou.errors import SpecError
from suanchou.model.architecture import (
    MLP,
    Architecture,
    Attention,
    LatentAttention,
    Layer,
    MoE,
    Norm,
    Role,
    Shard,
    SparseIndexer,
    Stack,
    StateSpace,
    VisionTower,
    Weight,
)
from suanchou.model.config import architecture_from_config, supported_model_types
from suanchou.model.parameters import (
    active_parameter_count,
    distinct_layers,
    kv_ways,
    layer_parameter_count,
    layer_weights,
    parameter_count,
    parameters_by_role,
    weights,
)

PUBLISHED = [
    # Totals in the model cards' safetensors index, or in the papers' tables.
    ({"model_type": "gpt2"}, 124_439_808),
    ({"model_type": "mixtral"}, 46_702_792_704),
    ({"model_type": "falcon", "multi_query": True}, 6_921_720_704),
]

LLAMA_405B = {
    "model_type": "llama",
    "hidden_size": 16384,
    "intermediate_size": 53248,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "num_hidden_layers": 126,
    "vocab_size": 128256,
}
QWEN25_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
    "vocab_size": 152064,
}


def arch(data):
    return architecture_from_config(data, name=data["model_type"])


@pytest.mark.parametrize(("data", "total"), [*PUBLISHED, (LLAMA_405B, 405_853_388_800), (QWEN25_7B, 7_615_616_512)])
def test_published_totals(data, total):
    assert parameter_count(arch(data)) == total


def test_active_parameters_of_mixtral():
    mixtral = arch({"model_type": "mixtral"})
    expert = 3 * 4096 * 14336
    assert active_parameter_count(mixtral) == parameter_count(mixtral) - 32 * 6 * expert
    assert round(active_parameter_count(mixtral) / 1e9, 1) == 12.9
    dense = arch(QWEN25_7B)
    assert active_parameter_count(dense) == parameter_count(dense)


def test_deepseek_v3_is_671b_of_which_37b_active():
    v3 = arch({"model_type": "deepseek_v3"})
    assert round(parameter_count(v3) / 1e9) == 671
    assert round(active_parameter_count(v3, embedding=False) / 1e9) == 36
    assert int(active_parameter_count(v3) / 1e9) == 37


def test_non_embedding_parameters_are_those_of_the_model_card():
    """Qwen2.5-7B: 7.61B parameters, 6.53B without embeddings and head."""
    assert round(parameter_count(arch(QWEN25_7B), embedding=False) / 1e9, 2) == 6.53


def test_mtp_heads_count_only_when_asked():
    with_heads = arch({"model_type": "deepseek_v3", "num_nextn_predict_layers": 1})
    plain = parameter_count(with_heads)
    d = 7168
    # DeepSeek-V3 report: an MTP module is one layer, a projection of two hidden vectors to one, and three norms.
    layer = layer_parameter_count(with_heads.layers[-1], d)
    assert parameter_count(with_heads, mtp=True) - plain == layer + 2 * d * d + 3 * d
    assert parameters_by_role(with_heads, mtp=True)["mtp"] == layer + 2 * d * d + 3 * d
    assert "mtp" not in parameters_by_role(with_heads)


@pytest.mark.parametrize("model_type", supported_model_types())
def test_every_family_adds_up(model_type):
    try:
        model = arch({"model_type": model_type})
    except SpecError as error:
        # Some classes have no default for, say, how many experts there are; then the file must say so.
        refusal = error.what
        model = None
    if model is None:
        assert refusal in ("missing", "no model_type") or "one entry per layer" in refusal
        return
    found = list(weights(model, mtp=True))
    assert sum(weight.size for weight in found) == parameter_count(model, mtp=True)
    assert parameter_count(model, mtp=True) == sum(parameters_by_role(model, mtp=True).values())
    assert len({weight.name for weight in found}) == len(found)
    assert {weight.shard for weight in found} <= set(get_args(Shard))
    assert {weight.role for weight in found} <= set(get_args(Role))
    assert all(min(weight.shape) > 0 for weight in found)


def test_shards_of_a_llama_layer():
    layer = Layer(
        mixer=Attention(n_head=8, n_kv_head=2, d_head=16, q_bias=True, kv_bias=True, out_bias=True),
        ffn=MLP(d_ff=96, up_bias=True, down_bias=True),
        norms=(Norm(), Norm(kind="layer", bias=True)),
    )
    shards = {weight.name: (weight.shard, weight.shape) for weight in layer_weights(layer, 64)}
    assert shards == {
        "norm0.weight": ("replicated", (64,)),
        "norm1.weight": ("replicated", (64,)),
        "norm1.bias": ("replicated", (64,)),
        "attention.q": ("column", (128, 64)),
        "attention.q.bias": ("column", (128,)),
        "attention.k": ("kv", (32, 64)),
        "attention.k.bias": ("kv", (32,)),
        "attention.v": ("kv", (32, 64)),
        "attention.v.bias": ("kv", (32,)),
        "attention.out": ("row", (64, 128)),
        "attention.out.bias": ("replicated", (64,)),
        "mlp.up": ("column", (96, 64)),
        "mlp.up.bias": ("column", (96,)),
        "mlp.gate": ("column", (96, 64)),
        "mlp.gate.bias": ("column", (96,)),
        "mlp.down": ("row", (64, 96)),
        "mlp.down.bias": ("replicated", (64,)),
    }


def test_experts_are_whole_and_the_shared_one_is_split():
    moe = MoE(n_expert=4, top_k=2, expert=MLP(d_ff=8, up_bias=True), shared=MLP(d_ff=16), shared_gate=True, router_bias=True)
    found = {w.name: w for w in layer_weights(Layer(mixer=None, ffn=moe), 6)}
    assert found["moe.expert.up"].shape == (4, 8, 6)
    assert found["moe.expert.up.bias"].shape == (4, 8)
    assert {found[name].shard for name in found if ".expert." in name} == {"expert"}
    assert (found["moe.shared.down"].shard, found["moe.shared.down"].role) == ("row", "shared_expert")
    assert (found["moe.router"].role, found["moe.router.bias"].shape) == ("router", (4,))
    assert found["moe.shared_gate"].shape == (1, 6)


def test_qk_norms_by_kind():
    def norms(**traits):
        layer = Layer(mixer=Attention(n_head=4, n_kv_head=2, d_head=8, **traits), ffn=None)
        return {w.name: (w.shape[0], w.shard) for w in layer_weights(layer, 32) if w.role == "norm"}

    assert norms() == {}
    assert norms(qk_norm="head") == {
        "attention.q_norm.weight": (8, "replicated"),
        "attention.k_norm.weight": (8, "replicated"),
    }
    assert norms(qk_norm="full") == {"attention.q_norm.weight": (32, "column"), "attention.k_norm.weight": (16, "kv")}
    assert norms(qk_norm="per_head") == norms(qk_norm="full")
    assert norms(qk_norm="head", qk_norm_weight=False) == {}
    assert set(norms(qk_norm="head", shares_kv=True)) == {"attention.q_norm.weight"}


def test_latent_attention_splits_by_head_after_its_bottlenecks():
    indexer = SparseIndexer(n_head=2, d_head=4, top_k=8)
    mixer = LatentAttention(n_head=4, kv_rank=10, d_nope=6, d_rope=2, d_value=5, q_rank=12, indexer=indexer)
    found = {w.name: (w.shape, w.shard) for w in layer_weights(Layer(mixer=mixer, ffn=None), 32)}
    assert found["attention.q_up"] == ((32, 12), "column")
    assert found["attention.kv_down"] == ((12, 32), "replicated")
    assert found["attention.kv_up"] == ((44, 10), "column")
    assert found["attention.out"] == ((32, 20), "row")
    assert found["attention.indexer.q"] == ((8, 12), "replicated")


def test_encoder_positions_narrow_embedding_and_vision_count():
    layer = Layer(mixer=Attention(n_head=1, n_kv_head=1, d_head=4), ffn=MLP(d_ff=8, gated=False))
    one = 4 * 16 + 2 * 32
    model = Architecture(
        name="x",
        family="x",
        d_model=4,
        vocab=10,
        layers=(layer,) * 3,
        max_position=7,
        tied=True,
        head_bias=True,
        n_position=7,
        d_embed=2,
        encoder=Stack(layers=(layer, layer), final_norm=Norm()),
        vision=VisionTower(weights=(Weight(name="v", shape=(3, 5), role="vision"),), n_layer=1, d_model=3),
    )
    assert parameter_count(model) == 5 * one + 10 * 2 + 7 * 4 + 2 * 8 + 10 + 2 * 4 + 15
    assert parameters_by_role(model)["vision"] == 15
    assert parameter_count(model, embedding=False) == 5 * one + 8 + 15


def test_equal_layers_are_counted_together():
    model = arch(LLAMA_405B)
    assert [n for _, n in distinct_layers(model.layers)] == [126]
    rebuilt = tuple(arch(LLAMA_405B).layers[0] for _ in range(3))
    assert [n for _, n in distinct_layers(rebuilt)] == [3]
    assert sum(n for _, n in distinct_layers(arch({"model_type": "deepseek_v3"}).layers)) == 61


def test_kv_ways():
    assert kv_ways(Attention(n_head=8, n_kv_head=2, d_head=4)) == 2
    mamba = StateSpace(kind="mamba2", d_inner=8, d_state=4, conv_kernel=4, n_head=4, n_group=2)
    assert kv_ways(mamba) == 2
