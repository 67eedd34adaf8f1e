"""Dense decoders of LLaMA's shape: RMS norms before attention and a gated MLP, grouped heads, rotary positions."""

from __future__ import annotations

from collections.abc import Callable

from suanchou.model.architecture import Architecture, Layer, Norm
from suanchou.model.config import Config, family
from suanchou.model.families.common import LAYER_NORM, attention, decoder, mlp, repeat, windows
from suanchou.model.families.defaults import EARLY, LLAMA

__all__: list[str] = []

PAIR = (Norm(), Norm())


def _full(config: Config) -> list[int | None]:
    return [None] * config.n_layer()


def _everywhere(config: Config) -> list[int | None]:
    """The same window in every layer, or none."""
    return [config.count("sliding_window") if "sliding_window" in config else None] * config.n_layer()


def _three_of_four(config: Config) -> list[int | None]:
    """Full attention in the first of every four layers."""
    return windows(config, lambda i: i % 4 != 0)


@family("llama", "granite", "helium", "iquestcoder")
def llama(config: Config) -> Architecture:
    """LLaMA 1 to 3.3 and the many models of its shape (Yi, DeepSeek LLM ...)."""
    config = config.with_defaults(LLAMA[config.text("model_type")])
    traits = {"out_bias": False} if config.text("model_type") == "helium" else {}
    layer = Layer(mixer=attention(config, **traits), ffn=mlp(config), norms=PAIR)
    return decoder(config, repeat(layer, _full(config)))


@family("internlm3")
def internlm3(config: Config) -> Architecture:
    """InternLM 3: LLaMA, with its bias keys named anew."""
    names = {"qkv_bias": "attention_bias", "bias": "mlp_bias"}
    config = config.with_defaults(LLAMA["internlm3"], names)
    return decoder(config, repeat(Layer(mixer=attention(config), ffn=mlp(config), norms=PAIR), _full(config)))


@family("mistral", "ministral", "ministral3")
def mistral(config: Config) -> Architecture:
    """Mistral: no biases, one window for all layers (Ministral: by layer)."""
    config = config.with_defaults(LLAMA[config.text("model_type")])
    mixer = attention(config, q_bias=False, kv_bias=False, out_bias=False)
    layer = Layer(mixer=mixer, ffn=mlp(config, up_bias=False, down_bias=False), norms=PAIR)
    by_layer = config.text("model_type") == "ministral" and "layer_types" in config
    return decoder(config, repeat(layer, windows(config) if by_layer else _everywhere(config)))


@family("qwen2", "qwen3")
def qwen(config: Config) -> Architecture:
    """Qwen 2, 2.5 and 3: windows in the upper layers where they are switched on; Qwen 3 normalises queries and keys."""
    config = config.with_defaults(LLAMA[config.text("model_type")])
    if config.text("model_type") == "qwen2":
        mixer = attention(config, q_bias=True, kv_bias=True, out_bias=False)
    else:
        mixer = attention(config, qk_norm="head")
    layer = Layer(mixer=mixer, ffn=mlp(config, up_bias=False, down_bias=False), norms=PAIR)
    first = config.count("max_window_layers", zero=True)
    sliding = config.flag("use_sliding_window") and "sliding_window" in config
    return decoder(config, repeat(layer, windows(config, lambda i: sliding and i >= first)))


@family("smollm3")
def smollm3(config: Config) -> Architecture:
    """SmolLM 3: every fourth layer without rotary positions."""
    config = config.with_defaults(LLAMA["smollm3"])
    period = config.count("no_rope_layer_interval")
    rotary = [bool((i + 1) % period) for i in range(config.n_layer())]
    if "no_rope_layers" in config:
        rotary = [bool(turns) for turns in config.items("no_rope_layers")]
        if len(rotary) != config.n_layer():
            raise config.wrong("no_rope_layers", f"{config.n_layer()} entries")
    sliding = config.flag("use_sliding_window") and "sliding_window" in config
    layer = Layer(mixer=attention(config), ffn=mlp(config), norms=PAIR)
    return decoder(config, repeat(layer, windows(config, lambda i: sliding and not rotary[i]), rotary))


@family("granite_swa")
def granite_swa(config: Config) -> Architecture:
    """Granite with windows and attention sinks."""
    config = config.with_defaults(LLAMA["granite_swa"])
    layer = Layer(mixer=attention(config, sinks=True), ffn=mlp(config), norms=PAIR)
    return decoder(config, repeat(layer, _three_of_four(config)))


