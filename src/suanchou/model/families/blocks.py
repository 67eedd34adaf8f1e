"""Readers shared by the builders: attention, MLP and experts from the keys that most configurations agree on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import MLP, Architecture, Attention, Layer, MoE, Norm, Weight
from suanchou.model.config import Config

__all__ = [
    "EXPERT_KEYS",
    "attention",
    "decoder",
    "dense_first",
    "experts",
    "head_width",
    "layer_kinds",
    "layer_numbers",
    "mlp",
    "next_token_head",
    "one_per_layer",
    "periodic_experts",
    "sizes",
    "sliding_or_full",
    "windowed",
    "with_defaults",
]


def with_defaults(config: Config, **defaults: Any) -> Config:
    """The configuration with what its class assumes where a key is absent; an explicit ``null`` stays ``null``."""
    return config.with_defaults(defaults)


def head_width(config: Config, *keys: str) -> int:
    """Channels of one head: the first of ``keys`` (``head_dim``) that is present, else the model width split over heads."""
    d_model, n_head = config.count("hidden_size"), config.count("num_attention_heads")
    width = config.count(*(keys or ("head_dim",)), default=d_model // n_head, zero=True)
    if width < 1:
        raise SpecError(
            f"a width of {d_model} leaves no channel for each of {n_head} heads",
            where=f"{config.where}: num_attention_heads",
            hint="give head_dim, or fewer heads",
        )
    return width


def attention(config: Config, *, bias: bool = False, **options: Any) -> Attention:
    """Softmax attention from the usual keys; ``bias`` puts biases on all four projections, ``options`` overrides fields."""
    n_head = config.count("num_attention_heads")
    fields: dict[str, Any] = {
        "n_head": n_head,
        "n_kv_head": config.count("num_key_value_heads", default=n_head),
        "d_head": head_width(config),
        "q_bias": bias,
        "kv_bias": bias,
        "out_bias": bias,
    }
    if "n_kv_head" not in options and n_head % fields["n_kv_head"]:
        raise SpecError(
            f"{n_head} query heads cannot share {fields['n_kv_head']} KV heads evenly",
            where=f"{config.where}: num_key_value_heads",
            hint="num_attention_heads must be a multiple of num_key_value_heads",
        )
    return Attention(**{**fields, **options})


def mlp(config: Config, key: str = "intermediate_size", *, bias: bool = False, gated: bool = True, times: int = 1) -> MLP:
    """An MLP whose width stands under ``key`` (``times``: several of them side by side, as one)."""
    return MLP(
        d_ff=config.count(key) * times,
        gated=gated,
        up_bias=bias,
        down_bias=bias,
        activation=config.text("hidden_act", "silu"),
    )


EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts")
"""The names under which configurations count experts; the same model is published under one and saved under another."""


def experts(
    config: Config,
    expert: MLP,
    *,
    n: Sequence[str] = EXPERT_KEYS,
    top_k: Sequence[str] = ("num_experts_per_tok",),
    default: int | None = None,
    **options: Any,
) -> MoE:
    """A mixture of ``expert``: how many, and how many a token visits, under the first present of ``n`` and ``top_k``."""
    n_expert, chosen = config.count(*n, default=default), config.count(*top_k)
    if chosen > n_expert:
        raise SpecError(f"{chosen} active experts of {n_expert} is impossible", where=f"{config.where}: {top_k[0]}")
    return MoE(n_expert=n_expert, top_k=chosen, expert=expert, **options)


def sizes(
    vocab: int, d_model: int, d_ff: int | None, n_layer: int, n_head: int, n_kv_head: int | None, position: int, **more: Any
) -> dict[str, Any]:
    """What a configuration class assumes, under the usual keys, for :func:`with_defaults`."""
    found = {
        "vocab_size": vocab,
        "hidden_size": d_model,
        "intermediate_size": d_ff,
        "num_hidden_layers": n_layer,
        "num_attention_heads": n_head,
        "num_key_value_heads": n_kv_head,
        "max_position_embeddings": position,
    }
    return {**found, **more}


def one_per_layer(config: Config, key: str, n_layer: int) -> list[Any]:
    """A list under ``key`` with exactly one entry per layer (empty where absent)."""
    values = config.items(key)
    if values and len(values) != n_layer:
        raise SpecError(
            f"{len(values)} entries for {n_layer} layers", where=f"{config.where}: {key}", hint="give one entry per layer"
        )
    return values


LEGACY_KINDS = {"mamba": "linear_attention", "attention": "full_attention"}
"""Older names of layer kinds, still found in published files."""


def layer_kinds(config: Config, n_layer: int, default: Sequence[str], known: Iterable[str], *keys: str) -> list[str]:
    """One kind per layer, from the first of ``keys`` (``layer_types``) that is present, else ``default``.

    Older names of kinds (:data:`LEGACY_KINDS`) are read as today's.

    Raises
    ------
    SpecError : a list of another length, or a kind that is not ``known``.
    """
    known = tuple(known)
    for key in keys or ("layer_types",):
        kinds = [
            LEGACY_KINDS.get(kind, kind) if isinstance(kind, str) else kind for kind in one_per_layer(config, key, n_layer)
        ]
        for kind in kinds:
            if kind not in known:
                raise SpecError(
                    f"unknown layer kind {kind!r}", where=f"{config.where}: {key}", hint=f"known: {', '.join(known)}"
                )
        if kinds:
            return [str(kind) for kind in kinds]
    return list(default)


def sliding_or_full(
    config: Config, n_layer: int, sliding: Sequence[bool], *, word: str = "sliding_attention", key: str = "sliding_window"
) -> list[int | None]:
    """The window of each layer (``None``: none), from ``layer_types`` or else as ``sliding`` says; its size under ``key``."""
    usual = [word if flag else "full_attention" for flag in sliding]
    kinds = layer_kinds(config, n_layer, usual, (word, "full_attention"))
    return [config.count(key) if kind == word else None for kind in kinds]


def windowed(layer: Layer, window: Sequence[int | None], rotary: Sequence[bool] | None = None) -> tuple[Layer, ...]:
    """One ``layer`` per window (and whether its positions are rotary); equal layers are one object."""
    keys = list(zip(window, rotary or [True] * len(window), strict=True))
    made = {}
    for key in set(keys):
        if not isinstance(layer.mixer, Attention):
            raise TypeError("only softmax attention has windows")
        made[key] = replace(layer, mixer=replace(layer.mixer, window=key[0], rotary=layer.mixer.rotary and key[1]))
    return tuple(made[key] for key in keys)


def periodic_experts(config: Config, n_layer: int) -> list[bool]:
    """Which layers hold experts: every ``decoder_sparse_step``-th, but none in ``mlp_only_layers``."""
    step = config.count("decoder_sparse_step", default=1)
    dense = layer_numbers(config, "mlp_only_layers", n_layer)
    return [i not in dense and (i + 1) % step == 0 for i in range(n_layer)]


def layer_numbers(config: Config, key: str, n_layer: int) -> set[int]:
    """A list of layer numbers, counted from 0."""
    numbers = config.items(key)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < n_layer:
            raise SpecError(
                f"{number!r} is not the number of a layer", where=f"{config.where}: {key}", hint=f"from 0 to {n_layer - 1}"
            )
    return set(numbers)


def dense_first(config: Config, n_layer: int, key: str = "first_k_dense_replace", default: int = 0) -> list[bool]:
    """Which layers hold experts: as ``mlp_layer_types`` says, else every ``moe_layer_freq``-th after the first ``key``."""
    n_dense, step = config.count(key, default=default, zero=True), config.count("moe_layer_freq", default=1)
    usual = ["dense" if i < n_dense or i % step else "sparse" for i in range(n_layer)]
    return [kind == "sparse" for kind in layer_kinds(config, n_layer, usual, ("dense", "sparse"), "mlp_layer_types")]


def next_token_head(config: Config, layer: Layer, *keys: str) -> dict[str, Any]:
    """The multi-token-prediction fields of an Architecture: DeepSeek-V3's module, as many as the first of ``keys`` says.

    Each module normalises the last hidden state and the next token's embedding, joins them by one projection and runs one
    decoder layer and a norm; embedding and head are the main model's (DeepSeek-V3 report, section 2.2).
    """
    n = config.count(*keys, default=0, zero=True, most=1000)
    d_model = config.count("hidden_size")
    parts = [
        ("join", (d_model, 2 * d_model)),
        ("embedding_norm", (d_model,)),
        ("hidden_norm", (d_model,)),
        ("norm", (d_model,)),
    ]
    extra = tuple(Weight(name=f"mtp.{i}.{name}", shape=shape, role="mtp") for i in range(n) for name, shape in parts)
    return {"mtp": (layer,) * n, "mtp_extra": extra}


def decoder(config: Config, layers: Iterable[Layer], **fields: Any) -> Architecture:
    """A decoder of ``layers`` between an embedding, a final norm and a head, from the usual keys."""
    model_type = config.text("model_type", "decoder")
    usual: dict[str, Any] = {
        "name": model_type,
        "family": model_type,
        "d_model": config.count("hidden_size"),
        "vocab": config.count("vocab_size"),
        "layers": tuple(layers),
        "max_position": config.count("max_position_embeddings", default=2048),
        "tied": config.flag("tie_word_embeddings"),
        "final_norm": Norm(),
    }
    return Architecture(**{**usual, **fields})
