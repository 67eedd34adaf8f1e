"""Mixtures of experts with grouped-query attention."""

from __future__ import annotations

from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import MLP, Architecture, Attention, Layer, MoE, Norm, Weight
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import (
    attention,
    decoder,
    dense_first,
    experts,
    head_width,
    mlp,
    next_token_head,
    periodic_experts,
    sizes,
    sliding_or_full,
    with_defaults,
)

__all__: list[str] = []

TWO_NORMS = (Norm(), Norm())
LAYER_NORMS = (Norm(kind="layer", bias=True), Norm(kind="layer", bias=True))
MTP_KEYS = ("num_nextn_predict_layers", "num_mtp_layers")


def _window(config: Config) -> int | None:
    return config.count("sliding_window") if "sliding_window" in config else None


def _uniform(config: Config, layer: Layer, **fields: Any) -> Architecture:
    return decoder(config, (layer,) * config.n_layer(), **fields)


@family("mixtral")
def mixtral(config: Config) -> Architecture:
    """Mixtral."""
    config = with_defaults(config, **sizes(32000, 4096, 14336, 32, 32, 8, 131072, num_experts_per_tok=2))
    moe = experts(config, mlp(config), default=8)
    return _uniform(config, Layer(mixer=attention(config, window=_window(config)), ffn=moe, norms=TWO_NORMS))


@family("minimax_m2")
def minimax_m2(config: Config) -> Architecture:
    """MiniMax-M2: one norm over all queries, one over all keys."""
    usual = sizes(200064, 3072, 1536, 62, 48, 8, 196608, head_dim=128, num_experts_per_tok=8)
    config = with_defaults(config, **usual)
    moe = experts(config, mlp(config), default=256, score_bias=True)
    layer = Layer(mixer=attention(config, qk_norm="full"), ffn=moe, norms=TWO_NORMS)
    return _uniform(config, layer)


@family("olmoe", "flex_olmo")
def olmoe(config: Config) -> Architecture:
    """OLMoE (norms before the blocks) and FlexOlmo (norms after them): norms over all queries and all keys."""
    usual = {
        "olmoe": sizes(50304, 2048, 2048, 16, 16, None, 4096, num_experts_per_tok=8, num_experts=64),
        "flex_olmo": sizes(100352, 4096, 11008, 32, 32, None, 4096, num_experts_per_tok=5, num_experts=7),
    }[config.text("model_type")]
    n_default = usual.pop("num_experts")
    config = with_defaults(config, **usual)
    mixer = attention(config, bias=config.flag("attention_bias"), qk_norm="full")
    moe = experts(config, mlp(config), default=n_default)
    return _uniform(config, Layer(mixer=mixer, ffn=moe, norms=TWO_NORMS))


@family("phimoe")
def phimoe(config: Config) -> Architecture:
    """Phi-3.5-MoE: LayerNorm with biases."""
    config = with_defaults(config, **sizes(32064, 4096, 6400, 32, 32, 8, 131072, num_experts_per_tok=2))
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias"), window=_window(config)),
        ffn=experts(config, mlp(config), default=16),
        norms=LAYER_NORMS,
    )
    return _uniform(config, layer, final_norm=Norm(kind="layer", bias=True), head_bias=config.flag("lm_head_bias"))


@family("granitemoe", "granitemoeshared", "granitemoe_swa")
def granitemoe(config: Config) -> Architecture:
    """Granite mixtures of experts: plain, with a shared expert, and with sliding windows and attention sinks."""
    usual = sizes(32000, 4096, 11008, 32, 32, None, 2048, num_experts_per_tok=2, sliding_window=128)
    config = with_defaults(config, **usual)
    model_type = config.text("model_type")
    d_shared = 0 if model_type == "granitemoe" else config.count("shared_intermediate_size", default=0, zero=True)
    moe = experts(config, mlp(config), default=8, shared=MLP(d_ff=d_shared) if d_shared else None)
    n_layer = config.n_layer()
    sliding = model_type == "granitemoe_swa"
    windows = sliding_or_full(config, n_layer, [i % 4 != 0 for i in range(n_layer)]) if sliding else [None] * n_layer
    bias = config.flag("attention_bias")
    layers = {
        window: Layer(mixer=attention(config, bias=bias, window=window, sinks=sliding), ffn=moe, norms=TWO_NORMS)
        for window in set(windows)
    }
    return decoder(config, [layers[window] for window in windows])


