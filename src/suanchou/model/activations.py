"""Activations: the bytes that a layer, the embedding and the head keep from forward to backward on one rank.

What is kept depends on the software stack: fused kernels keep their inputs, chains of element-wise ones keep what lies between
them. A :class:`Stack` describes that; :func:`layer_saved` lists every kept tensor, and sums of it are the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from suanchou.errors import MissingData
from suanchou.model.architecture import (
    MLP,
    Architecture,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    Mixer,
    MoE,
    Norm,
    StateSpace,
)
from suanchou.model.attention import kv_head_per_rank
from suanchou.model.feedforward import expert_rows
from suanchou.model.operators import Num, Recompute, Shape

__all__ = [
    "FUSED",
    "MEGATRON_2021",
    "STACKS",
    "TRANSFORMERS",
    "Recompute",
    "Saved",
    "Stack",
    "embedding_activation_byte",
    "head_activation_byte",
    "layer_activation_byte",
    "layer_saved",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a software stack keeps for backward.

    Parameters
    ----------
    fused : norms, gated activations and softmax are one kernel each and keep their inputs; otherwise what torch's chain of
        element-wise kernels keeps.
    rms : what an unfused RMSNorm keeps per channel besides its output: the fp32 copy of its input, and the normalised value
        ``cast`` back to the element type before the weight multiplies it (LLaMA), or still in fp32 (``fp32``: Gemma, OLMo 2).
    softmax_fp32 : unfused eager softmax runs in fp32 and is cast back: both results are kept.
    fused_qkv : q, k and v are views of one product, so that keeping the values keeps the whole product.
    dropout : residual and attention dropout are on; each keeps a mask of one byte per element.
    statistic_byte : per row and statistic of a norm, and of a flash kernel's log-sum-exp.
    """

    name: str
    fused: bool = True
    rms: Literal["cast", "fp32"] = "cast"
    softmax_fp32: bool = True
    fused_qkv: bool = False
    dropout: bool = False
    statistic_byte: float = 4.0


FUSED = Stack(name="fused")
"""Fused kernels, as Megatron-core with Transformer Engine: each kernel keeps its input."""

TRANSFORMERS = Stack(name="transformers", fused=False)
"""Torch eager mode as transformers writes its LLaMA-shaped layers."""

MEGATRON_2021 = Stack(name="megatron-2021", dropout=True, statistic_byte=0.0)
"""The accounting of Korthikanti et al. 2022 (arXiv 2205.05198): dropout on, statistics left out."""

STACKS = {stack.name: stack for stack in (FUSED, TRANSFORMERS, MEGATRON_2021)}
"""The stacks described here, by name."""

