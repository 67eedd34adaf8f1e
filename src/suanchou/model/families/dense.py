"""Dense decoders of LLaMA's shape: norms before attention and MLP, grouped heads, rotary positions."""

from __future__ import annotations

from dataclasses import replace

from suanchou.model.architecture import Architecture, Layer, Norm, Weight
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import (
    attention,
    decoder,
    layer_kinds,
    mlp,
    sizes,
    sliding_or_full,
    windowed,
    with_defaults,
)

__all__: list[str] = []

TWO_NORMS = (Norm(), Norm())
LAYER_NORM = Norm(kind="layer", bias=True)


def _every_layer(config: Config) -> list[int | None]:
    """One window for all layers, or none."""
    return [config.count("sliding_window") if "sliding_window" in config else None] * config.n_layer()


@family("llama", "granite", "helium", "iquestcoder", "hyperclovax")
def llama(config: Config) -> Architecture:
    """LLaMA 1 to 3.3 and the many models of its shape (Yi, DeepSeek LLM ...); HyperCLOVA X adds norms after the blocks."""
    usual = {
        "llama": sizes(32000, 4096, 11008, 32, 32, None, 2048),
        "granite": sizes(32000, 4096, 11008, 32, 32, None, 2048),
        "helium": sizes(48000, 2560, 7040, 24, 20, 20, 4096, head_dim=128),
        "iquestcoder": sizes(76800, 5120, 27648, 80, 40, 8, 131072, head_dim=128),
        "hyperclovax": sizes(32000, 4096, 11008, 32, 32, None, 2048, use_post_norm=True),
    }[config.text("model_type")]
    config = with_defaults(config, **usual)
    mixer = attention(config, bias=config.flag("attention_bias"))
    if config.text("model_type") == "helium":
        mixer = attention(config, bias=config.flag("attention_bias"), out_bias=False)
    norms = TWO_NORMS * 2 if config.flag("use_post_norm") else TWO_NORMS
    layer = Layer(mixer=mixer, ffn=mlp(config, bias=config.flag("mlp_bias")), norms=norms)
    return decoder(config, (layer,) * config.n_layer())


@family("internlm3")
def internlm3(config: Config) -> Architecture:
    """InternLM 3: LLaMA, with names of its own for the biases."""
    config = config.with_defaults(
        sizes(128512, 4096, 10240, 48, 32, 2, 32768, head_dim=128), {"qkv_bias": "attention_bias", "bias": "mlp_bias"}
    )
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias"), out_bias=config.flag("mlp_bias")),
        ffn=mlp(config, bias=config.flag("mlp_bias")),
        norms=TWO_NORMS,
    )
    return decoder(config, (layer,) * config.n_layer())


@family("mistral", "ministral", "ministral3", "phi3")
def mistral(config: Config) -> Architecture:
    """Mistral and Phi-3: no biases, one window for all layers (Ministral: by layer)."""
    model_type = config.text("model_type")
    usual = {
        "mistral": sizes(32000, 4096, 14336, 32, 32, 8, 131072, sliding_window=4096),
        "ministral": sizes(32000, 4096, 14336, 32, 32, 8, 131072, sliding_window=4096),
        "ministral3": sizes(131072, 4096, 14336, 34, 32, 8, 262144, head_dim=128),
        "phi3": sizes(32064, 3072, 8192, 32, 32, None, 4096),
    }[model_type]
    config = with_defaults(config, **usual)
    layer = Layer(mixer=attention(config), ffn=mlp(config), norms=TWO_NORMS)
    window = _every_layer(config)
    if model_type == "ministral":
        window = sliding_or_full(config, config.n_layer(), [width is not None for width in window])
    return decoder(config, windowed(layer, window))