@family("qwen2_moe", "qwen3_moe", "qwen3_vl_moe_text")
def qwen_moe(config: Config) -> Architecture:
    """Qwen1.5/2 mixtures (gated shared expert, biases on q, k, v) and Qwen3's (no shared expert, norms on each head)."""
    old = config.text("model_type") == "qwen2_moe"
    usual = {
        "qwen2_moe": sizes(151936, 2048, 5632, 24, 16, 16, 32768, moe_intermediate_size=1408, num_experts_per_tok=4),
        "qwen3_moe": sizes(151936, 2048, 6144, 24, 32, 4, 32768, moe_intermediate_size=768, num_experts_per_tok=8),
        "qwen3_vl_moe_text": sizes(151936, 2048, 5632, 24, 16, 16, 128000, moe_intermediate_size=1408, num_experts_per_tok=4),
    }[config.text("model_type")]
    config = with_defaults(config, sliding_window=4096, shared_expert_intermediate_size=5632, max_window_layers=28, **usual)
    n_layer = config.n_layer()
    expert = mlp(config, "moe_intermediate_size")
    n_default = 128 if config.text("model_type") == "qwen3_moe" else 60
    if old:
        shared = mlp(config, "shared_expert_intermediate_size")
        moe = experts(config, expert, default=n_default, shared=shared, shared_gate=True)
        bias = config.flag("qkv_bias", True)
        fields: dict[str, Any] = {"q_bias": bias, "kv_bias": bias}
    else:
        moe = experts(config, expert, default=n_default)
        fields = {"bias": config.flag("attention_bias"), "qk_norm": "head"}
    sliding = config.flag("use_sliding_window") and "sliding_window" in config
    if old:
        n_window = config.count("max_window_layers", zero=True)
        pattern = [sliding and i % 2 == 0 and i < n_window for i in range(n_layer)]
        windows = sliding_or_full(config, n_layer, pattern)
    else:
        windows = [_window(config) if sliding else None] * n_layer
    dense = mlp(config) if "intermediate_size" in config else None
    sparse = periodic_experts(config, n_layer)
    if dense is None and not all(sparse):
        raise SpecError("missing", where=f"{config.where}: intermediate_size", hint="some layers hold no experts")
    kinds = {
        (window, has): Layer(mixer=attention(config, window=window, **fields), ffn=moe if has else dense, norms=TWO_NORMS)
        for window, has in set(zip(windows, sparse, strict=True))
    }
    return decoder(config, [kinds[kind] for kind in zip(windows, sparse, strict=True)])


@family("glm4_moe", "glm4v_moe_text", "solar_open", "dots1", "hy_v3")
def glm4_moe(config: Config) -> Architecture:
    """GLM-4.5 and its like: dense first layers, a shared expert, routing by corrected scores in groups."""
    model_type = config.text("model_type")
    usual: dict[str, Any] = {
        "glm4_moe": sizes(151552, 4096, 10944, 46, 96, 8, 131072, moe_intermediate_size=1408, first_k_dense_replace=1),
        "glm4v_moe_text": sizes(
            151424, 4096, 10944, 46, 96, 8, 65536, moe_intermediate_size=1408, first_k_dense_replace=1, attention_bias=True
        ),
        "solar_open": sizes(196608, 4096, None, 48, 64, 8, 131072, moe_intermediate_size=1280, head_dim=128),
        "dots1": sizes(152064, 4608, 10944, 62, 32, 32, 2048, moe_intermediate_size=1408, sliding_window=4096),
        "hy_v3": sizes(
            120832, 4096, 13312, 80, 64, 8, 131072, moe_intermediate_size=1536, head_dim=128, first_k_dense_replace=1
        ),
    }[model_type]
    if model_type != "dots1":
        usual |= {"num_experts_per_tok": 8}
    config = with_defaults(config, **usual)
    n_layer = config.n_layer()
    bias = config.flag("attention_bias")
    head_norm = model_type in ("dots1", "hy_v3") or (model_type == "glm4_moe" and config.flag("use_qk_norm"))
    fields: dict[str, Any] = {
        "q_bias": bias,
        "kv_bias": bias,
        "out_bias": bias and model_type in ("dots1", "hy_v3"),
        "qk_norm": "head" if head_norm else "none",
    }
    sparse = [True] * n_layer if model_type == "solar_open" else dense_first(config, n_layer)
    n_window = config.count("max_window_layers", default=62, zero=True)
    late = ["sliding_window" in config and i >= n_window for i in range(n_layer)]
    windows = sliding_or_full(config, n_layer, late) if model_type == "dots1" else [None] * n_layer
    mlp_bias = model_type == "hy_v3" and config.flag("mlp_bias")
    n_default, n_shared_default = {"hy_v3": (192, 1), "dots1": (None, 0)}.get(model_type, (128, 1))
    moe = _grouped_moe(config, n_default, n_shared_default, mlp_bias)
    dense = mlp(config, bias=mlp_bias) if not all(sparse) else None
    layers = [
        Layer(mixer=attention(config, window=window, **fields), ffn=moe if has else dense, norms=TWO_NORMS)
        for window, has in zip(windows, sparse, strict=True)
    ]
    return decoder(config, layers, **next_token_head(config, layers[-1], *MTP_KEYS))


