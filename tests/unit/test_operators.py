"""Operators of one rank: shapes under TP, SP, CP, EP; what kernels move; what backward adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from suanchou.model.architecture import MLP, Architecture, Attention, LatentAttention, Layer, MoE, Norm, SparseIndexer
from suanchou.model.layer_operators import (
    embedding_backward,
    embedding_forward,
    head_backward,
    head_forward,
    layer_backward,
    layer_forward,
    layer_recompute,
)
from suanchou.model.operators import Operator, Shape

D, B, S = 1024, 2.0, 512.0
LLAMA = Layer(mixer=Attention(n_head=16, n_kv_head=4, d_head=64), ffn=MLP(d_ff=2816), norms=(Norm(), Norm()))
MIX = MoE(n_expert=32, top_k=4, expert=MLP(d_ff=512))
SHAPE = Shape(batch=B, seq=S)


def forward(layer: Layer, shape: Shape) -> dict[str, Operator]:
    return {op.name: op for op in layer_forward(layer, D, shape)}


def backward(layer: Layer, shape: Shape) -> dict[str, Operator]:
    return {op.name: op for op in layer_backward(layer, D, shape)}


def mnk(op: Operator) -> tuple[float, ...]:
    return (float(op.m), float(op.n), float(op.k))


def test_a_llama_layer_in_order() -> None:
    assert list(forward(LLAMA, SHAPE)) == [
        "norm.input",
        "attention.qkv",
        "attention.rotary",
        "attention.core",
        "attention.out",
        "residual.mixer",
        "norm.mlp",
        "mlp.up",
        "mlp.activation",
        "mlp.down",
        "residual.ffn",
    ]
    names = list(backward(LLAMA, SHAPE))
    assert names[0] == "residual.ffn.backward"
    assert names[1:3] == ["mlp.down.dgrad", "mlp.down.wgrad"]
    assert names[-1] == "norm.input.backward"


def test_gemms_under_tensor_and_context_parallelism() -> None:
    ops = forward(LLAMA, replace(SHAPE, tp=4.0, cp=2.0))
    rows = B * S / 2
    assert mnk(ops["attention.qkv"]) == (rows, (1024 + 2 * 256) / 4, D)
    assert mnk(ops["attention.out"]) == (rows, D, 1024 / 4)
    assert mnk(ops["mlp.up"]) == (rows, 2 * 2816 / 4, D)
    assert mnk(ops["mlp.down"]) == (rows, D, 2816 / 4)
    core = ops["attention.core"]
    assert mnk(core) == (S / 2, S, 64)
    assert core.count == B * 16 / 4
    assert core.flop == 4 * 64 * B * (16 / 4) * S * (S + 1) / 2 / 2


def test_kv_heads_replicate_beyond_their_number() -> None:
    ops = [forward(LLAMA, replace(SHAPE, tp=tp))["attention.qkv"] for tp in (4.0, 16.0)]
    assert [float(op.n) for op in ops] == [1024 / 4 + 2 * 64, 1024 / 16 + 2 * 64]


def test_sequence_parallelism_splits_norms_and_residuals_only() -> None:
    plain, split = (forward(LLAMA, replace(SHAPE, tp=4.0, sp=sp)) for sp in (0.0, 1.0))
    for name, op in plain.items():
        ratio = 4 if name.startswith(("norm", "residual")) else 1
        assert op.byte == ratio * split[name].byte, name
        assert op.flop == split[name].flop


def test_backward_of_a_gemm_is_dgrad_and_wgrad() -> None:
    one, two = forward(LLAMA, SHAPE)["mlp.down"], backward(LLAMA, SHAPE)
    m, n, k = mnk(one)
    assert mnk(two["mlp.down.dgrad"]) == (m, k, n)
    assert mnk(two["mlp.down.wgrad"]) == (k, n, m)
    # wgrad reads both activations and reads and writes the fp32 gradient
    assert two["mlp.down.wgrad"].byte == 2 * (m * k + m * n) + 2 * 4 * k * n


def test_attention_kernels() -> None:
    """Flash skips masked pairs and recomputes scores backward; eager computes and moves the square."""
    flash, eager = (replace(SHAPE, attention=kind) for kind in ("flash", "eager"))
    f = forward(LLAMA, flash)["attention.core"]
    e = [op for op in forward(LLAMA, eager).values() if ".core." in op.name]
    assert [op.name.split(".")[-1] for op in e] == ["scores", "softmax", "context"]
    square = sum(op.flop for op in e)
    assert f.flop == pytest.approx(square * (S + 1) / (2 * S))
    assert backward(LLAMA, flash)["attention.core.backward"].flop == 2.5 * f.flop
    assert sum(op.flop for op in backward(LLAMA, eager).values() if ".core." in op.name) == 2 * square
    assert f.byte == 2 * B * S * (2 * 1024 + 2 * 256) + 4 * B * S * 16
    scores = 2 * B * 16 * S * S
    # products read queries and keys, probabilities and values for every head; the softmax reads and writes the scores
    assert e[0].byte == e[2].byte == scores + 2 * B * 16 * 2 * S * 64
    assert e[1].byte == 2 * scores
    dropped = forward(LLAMA, replace(eager, dropout=True))
    assert dropped["attention.core.dropout"].byte == 2 * scores + scores / 2


def test_windows_bound_the_pairs() -> None:
    layer = replace(LLAMA, mixer=replace(LLAMA.mixer, window=128))
    long = replace(SHAPE, seq=1e6)
    per_query = forward(layer, long)["attention.core"].flop / (4 * 64 * B * 16 * 1e6)
    assert per_query == pytest.approx(128, rel=1e-3)
    chunked = replace(LLAMA, mixer=replace(LLAMA.mixer, window=128, chunked=True))
    assert forward(chunked, long)["attention.core"].flop / (4 * 64 * B * 16 * 1e6) == pytest.approx(64.5, rel=1e-3)


def test_cross_attention_reads_the_encoder() -> None:
    cross = Attention(n_head=16, n_kv_head=16, d_head=64, cross=True, causal=False, rotary=False)
    ops = forward(replace(LLAMA, cross=cross, norms=(Norm(),) * 3), replace(SHAPE, encoder_seq=100.0))
    assert mnk(ops["cross.kv"]) == (B * 100, 2048, D)
    assert mnk(ops["cross.q"]) == (B * S, 1024, D)
    assert ops["cross.core"].flop == 4 * 64 * B * 16 * S * 100


def test_shared_keys_are_not_projected() -> None:
    ops = forward(replace(LLAMA, mixer=replace(LLAMA.mixer, shares_kv=True)), SHAPE)
    assert mnk(ops["attention.q"]) == (B * S, 1024, D)
    assert "attention.qkv" not in ops


def test_expert_rows_under_expert_parallelism() -> None:
    """The routed FLOP of a rank are independent of EP; the experts it holds, and the rows each gets, are not."""
    layer = replace(LLAMA, ffn=MIX)
    rows = B * S * 4
    one = forward(layer, SHAPE)["moe.experts.up"]
    assert (float(one.count), mnk(one)) == (32, (rows / 32, 1024, D))
    spread = forward(layer, replace(SHAPE, ep=8.0))["moe.experts.up"]
    assert (float(spread.count), mnk(spread)) == (4, (rows / 4, 1024, D))
    assert spread.flop == one.flop
    busy = forward(layer, replace(SHAPE, ep=8.0, imbalance=1.25))["moe.experts.up"]
    assert busy.flop == 1.25 * one.flop


def test_whole_or_split_experts_under_tensor_parallelism() -> None:
    """Splitting experts over TP, or giving each TP rank its own tokens: the same FLOP in narrower or shorter GEMMs."""
    layer = replace(LLAMA, ffn=MIX)
    split = forward(layer, replace(SHAPE, tp=4.0, sp=1.0))["moe.experts.down"]
    whole = forward(layer, replace(SHAPE, tp=4.0, sp=1.0, expert_tp=1.0))["moe.experts.down"]
    assert mnk(split) == (B * S * 4 / 32, D, 512 / 4)
    assert mnk(whole) == (B * S * 4 / 32 / 4, D, 512)
    assert split.flop == whole.flop


def test_zero_experts_cost_nothing() -> None:
    half = forward(replace(LLAMA, ffn=replace(MIX, n_zero_expert=32)), SHAPE)
    assert half["moe.experts.up"].flop == forward(replace(LLAMA, ffn=MIX), SHAPE)["moe.experts.up"].flop / 2
    assert half["moe.router"].n == 64


def test_sparse_attention_scores_everything_and_attends_to_some() -> None:
    indexer = SparseIndexer(n_head=4, d_head=32, top_k=64)
    mla = LatentAttention(n_head=16, kv_rank=64, d_nope=32, d_rope=16, d_value=32, indexer=indexer)
    dense, sparse = (
        forward(replace(LLAMA, mixer=mixer), replace(SHAPE, seq=4096.0)) for mixer in (replace(mla, indexer=None), mla)
    )
    assert sparse["attention.core"].flop < dense["attention.core"].flop / 20
    assert sparse["attention.indexer.scores"].flop == 2 * 4 * 33 * B * 4096 * 4097 / 2
    reusing = forward(replace(LLAMA, mixer=replace(mla, indexer=replace(indexer, reuses=True))), replace(SHAPE, seq=4096.0))
    assert reusing["attention.core"].flop == sparse["attention.core"].flop
    assert not any("indexer" in name for name in reusing)


@pytest.mark.parametrize("layer", [LLAMA, replace(LLAMA, ffn=MIX)])
def test_fusion_saves_traffic_and_launches_and_no_flop(layer: Layer) -> None:
    for ops in (forward, backward):
        fused, unfused = ops(layer, SHAPE), ops(layer, replace(SHAPE, fused=False))
        assert set(unfused) - set(fused) <= {"attention.split.backward", "attention.split"}
        for name, op in fused.items():
            assert op.byte <= unfused[name].byte
            assert op.launches <= unfused[name].launches
            assert op.flop == unfused[name].flop
        assert sum(op.byte for op in unfused.values()) > 1.05 * sum(op.byte for op in fused.values())


ARCH = Architecture(name="t", family="t", d_model=D, vocab=32000, layers=(LLAMA,), max_position=4096)


def test_recomputation_that_stops_early_leaves_out_the_last_product() -> None:
    ops = layer_forward(LLAMA, D, SHAPE)
    assert layer_recompute(ops, early_stop=False) == ops
    left = [op.name for op in ops if op not in layer_recompute(ops, early_stop=True)]
    assert left == ["mlp.down", "residual.ffn"]
    sparse = layer_forward(replace(LLAMA, ffn=MIX), D, SHAPE)
    assert [op.name for op in sparse if op not in layer_recompute(sparse, early_stop=True)] == ["residual.ffn"]
    behind = layer_forward(replace(LLAMA, norms=(Norm(),) * 4), D, SHAPE)
    assert [op.name for op in behind if op not in layer_recompute(behind, early_stop=True)] == ["residual.ffn"]


def test_a_bias_costs_one_pass_backward() -> None:
    biased = replace(LLAMA, ffn=replace(LLAMA.ffn, down_bias=True))
    more = {name: op for name, op in backward(biased, SHAPE).items() if name not in backward(LLAMA, SHAPE)}
    assert list(more) == ["mlp.down.bias"]
    assert more["mlp.down.bias"].byte == 2 * B * S * D
    assert forward(biased, SHAPE) == forward(LLAMA, SHAPE)


def test_head_and_loss() -> None:
    ops = {op.name: op for op in head_forward(ARCH, replace(SHAPE, tp=4.0, sp=1.0))}
    assert list(ops) == ["head.norm", "head.logits", "head.loss"]
    assert mnk(ops["head.logits"]) == (B * S, 8000, D)
    assert ops["head.norm"].byte == 2 * 2 * B * S / 4 * D
    assert head_backward(ARCH, SHAPE)[0].name == "head.loss.backward"


def test_embedding_moves_bytes_and_computes_only_a_projection() -> None:
    arch = replace(ARCH, n_position=4096, d_embed=512, embedding_norm=Norm(kind="layer"))
    ops = {op.name: op for op in embedding_forward(arch, SHAPE)}
    assert list(ops) == ["embedding.gather", "embedding.project", "embedding.position", "embedding.norm"]
    assert mnk(ops["embedding.project"]) == (B * S, D, 512)
    assert ops["embedding.position"].byte == 3 * 2 * B * S * D
    assert [op for op in embedding_backward(ARCH, SHAPE) if op.flop] == []
    # backward adds to fp32 rows of the table: reads the gradient, reads and writes the row
    assert embedding_backward(ARCH, SHAPE)[0].byte == B * S * D * (2 + 2 * 4)


def test_arrays_give_arrays() -> None:
    tp = np.array([1.0, 2.0, 4.0])
    ops = forward(LLAMA, replace(SHAPE, tp=tp))
    assert ops["mlp.up"].flop == pytest.approx(ops["mlp.up"].flop[0] / tp)


def test_a_fused_norm_among_chains_of_kernels() -> None:
    chain, fused = replace(SHAPE, fused=False), replace(SHAPE, fused=False, fused_norm=True)
    assert forward(LLAMA, fused)["norm.mlp"] == forward(LLAMA, SHAPE)["norm.mlp"]
    for name in ("attention.rotary", "mlp.activation"):
        assert forward(LLAMA, fused)[name] == forward(LLAMA, chain)[name]


def test_only_the_way_to_and_from_experts_permutes_rows() -> None:
    layer = replace(LLAMA, ffn=MIX)
    assert {op.name for op in layer_forward(layer, D, SHAPE) if op.permutes} == {"moe.permute", "moe.unpermute"}