_KEPT_BY_ACTIVATION = {"relu": 0, "gelu_new": 4, "gelu_fast": 7, "quick_gelu": 2}
"""Tensors that torch's unfused activation functions keep besides their output; one (the input) unless named here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """One kept tensor, or a few of the same use."""

    name: str
    byte: Num


def _norm_saved(
    name: str, norm: Norm, shape: Shape, stack: Stack, *, width: Num, rows: Num, shared: bool = False
) -> Iterator[Saved]:
    """A norm keeps its input and its statistics; ``shared``: a sibling already keeps the same input."""
    e = shape.element_byte
    if norm.kind == "none":
        return
    unfused_rms = norm.kind == "rms" and not stack.fused
    channel = (8.0 if stack.rms == "fp32" else 4.0 + e) if unfused_rms else 0.0 if shared else e
    statistics = stack.statistic_byte * (2.0 if norm.kind == "layer" else 1.0)
    yield Saved(name=name, byte=rows * (channel * width + statistics))


def _core_saved(
    shape: Shape,
    stack: Stack,
    prefix: str,
    *,
    q: Num,
    k: Num,
    v: Num,
    o: Num,
    expand: Num,
    row: Num,
    key: Num,
    beside: Num,
    output_copied: bool,
    selective: bool,
) -> Iterator[Saved]:
    """Inputs and output of the attention core, and what lies between.

    ``q``, ``k``, ``v``, ``o`` are elements, ``expand`` query heads per KV head, ``row`` score rows (tokens x heads) of
    ``key`` columns. ``beside``: what values that are a view of a wider product keep of it. ``output_copied``: the output has
    the layout of the rotated queries, so that the projection reads a copy.
    """
    e = shape.element_byte
    eager = shape.attention == "eager"
    # eager torch products keep copies, with keys and values repeated for every query head
    copied = eager and not stack.fused and not selective
    inputs = q + (k + v) * (expand if copied else 1.0)
    if not copied:
        inputs = inputs + beside
    yield Saved(name=f"{prefix}.core.input", byte=e * inputs)
    # the core's backward needs its output as it was; a linear layer in a narrower type keeps a copy of its own
    narrow: Num = shape.kept_byte * np.where(np.asarray(shape.kept_byte) < e, 1.0, 0.0)
    yield Saved(name=f"{prefix}.out.input", byte=(e + narrow) * o)
    if selective:
        return
    if eager:
        score = e + (4.0 if stack.softmax_fp32 and not stack.fused else 0.0) + ((1.0 + e) if stack.dropout else 0.0)
        yield Saved(name=f"{prefix}.core.scores", byte=score * row * key)
        return
    yield Saved(name=f"{prefix}.core.logsumexp", byte=stack.statistic_byte * row)
    if output_copied:
        yield Saved(name=f"{prefix}.core.output", byte=e * o)


def _attention_saved(a: Attention, shape: Shape, stack: Stack, prefix: str, selective: bool) -> Iterator[Saved]:
    e, token = shape.element_byte, shape.token
    heads, kv_heads = a.n_head / shape.tp, kv_head_per_rank(a.n_kv_head, shape.tp)
    source = shape.encoder_token if a.cross else token
    q, o = token * heads * a.d_head, token * heads * a.d_v
    k, v = source * kv_heads * a.d_head, source * kv_heads * a.d_v
    if a.qk_norm != "none":
        own_k = 0.0 if a.shares_kv else k
        rows = token * (heads + (0.0 if a.shares_kv else kv_heads)) if a.qk_norm != "full" else 2.0 * token
        norm = Norm(kind="layer" if a.qk_norm_bias else "rms")
        yield from _norm_saved(f"{prefix}.qk_norm", norm, shape, stack, width=(q + own_k) / rows, rows=rows)
    split = stack.fused_qkv and not a.cross
    key = shape.seq if not a.cross or shape.encoder_seq is None else shape.encoder_seq
    yield from _core_saved(
        shape,
        stack,
        prefix,
        q=q,
        # keys and values of another layer are kept there
        k=0.0 if a.shares_kv else k,
        v=0.0 if a.shares_kv else v,
        o=o,
        expand=heads / kv_heads,
        row=token * heads,
        key=key,
        beside=q + k if split and a.rotary else 0.0,
        output_copied=split and a.rotary,
        selective=selective,
    )
    if a.output_gate:
        yield Saved(name=f"{prefix}.gate", byte=2.0 * e * o)


def _latent_saved(a: LatentAttention, shape: Shape, stack: Stack, prefix: str, selective: bool) -> Iterator[Saved]:
    e, token, rows = shape.element_byte, shape.token, shape.token_sp
    heads = a.n_head / shape.tp
    rms = Norm()
    for part, rank in (("q", a.q_rank), ("kv", a.kv_rank)):
        if rank is not None:
            yield from _norm_saved(f"{prefix}.{part}_norm", rms, shape, stack, width=float(rank), rows=rows)
            yield Saved(name=f"{prefix}.{part}_up.input", byte=e * rows * rank)
    if a.indexer is not None and not a.indexer.reuses:
        i = a.indexer
        yield Saved(name=f"{prefix}.indexer", byte=e * token * (i.n_head * (i.d_head + 1.0) + 2.0 * i.d_head))
    q, o = token * heads * (a.d_nope + a.d_rope), token * heads * a.d_value
    yield from _core_saved(
        shape,
        stack,
        prefix,
        q=q,
        k=q,
        v=o,
        o=o,
        expand=1.0,
        row=token * heads,
        key=shape.seq,
        beside=0.0 if stack.fused else token * heads * a.d_nope,
        output_copied=False,
        selective=selective,
    )


def _recurrent_saved(
    mixer: LinearAttention | StateSpace, shape: Shape, stack: Stack, prefix: str, selective: bool
) -> Iterator[Saved]:
    """What the fused kernels keep: their input (before the convolution), the result, and the gated result that is projected.

    Gated delta also keeps its convolved and normalised q, k, v and one triangle row per token and head; the chunk states are
    computed again backward, as everywhere.
    """
    if not stack.fused:
        raise MissingData(
            f"what {stack.name} keeps of a {mixer.kind} mixer is not described",
            where="recompute",
            hint="plan with fused kernels, which every real run of such a model uses",
        )
    e, token = shape.element_byte, shape.token
    if isinstance(mixer, LinearAttention):
        key, value = mixer.n_key_head * mixer.d_key / shape.tp, mixer.n_value_head * mixer.d_value / shape.tp
        into, out = 2.0 * key + 2.0 * value, value
        if mixer.kind == "gated-delta" and not selective:
            heads = mixer.n_value_head / shape.tp
            decay = key if mixer.channel_decay else heads
            kept = e * (2.0 * key + value) + 4.0 * decay + heads * e * (1.0 + (mixer.chunk or 64))
            yield Saved(name=f"{prefix}.core.input", byte=token * kept)
    else:
        inner = mixer.d_inner / shape.tp
        shared = 2.0 * kv_head_per_rank(mixer.n_group, shape.tp) * mixer.d_state + mixer.n_head / shape.tp
        extra = {
            "mamba1": float(mixer.dt_rank + 2 * mixer.d_state),
            "mamba2": shared,
            "rg-lru": 4.0 * inner,
            "short-conv": inner,
        }
        into, out = 2.0 * inner + extra[mixer.kind], inner
    yield Saved(name=f"{prefix}.in.output", byte=e * token * into)
    yield Saved(name=f"{prefix}.core.output", byte=e * token * out)
    yield Saved(name=f"{prefix}.out.input", byte=e * token * out)


def _mixer_saved(mixer: Mixer, shape: Shape, stack: Stack, prefix: str, selective: bool) -> Iterator[Saved]:
    if isinstance(mixer, Attention):
        return _attention_saved(mixer, shape, stack, prefix, selective)
    if isinstance(mixer, LatentAttention):
        return _latent_saved(mixer, shape, stack, prefix, selective)
    return _recurrent_saved(mixer, shape, stack, prefix, selective)


def _mlp_saved(mlp: MLP, shape: Shape, stack: Stack, prefix: str, *, element: Num) -> Iterator[Saved]:
    """``element`` = rows x inner width on this rank. The first GEMM's input is kept by whoever shares it."""
    e = shape.element_byte
    between = _KEPT_BY_ACTIVATION.get(mlp.activation, 1) if not stack.fused else 1
    if mlp.gated:
        # fused: both halves of the product; unfused: the function's result as well
        between = 2 if stack.fused else between + 2
    e = e if shape.activation_byte is None else shape.activation_byte
    yield Saved(name=f"{prefix}.activation.input", byte=e * element * between)
    yield Saved(name=f"{prefix}.down.input", byte=shape.kept_byte * element)


