"""What the families share: reading attention, MLP, window layouts and the model around them from one set of key names.

The names are LLaMA's (``hidden_size``, ``num_attention_heads`` ...); families with other names bring aliases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import MLP, Architecture, Attention, LatentAttention, Layer, Norm
from suanchou.model.config import Config, short

__all__ = [
    "GPT2_NAMES",
    "LAYER_NORM",
    "attention",
    "decoder",
    "head_width",
    "latent_attention",
    "layer_types",
    "mlp",
    "repeat",
    "windows",
]

LAYER_NORM = Norm(kind="layer", bias=True)

GPT2_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "activation_function": "hidden_act",
}
"""Names of the GPT-2 family, and the ones read here."""


def head_width(config: Config) -> int:
    """Width of one head where no key gives it: the model width over the heads."""
    d_model, n_head = config.count("hidden_size"), config.count("num_attention_heads")
    if d_model < n_head:
        raise SpecError(f"{n_head} heads in a width of {d_model}", where=config.where, hint="a head needs at least one channel")
    return d_model // n_head


def attention(config: Config, **traits: Any) -> Attention:
    """Softmax attention; ``attention_bias`` puts biases on all four projections. ``traits`` are fields of Attention."""
    n_head = config.count("num_attention_heads")
    bias = config.flag("attention_bias")
    read: dict[str, Any] = {
        "n_head": n_head,
        "n_kv_head": config.count("num_key_value_heads", default=n_head),
        "q_bias": bias,
        "kv_bias": bias,
        "out_bias": bias,
    }
    read |= traits
    if "d_head" not in read:
        read["d_head"] = config.count("head_dim") if "head_dim" in config else head_width(config)
    return Attention(**read)


def latent_attention(config: Config) -> LatentAttention:
    """MLA under DeepSeek's names."""
    return LatentAttention(
        n_head=config.count("num_attention_heads"),
        kv_rank=config.count("kv_lora_rank"),
        d_nope=config.count("qk_nope_head_dim"),
        d_rope=config.count("qk_rope_head_dim"),
        d_value=config.count("v_head_dim"),
        q_rank=config.count("q_lora_rank") if "q_lora_rank" in config else None,
        bias=config.flag("attention_bias"),
    )


def mlp(config: Config, **traits: Any) -> MLP:
    """The channel mixer; ``mlp_bias`` puts biases on all its matrices. ``traits`` are fields of MLP."""
    bias = config.flag("mlp_bias")
    read: dict[str, Any] = {"up_bias": bias, "down_bias": bias}
    read["activation"] = config.text("hidden_activation", config.text("hidden_act", "silu"))
    read |= traits
    if "d_ff" not in read:
        read["d_ff"] = config.count("intermediate_size")
    return MLP(**read)


def layer_types(config: Config, default: Callable[[int], str], known: Sequence[str]) -> list[str]:
    """The kind of every layer: ``layer_types`` where the file has it, else ``default`` of the layer's index."""
    n_layer = config.n_layer()
    if "layer_types" not in config:
        return [default(i) for i in range(n_layer)]
    kinds = config.items("layer_types")
    if len(kinds) != n_layer:
        raise SpecError(f"{len(kinds)} layer types for {n_layer} layers", where=f"{config.where}: layer_types")
    for kind in kinds:
        if kind not in known:
            raise SpecError(
                f"unknown layer type {short(kind)}", where=f"{config.where}: layer_types", hint=f"known: {', '.join(known)}"
            )
    return kinds


def windows(config: Config, sliding: Callable[[int], bool] | None = None) -> list[int | None]:
    """How many positions a query sees in every layer; ``sliding`` says which layers have a window by default (none)."""
    default = sliding or (lambda _: False)
    names = {True: "sliding_attention", False: "full_attention"}
    known = ("full_attention", "sliding_attention", "chunked_attention")
    kinds = layer_types(config, lambda i: names[default(i)], known)
    keys = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    width = {kind: config.count(keys[kind]) for kind in set(kinds) & set(keys)}
    return [width.get(kind) for kind in kinds]


def repeat(layer: Layer, window: Sequence[int | None], rotary: Sequence[bool] | None = None) -> tuple[Layer, ...]:
    """One layer per window; equal layers are one object."""
    made: dict[tuple[int | None, bool], Layer] = {}
    turns = rotary or [True] * len(window)
    for key in zip(window, turns, strict=True):
        if key not in made:
            if not isinstance(layer.mixer, Attention):
                raise TypeError("only softmax attention has windows")
            made[key] = replace(layer, mixer=replace(layer.mixer, window=key[0], rotary=layer.mixer.rotary and key[1]))
    return tuple(made[key] for key in zip(window, turns, strict=True))


def decoder(config: Config, layers: tuple[Layer, ...], traits: Mapping[str, Any] | None = None) -> Architecture:
    """The model around ``layers``. ``traits`` are fields of Architecture."""
    read: dict[str, Any] = {
        "name": config.text("model_type"),
        "family": config.text("model_type"),
        "d_model": config.count("hidden_size"),
        "vocab": config.count("vocab_size"),
        "max_position": config.count("max_position_embeddings"),
        "tied": config.flag("tie_word_embeddings"),
    }
    return Architecture(**(read | dict(traits or {})), layers=layers)