@family("cwm")
def cwm(config: Config) -> Architecture:
    """Code World Model: LLaMA without attention biases, windows in three of four layers."""
    config = config.with_defaults(LLAMA["cwm"])
    mixer = attention(config, q_bias=False, kv_bias=False, out_bias=False)
    return decoder(config, repeat(Layer(mixer=mixer, ffn=mlp(config), norms=PAIR), _three_of_four(config)))


@family("hyperclovax")
def hyperclovax(config: Config) -> Architecture:
    """HyperCLOVA X SEED: norms after attention and MLP too."""
    config = config.with_defaults(LLAMA["hyperclovax"])
    norms = PAIR * 2 if config.flag("use_post_norm") else PAIR
    return decoder(config, repeat(Layer(mixer=attention(config), ffn=mlp(config), norms=norms), _full(config)))


@family("seed_oss")
def seed_oss(config: Config) -> Architecture:
    """Seed-OSS: the output projection's bias has a key of its own."""
    config = config.with_defaults(LLAMA["seed_oss"])
    mixer = attention(config, out_bias=config.flag("attention_out_bias"))
    return decoder(config, repeat(Layer(mixer=mixer, ffn=mlp(config), norms=PAIR), _full(config)))


@family("ernie4_5")
def ernie4_5(config: Config) -> Architecture:
    """ERNIE 4.5, dense: one key for all biases."""
    config = config.with_defaults(LLAMA["ernie4_5"])
    bias = config.flag("use_bias")
    mixer = attention(config, q_bias=bias, kv_bias=bias, out_bias=bias)
    layer = Layer(mixer=mixer, ffn=mlp(config, up_bias=bias, down_bias=bias), norms=PAIR)
    return decoder(config, repeat(layer, _full(config)))


@family("glm", "glm4")
def glm(config: Config) -> Architecture:
    """GLM-4: no bias after attention; the 0414 models (``glm4``) add norms after attention and MLP."""
    config = config.with_defaults(LLAMA[config.text("model_type")])
    norms = PAIR * 2 if config.text("model_type") == "glm4" else PAIR
    layer = Layer(mixer=attention(config, out_bias=False), ffn=mlp(config, up_bias=False, down_bias=False), norms=norms)
    return decoder(config, repeat(layer, _full(config)))


@family("hunyuan_v1_dense")
def hunyuan_dense(config: Config) -> Architecture:
    """Hunyuan, dense: queries and keys normalised by head."""
    config = config.with_defaults(LLAMA["hunyuan_v1_dense"])
    layer = Layer(mixer=attention(config, qk_norm="head"), ffn=mlp(config, up_bias=False, down_bias=False), norms=PAIR)
    return decoder(config, repeat(layer, _full(config)))


@family("arcee")
def arcee(config: Config) -> Architecture:
    """AFM: LLaMA with an ungated MLP."""
    config = config.with_defaults(LLAMA["arcee"])
    return decoder(config, repeat(Layer(mixer=attention(config), ffn=mlp(config, gated=False), norms=PAIR), _full(config)))


@family("nanochat")
def nanochat(config: Config) -> Architecture:
    """nanochat: norms without weights, ungated MLP without biases."""
    config = config.with_defaults(LLAMA["nanochat"])
    bare = Norm(weight=False)
    layer = Layer(
        mixer=attention(config, qk_norm="head", qk_norm_weight=False),
        ffn=mlp(config, gated=False, up_bias=False, down_bias=False),
        norms=(bare, bare),
    )
    return decoder(config, repeat(layer, _full(config)), {"final_norm": bare})


def _layer_norm_llama(model_type: str, build: Callable[[Config], Layer]) -> None:
    @family(model_type)
    def builder(config: Config) -> Architecture:
        config = config.with_defaults(EARLY[model_type])
        return decoder(config, repeat(build(config), _everywhere(config)), {"final_norm": LAYER_NORM})


_layer_norm_llama(
    "nemotron",
    lambda c: Layer(mixer=attention(c), ffn=mlp(c, gated=False), norms=(LAYER_NORM, LAYER_NORM)),
)
_layer_norm_llama(
    "jais2",
    lambda c: Layer(mixer=attention(c), ffn=mlp(c, gated=False), norms=(LAYER_NORM, LAYER_NORM)),
)