def _moe_saved(moe: MoE, d_model: int, shape: Shape, stack: Stack) -> Iterator[Saved]:
    """Router scores in fp32, the tokens sorted by expert, and what lies inside the experts.

    Fused stacks apply the routing weights inside the experts' activation; unfused, they multiply the experts' output, which
    is then kept as well.
    """
    e = shape.element_byte
    rows = expert_rows(moe, shape)
    expert_tp = shape.tp if shape.expert_tp is None else shape.expert_tp
    yield Saved(name="moe.router.scores", byte=4.0 * shape.token_sp * (moe.n_expert + moe.n_zero_expert))
    if moe.d_latent is not None:
        yield Saved(name="moe.latent_out.input", byte=shape.kept_byte * shape.token_sp * moe.d_latent)
    yield Saved(name="moe.experts.up.input", byte=shape.kept_byte * rows * (moe.d_latent or d_model))
    yield from _mlp_saved(moe.expert, shape, stack, "moe.experts", element=rows * moe.expert.d_ff / expert_tp)
    if not stack.fused:
        yield Saved(name="moe.experts.output", byte=e * rows * (moe.d_latent or d_model))
    if moe.shared is not None:
        yield from _mlp_saved(moe.shared, shape, stack, "moe.shared", element=shape.token * moe.shared.d_ff / shape.tp)


