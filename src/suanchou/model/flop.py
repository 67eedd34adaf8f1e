"""FLOP of a model: per token and per run, under named conventions, 2 per multiply-add.

Model FLOP count what the mathematics needs: every matrix product and every scan, forward, and twice that backward.
Element-wise work (norms, activations, softmax, rotary embeddings) and the table look-up count zero, as in every published
figure. ``causal`` counts the (query, key) pairs that the mask leaves, ``full`` the whole square. Executed FLOP add what a
software stack computes again: recomputed activations, and the scores that flash kernels recompute backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from suanchou.errors import SpecError
from suanchou.estimate import Estimate, total
from suanchou.model.architecture import Architecture, Attention, LatentAttention, Layer, LinearAttention, Mixer
from suanchou.model.attention import visible_keys
from suanchou.model.layer_operators import (
    embedding_backward,
    embedding_forward,
    head_backward,
    head_forward,
    layer_backward,
    layer_forward,
)
from suanchou.model.operators import Num, Operator, Recompute, Shape
from suanchou.model.parameters import active_parameter_count, distinct_layers

__all__ = [
    "CONVENTIONS",
    "Convention",
    "decode_flop_per_token",
    "decode_mixer_flop",
    "executed_flop_per_token",
    "flop_per_token",
    "training_flop",
]

Convention = Literal["6nd", "8nd", "3nd", "exact_causal", "exact_full"]

CONVENTIONS: dict[Convention, str] = {
    "6nd": "6 x active parameters x tokens: 2 forward, 4 backward",
    "8nd": "8 x active parameters x tokens: 6ND with every layer's forward computed twice (full recompute)",
    "3nd": "3 x parameters x tokens: encoder-decoder, where each token meets half of the weights",
    "exact_causal": "every matrix product, attention over the pairs that the causal mask leaves",
    "exact_full": "every matrix product, attention over all pairs, as torch's counter sees it",
}

_SOURCE = "model operators (2 FLOP per multiply-add)"
_ROLES = {
    "mlp": "mlp",
    "moe": "router",
    "moe.experts": "experts",
    "moe.shared": "shared_experts",
    "attention": "attention_projections",
    "cross": "attention_projections",
    "embedding": "embedding",
    "head": "head",
    "extra": "other",
}


def _role(op: Operator) -> str:
    if op.kind == "attention":
        return "attention_core"
    if op.kind == "scan":
        return "scan"
    first, second = op.name.split(".")[:2]
    return _ROLES.get(f"{first}.{second}") or _ROLES.get(first, "mixer_projections")


def _by_role(ops: Iterable[tuple[Operator, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for op, times in ops:
        if op.kind != "memory":
            role = _role(op)
            found[role] = found.get(role, 0.0) + times * float(op.flop)
    return found


def _stacks(arch: Architecture, seq: float, encoder_seq: float, mtp: bool) -> list[tuple[Layer, float, float, float]]:
    """Distinct layers with how often each runs, on how many tokens, and how many tokens its cross-attention reads."""
    stacks = [(layer, float(n), seq, encoder_seq) for layer, n in distinct_layers(arch.layers)]
    if arch.encoder is not None:
        stacks += [(layer, float(n), encoder_seq, encoder_seq) for layer, n in distinct_layers(arch.encoder.layers)]
    if mtp:
        stacks += [(layer, float(n), seq, encoder_seq) for layer, n in distinct_layers(arch.mtp)]
    return stacks


def _lengths(arch: Architecture, seq: float, encoder_seq: float | None) -> tuple[float, float]:
    """Tokens that a sequence's encoder reads, and all its tokens."""
    if seq < 1 or (encoder_seq is not None and encoder_seq < 1):
        raise SpecError(f"a sequence of {seq:g} tokens is impossible", where="seq", hint="give at least one token")
    read = 0.0 if arch.encoder is None else seq if encoder_seq is None else encoder_seq
    return read or seq, seq + read


def _mtp_flop(arch: Architecture, seq: float, head: float) -> float:
    """Beyond its layers, each MTP depth joins two hidden states by a projection and runs the head again."""
    joined = sum(weight.size for weight in arch.mtp_extra if len(weight.shape) == 2)
    return 2.0 * joined * seq + len(arch.mtp) * head