def _grouped_moe(config: Config, n_default: int | None, n_shared_default: int, shared_bias: bool) -> MoE:
    """Routed experts in groups and shared ones, all of width ``moe_intermediate_size``, with corrected scores."""
    n_shared = config.count("n_shared_experts", "num_shared_experts", default=n_shared_default, zero=True)
    return experts(
        config,
        mlp(config, "moe_intermediate_size"),
        default=n_default,
        shared=mlp(config, "moe_intermediate_size", bias=shared_bias, times=n_shared) if n_shared else None,
        score_bias=True,
        n_group=config.count("n_group", default=1),
        top_group=config.count("topk_group", default=1),
    )


@family("gpt_oss")
def gpt_oss(config: Config) -> Architecture:
    """gpt-oss: sinks and biases everywhere, every second layer sliding."""
    usual = sizes(201088, 2880, 2880, 36, 64, 8, 131072, head_dim=64, sliding_window=128, num_experts_per_tok=4)
    config = with_defaults(config, **usual)
    n_layer = config.n_layer()
    moe = experts(config, mlp(config, bias=True), default=128, router_bias=True)
    bias = config.flag("attention_bias", True)
    layers = {
        window: Layer(mixer=attention(config, bias=bias, window=window, sinks=True), ffn=moe, norms=TWO_NORMS)
        for window in (_window(config), None)
    }
    windows = sliding_or_full(config, n_layer, [i % 2 == 0 for i in range(n_layer)])
    return decoder(config, [layers[window] for window in windows])


@family("dbrx")
def dbrx(config: Config) -> Architecture:
    """DBRX: sizes in nested ``attn_config`` and ``ffn_config``, LayerNorm without biases."""
    attn, ffn = config.section("attn_config"), config.section("ffn_config")
    d_model = config.count("d_model", "hidden_size", default=2048)
    n_head = config.count("n_heads", "num_attention_heads", default=16)
    names = {"hidden_size": d_model, "num_attention_heads": n_head, "num_key_value_heads": attn.count("kv_n_heads", default=1)}
    usual = with_defaults(config, vocab_size=32000)
    usual = usual.replaced(**names, head_dim=None)
    expert = MLP(d_ff=ffn.count("ffn_hidden_size", default=3584))
    ffn = with_defaults(ffn, moe_top_k=1)
    moe = experts(ffn, expert, n=("moe_num_experts",), top_k=("moe_top_k",), default=4)
    norm = Norm(kind="layer")
    layer = Layer(mixer=attention(usual), ffn=moe, norms=(norm, norm))
    n_layer = config.n_layer("n_layers", "num_hidden_layers", default=24)
    max_position = config.count("max_seq_len", "max_position_embeddings", default=2048)
    return decoder(usual, (layer,) * n_layer, final_norm=norm, max_position=max_position)


