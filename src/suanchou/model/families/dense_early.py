"""Dense decoders before LLaMA, and those that kept their ways: LayerNorm, biases, learned positions, ALiBi, parallel blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import Architecture, Layer, Norm
from suanchou.model.config import Config, family, short
from suanchou.model.families.blocks import attention, decoder, mlp, sizes, windowed, with_defaults

__all__: list[str] = []

LAYER_NORM = Norm(kind="layer", bias=True)
TWO_NORMS = (LAYER_NORM, LAYER_NORM)
GPT2_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "activation_function": "hidden_act",
}


def _renamed(config: Config, names: dict[str, str], usual: dict[str, Any]) -> Config:
    """The configuration under the usual names; an MLP without a width of its own is four times as wide as the model.

    These families have no width of a head of their own, and one KV head per query head unless their builder says otherwise.
    """
    config = config.with_defaults(usual, names)
    if "intermediate_size" not in config:
        config = config.replaced(intermediate_size=4 * config.count("hidden_size"))
    return config.replaced(head_dim=None, num_key_value_heads=None)


@family("gpt2", "openai-gpt", "gpt_bigcode")
def gpt2(config: Config) -> Architecture:
    """GPT, GPT-2 (and GPT-3's shape) and SantaCoder, StarCoder: biases everywhere, learned positions, tied embeddings."""
    model_type = config.text("model_type")
    usual = {
        "gpt2": sizes(50257, 768, None, 12, 12, None, 1024, hidden_act="gelu_new"),
        "openai-gpt": sizes(40478, 768, None, 12, 12, None, 512, hidden_act="gelu"),
        "gpt_bigcode": sizes(50257, 768, None, 12, 12, None, 1024, hidden_act="gelu_pytorch_tanh", multi_query=True),
    }[model_type]
    config = _renamed(config, GPT2_NAMES, usual | {"tie_word_embeddings": True})
    if model_type == "openai-gpt":
        config = config.replaced(intermediate_size=4 * config.count("hidden_size"))
    if config.flag("add_cross_attention"):
        raise SpecError(
            "a decoder that reads an encoder of another file", where=config.where, hint="add_cross_attention: false"
        )
    one = {"n_kv_head": 1} if config.flag("multi_query") else {}
    layer = Layer(
        mixer=attention(config, bias=True, rotary=False, **one), ffn=mlp(config, bias=True, gated=False), norms=TWO_NORMS
    )
    return decoder(
        config,
        (layer,) * config.n_layer(),
        n_position=config.count("max_position_embeddings"),
        final_norm=None if model_type == "openai-gpt" else LAYER_NORM,
    )


@family("gptj", "codegen")
def gptj(config: Config) -> Architecture:
    """GPT-J and CodeGen: attention beside the MLP under one norm, biases only in the MLP and the head."""
    config = _renamed(config, GPT2_NAMES, sizes(50400, 4096, None, 28, 16, None, 2048, hidden_act="gelu_new"))
    layer = Layer(mixer=attention(config), ffn=mlp(config, bias=True, gated=False), norms=(LAYER_NORM,), parallel=True)
    return decoder(config, (layer,) * config.n_layer(), final_norm=LAYER_NORM, head_bias=True)


@family("gpt_neo")
def gpt_neo(config: Config) -> Architecture:
    """GPT-Neo: alternately all positions and a window of 256."""
    names = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads", "activation_function": "hidden_act"}
    usual = sizes(50257, 2048, None, 24, 16, None, 2048, window_size=256, tie_word_embeddings=True, hidden_act="gelu_new")
    config = _renamed(config, names, usual)
    n_layer = config.n_layer()
    kinds = _gpt_neo_kinds(config, n_layer)
    layer = Layer(
        mixer=attention(config, out_bias=True, rotary=False), ffn=mlp(config, bias=True, gated=False), norms=TWO_NORMS
    )
    layers = windowed(layer, [config.count("window_size") if kind == "local" else None for kind in kinds])
    return decoder(config, layers, final_norm=LAYER_NORM, n_position=config.count("max_position_embeddings"))


def _gpt_neo_kinds(config: Config, n_layer: int) -> list[str]:
    """``global`` or ``local`` per layer, from ``attention_types``: groups of kinds with how often each repeats."""
    kinds: list[str] = []
    for group in config.items("attention_types") or [[["global", "local"], 12]]:
        if not isinstance(group, list) or len(group) != 2 or not isinstance(group[0], list):
            raise config.wrong("attention_types", "groups such as [[global, local], 12]")
        times = Config({"attention_types": group[1]}, config.where).n_layer("attention_types")
        if len(group[0]) * times > n_layer:
            raise SpecError(f"attention types for more than {n_layer} layers", where=f"{config.where}: attention_types")
        kinds += group[0] * times
    if len(kinds) != n_layer:
        raise SpecError(f"attention types for {len(kinds)} of {n_layer} layers", where=f"{config.where}: attention_types")
    for kind in kinds:
        if kind not in ("global", "local"):
            raise SpecError(f"unknown attention type {short(kind)}", where=f"{config.where}: attention_types")
    return kinds


@family("gpt_neox")
def gpt_neox(config: Config) -> Architecture:
    """GPT-NeoX and Pythia: two norms, attention beside the MLP."""
    usual = sizes(50432, 6144, 24576, 44, 64, None, 2048, attention_bias=True, use_parallel_residual=True, hidden_act="gelu")
    config = _renamed(config, {}, usual)
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias")),
        ffn=mlp(config, bias=True, gated=False),
        norms=TWO_NORMS,
        parallel=config.flag("use_parallel_residual"),
    )
    return decoder(config, (layer,) * config.n_layer(), final_norm=LAYER_NORM)


