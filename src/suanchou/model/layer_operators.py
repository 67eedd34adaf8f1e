"""Operators of a whole layer, of the embedding and of the head, forward and backward, for one rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from suanchou.model.architecture import (
    MLP,
    Architecture,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    Mixer,
    MoE,
    Weight,
)
from suanchou.model.attention import attention_steps, norm_step
from suanchou.model.feedforward import mlp_steps, moe_steps
from suanchou.model.latent_attention import latent_attention_steps
from suanchou.model.operators import Operator, Shape, Step, gemm, memory
from suanchou.model.recurrent import linear_attention_steps, state_space_steps

__all__ = [
    "embedding_backward",
    "embedding_forward",
    "head_backward",
    "head_forward",
    "layer_backward",
    "layer_forward",
    "layer_recompute",
    "mixer_steps",
]

_NORMS = {
    1: ("input",),
    2: ("input", "mlp"),
    3: ("input", "cross", "mlp"),
    4: ("input", "attention_out", "mlp", "mlp_out"),
}


def mixer_steps(mixer: Mixer, d_model: int, shape: Shape, *, prefix: str | None = None) -> Iterator[Step]:
    """One token mixer in order of execution; names begin with ``prefix`` or with what it is."""
    if isinstance(mixer, Attention):
        return attention_steps(mixer, d_model, shape, prefix=prefix or "attention")
    if isinstance(mixer, LatentAttention):
        return latent_attention_steps(mixer, d_model, shape, prefix=prefix or "attention")
    if isinstance(mixer, LinearAttention):
        return linear_attention_steps(mixer, d_model, shape, prefix=prefix or "linear")
    return state_space_steps(mixer, d_model, shape, prefix=prefix or "ssm")


def _mixers_steps(layer: Layer, d_model: int, shape: Shape) -> Iterator[Step]:
    if layer.mixer is not None:
        yield from mixer_steps(layer.mixer, d_model, shape)
    if layer.hybrid is not None:
        yield from mixer_steps(layer.hybrid, d_model, shape, prefix="hybrid")
    if layer.cross is not None:
        yield from attention_steps(layer.cross, d_model, shape, prefix="cross")


def _extra_steps(prefix: str, extra: Iterable[Weight], shape: Shape) -> Iterator[Step]:
    """A matrix that no field describes multiplies every token once; tables, norms and idle weights multiply none."""
    for weight in extra:
        looked_up = weight.role in ("embedding", "position", "norm", "vision") or weight.name.endswith("position")
        if len(weight.shape) != 2 or weight.idle or looked_up:
            continue
        n, k = weight.shape
        column, row = (shape.tp if weight.shard == side else 1.0 for side in ("column", "row"))
        rows = shape.token_sp if weight.shard == "replicated" else shape.token
        yield gemm(f"{prefix}.{weight.name}", shape, m=rows, n=n / column, k=k / row)


def _layer_steps(layer: Layer, d_model: int, shape: Shape) -> Iterator[Step]:
    names = _NORMS.get(len(layer.norms), tuple(str(i) for i in range(len(layer.norms))))
    norms = [
        norm_step(f"norm.{name}", shape, token=shape.token_sp, width=float(norm.width or d_model), kind=norm.kind)
        for name, norm in zip(names, layer.norms, strict=True)
        if norm.kind != "none"
    ]
    half = (len(norms) + 1) // 2
    stream = shape.element_byte * shape.token_sp * d_model
    mask = shape.token_sp * d_model if shape.dropout else 0.0
    yield from norms[:half]
    yield from _mixers_steps(layer, d_model, shape)
    if layer.mixer is not None:
        yield memory("residual.mixer", forward=3.0 * stream + mask, backward=3.0 * stream + mask)
    if layer.cross is not None:
        yield memory("residual.cross", forward=3.0 * stream, backward=3.0 * stream)
    yield from norms[half:]
    if isinstance(layer.ffn, MLP):
        yield from mlp_steps(layer.ffn, d_model, shape)
    elif isinstance(layer.ffn, MoE):
        yield from moe_steps(layer.ffn, d_model, shape)
    yield from _extra_steps("extra", layer.extra, shape)
    if layer.ffn is not None:
        yield memory("residual.ffn", forward=3.0 * stream + mask, backward=3.0 * stream + mask)


def _forward(steps: Iterable[Step]) -> tuple[Operator, ...]:
    return tuple(step.forward for step in steps)


def _backward(steps: Iterable[Step]) -> tuple[Operator, ...]:
    return tuple(op for step in reversed(tuple(steps)) for op in step.backward)


def layer_forward(layer: Layer, d_model: int, shape: Shape) -> tuple[Operator, ...]:
    """What one rank executes for one layer and one micro-batch, in order; communication apart."""
    return _forward(_layer_steps(layer, d_model, shape))


def layer_backward(layer: Layer, d_model: int, shape: Shape) -> tuple[Operator, ...]:
    """The backward of :func:`layer_forward`: two GEMMs per GEMM (``.dgrad``, ``.wgrad``); recompute of the layer apart."""
    return _backward(_layer_steps(layer, d_model, shape))


def layer_recompute(forward: tuple[Operator, ...], *, early_stop: bool) -> tuple[Operator, ...]:
    """What full recomputation runs again of a layer's ``forward``: all of it, or with ``early_stop`` what backward needs.

    Backward needs the inputs of the last product, not its result, nor the residual sum: the down projection of an MLP and what
    follows it run no second time, unless a norm stands behind it.
    """
    if not early_stop:
        return forward
    kept = list(forward)
    while kept and kept[-1].name.startswith("residual."):
        kept.pop()
    if kept and kept[-1].name == "mlp.down" and all(op.name != "norm.mlp_out" for op in forward):
        kept.pop()
    return tuple(kept)


def _embedding_steps(arch: Architecture, shape: Shape) -> Iterator[Step]:
    """Gather rows of the table, project them to the model width where they are narrower, add learned positions, norm.

    Backward adds each token's gradient to its row.
    """
    width = arch.d_embed or arch.d_model
    e = shape.element_byte
    scatter = e + 2.0 * shape.gradient_byte
    yield memory("embedding.gather", forward=2.0 * e * shape.token * width, backward=scatter * shape.token * width)
    if width != arch.d_model:
        yield gemm("embedding.project", shape, m=shape.token, n=float(arch.d_model), k=width)
    if arch.n_position:
        element = shape.token * arch.d_model
        yield memory("embedding.position", forward=3.0 * e * element, backward=scatter * element)
    if arch.embedding_norm is not None and arch.embedding_norm.kind != "none":
        yield norm_step("embedding.norm", shape, token=shape.token_sp, width=float(arch.d_model), kind=arch.embedding_norm.kind)


def _head_steps(arch: Architecture, shape: Shape) -> Iterator[Step]:
    """Final norm, what the family adds, logits over ``vocab / tp``, cross-entropy.

    The loss passes over the logits. ``fused``: a read forward, a read and a write backward. ``torch``: upcast to fp32 and
    log-softmax; backward its gradient and the cast back. ``composer``: the fused one, and upcast and log-softmax for each of
    the two metrics that training computes beside it (cross-entropy and perplexity). ``megatron``: the vocabulary-parallel
    loss of Megatron-LM, in fp32 a kernel each for upcast, maximum, subtraction, exponential, sum and division; backward
    scale, mask and cast.
    """
    width = arch.d_embed or arch.d_model
    e = shape.element_byte
    if arch.final_norm is not None and arch.final_norm.kind != "none":
        yield norm_step("head.norm", shape, token=shape.token_sp, width=float(arch.d_model), kind=arch.final_norm.kind)
    if width != arch.d_model:
        yield gemm("head.project", shape, m=shape.token, n=float(width), k=arch.d_model)
    yield from _extra_steps("head", arch.extra, shape)
    yield gemm("head.logits", shape, m=shape.token, n=arch.vocab / shape.tp, k=width)
    logits = shape.token * arch.vocab / shape.tp
    forward, backward, launches = {
        "fused": (e, 2.0 * e, (1.0, 1.0)),
        "torch": (e + 12.0, e + 16.0, (3.0, 3.0)),
        "composer": (e + 2.0 * (e + 12.0), 2.0 * e, (7.0, 1.0)),
        "megatron": (e + 36.0, e + 20.0, (6.0, 3.0)),
    }[shape.loss]
    yield memory("head.loss", forward=forward * logits, backward=backward * logits, launches=launches)


def embedding_forward(arch: Architecture, shape: Shape) -> tuple[Operator, ...]:
    """What the first stage executes before its layers."""
    return _forward(_embedding_steps(arch, shape))


def embedding_backward(arch: Architecture, shape: Shape) -> tuple[Operator, ...]:
    """The backward of :func:`embedding_forward`."""
    return _backward(_embedding_steps(arch, shape))


def head_forward(arch: Architecture, shape: Shape) -> tuple[Operator, ...]:
    """What the last stage executes after its layers, loss included."""
    return _forward(_head_steps(arch, shape))


def head_backward(arch: Architecture, shape: Shape) -> tuple[Operator, ...]:
    """The backward of :func:`head_forward`."""
    return _backward(_head_steps(arch, shape))
