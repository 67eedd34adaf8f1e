"""Mixtures of experts whose layers differ in what they attend to: Llama 4, Trinity, EXAONE 4 MoE, MiMo-V2-Flash."""

from __future__ import annotations

from typing import Any

from suanchou.model.architecture import Architecture, Layer, Norm, Weight
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import (
    attention,
    decoder,
    dense_first,
    experts,
    layer_numbers,
    mlp,
    one_per_layer,
    sizes,
    sliding_or_full,
    with_defaults,
)
from suanchou.model.families.latent import latent_attention

__all__: list[str] = []

TWO_NORMS = (Norm(), Norm())


@family("llama4_text")
def llama4(config: Config) -> Architecture:
    """Llama 4: chunked attention with rotary positions, every fourth layer over everything without; one shared expert."""
    usual = sizes(202048, 5120, 8192, 48, 40, 8, 131072, head_dim=128, num_experts_per_tok=1, intermediate_size_mlp=16384)
    config = with_defaults(config, attention_chunk_size=8192, **usual)
    n_layer = config.n_layer()
    step = config.count("interleave_moe_layer_step", default=1)
    sparse = set(range(step - 1, n_layer, step))
    if config.raw("moe_layers") is not None:
        sparse = layer_numbers(config, "moe_layers", n_layer)
    interval = config.count("no_rope_layer_interval", default=4)
    rotary = one_per_layer(config, "no_rope_layers", n_layer) or [(i + 1) % interval != 0 for i in range(n_layer)]
    chunked = [bool(flag) for flag in rotary]
    if "attention_chunk_size" in config:
        windows = sliding_or_full(config, n_layer, chunked, word="chunked_attention", key="attention_chunk_size")
    else:
        windows = [None] * n_layer
    moe = experts(config, mlp(config), default=16, shared=mlp(config))
    dense = mlp(config, "intermediate_size_mlp") if len(sparse) < n_layer else None
    head_norm = config.flag("use_qk_norm", True)
    layers = [
        Layer(
            mixer=attention(
                config,
                bias=config.flag("attention_bias"),
                window=window,
                chunked=window is not None,
                rotary=bool(turns),
                qk_norm="head" if head_norm and turns else "none",
                qk_norm_weight=False,
            ),
            ffn=moe if i in sparse else dense,
            norms=TWO_NORMS,
        )
        for i, (window, turns) in enumerate(zip(windows, rotary, strict=True))
    ]
    return decoder(config, layers)


@family("afmoe")
def afmoe(config: Config) -> Architecture:
    """Arcee Trinity: gated attention with norms on each head, four norms a layer, every fourth layer over everything."""
    usual = sizes(200192, 2048, 6144, 32, 16, None, 16384, moe_intermediate_size=1408, head_dim=128, num_experts_per_tok=6)
    config = with_defaults(config, sliding_window=1024, **usual)
    n_layer = config.n_layer()
    n_shared = config.count("num_shared_experts", default=2, zero=True)
    moe = experts(
        config,
        mlp(config, "moe_intermediate_size"),
        default=64,
        shared=mlp(config, "moe_intermediate_size", times=n_shared) if n_shared else None,
        score_bias=True,
        score_bias_trained=True,
    )
    period = config.count("global_attn_every_n_layers", default=4)
    windows = sliding_or_full(config, n_layer, [(i + 1) % period != 0 for i in range(n_layer)])
    bias, n_dense = config.flag("attention_bias"), config.count("num_dense_layers", default=1, zero=True)
    # The gate beside the queries has no bias even where the queries have one.
    d_query = config.count("num_attention_heads") * config.count("head_dim")
    extra = (Weight(name="attention.q.bias", shape=(d_query,), role="attention", shard="column"),) if bias else ()
    fields: dict[str, Any] = {"kv_bias": bias, "out_bias": bias, "qk_norm": "head", "output_gate": True}
    layers = [
        Layer(
            mixer=attention(config, window=window, rotary=window is not None, **fields),
            ffn=mlp(config) if i < n_dense else moe,
            norms=TWO_NORMS + TWO_NORMS,
            extra=extra,
        )
        for i, window in enumerate(windows)
    ]
    return decoder(config, layers)