@family("gpt_neox_japanese")
def gpt_neox_japanese(config: Config) -> Architecture:
    """GPT-NeoX Japanese: no biases, but one after the last attention."""
    usual = sizes(32000, 2560, None, 32, 32, None, 2048, tie_word_embeddings=True, hidden_act="gelu")
    config = _renamed(config, {}, usual)
    times = config.count("intermediate_multiple_size", default=4)
    config = config.replaced(intermediate_size=times * config.count("hidden_size"))
    layer = Layer(mixer=attention(config), ffn=mlp(config, gated=False), norms=TWO_NORMS)
    last = replace(layer, mixer=attention(config, out_bias=True))
    return decoder(config, (*(layer,) * (config.n_layer() - 1), last), final_norm=LAYER_NORM)


@family("opt")
def opt(config: Config) -> Architecture:
    """OPT: learned positions (two more than the context, a habit of its training code); a narrow embedding in the 350M."""
    usual = sizes(50272, 768, 3072, 12, 12, None, 2048, tie_word_embeddings=True, hidden_act="relu")
    config = _renamed(config, {"ffn_dim": "intermediate_size", "activation_function": "hidden_act"}, usual)
    bias, affine = config.flag("enable_bias", True), config.flag("layer_norm_elementwise_affine", True)
    norm = Norm(kind="layer", weight=affine, bias=affine)
    layer = Layer(mixer=attention(config, bias=bias, rotary=False), ffn=mlp(config, bias=bias, gated=False), norms=(norm, norm))
    ends = config.flag("do_layer_norm_before", True) and not config.flag("_remove_final_layer_norm")
    return decoder(
        config,
        (layer,) * config.n_layer(),
        final_norm=norm if ends else None,
        n_position=config.count("max_position_embeddings") + 2,
        d_embed=config.count("word_embed_proj_dim", default=config.count("hidden_size")),
    )


@family("xglm", "biogpt")
def fairseq(config: Config) -> Architecture:
    """XGLM (positions computed) and BioGPT (positions learned, two more than the context)."""
    names = {
        "d_model": "hidden_size",
        "num_layers": "num_hidden_layers",
        "attention_heads": "num_attention_heads",
        "ffn_dim": "intermediate_size",
        "activation_function": "hidden_act",
    }
    usual = {
        "xglm": sizes(256008, 1024, 4096, 24, 16, None, 2048),
        "biogpt": sizes(42384, 1024, 4096, 24, 16, None, 1024),
    }[config.text("model_type")]
    config = _renamed(config, names, usual | {"tie_word_embeddings": True, "hidden_act": "gelu"})
    if config.flag("add_cross_attention"):
        raise SpecError(
            "a decoder that reads an encoder of another file", where=config.where, hint="add_cross_attention: false"
        )
    layer = Layer(mixer=attention(config, bias=True, rotary=False), ffn=mlp(config, bias=True, gated=False), norms=TWO_NORMS)
    learned = config.count("max_position_embeddings") + 2 if config.text("model_type") == "biogpt" else 0
    return decoder(config, (layer,) * config.n_layer(), final_norm=LAYER_NORM, n_position=learned)


@family("ctrl")
def ctrl(config: Config) -> Architecture:
    """CTRL: computed positions, biases everywhere, the head's too."""
    usual = sizes(246534, 1280, 8192, 48, 16, None, 256, tie_word_embeddings=True, hidden_act="relu")
    config = _renamed(config, GPT2_NAMES | {"dff": "intermediate_size"}, usual)
    layer = Layer(mixer=attention(config, bias=True, rotary=False), ffn=mlp(config, bias=True, gated=False), norms=TWO_NORMS)
    return decoder(config, (layer,) * config.n_layer(), final_norm=LAYER_NORM, head_bias=True)


@family("bloom")
def bloom(config: Config) -> Architecture:
    """BLOOM: ALiBi, a norm after the embedding."""
    names = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embed": "hidden_size"}
    usual = sizes(250880, 64, None, 2, 8, None, 2048, tie_word_embeddings=True)
    config = _renamed(config, names | {"seq_length": "max_position_embeddings"}, usual | {"hidden_act": "gelu"})
    config = config.replaced(intermediate_size=4 * config.count("hidden_size"))
    layer = Layer(mixer=attention(config, bias=True, rotary=False), ffn=mlp(config, bias=True, gated=False), norms=TWO_NORMS)
    return decoder(config, (layer,) * config.n_layer(), final_norm=LAYER_NORM, embedding_norm=LAYER_NORM)