@family("jetmoe")
def jetmoe(config: Config) -> Architecture:
    """JetMoE: query and output projections are experts too; a token visits ``top_k`` of them, one per group of heads."""
    usual = sizes(32000, 2048, 5632, 12, 32, 16, 4096, kv_channels=128, num_experts_per_tok=2, tie_word_embeddings=True)
    config = with_defaults(config, **usual)
    d_model, d_head = config.count("hidden_size"), config.count("kv_channels")
    n_kv_head = config.count("num_key_value_heads")
    moe = experts(config, mlp(config), default=8)
    # The chosen experts' projections side by side are those of one attention; the others stand beside it.
    idle = moe.n_expert - moe.top_k
    extra = (
        Weight(
            name="attention.q.others", shape=(idle, n_kv_head * d_head, d_model), role="attention", shard="column", idle=True
        ),
        Weight(
            name="attention.out.others", shape=(idle, d_model, n_kv_head * d_head), role="attention", shard="row", idle=True
        ),
        Weight(name="attention.router", shape=(moe.n_expert, d_model), role="router"),
        Weight(name="attention.bias", shape=(d_model,), role="attention"),
        Weight(name="moe.bias", shape=(d_model,), role="mlp"),
    )
    mixer = Attention(n_head=n_kv_head * moe.top_k, n_kv_head=n_kv_head, d_head=d_head)
    return _uniform(config, Layer(mixer=mixer, ffn=moe, norms=TWO_NORMS, extra=extra if idle else extra[2:]))


@family("hunyuan_v1_moe")
def hunyuan_v1_moe(config: Config) -> Architecture:
    """Hunyuan-A13B and Hunyuan-Large: a shared MLP as wide as an expert; counts may stand once or per layer."""
    config = with_defaults(config, **sizes(290943, 4096, 11008, 32, 32, None, 2048))
    n_layer = config.n_layer()
    n_expert = _same_in_all_layers(config, n_layer, "num_experts", "num_local_experts")
    top_k = _same_in_all_layers(config, n_layer, "moe_topk", "num_experts_per_tok")
    if top_k > n_expert:
        raise SpecError(f"{top_k} active experts of {n_expert} is impossible", where=f"{config.where}: moe_topk")
    moe = MoE(n_expert=n_expert, top_k=top_k, expert=mlp(config), shared=mlp(config))
    mixer = attention(config, bias=config.flag("attention_bias"), d_head=head_width(config), qk_norm="head")
    return _uniform(config, Layer(mixer=mixer, ffn=moe, norms=TWO_NORMS))


def _same_in_all_layers(config: Config, n_layer: int, *keys: str) -> int:
    """A count (1 where absent) that may also stand as a list of one equal entry per layer."""
    for key in keys:
        if isinstance(config.raw(key), list):
            values = config.items(key)
            if len(values) != n_layer or any(value != values[0] for value in values):
                raise SpecError("expected one count for all layers", where=f"{config.where}: {key}")
            return Config({key: values[0]}, config.where).count(key)
    return config.count(*keys, default=1)


@family("ernie4_5_moe")
def ernie4_5_moe(config: Config) -> Architecture:
    """ERNIE 4.5: experts in every ``moe_layer_interval``-th layer from ``moe_layer_start_index`` to the end index."""
    usual = sizes(103424, 2560, 12288, 28, 20, 4, 131072, moe_intermediate_size=1536, tie_word_embeddings=True)
    usual |= {"moe_k": None, "moe_layer_end_index": -1}
    config = with_defaults(config, **usual)
    n_layer = config.n_layer()
    bias = config.flag("use_bias")
    n_shared = config.count("moe_num_shared_experts", default=2, zero=True)
    moe = MoE(
        n_expert=config.count("moe_num_experts", "num_experts", default=64),
        top_k=config.count("moe_k", "num_experts_per_tok", default=6),
        expert=mlp(config, "moe_intermediate_size"),
        shared=mlp(config, "moe_intermediate_size", bias=bias, times=n_shared) if n_shared else None,
        score_bias=True,
        score_bias_trained=True,
    )
    first, step = config.count("moe_layer_start_index", default=1, zero=True), config.count("moe_layer_interval", default=1)
    last = n_layer - 1 if config.raw("moe_layer_end_index") == -1 else config.count("moe_layer_end_index", zero=True)
    mixer = attention(config, bias=bias)
    layers = [
        Layer(mixer=mixer, ffn=moe if (i + 1) % step == 0 and first <= i <= last else mlp(config, bias=bias), norms=TWO_NORMS)
        for i in range(n_layer)
    ]
    return decoder(config, layers, head_bias=bias)
