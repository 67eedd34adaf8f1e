"""Hybrids of softmax or latent attention with linear attention: Qwen3-Next, MiniMax-01, Kimi Linear, Ring, OLMo Hybrid."""

from __future__ import annotations

from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import MLP, Architecture, Layer, LinearAttention, Mixer, MoE, Norm, Weight
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import (
    attention,
    decoder,
    dense_first,
    experts,
    head_width,
    layer_kinds,
    mlp,
    next_token_head,
    one_per_layer,
    periodic_experts,
    sizes,
    with_defaults,
)
from suanchou.model.families.latent import grouped_experts, latent_attention

__all__: list[str] = []

TWO_NORMS = (Norm(), Norm())
KINDS = ("linear_attention", "full_attention")

_LINEAR = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
_SPARSE = {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 512}
_QWEN: dict[str, dict[str, Any]] = {
    "qwen3_next": sizes(151936, 2048, 5632, 48, 16, 2, 32768, num_experts_per_tok=10, **_LINEAR, **_SPARSE),
    "qwen3_5_text": sizes(248320, 4096, 12288, 32, 16, 4, 32768, **_LINEAR),
    "qwen3_5_moe_text": sizes(248320, 2048, None, 40, 16, 2, 32768, num_experts_per_tok=8, **_LINEAR, **_SPARSE),
}


def _gated_delta(config: Config) -> LinearAttention:
    n_key, n_value = config.count("linear_num_key_heads"), config.count("linear_num_value_heads")
    if n_value % n_key:
        raise SpecError(
            f"{n_value} value heads cannot share {n_key} key heads evenly", where=f"{config.where}: linear_num_value_heads"
        )
    return LinearAttention(
        kind="gated-delta",
        n_key_head=n_key,
        n_value_head=n_value,
        d_key=config.count("linear_key_head_dim"),
        d_value=config.count("linear_value_head_dim"),
        conv_kernel=config.count("linear_conv_kernel_dim", default=4),
    )


def _period(config: Config, n_layer: int, key: str, default: int) -> list[str]:
    """Softmax attention in every n-th layer, linear attention in the others."""
    step = config.count(key, default=default)
    return ["linear_attention" if (i + 1) % step else "full_attention" for i in range(n_layer)]


