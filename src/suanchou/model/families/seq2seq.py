"""Encoder-decoder models: T5 and its multilingual heirs, BART and what grew from it."""

from __future__ import annotations

from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import MLP, Architecture, Attention, Layer, Norm, Stack, Weight
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import with_defaults

__all__: list[str] = []

LAYER_NORM = Norm(kind="layer", bias=True)


@family("t5", "mt5", "umt5")
def t5(config: Config) -> Architecture:
    """T5, T5 v1.1, Flan-T5, mT5 and UMT5: relative positions, RMS norms, no biases.

    ``tie_word_embeddings: false`` means a head of its own, as in the published weights of T5 v1.1, Flan-T5 and mT5. (Recent
    classes of transformers read the key in another sense and drop that head.) UMT5 has a table of relative positions in
    every layer, the others in the first.
    """
    model_type = config.text("model_type")
    usual: dict[str, Any] = {"vocab_size": 250112, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
    if model_type == "t5":
        usual |= {"vocab_size": 32128, "d_ff": 2048, "num_layers": 6, "num_heads": 8}
    config = with_defaults(config, **usual)
    d_model, n_head = config.count("d_model", "hidden_size"), config.count("num_heads", "num_attention_heads")
    activation = config.text("feed_forward_proj", "relu" if model_type == "t5" else "gated-gelu")
    gate, _, function = activation.rpartition("-")
    if gate not in ("", "gated") or not function:
        raise SpecError(
            f"unknown activation {activation!r}", where=f"{config.where}: feed_forward_proj", hint="relu, gated-gelu"
        )
    ffn = MLP(d_ff=config.count("d_ff"), gated=bool(gate), activation=function)
    d_head = config.count("d_kv", "head_dim")
    table = Weight(
        name="attention.relative_position",
        shape=(config.count("relative_attention_num_buckets", default=32), n_head),
        role="attention",
    )

    def layer(i: int, *, decoder: bool) -> Layer:
        heads: dict[str, Any] = {"n_head": n_head, "n_kv_head": n_head, "d_head": d_head, "rotary": False}
        return Layer(
            mixer=Attention(causal=decoder, **heads),
            cross=Attention(causal=False, cross=True, **heads) if decoder else None,
            ffn=ffn,
            norms=(Norm(),) * (3 if decoder else 2),
            extra=(table,) if i == 0 or model_type == "umt5" else (),
        )

    n_encoder = config.n_layer("num_layers", "num_hidden_layers")
    n_decoder = config.n_layer("num_decoder_layers", default=n_encoder)
    return Architecture(
        name=model_type,
        family=model_type,
        d_model=d_model,
        vocab=config.count("vocab_size"),
        layers=tuple(layer(min(i, 1), decoder=True) for i in range(n_decoder)),
        encoder=Stack(layers=tuple(layer(min(i, 1), decoder=False) for i in range(n_encoder)), final_norm=Norm()),
        max_position=config.count("n_positions", default=512),
        tied=config.flag("tie_word_embeddings", True),
    )


_BART: dict[str, Any] = {
    "vocab_size": 50265,
    "d_model": 1024,
    "max_position_embeddings": 1024,
    **{f"{side}_{part}": n for side in ("encoder", "decoder") for part, n in (("layers", 12), ("ffn_dim", 4096))},
    **{f"{side}_attention_heads": 16 for side in ("encoder", "decoder")},
}


@family("bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot")
def bart(config: Config) -> Architecture:
    """BART and its like: LayerNorm, biases everywhere, absolute positions on both sides.

    They differ in the table of positions (BART and mBART keep two unused rows, M2M-100 computes it), in a norm after the
    embeddings (BART, mBART) and in one at the end of each side (all but BART and Marian).
    """
    model_type = config.text("model_type")
    differing: dict[str, dict[str, Any]] = {
        "marian": {"vocab_size": 58101},
        "m2m_100": {"vocab_size": 128112, "activation_function": "relu"},
        "blenderbot": {
            "vocab_size": 8008,
            "d_model": 2560,
            "max_position_embeddings": 128,
            "encoder_layers": 2,
            "decoder_layers": 24,
            "encoder_ffn_dim": 10240,
            "decoder_ffn_dim": 10240,
            "encoder_attention_heads": 32,
            "decoder_attention_heads": 32,
        },
    }
    config = with_defaults(config, **{**_BART, **differing.get(model_type, {})})
    _refuse_separate_tables(config)
    d_model, max_position = config.count("d_model"), config.count("max_position_embeddings")
    n_position = {"bart": max_position + 2, "mbart": max_position + 2, "m2m_100": 0}.get(model_type, max_position)
    last = None if model_type in ("bart", "marian") else LAYER_NORM
    first = LAYER_NORM if model_type in ("bart", "mbart") else None
    extra: tuple[Weight, ...] = ()
    if n_position:
        extra = (Weight(name="encoder.position", shape=(n_position, d_model), role="position"),)
    if first:
        parts = ("weight", "bias")
        extra += tuple(Weight(name=f"encoder.embedding_norm.{part}", shape=(d_model,), role="norm") for part in parts)
    return Architecture(
        name=model_type,
        family=model_type,
        d_model=d_model,
        vocab=config.count("vocab_size"),
        layers=(_bart_layer(config, "decoder"),) * config.n_layer("decoder_layers"),
        encoder=Stack(
            layers=(_bart_layer(config, "encoder"),) * config.n_layer("encoder_layers"), final_norm=last, extra=extra
        ),
        max_position=max_position,
        n_position=n_position,
        embedding_norm=first,
        final_norm=last,
        tied=True,
    )


def _bart_layer(config: Config, side: str) -> Layer:
    d_model, n_head = config.count("d_model"), config.count(f"{side}_attention_heads")
    if d_model % n_head:
        raise SpecError(f"{n_head} heads do not divide {d_model} channels", where=f"{config.where}: {side}_attention_heads")
    heads: dict[str, Any] = {"n_head": n_head, "n_kv_head": n_head, "d_head": d_model // n_head, "rotary": False}
    heads |= {"q_bias": True, "kv_bias": True, "out_bias": True}
    decoder = side == "decoder"
    activation = config.text("activation_function", "gelu")
    return Layer(
        mixer=Attention(causal=decoder, **heads),
        cross=Attention(causal=False, cross=True, **heads) if decoder else None,
        ffn=MLP(d_ff=config.count(f"{side}_ffn_dim"), gated=False, up_bias=True, down_bias=True, activation=activation),
        norms=(LAYER_NORM,) * (3 if decoder else 2),
    )


def _refuse_separate_tables(config: Config) -> None:
    """One table serves encoder, decoder and head; no published model of these families has another arrangement."""
    for key in ("tie_word_embeddings", "share_encoder_decoder_embeddings"):
        if not config.flag(key, True):
            raise SpecError("separate embedding tables are not known here", where=f"{config.where}: {key}")
    if config.count("decoder_vocab_size", default=config.count("vocab_size")) != config.count("vocab_size"):
        raise SpecError("separate vocabularies are not known here", where=f"{config.where}: decoder_vocab_size")
