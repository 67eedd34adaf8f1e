"""Operators of the mixers with a state: linear attention (gated delta, lightning) and state-space (Mamba-1, Mamba-2)."""

from __future__ import annotations

from collections.abc import Iterator

from suanchou.model.architecture import LinearAttention, StateSpace
from suanchou.model.attention import kv_head_per_rank, norm_step
from suanchou.model.num import Num, minimum
from suanchou.model.operators import Operator, Shape, Step, gemm, grouped_gemm, memory

__all__ = ["linear_attention_steps", "state_space_steps"]

_CHUNK = {"gated-delta": 64, "lightning": 256}


def _scan(name: str, shape: Shape, *, flop: Num, moved: Num, state: Num, backward: float) -> Step:
    """A recurrence over chunks: reads and writes ``moved`` elements and ``state`` fp32 values.

    ``backward`` is its FLOP over the forward's: 2 for the gradients, more where intermediates are computed again.
    """
    byte = shape.element_byte * moved + 4.0 * state
    return Step(
        Operator(name=name, kind="scan", flop=flop, byte=byte, m=shape.token),
        (Operator(name=f"{name}.backward", kind="scan", flop=backward * flop, byte=3.0 * byte, m=shape.token),),
    )


def _convolution(name: str, shape: Shape, channel: Num, kernel: int) -> Step:
    """A causal depthwise convolution with its activation; backward has two products per forward one."""
    return _scan(
        name, shape, flop=2.0 * kernel * shape.token * channel, moved=2.0 * shape.token * channel, state=0.0, backward=2.0
    )


def linear_attention_steps(a: LinearAttention, d_model: int, shape: Shape, *, prefix: str = "linear") -> Iterator[Step]:
    """Chunked linear attention; heads are split over TP, tokens over CP.

    Per token and head, with chunks of C: lightning 2C(d_k + d_v) inside a chunk and 4 d_k d_v for the state. Gated delta
    2C(3 d_k + 2 d_v) for K K', Q K', the triangular system applied to K and V, and the scores on V; C^2 / 3 to invert the
    triangle; 6 d_k d_v for what the state predicts, gives and receives. Backward recomputes the forward (gated delta) or its
    scores (lightning).
    """
    token = shape.token
    chunk: Num = minimum(float(a.chunk or _CHUNK[a.kind]), shape.seq)
    key, value = a.n_key_head * a.d_key / shape.tp, a.n_value_head * a.d_value / shape.tp
    heads = a.n_value_head / shape.tp
    delta = a.kind == "gated-delta"
    gates = value + (key if a.channel_decay else 0.0)
    narrow = (0.0 if not delta else 1.0 if a.channel_decay else 2.0) * heads
    yield gemm(
        f"{prefix}.in", shape, m=token, n=2.0 * key + value + narrow + (gates if a.gate_rank is None else 0.0), k=d_model
    )
    if a.gate_rank is not None:
        low = a.gate_rank * (2.0 if a.channel_decay else 1.0)
        yield gemm(f"{prefix}.gate_down", shape, m=shape.token_sp, n=low, k=d_model)
        yield gemm(f"{prefix}.gate_up", shape, m=token, n=gates, k=a.gate_rank)
    if a.conv_kernel:
        yield _convolution(f"{prefix}.conv", shape, 2.0 * key + value, a.conv_kernel)
    if delta:
        flop = 2.0 * chunk * (3.0 * a.d_key + 2.0 * a.d_value) + chunk * chunk / 3.0 + 6.0 * a.d_key * a.d_value
    else:
        flop = 2.0 * chunk * (a.d_key + a.d_value) + 4.0 * a.d_key * a.d_value
    yield _scan(
        f"{prefix}.core",
        shape,
        flop=token * heads * flop,
        moved=token * (2.0 * key + 2.0 * value),
        state=2.0 * token / chunk * heads * a.d_key * a.d_value,
        backward=3.0 if delta else 2.5,
    )
    yield norm_step(f"{prefix}.norm", shape, token=token, width=value, kind="rms")
    gated = shape.element_byte * token * value
    yield memory(f"{prefix}.gate", forward=3.0 * gated, backward=5.0 * gated)
    yield gemm(f"{prefix}.out", shape, m=token, n=d_model, k=value)