@family("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
def qwen3_next(config: Config) -> Architecture:
    """Qwen3-Next and Qwen3.5: gated delta attention, every fourth layer gated softmax attention, gated shared experts."""
    model_type = config.text("model_type")
    config = with_defaults(config, **_QWEN[model_type])
    n_layer = config.n_layer()
    kinds = layer_kinds(config, n_layer, _period(config, n_layer, "full_attention_interval", 4), KINDS)
    mixers: dict[str, Mixer] = {
        "linear_attention": _gated_delta(config),
        "full_attention": attention(config, bias=config.flag("attention_bias"), qk_norm="head", output_gate=True),
    }
    sparse = [model_type == "qwen3_5_moe_text"] * n_layer
    if model_type == "qwen3_next":
        sparse = periodic_experts(config, n_layer)
    moe: MLP | MoE | None = None
    if any(sparse):
        shared = mlp(config, "shared_expert_intermediate_size")
        n_default = 512 if model_type == "qwen3_next" else 256
        moe = experts(config, mlp(config, "moe_intermediate_size"), default=n_default, shared=shared, shared_gate=True)
    dense = None if all(sparse) else mlp(config)
    layers = [
        Layer(mixer=mixers[kind], ffn=moe if has else dense, norms=TWO_NORMS) for kind, has in zip(kinds, sparse, strict=True)
    ]
    # The MTP layer attends to everything, whatever the last layer does.
    head = Layer(mixer=mixers["full_attention"], ffn=layers[-1].ffn, norms=TWO_NORMS)
    return decoder(config, layers, **next_token_head(config, head, "num_nextn_predict_layers", "mtp_num_hidden_layers"))


@family("minimax", "minimax_m1", "minimax_text_01")
def minimax(config: Config) -> Architecture:
    """MiniMax-01 and M1: lightning attention, every eighth layer (as ``attn_type_list`` says) softmax attention.

    In the published files ``attn_type_list`` holds 0 for lightning and 1 for softmax attention; the class that transformers
    has writes ``layer_types``.
    """
    usual = sizes(32000, 4096, 14336, 32, 32, 8, 131072, num_experts_per_tok=2)
    config = with_defaults(config, **usual)
    n_layer = config.n_layer()
    default = [KINDS[1 - i % 2] for i in range(n_layer)]
    listed = one_per_layer(config, "attn_type_list", n_layer)
    if listed:
        if any(kind not in (0, 1) for kind in listed):
            raise SpecError("expected 0 (lightning) or 1 (softmax) per layer", where=f"{config.where}: attn_type_list")
        default = [KINDS[int(kind)] for kind in listed]
    kinds = layer_kinds(config, n_layer, default, KINDS)
    n_head, d_head = config.count("num_attention_heads"), head_width(config)
    window = config.count("sliding_window") if "sliding_window" in config else None
    mixers: dict[str, Mixer] = {
        "linear_attention": LinearAttention(
            kind="lightning",
            n_key_head=n_head,
            n_value_head=n_head,
            d_key=d_head,
            d_value=d_head,
            chunk=config.count("block_size", default=256),
        ),
        "full_attention": attention(config, window=window),
    }
    moe = experts(config, mlp(config), default=8)
    return decoder(config, [Layer(mixer=mixers[kind], ffn=moe, norms=TWO_NORMS) for kind in kinds])


@family("kimi_linear")
def kimi_linear(config: Config) -> Architecture:
    """Kimi Linear: delta attention with a decay per channel; every fourth layer latent attention without positions."""
    usual = sizes(163840, 2304, 9216, 27, 32, 32, 1048576, moe_intermediate_size=1024, kv_lora_rank=512)
    usual |= {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    del usual["max_position_embeddings"]
    config = with_defaults(config, **usual)
    n_layer, linear = config.n_layer(), config.section("linear_attn_config")
    default = ["full_attention" if i and i % 4 == 0 else "linear_attention" for i in range(n_layer)]
    if "full_attn_layers" in linear and "kda_layers" in linear:
        # The published file counts layers from 1.
        full, others = linear.items("full_attn_layers"), linear.items("kda_layers")
        if sorted(full + others, key=str) != sorted(range(1, n_layer + 1), key=str):
            raise SpecError(f"expected every layer from 1 to {n_layer} in one list", where=f"{linear.where}: kda_layers")
        default = ["full_attention" if i + 1 in full else "linear_attention" for i in range(n_layer)]
    kinds = layer_kinds(config, n_layer, default, KINDS)
    n_head = linear.count("num_heads", default=config.count("linear_num_heads", default=32))
    d_head = linear.count("head_dim", default=config.count("linear_head_dim", default=128))
    kernel = config.count("linear_conv_kernel_dim", default=4)
    mixers: dict[str, Mixer] = {
        "linear_attention": LinearAttention(
            kind="gated-delta",
            n_key_head=n_head,
            n_value_head=n_head,
            d_key=d_head,
            d_value=d_head,
            conv_kernel=linear.count("short_conv_kernel_size", default=kernel),
            channel_decay=True,
            gate_rank=d_head,
        ),
        "full_attention": latent_attention(config),
    }
    moe = grouped_experts(with_defaults(config, num_experts_per_token=8), 256)
    layers = [
        Layer(mixer=mixers[kind], ffn=moe if has else mlp(config), norms=TWO_NORMS)
        for kind, has in zip(kinds, dense_first(config, n_layer, default=1), strict=True)
    ]
    position = config.count("model_max_length", "max_position_embeddings", default=1048576)
    return decoder(config, layers, max_position=position, **next_token_head(config, layers[-1], "num_nextn_predict_layers"))


@family("bailing_hybrid")
def bailing_hybrid(config: Config) -> Architecture:
    """Ling/Ring hybrids: delta attention with a decay per channel; every sixth layer gated latent attention."""
    usual = sizes(157184, 2560, 6144, 42, 32, 32, 262144, moe_intermediate_size=768, kv_lora_rank=512)
    usual |= {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    del usual["max_position_embeddings"]
    config = with_defaults(config, **usual)
    n_layer = config.n_layer()
    kinds = layer_kinds(config, n_layer, _period(config, n_layer, "layer_group_size", 6), KINDS)
    n_head, d_model = config.count("num_attention_heads"), config.count("hidden_size")
    d_head = config.count("linear_head_dim", "head_dim", default=128)
    mixers: dict[str, Mixer] = {
        "linear_attention": LinearAttention(
            kind="gated-delta",
            n_key_head=n_head,
            n_value_head=n_head,
            d_key=d_head,
            d_value=d_head,
            conv_kernel=config.count("short_conv_kernel_size", default=4),
            channel_decay=True,
        ),
        "full_attention": latent_attention(config),
    }
    # Latent attention here scales each head's output by a gate of its own.
    gate = Weight(name="attention.head_gate", shape=(n_head, d_model), role="attention", shard="column")
    groups = {"num_experts_per_token": 8, "num_expert_group": 8, "topk_group": 4}
    moe = grouped_experts(with_defaults(config, **groups), 512)
    layers = [
        Layer(
            mixer=mixers[kind],
            ffn=moe if has else mlp(config),
            norms=TWO_NORMS,
            extra=(gate,) if kind == "full_attention" else (),
        )
        for kind, has in zip(kinds, dense_first(config, n_layer, default=2), strict=True)
    ]
    position = config.count("model_max_length", "max_position_embeddings", default=262144)
    return decoder(config, layers, max_position=position)


@family("olmo_hybrid")
def olmo_hybrid(config: Config) -> Architecture:
    """OLMo Hybrid: gated delta attention (norms before), every fourth layer softmax attention (norms after)."""
    config = with_defaults(config, **sizes(100352, 3840, 11008, 32, 30, None, 65536))
    n_layer, n_head, d_model = config.n_layer(), config.count("num_attention_heads"), config.count("hidden_size")
    n_key = config.count("linear_num_key_heads", default=n_head)
    d_key = config.count("linear_key_head_dim", default=3 * d_model // (4 * n_key))
    usual = {
        "linear_num_key_heads": n_key,
        "linear_num_value_heads": config.count("linear_num_value_heads", default=n_head),
        "linear_key_head_dim": d_key,
        "linear_value_head_dim": config.count("linear_value_head_dim", default=2 * d_key),
    }
    mixers: dict[str, Mixer] = {
        "linear_attention": _gated_delta(config.replaced(**usual)),
        "full_attention": attention(config, bias=config.flag("attention_bias"), qk_norm="full"),
    }
    default = _period(config, n_layer, "full_attention_interval", 4)
    if "full_attention" not in default:
        default[-1] = "full_attention"
    kinds = layer_kinds(config, n_layer, default, KINDS)
    return decoder(config, [Layer(mixer=mixers[kind], ffn=mlp(config), norms=TWO_NORMS) for kind in kinds])
