"""Multi-head latent attention: DeepSeek-V2 and what grew from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import Architecture, LatentAttention, Layer, MoE, Norm, SparseIndexer
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import (
    decoder,
    dense_first,
    experts,
    layer_kinds,
    mlp,
    next_token_head,
    sizes,
    with_defaults,
)

__all__ = ["grouped_experts", "latent_attention"]

TWO_NORMS = (Norm(), Norm())
MTP_KEYS = ("num_nextn_predict_layers", "num_mtp_layers")

_V3: dict[str, Any] = sizes(
    129280,
    7168,
    18432,
    61,
    128,
    128,
    4096,
    moe_intermediate_size=2048,
    num_experts_per_tok=8,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    n_group=8,
    topk_group=4,
    first_k_dense_replace=3,
)
_USUAL: dict[str, dict[str, Any]] = {
    "deepseek_v2": _V3
    | sizes(102400, 4096, 11008, 32, 32, None, 2048, moe_intermediate_size=1407, n_shared_experts=2)
    | {"num_experts_per_tok": None, "n_group": None, "topk_group": None, "first_k_dense_replace": 0},
    "deepseek_v3": _V3,
    "kimi_k2": _V3,
    "deepseek_v32": _V3 | {"max_position_embeddings": 163840, "index_n_heads": 64},
    "glm_moe_dsa": _V3
    | sizes(154880, 6144, 12288, 78, 64, 64, 202752, q_lora_rank=2048, v_head_dim=256, qk_nope_head_dim=192)
    | {"n_group": 1, "topk_group": 1, "index_n_heads": 32},
    "glm4_moe_lite": _V3
    | sizes(154880, 2048, 10240, 47, 20, 20, 202752, q_lora_rank=768, v_head_dim=256, qk_nope_head_dim=192)
    | {"n_group": 1, "topk_group": 1, "moe_intermediate_size": 1536, "num_experts_per_tok": 4, "first_k_dense_replace": 1},
    "axk1": _V3 | sizes(163840, 7168, 18432, 61, 64, 64, 32768, first_k_dense_replace=1),
    "youtu": _V3 | sizes(128256, 2048, 6144, 32, 16, 16, 131072, tie_word_embeddings=True),
}
_EXPERTS = {"deepseek_v2": 64, "glm4_moe_lite": 64, "axk1": 192}


def latent_attention(config: Config, indexer: SparseIndexer | None = None) -> LatentAttention:
    """Latent attention from the usual keys; ``q_lora_rank`` absent or ``null``: queries are projected directly."""
    return LatentAttention(
        n_head=config.count("num_attention_heads"),
        kv_rank=config.count("kv_lora_rank"),
        d_nope=config.count("qk_nope_head_dim"),
        d_rope=config.count("qk_rope_head_dim"),
        d_value=config.count("v_head_dim"),
        q_rank=config.count("q_lora_rank") if "q_lora_rank" in config else None,
        bias=config.flag("attention_bias"),
        indexer=indexer,
    )


def grouped_experts(config: Config, default: int, *, score_bias: bool = True, shared_bias: bool = False) -> MoE:
    """Routed experts chosen within groups, and shared experts, all of width ``moe_intermediate_size``."""
    n_shared = config.count("n_shared_experts", "num_shared_experts", default=1, zero=True)
    return experts(
        config,
        mlp(config, "moe_intermediate_size"),
        top_k=("num_experts_per_tok", "num_experts_per_token"),
        default=default,
        shared=mlp(config, "moe_intermediate_size", bias=shared_bias, times=n_shared) if n_shared else None,
        score_bias=score_bias,
        n_group=config.count("n_group", "num_expert_group", default=1),
        top_group=config.count("topk_group", default=1),
    )


@family("deepseek_v2", "deepseek_v3", "kimi_k2", "deepseek_v32", "glm_moe_dsa", "glm4_moe_lite", "axk1")
def deepseek(config: Config) -> Architecture:
    """DeepSeek-V2 to V3.2, Kimi K2, GLM-4.7-Flash, GLM-5, A.X K1."""
    model_type = config.text("model_type")
    config = with_defaults(config, **_USUAL[model_type])
    n_layer = config.n_layer()
    mixers = [latent_attention(config, indexer) for indexer in _indexers(config, model_type, n_layer)]
    sparse = dense_first(config, n_layer)
    second = model_type == "deepseek_v2"
    bias = second and config.flag("mlp_bias")
    moe = grouped_experts(config, _EXPERTS.get(model_type, 256), score_bias=not second, shared_bias=bias)
    dense = mlp(config, bias=bias)
    # A.X K1 normalises the output of its expert layers once more.
    after = (Norm(),) if model_type == "axk1" else ()
    layers = [
        Layer(mixer=mixer, ffn=moe if has else dense, norms=TWO_NORMS + (after if has else ()))
        for mixer, has in zip(mixers, sparse, strict=True)
    ]
    return decoder(config, layers, **next_token_head(config, layers[-1], *MTP_KEYS))


@family("youtu")
def youtu(config: Config) -> Architecture:
    """Youtu-LLM: latent attention with an ordinary MLP."""
    config = with_defaults(config, **_USUAL["youtu"])
    layer = Layer(mixer=latent_attention(config), ffn=mlp(config, bias=config.flag("mlp_bias")), norms=TWO_NORMS)
    return decoder(config, (layer,) * config.n_layer())


def _indexers(config: Config, model_type: str, n_layer: int) -> list[SparseIndexer | None]:
    """The sparse-attention indexer of each layer."""
    if model_type not in ("deepseek_v32", "glm_moe_dsa"):
        return [None] * n_layer
    if "q_lora_rank" not in config:
        raise SpecError("missing", where=f"{config.where}: q_lora_rank", hint="the indexer reads the compressed queries")
    indexer = SparseIndexer(
        n_head=config.count("index_n_heads"),
        d_head=config.count("index_head_dim", default=128),
        top_k=config.count("index_topk", default=2048),
    )
    reusing = replace(indexer, reuses=True)
    return [reusing if shared else indexer for shared in _reused(config, n_layer)]


def _reused(config: Config, n_layer: int) -> list[bool]:
    """Which layers reuse the positions chosen before them (GLM-5): listed, as a pattern of F and S, or by a period."""
    pattern = config.raw("index_topk_pattern")
    if isinstance(pattern, str):
        listed = {"indexer_types": [{"F": "full", "S": "shared"}.get(letter, letter) for letter in pattern]}
        config = with_defaults(config, **listed)
    period, offset = config.count("index_topk_freq", default=1), config.count("index_skip_topk_offset", default=2, zero=True)
    usual = ["shared" if max(i - offset + 1, 0) % period else "full" for i in range(n_layer)]
    kinds = layer_kinds(config, n_layer, usual, ("full", "shared"), "indexer_types", "index_topk_pattern")
    if kinds[0] == "shared":
        raise SpecError("the first layer has no choice to reuse", where=f"{config.where}: indexer_types")
    return [kind == "shared" for kind in kinds]