@family("exaone_moe")
def exaone_moe(config: Config) -> Architecture:
    """EXAONE MoE: norms on each head, dense first layers, every fourth layer over everything."""
    usual = sizes(102400, 4096, 16384, 32, 32, 32, 2048, moe_intermediate_size=1024, num_experts_per_tok=8)
    config = with_defaults(config, sliding_window=4096, **usual)
    n_layer = config.n_layer()
    windows = sliding_or_full(config, n_layer, _exaone_pattern(config, n_layer))
    n_shared = config.count("num_shared_experts", default=1, zero=True)
    moe = experts(
        config,
        mlp(config, "moe_intermediate_size"),
        default=64,
        shared=mlp(config, "moe_intermediate_size", times=n_shared) if n_shared else None,
        score_bias=True,
        n_group=config.count("n_group", default=1),
        top_group=config.count("topk_group", default=1),
    )
    layers = [
        Layer(mixer=attention(config, window=window, qk_norm="head"), ffn=moe if has else mlp(config), norms=TWO_NORMS)
        for window, has in zip(windows, dense_first(config, n_layer, default=1), strict=True)
    ]
    return decoder(config, layers)


def _exaone_pattern(config: Config, n_layer: int) -> list[bool]:
    """Which layers slide: all but every n-th, or those with an L (local) in a repeated pattern of L and G (global)."""
    if "sliding_window" not in config:
        return [False] * n_layer
    pattern = config.raw("sliding_window_pattern", 4)
    if isinstance(pattern, str) and pattern and set(pattern) <= set("LG"):
        return [pattern[i % len(pattern)] == "L" for i in range(n_layer)]
    period = config.count("sliding_window_pattern", default=4)
    return [(i + 1) % period != 0 for i in range(n_layer)]


@family("mimo_v2_flash")
def mimo_v2_flash(config: Config) -> Architecture:
    """MiMo-V2-Flash: sliding layers have twice the KV heads, and sinks; values are narrower than keys."""
    usual = sizes(152576, 4096, 16384, 48, 64, 4, 131072, head_dim=192, v_head_dim=128, moe_intermediate_size=2048)
    config = with_defaults(config, sliding_window=129, num_experts_per_tok=8, **usual)
    if "sliding_window_size" in config:
        config = config.replaced(sliding_window=config.count("sliding_window_size") + 1)
    n_layer, n_kv_head = config.n_layer(), config.count("num_key_value_heads")
    windows = sliding_or_full(config, n_layer, [i != 0 and (i + 1) % 6 != 0 for i in range(n_layer)])
    bias = config.flag("attention_bias")
    moe = experts(
        config,
        mlp(config, "moe_intermediate_size"),
        default=256,
        score_bias=True,
        n_group=config.count("n_group", default=1),
        top_group=config.count("topk_group", default=1),
    )
    layers = [
        Layer(
            mixer=attention(
                config,
                n_kv_head=n_kv_head * (1 if window is None else 2),
                d_value=config.count("v_head_dim"),
                window=window,
                q_bias=bias,
                kv_bias=bias,
                sinks=window is not None,
            ),
            ffn=moe if has else mlp(config),
            norms=TWO_NORMS,
        )
        for window, has in zip(windows, dense_first(config, n_layer, default=1), strict=True)
    ]
    return decoder(config, layers)


@family("longcat_flash")
def longcat_flash(config: Config) -> Architecture:
    """LongCat-Flash: each block is two attention layers with their MLPs, and experts on a shortcut past the second.

    The experts read what the first MLP reads, so they stand here as a layer of their own between the two.
    """
    config = with_defaults(
        config,
        **sizes(131072, 6144, None, 28, 64, None, 131072, ffn_hidden_size=12288, q_lora_rank=1536, kv_lora_rank=512),
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        moe_topk=12,
        expert_ffn_hidden_size=2048,
    )
    n_zero = config.count("zero_expert_num", default=256, zero=True)
    fields: dict[str, Any] = {"n": ("n_routed_experts",), "top_k": ("moe_topk",), "score_bias": True, "n_zero_expert": n_zero}
    fields["router_bias"] = config.flag("router_bias")
    moe = experts(config, mlp(config, "expert_ffn_hidden_size"), default=512, **fields)
    dense = Layer(mixer=latent_attention(config), ffn=mlp(config, "ffn_hidden_size"), norms=TWO_NORMS)
    block = (dense, Layer(mixer=None, ffn=moe), dense)
    n_block = config.n_layer("num_layers", default=28)
    return decoder(config, block * n_block)