def layer_saved(
    layer: Layer, d_model: int, shape: Shape, recompute: Recompute = "none", *, stack: Stack = FUSED
) -> tuple[Saved, ...]:
    """Every tensor that one layer keeps on one rank for one micro-batch.

    ``selective`` keeps the inputs and the output of the attention core and computes what lies between again; ``full`` keeps
    the layer's input alone.

    Raises
    ------
    MissingData : an unfused stack with linear attention or a state-space mixer.
    """
    stream = shape.element_byte * shape.token_sp * d_model
    if recompute == "full":
        return (Saved(name="layer.input", byte=stream),)
    kept: list[Saved] = []
    first = True
    for i, norm in enumerate(layer.norms):
        # in a parallel layer all norms read the layer's input
        shared = layer.parallel and not first and norm.kind == "layer"
        kept += _norm_saved(
            f"norm.{i}", norm, shape, stack, width=float(norm.width or d_model), rows=shape.token_sp, shared=shared
        )
        first = False
    row = shape.token_sp * d_model
    # adapters read the mixer's input in the wide type
    mixed = shape.element_byte if shape.frozen else shape.kept_byte
    inputs: Num = 0.0
    any_input = False
    for part, mixer in (("attention", layer.mixer), ("hybrid", layer.hybrid), ("cross", layer.cross)):
        if mixer is not None:
            kept += _mixer_saved(mixer, shape, stack, part, recompute == "selective")
            inputs = inputs + mixed * (part != "hybrid" or layer.mixer is None)
            any_input = True
    if isinstance(layer.ffn, MLP):
        kept += _mlp_saved(layer.ffn, shape, stack, "mlp", element=shape.token * layer.ffn.d_ff / shape.tp)
    elif isinstance(layer.ffn, MoE):
        kept += _moe_saved(layer.ffn, d_model, shape, stack)
    one_input = layer.parallel and len(layer.norms) < 2
    if layer.ffn is not None and not (one_input and any_input):
        inputs = inputs + shape.kept_byte
    kept.append(Saved(name="gemm.inputs", byte=inputs * row))
    if stack.dropout:
        parts = sum(part is not None for part in (layer.mixer, layer.cross, layer.ffn))
        kept.append(Saved(name="dropout.masks", byte=parts * shape.token_sp * d_model))
    return tuple(kept)


def layer_activation_byte(
    layer: Layer, d_model: int, shape: Shape, recompute: Recompute = "none", *, stack: Stack = FUSED
) -> Num:
    """Bytes that one layer keeps on one rank for one micro-batch: the sum of :func:`layer_saved`."""
    total: Num = 0.0
    for saved in layer_saved(layer, d_model, shape, recompute, stack=stack):
        total = total + saved.byte
    return total


def embedding_activation_byte(arch: Architecture, shape: Shape, *, stack: Stack = FUSED) -> Num:
    """Bytes that the embedding keeps: token (and position) ids of 8 bytes, its norm's input, a dropout mask."""
    total: Num = 8.0 * shape.token * (2.0 if arch.n_position else 1.0)
    if arch.embedding_norm is not None:
        for saved in _norm_saved("norm", arch.embedding_norm, shape, stack, width=float(arch.d_model), rows=shape.token_sp):
            total = total + saved.byte
    if arch.d_embed not in (None, arch.d_model):
        total = total + shape.element_byte * shape.token * float(arch.d_embed or 0)
    if stack.dropout:
        total = total + shape.token_sp * arch.d_model
    return total


def head_activation_byte(arch: Architecture, shape: Shape, *, stack: Stack = FUSED) -> Num:
    """Bytes that the head keeps: the final norm's input, the logits GEMM's input, fp32 (log-)probabilities, labels."""
    total: Num = shape.element_byte * shape.token_sp * arch.d_model
    if arch.final_norm is not None:
        for saved in _norm_saved("norm", arch.final_norm, shape, stack, width=float(arch.d_model), rows=shape.token_sp):
            total = total + saved.byte
    if arch.d_embed not in (None, arch.d_model):
        total = total + shape.element_byte * shape.token * float(arch.d_embed or 0)
    return total + 4.0 * shape.token * arch.vocab / shape.tp + 8.0 * shape.token
