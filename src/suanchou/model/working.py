"""Working memory: bytes that a rank needs for a moment on top of what it keeps, in a layer's backward pass and in the loss."""

from __future__ import annotations

from suanchou.model.activations import FUSED, Stack
from suanchou.model.architecture import (
    MLP,
    Architecture,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    MoE,
    StateSpace,
    Weight,
)
from suanchou.model.attention import kv_head_per_rank
from suanchou.model.feedforward import expert_rows
from suanchou.model.num import maximum
from suanchou.model.operators import Num, Shape
from suanchou.model.parameters import layer_weights

__all__ = ["core_output_byte", "layer_working_byte", "linear_weights", "logits_count"]


def logits_count(arch: Architecture, shape: Shape) -> Num:
    """Logits of one micro-batch on one rank."""
    return shape.token * arch.vocab / shape.tp


def _heads_out(layer: Layer, shape: Shape) -> Num:
    """Elements of the attention core's output per token on one rank; 0 for layers without attention."""
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        return mixer.n_head / shape.tp * mixer.d_v
    return mixer.n_head / shape.tp * mixer.d_value if isinstance(mixer, LatentAttention) else 0.0


def core_output_byte(layer: Layer, shape: Shape) -> Num:
    """The attention core's output, which all-to-all context parallelism keeps twice: as the kernel wrote it, and dealt back."""
    return shape.element_byte * shape.token * _heads_out(layer, shape)


def _mixer_working(layer: Layer, shape: Shape, stack: Stack) -> Num:
    """Gradients of the core's inputs and output, as the kernel writes them and as the projections read them.

    Eager attention is fullest at the softmax: the gradients of its input and output.
    """
    e, token, mixer = shape.element_byte, shape.token, layer.mixer
    if isinstance(mixer, Attention):
        heads, kv_heads = mixer.n_head / shape.tp, kv_head_per_rank(mixer.n_kv_head, shape.tp)
        inputs = heads * mixer.d_head + kv_heads * (mixer.d_head + mixer.d_v)
        key = shape.seq
    elif isinstance(mixer, LatentAttention):
        heads = mixer.n_head / shape.tp
        inputs = heads * (2.0 * (mixer.d_nope + mixer.d_rope) + mixer.d_value)
        key = shape.seq
    elif isinstance(mixer, LinearAttention | StateSpace):
        width = mixer.n_value_head * mixer.d_value if isinstance(mixer, LinearAttention) else mixer.d_inner
        return 4.0 * e * token * width / shape.tp
    else:
        return 0.0
    found = 2.0 * e * token * (inputs + _heads_out(layer, shape))
    if shape.attention == "eager":
        fp32 = 4.0 if stack.softmax_fp32 and not stack.fused else 0.0
        found = maximum(found, token * heads * (2.0 * e + fp32) * key)
    return found


def layer_working_byte(layer: Layer, d_model: int, shape: Shape, *, stack: Stack = FUSED) -> Num:
    """What one layer's backward pass allocates on top of what forward kept, at its fullest.

    The activation's backward is the fullest moment of an MLP: the gradients of its output and of its one or two inputs, less
    the input of the second product, which is freed by then. With them live the gradient of the residual stream and, where
    sequence parallelism gathers it, that of the whole sequence; for experts, the gradient of the rows they got.
    """
    e = shape.element_byte
    streams = e * d_model * (shape.token_sp + shape.sp * shape.token)
    inner: Num = 0.0
    if isinstance(layer.ffn, MLP):
        inner = e * shape.token * layer.ffn.d_ff / shape.tp * (2.0 if layer.ffn.gated else 1.0)
    elif isinstance(layer.ffn, MoE):
        moe = layer.ffn
        rows = expert_rows(moe, shape)
        width = moe.expert.d_ff / (shape.tp if shape.expert_tp is None else shape.expert_tp)
        inner = e * rows * (width * (2.0 if moe.expert.gated else 1.0) + (moe.d_latent or d_model))
    return streams + maximum(inner, _mixer_working(layer, shape, stack))


def linear_weights(layers: tuple[Layer, ...], d_model: int) -> tuple[Weight, ...]:
    """One matrix of every shape among the linear layers of ``layers``: one expert's, no router.

    Gate and up matrices, and q, k and v, are halves and thirds of one matrix in fused stacks, so each is listed.
    """
    found: dict[tuple[str, tuple[int, ...]], Weight] = {}
    for layer in layers:
        for weight in layer_weights(layer, d_model):
            shape = weight.shape[1:] if weight.shard == "expert" else weight.shape
            if len(shape) == 2 and weight.role not in ("router", "norm"):
                found.setdefault(
                    (weight.name, shape), Weight(name=weight.name, shape=shape, role=weight.role, shard=weight.shard)
                )
    return tuple(found.values())