@family("qwen2", "qwen3")
def qwen(config: Config) -> Architecture:
    """Qwen 2, 2.5 and 3: windows in the upper layers where they are switched on; Qwen 3 normalises queries and keys."""
    usual = sizes(151936, 4096, 22016, 32, 32, 32, 32768, sliding_window=4096, max_window_layers=28)
    if config.text("model_type") == "qwen2":
        config = with_defaults(config, **usual)
        mixer = attention(config, bias=True, out_bias=False)
    else:
        config = with_defaults(config, **usual, head_dim=128)
        mixer = attention(config, bias=config.flag("attention_bias"), qk_norm="head")
    layer = Layer(mixer=mixer, ffn=mlp(config), norms=TWO_NORMS)
    n_layer, first = config.n_layer(), config.count("max_window_layers", default=28, zero=True)
    on = config.flag("use_sliding_window") and "sliding_window" in config
    return decoder(config, windowed(layer, sliding_or_full(config, n_layer, [on and i >= first for i in range(n_layer)])))


@family("smollm3")
def smollm3(config: Config) -> Architecture:
    """SmolLM 3: some layers, by default every fourth, without rotary positions."""
    usual = sizes(128256, 2048, 11008, 36, 16, 4, 32768, no_rope_layer_interval=4, tie_word_embeddings=True)
    config = with_defaults(config, **usual)
    n_layer, period = config.n_layer(), config.count("no_rope_layer_interval")
    rotary = [bool((i + 1) % period) for i in range(n_layer)]
    if "no_rope_layers" in config:
        rotary = [bool(flag) for flag in config.items("no_rope_layers")]
        if len(rotary) != n_layer:
            raise config.wrong("no_rope_layers", f"{n_layer} entries")
    on = config.flag("use_sliding_window") and "sliding_window" in config
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias")),
        ffn=mlp(config, bias=config.flag("mlp_bias")),
        norms=TWO_NORMS,
    )
    return decoder(config, windowed(layer, sliding_or_full(config, n_layer, [on and not flag for flag in rotary]), rotary))


@family("granite_swa", "cwm")
def three_of_four(config: Config) -> Architecture:
    """Granite with attention sinks, and Code World Model: windows in three of four layers."""
    if config.text("model_type") == "granite_swa":
        usual = sizes(100352, 2560, 8192, 24, 20, 4, 8192, sliding_window=128, tie_word_embeddings=True)
        config = with_defaults(config, **usual)
        mixer = attention(config, bias=config.flag("attention_bias"), sinks=True)
    else:
        config = with_defaults(config, **sizes(128256, 6144, 21504, 64, 48, 8, 131072, head_dim=128, sliding_window=8192))
        mixer = attention(config)
    n_layer = config.n_layer()
    layer = Layer(mixer=mixer, ffn=mlp(config, bias=config.flag("mlp_bias")), norms=TWO_NORMS)
    return decoder(config, windowed(layer, sliding_or_full(config, n_layer, [bool(i % 4) for i in range(n_layer)])))


@family("seed_oss")
def seed_oss(config: Config) -> Architecture:
    """Seed-OSS: the output projection's bias has a key of its own."""
    config = with_defaults(config, **sizes(155136, 4096, 27648, 64, 80, 8, 524288, head_dim=128, attention_bias=True))
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias"), out_bias=config.flag("attention_out_bias")),
        ffn=mlp(config, bias=config.flag("mlp_bias")),
        norms=TWO_NORMS,
    )
    return decoder(config, (layer,) * config.n_layer())


@family("ernie4_5")
def ernie4_5(config: Config) -> Architecture:
    """ERNIE 4.5, dense: one key for all biases."""
    usual = sizes(103424, 1024, 3072, 18, 16, 2, 131072, head_dim=128, tie_word_embeddings=True)
    config = with_defaults(config, **usual)
    bias = config.flag("use_bias")
    layer = Layer(mixer=attention(config, bias=bias), ffn=mlp(config, bias=bias), norms=TWO_NORMS)
    return decoder(config, (layer,) * config.n_layer())