def _forward_by_role(arch: Architecture, seq: float, encoder_seq: float, full: bool, mtp: bool) -> dict[str, float]:
    """FLOP of one sequence forward, by role."""

    def shape(tokens: float, source: float) -> Shape:
        return Shape(batch=1.0, seq=tokens, encoder_seq=source, attention="eager" if full else "flash")

    ops = [
        (op, n)
        for layer, n, tokens, source in _stacks(arch, seq, encoder_seq, mtp)
        for op in layer_forward(layer, arch.d_model, shape(tokens, source))
    ]
    ends = shape(seq, encoder_seq)
    ops += [(op, 1.0) for op in (*embedding_forward(arch, ends), *head_forward(arch, ends))]
    found = _by_role(ops)
    if mtp and arch.mtp:
        found["mtp"] = _mtp_flop(arch, seq, found["head"])
    return found


def _assumptions(arch: Architecture, full: bool) -> tuple[str, ...]:
    notes = ["attention over all pairs" if full else "attention over the pairs that the mask leaves"]
    if arch.vision is not None:
        notes.append("text tokens only: the vision tower is left out")
    if arch.encoder is not None:
        notes.append("tokens are those of the encoder and of the decoder together")
    return tuple(notes)


def flop_per_token(
    arch: Architecture,
    seq: float,
    *,
    attention: Literal["causal", "full"] = "causal",
    backward: bool = True,
    encoder_seq: float | None = None,
    mtp: bool = False,
) -> Estimate:
    """Model FLOP per token at a sequence length, by role.

    Parameters
    ----------
    seq : tokens per sequence (of the decoder).
    attention : ``causal`` counts unmasked pairs, ``full`` all of them.
    backward : add the backward, twice the forward.
    encoder_seq : tokens the encoder reads per sequence; as many as ``seq`` unless given. Tokens of both count.
    mtp : also train the multi-token-prediction layers.

    Raises
    ------
    SpecError : fewer than one token.
    """
    read, tokens = _lengths(arch, seq, encoder_seq)
    full = attention == "full"
    forward = total(
        "forward",
        "flop",
        tuple(
            Estimate(name=role, value=flop / tokens, unit="flop", grade="exact", formula=f"{flop:.6g} / {tokens:g} tokens")
            for role, flop in _forward_by_role(arch, seq, read, full, mtp).items()
        ),
        sources=(_SOURCE,),
    )
    parts = [forward]
    if backward:
        parts.append(
            Estimate(name="backward", value=2.0 * forward.value, unit="flop", grade="exact", formula=f"2 x {forward.value:.6g}")
        )
    return total("flop_per_token", "flop", tuple(parts), assumptions=_assumptions(arch, full))


def executed_flop_per_token(
    arch: Architecture,
    seq: float,
    *,
    recompute: Recompute = "none",
    attention: Literal["flash", "sdpa", "eager"] = "flash",
    encoder_seq: float | None = None,
    mtp: bool = False,
) -> Estimate:
    """FLOP per token that training executes (what HFU counts): forward, backward as the kernels run it, recompute.

    ``selective`` runs the attention core (scores and what follows; scans) again, ``full`` the whole layer. Flash kernels also
    compute the scores again backward; eager attention computes masked pairs too.
    """
    read, tokens = _lengths(arch, seq, encoder_seq)
    forward, backward, again = 0.0, 0.0, 0.0
    for layer, n, length, source in _stacks(arch, seq, read, mtp):
        shape = Shape(batch=1.0, seq=length, encoder_seq=source, attention=attention)
        ops = layer_forward(layer, arch.d_model, shape)
        once = n * sum(float(op.flop) for op in ops)
        forward += once
        backward += n * sum(float(op.flop) for op in layer_backward(layer, arch.d_model, shape))
        if recompute == "full":
            again += once
        elif recompute == "selective":
            again += n * sum(float(op.flop) for op in ops if op.kind in ("attention", "scan"))
    shape = Shape(batch=1.0, seq=seq, encoder_seq=read, attention=attention)
    head = sum(float(op.flop) for op in head_forward(arch, shape))
    extra = _mtp_flop(arch, seq, head) if mtp and arch.mtp else 0.0
    forward += head + extra + sum(float(op.flop) for op in embedding_forward(arch, shape))
    backward += 2.0 * extra + sum(float(op.flop) for op in (*head_backward(arch, shape), *embedding_backward(arch, shape)))
    parts = {"forward": forward, "backward": backward, "recompute": again}
    return total(
        "executed_flop_per_token",
        "flop",
        tuple(
            Estimate(name=name, value=flop / tokens, unit="flop", grade="exact", formula=f"{flop:.6g} / {tokens:g} tokens")
            for name, flop in parts.items()
        ),
        sources=(_SOURCE,),
        assumptions=(f"{attention} attention", f"recompute {recompute}", *_assumptions(arch, attention == "eager")),
    )