def _gated_recurrence_steps(s: StateSpace, d_model: int, shape: Shape, prefix: str) -> Iterator[Step]:
    """RecurrentGemma's RG-LRU and LFM2's short convolution.

    The recurrence is element-wise, 8 per token and channel: two to scale the decay and exponentiate it, two for the input's
    normaliser, two to gate the input, two to step. Its two gates are block-diagonal products, a block per head.
    """
    token, inner = shape.token, s.d_inner / shape.tp
    element = shape.element_byte * token * inner
    lru = s.kind == "rg-lru"
    yield gemm(f"{prefix}.in", shape, m=token, n=(2.0 if lru else 3.0) * inner, k=d_model)
    if not lru:
        yield memory(f"{prefix}.input_gate", forward=3.0 * element, backward=5.0 * element)
    yield _convolution(f"{prefix}.conv", shape, inner, s.conv_kernel)
    if lru:
        width = float(s.d_inner // s.n_head)
        yield grouped_gemm(f"{prefix}.gates", shape, count=2.0 * s.n_head / shape.tp, m=token, n=width, k=width)
        yield _scan(f"{prefix}.core", shape, flop=8.0 * token * inner, moved=4.0 * token * inner, state=0.0, backward=3.0)
    yield memory(f"{prefix}.gate", forward=3.0 * element, backward=5.0 * element)
    yield gemm(f"{prefix}.out", shape, m=token, n=d_model, k=inner)


def state_space_steps(s: StateSpace, d_model: int, shape: Shape, *, prefix: str = "ssm") -> Iterator[Step]:
    """A Mamba mixer; the inner width is split over TP, Mamba-2's groups until TP exceeds their number.

    Mamba-1's scan is element-wise, 7 per token, channel and state: two to discretise A, one for B, two for the recurrence, two
    to read out. Mamba-2 works in chunks of C: 2C d_state per group for the scores, 2C per channel to apply them, 4 d_state per
    channel to write and read the state. Backward computes the states again.
    """
    if s.kind in ("rg-lru", "short-conv"):
        yield from _gated_recurrence_steps(s, d_model, shape, prefix)
        return
    token, inner = shape.token, s.d_inner / shape.tp
    if s.kind == "mamba1":
        yield gemm(f"{prefix}.in", shape, m=token, n=2.0 * inner, k=d_model)
        yield _convolution(f"{prefix}.conv", shape, inner, s.conv_kernel)
        yield gemm(f"{prefix}.x", shape, m=token, n=float(s.dt_rank + 2 * s.d_state), k=inner)
        if s.norm:
            yield norm_step(f"{prefix}.dt_bc_norm", shape, token=token, width=float(s.dt_rank + 2 * s.d_state), kind="rms")
        yield gemm(f"{prefix}.dt", shape, m=token, n=inner, k=s.dt_rank)
        flop, chunks = 7.0 * token * inner * s.d_state, 0.0 * token
        moved = token * (4.0 * inner + 2.0 * s.d_state)
    else:
        chunk: Num = minimum(float(s.chunk), shape.seq)
        heads, groups = s.n_head / shape.tp, kv_head_per_rank(s.n_group, shape.tp)
        shared = 2.0 * groups * s.d_state
        yield gemm(f"{prefix}.in", shape, m=token, n=2.0 * inner + shared + heads, k=d_model)
        yield _convolution(f"{prefix}.conv", shape, inner + shared, s.conv_kernel)
        flop = token * (2.0 * chunk * (groups * s.d_state + inner) + 4.0 * inner * s.d_state)
        moved, chunks = token * (2.0 * inner + shared + heads), token / chunk
    yield _scan(f"{prefix}.core", shape, flop=flop, moved=moved, state=2.0 * chunks * inner * s.d_state, backward=3.0)
    if s.kind == "mamba2":
        gated = shape.element_byte * token * inner
        yield memory(f"{prefix}.gate", forward=3.0 * gated, backward=5.0 * gated)
        if s.norm:
            yield norm_step(f"{prefix}.norm", shape, token=token, width=inner, kind="rms")
    yield gemm(f"{prefix}.out", shape, m=token, n=d_model, k=inner)