@family("glm", "glm4")
def glm(config: Config) -> Architecture:
    """GLM-4: no bias after attention; the 0414 models (``glm4``) add norms after attention and MLP."""
    config = with_defaults(config, **sizes(151552, 4096, 13696, 40, 32, 2, 131072, head_dim=128, attention_bias=True))
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias"), out_bias=False),
        ffn=mlp(config),
        norms=TWO_NORMS * 2 if config.text("model_type") == "glm4" else TWO_NORMS,
    )
    return decoder(config, (layer,) * config.n_layer())


@family("hunyuan_v1_dense")
def hunyuan_dense(config: Config) -> Architecture:
    """Hunyuan, dense: queries and keys normalised by head."""
    config = with_defaults(config, **sizes(290943, 4096, 11008, 32, 32, None, 2048))
    mixer = attention(config, bias=config.flag("attention_bias"), qk_norm="head")
    return decoder(config, (Layer(mixer=mixer, ffn=mlp(config), norms=TWO_NORMS),) * config.n_layer())


@family("arcee", "nemotron", "jais2")
def ungated(config: Config) -> Architecture:
    """AFM, Nemotron and Jais 2: an MLP of two matrices; the latter two with LayerNorm."""
    model_type = config.text("model_type")
    usual = {
        "arcee": sizes(32000, 2560, 18432, 32, 32, None, 4096),
        "nemotron": sizes(256000, 6144, 24576, 32, 48, None, 4096),
        "jais2": sizes(150272, 3328, 26624, 32, 26, None, 8192, attention_bias=True, mlp_bias=True),
    }[model_type]
    config = with_defaults(config, **usual, hidden_act="relu2")
    norm = Norm() if model_type == "arcee" else LAYER_NORM
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias")),
        ffn=mlp(config, bias=config.flag("mlp_bias"), gated=False),
        norms=(norm, norm),
    )
    return decoder(config, (layer,) * config.n_layer(), final_norm=norm)


@family("nanochat")
def nanochat(config: Config) -> Architecture:
    """nanochat: norms without weights, an MLP of two matrices."""
    config = with_defaults(config, **sizes(50304, 768, 8192, 12, 6, None, 2048, hidden_act="relu2"))
    bare = Norm(weight=False)
    mixer = attention(config, bias=config.flag("attention_bias"), qk_norm="head", qk_norm_weight=False)
    layer = Layer(mixer=mixer, ffn=mlp(config, gated=False), norms=(bare, bare))
    return decoder(config, (layer,) * config.n_layer(), final_norm=bare)


@family("modernbert-decoder")
def modernbert_decoder(config: Config) -> Architecture:
    """ModernBERT's decoder: a norm after the embedding in place of the first one, and a dense layer before the head."""
    usual = sizes(50368, 768, 1152, 22, 12, None, 8192, local_attention=128, decoder_bias=True, tie_word_embeddings=True)
    config = config.with_defaults(usual, {"hidden_activation": "hidden_act"})
    n_layer, d_model = config.n_layer(), config.count("hidden_size")
    norm = Norm(kind="layer", bias=config.flag("norm_bias"))
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias")),
        ffn=mlp(config, bias=config.flag("mlp_bias")),
        norms=(norm, norm),
    )
    every = config.count("global_attn_every_n_layers", default=3)
    known = ("sliding_attention", "full_attention")
    kinds = layer_kinds(config, n_layer, [known[i % every == 0] for i in range(n_layer)], known)
    half = max(1, config.count("local_attention") // 2)
    layers = list(windowed(layer, [half if kind == known[0] else None for kind in kinds]))
    layers[0] = replace(layers[0], norms=(norm,))
    dense = [Weight(name="head.dense", shape=(d_model, d_model), role="head")]
    if config.flag("classifier_bias"):
        dense.append(Weight(name="head.dense.bias", shape=(d_model,), role="head"))
    for part in ("weight", "bias") if norm.bias else ("weight",):
        dense.append(Weight(name=f"head.norm.{part}", shape=(d_model,), role="norm"))
    return decoder(
        config, layers, final_norm=norm, embedding_norm=norm, extra=tuple(dense), head_bias=config.flag("decoder_bias")
    )