def training_flop(arch: Architecture, tokens: float, *, convention: Convention, seq: float | None = None) -> Estimate:
    """FLOP of training on ``tokens`` under a named convention.

    Parameters
    ----------
    seq : tokens per sequence, which the exact conventions need; ``max_position`` unless given.

    Raises
    ------
    SpecError : unknown convention, or an amount of tokens that is not positive.
    """
    if tokens <= 0:
        raise SpecError(f"training on {tokens:g} tokens is impossible", where="tokens", hint="write for example 15T")
    if convention not in CONVENTIONS:
        raise SpecError(f"unknown FLOP convention {convention!r}", where="convention", hint="one of " + ", ".join(CONVENTIONS))
    if convention in ("exact_causal", "exact_full"):
        length = arch.max_position if seq is None else seq
        per_token = flop_per_token(arch, length, attention="full" if convention == "exact_full" else "causal")
        return Estimate(
            name="training_flop",
            value=tokens * per_token.value,
            unit="flop",
            formula=f"{tokens:.6g} tokens x {per_token.value:.6g} FLOP per token at {length:g} tokens per sequence",
            sources=(CONVENTIONS[convention],),
            grade="exact",
            children=(per_token,),
        )
    factor = float(convention[0])
    n = active_parameter_count(arch)
    return Estimate(
        name="training_flop",
        value=factor * n * tokens,
        unit="flop",
        formula=f"{factor:g} x {n:.6g} parameters x {tokens:.6g} tokens",
        sources=(CONVENTIONS[convention],),
        grade="exact",
    )


def decode_mixer_flop(mixer: Mixer, context: Num) -> Num:
    """FLOP of one token of one sequence beyond the projections, with ``context`` positions in view (itself included).

    Softmax attention reads every cached position in its window. Latent attention runs absorbed, on the latent cache itself:
    the up projections act on the query and on the result, and cost what they cost in training. A state is decayed, updated and
    read: 7 per element for gated delta (1 decay, 2 predict, 2 update, 2 read) and Mamba-1 (see its scan), 5 for the others.
    """
    if isinstance(mixer, Attention):
        return 2.0 * mixer.n_head * (mixer.d_head + mixer.d_v) * visible_keys(context, mixer.window, mixer.chunked)
    if isinstance(mixer, LatentAttention):
        latent = 2.0 * mixer.n_head * (2 * mixer.kv_rank + mixer.d_rope)
        if mixer.indexer is None:
            return latent * context
        scored = 0.0 if mixer.indexer.reuses else 2.0 * mixer.indexer.n_head * (mixer.indexer.d_head + 1) * context
        return latent * visible_keys(context, mixer.indexer.top_k) + scored
    if isinstance(mixer, LinearAttention):
        conv = 2.0 * mixer.conv_kernel * (2 * mixer.n_key_head * mixer.d_key + mixer.n_value_head * mixer.d_value)
        per_element = 7.0 if mixer.kind == "gated-delta" else 5.0
        return per_element * mixer.n_value_head * mixer.d_key * mixer.d_value + conv + 0.0 * context
    shared = 0 if mixer.kind == "mamba1" else 2 * mixer.n_group * mixer.d_state
    conv = 2.0 * mixer.conv_kernel * (mixer.d_inner + shared)
    return (7.0 if mixer.kind == "mamba1" else 5.0) * mixer.d_inner * mixer.d_state + conv + 0.0 * context


def decode_flop_per_token(arch: Architecture, context: float) -> Estimate:
    """FLOP to generate one token with ``context`` positions in view: 2 per active matrix weight, plus attention.

    Cross-attention reads as many encoder positions; their keys and values are already cached.

    Raises
    ------
    SpecError : no position in view.
    """
    _lengths(arch, context, None)
    one = Shape(batch=1.0, seq=1.0)
    weights, mixers = 0.0, 0.0
    for layer, n in distinct_layers(arch.layers):
        ops = layer_forward(layer, arch.d_model, one)
        weights += n * sum(float(op.flop) for op in ops if op.kind in ("gemm", "grouped_gemm") and op.name != "cross.kv")
        parts = [mixer for mixer in (layer.mixer, layer.hybrid, layer.cross) if mixer is not None]
        mixers += n * sum(float(decode_mixer_flop(mixer, context)) for mixer in parts)
    ends = (*embedding_forward(arch, one), *head_forward(arch, one))
    weights += sum(float(op.flop) for op in ends)
    return total(
        "decode_flop_per_token",
        "flop",
        (
            Estimate(name="weights", value=weights, unit="flop", grade="exact", formula="2 x active matrix weights"),
            Estimate(name="attention", value=mixers, unit="flop", grade="exact", formula=f"mixers at {context:g} positions"),
        ),
        sources=(_SOURCE,),
    )