@family("mpt")
def mpt(config: Config) -> Architecture:
    """MPT: ALiBi, no biases, an MLP four times as wide as the model."""
    names = {"d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}
    usual = sizes(50368, 2048, None, 24, 16, None, 2048, tie_word_embeddings=True, hidden_act="gelu")
    config = _renamed(config, names | {"max_seq_len": "max_position_embeddings"}, usual)
    if config.count("expansion_ratio", default=4) != 4:
        raise config.wrong("expansion_ratio", "4, the only width that MPT's code builds")
    config = config.replaced(intermediate_size=4 * config.count("hidden_size"))
    norm = Norm(kind="layer")
    layer = Layer(mixer=attention(config, rotary=False), ffn=mlp(config, gated=False), norms=(norm, norm))
    return decoder(config, (layer,) * config.n_layer(), final_norm=norm)


@family("falcon")
def falcon(config: Config) -> Architecture:
    """Falcon: one KV head (7B, 1B with all of them), or the newer blocks with groups and two parallel norms (40B, 180B)."""
    names = {"n_embed": "hidden_size", "num_kv_heads": "num_key_value_heads", "ffn_hidden_size": "intermediate_size"}
    names |= {"activation": "hidden_act", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    usual = sizes(65024, 4544, None, 32, 71, None, 2048, tie_word_embeddings=True, hidden_act="gelu")
    renamed = config.with_defaults(usual, names)
    config = _renamed(config, names, usual)
    n_head = config.count("num_attention_heads")
    groups = renamed.flag("new_decoder_architecture")
    n_kv_head = renamed.count("num_key_value_heads", default=n_head) if groups else n_head
    if not groups and config.flag("multi_query", True):
        n_kv_head = 1
    parallel, bias = config.flag("parallel_attn", True), config.flag("bias")
    n_norm = config.count("num_ln_in_parallel_attn", default=2 if groups else 1) if parallel else 2
    layer = Layer(
        mixer=attention(config, bias=bias, n_kv_head=n_kv_head, rotary=not config.flag("alibi")),
        ffn=mlp(config, bias=bias, gated=False),
        norms=TWO_NORMS if n_norm == 2 else (LAYER_NORM,),
        parallel=parallel or groups,
    )
    return decoder(config, (layer,) * config.n_layer(), final_norm=LAYER_NORM)


@family("phi")
def phi(config: Config) -> Architecture:
    """Phi 1, 1.5 and 2: attention beside the MLP under one norm, biases everywhere."""
    config = with_defaults(config, **sizes(51200, 2048, 8192, 24, 32, None, 2048, hidden_act="gelu_new"))
    normed = {"qk_norm": "head", "qk_norm_bias": True} if config.flag("qk_layernorm") else {}
    layer = Layer(
        mixer=attention(config, bias=True, **normed),
        ffn=mlp(config, bias=True, gated=False),
        norms=(LAYER_NORM,),
        parallel=True,
    )
    return decoder(config, (layer,) * config.n_layer(), final_norm=LAYER_NORM, head_bias=True)


@family("persimmon")
def persimmon(config: Config) -> Architecture:
    """Persimmon: squared ReLU, biases everywhere but in the head."""
    config = _renamed(config, {}, sizes(262144, 4096, 16384, 36, 64, None, 16384, hidden_act="relu2"))
    normed = {"qk_norm": "head", "qk_norm_bias": True} if config.flag("qk_layernorm", True) else {}
    layer = Layer(mixer=attention(config, bias=True, **normed), ffn=mlp(config, bias=True, gated=False), norms=TWO_NORMS)
    return decoder(config, (layer,) * config.n_layer(), final_norm=LAYER_NORM)


@family("stablelm")
def stablelm(config: Config) -> Architecture:
    """StableLM 3B, 2 and Zephyr: LayerNorm around a gated MLP; the 12B normalises every head with weights of its own."""
    config = with_defaults(config, **sizes(50304, 2560, 6912, 32, 32, 32, 4096)).replaced(head_dim=None)
    bias, parallel = config.flag("use_qkv_bias"), config.flag("use_parallel_residual")
    layer = Layer(
        mixer=attention(config, q_bias=bias, kv_bias=bias, qk_norm="per_head" if config.flag("qk_layernorm") else "none"),
        ffn=mlp(config),
        norms=(LAYER_NORM,) if parallel else TWO_NORMS,
        parallel=parallel,
    )
    return decoder(config, (layer,) * config.n_layer(), final_norm=LAYER_NORM)


@family("starcoder2")
def starcoder2(config: Config) -> Architecture:
    """StarCoder 2: LayerNorm, biases everywhere, one window for all layers."""
    usual = sizes(49152, 3072, 12288, 30, 24, 2, 4096, tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh")
    config = with_defaults(config, **usual)
    bias = config.flag("use_bias", True)
    layer = Layer(mixer=attention(config, bias=bias), ffn=mlp(config, bias=bias, gated=False), norms=TWO_NORMS)
    window = config.count("sliding_window") if "sliding_window" in config else None
    return decoder(config, windowed(layer, [window] * config.n_layer()), final_norm=LAYER_NORM)
