"""Operators of softmax attention: projections, rotary embedding, the core, and how many score pairs a mask leaves."""

from __future__ import annotations

from collections.abc import Iterator

from suanchou.model.architecture import Attention
from suanchou.model.num import Num, maximum, minimum
from suanchou.model.operators import Operator, Shape, Step, gemm, memory

__all__ = ["attention_steps", "core_steps", "kv_head_per_rank", "norm_step", "score_pairs", "visible_keys"]


def score_pairs(seq: Num, key_seq: Num, *, causal: bool, window: float | None = None, chunked: bool = False) -> Num:
    """(query, key) pairs that a mask leaves in one sequence.

    Causal queries see themselves and what precedes them, at most ``window`` positions; with ``chunked`` windows they see their
    own chunk of ``window`` positions only. Without ``causal`` a window reaches ``window // 2`` positions to each side.
    """
    if window is None:
        return seq * (seq + 1.0) / 2.0 if causal else seq * key_seq
    if not causal:
        reach = minimum(window // 2, seq - 1.0)
        return seq + reach * (2.0 * seq - reach - 1.0)
    if chunked:
        whole = seq // window
        rest = seq - whole * window
        return whole * window * (window + 1.0) / 2.0 + rest * (rest + 1.0) / 2.0
    seen = minimum(seq, float(window))
    return seen * (seen + 1.0) / 2.0 + (seq - seen) * seen


def visible_keys(context: Num, window: int | None, chunked: bool = False) -> Num:
    """Positions that the newest of ``context`` positions sees, itself included."""
    if window is None:
        return context
    if chunked:
        return (context - 1.0) % window + 1.0
    return minimum(context, float(window))


def kv_head_per_rank(n_kv_head: int, tp: Num) -> Num:
    """KV heads a rank holds: split over TP, and replicated once TP exceeds their number."""
    return maximum(n_kv_head / tp, 1.0)


def norm_step(name: str, shape: Shape, *, token: Num, width: Num, kind: str) -> Step:
    """A norm over ``width`` channels of ``token`` rows.

    Fused: read, write; backward reads input and gradient, writes one. LayerNorm is one kernel forward in every framework;
    torch's own runs two backward, the second reads input and gradient again for the gradients of its weights. An unfused
    RMSNorm upcasts to fp32, squares, averages, scales, casts back and multiplies by its weight, a kernel each.
    """
    e = shape.element_byte
    rows = token * width
    if shape.fused or (shape.fused_norm and kind != "layer"):
        return memory(name, forward=rows * 2.0 * e, backward=rows * 3.0 * e)
    if kind == "layer":
        return memory(name, forward=rows * 2.0 * e, backward=rows * 5.0 * e, launches=(1.0, 2.0))
    return memory(name, forward=rows * (4.0 * e + 28.0), backward=rows * (10.0 * e + 56.0), launches=(6.0, 11.0))


def _rotary(name: str, shape: Shape, element: Num) -> Step:
    """Fused: in place. Unfused: x*cos + cat(-x2, x1)*sin as five kernels on q and five on k."""
    e = shape.element_byte
    if shape.fused:
        return memory(name, forward=element * 2.0 * e, backward=element * 2.0 * e)
    return memory(name, forward=element * 10.0 * e, backward=element * 10.0 * e, launches=(10.0, 10.0))


def core_steps(
    name: str,
    shape: Shape,
    *,
    n_head: Num,
    n_kv_head: Num,
    d_qk: float,
    d_v: float,
    query: Num,
    key: Num,
    pairs: Num,
) -> Iterator[Step]:
    """Scores, softmax and weighted sum of one rank.

    ``query`` and ``key`` are rows per sequence on this rank, ``pairs`` the unmasked pairs among them, of ``n_head`` heads.
    Flash kernels compute the pairs left by the mask, and backward recomputes the scores: five products instead of four. Eager
    attention computes every pair: batched products and passes over the score matrix.
    """
    if shape.attention == "eager":
        yield from _eager_steps(name, shape, count=shape.batch * n_head, query=query, key=key, d_qk=d_qk, d_v=d_v)
        return
    e = shape.element_byte
    sequences = shape.batch * n_head
    q, o = shape.batch * query * n_head * d_qk, shape.batch * query * n_head * d_v
    kv = shape.batch * key * n_kv_head * (d_qk + d_v)
    pair = sequences * pairs
    lse = 4.0 * shape.batch * query * n_head

    def op(suffix: str, flop: Num, byte: Num, started: float) -> Operator:
        return Operator(
            name=f"{name}{suffix}",
            kind="attention",
            flop=flop,
            byte=byte,
            m=query,
            n=key,
            k=d_qk,
            count=sequences,
            launches=started,
        )

    yield Step(
        op("", 2.0 * pair * (d_qk + d_v), e * (q + kv + o) + lse, 1.0),
        (op(".backward", 2.0 * pair * (3.0 * d_qk + 2.0 * d_v), e * 2.0 * (q + kv + o) + 2.0 * lse, 2.0),),
    )


def _eager_steps(name: str, shape: Shape, *, count: Num, query: Num, key: Num, d_qk: float, d_v: float) -> Iterator[Step]:
    """Queries by keys, softmax, probabilities by values; backward two products for each of the two.

    The softmax passes over the score matrix: scale and mask with it in one kernel when fused; unfused it upcasts to fp32, one
    kernel each. Dropout is a pass of its own, with a mask of one byte.
    """
    e = shape.element_byte
    score = count * query * key
    yield _batched(f"{name}.scores", shape, count=count, m=query, n=key, k=d_qk)
    forward, backward, launches = (2.0 * e, 3.0 * e, (1.0, 1.0)) if shape.fused else (4.0 * e + 8.0, 7.0 * e + 16.0, (4.0, 7.0))
    yield memory(f"{name}.softmax", forward=forward * score, backward=backward * score, launches=launches)
    if shape.dropout:
        yield memory(f"{name}.dropout", forward=(2.0 * e + 1.0) * score, backward=(2.0 * e + 1.0) * score)
    yield _batched(f"{name}.context", shape, count=count, m=query, n=d_v, k=key)


def _batched(name: str, shape: Shape, *, count: Num, m: Num, n: Num, k: Num) -> Step:
    """``count`` products of activations, and backward one for each side."""
    e = shape.element_byte

    def op(suffix: str, m: Num, n: Num, k: Num) -> Operator:
        return Operator(
            name=f"{name}{suffix}",
            kind="attention",
            flop=2.0 * count * m * n * k,
            byte=e * count * (m * k + k * n + m * n),
            m=m,
            n=n,
            k=k,
            count=count,
            batched=True,
        )

    return Step(op("", m, n, k), (op(".left", m, k, n), op(".right", k, n, m)))


def attention_steps(a: Attention, d_model: int, shape: Shape, *, prefix: str = "attention") -> Iterator[Step]:
    """Softmax attention (MHA, GQA, MQA, windows, cross-attention) in order of execution.

    Queries are split over CP and meet all keys; causal work is balanced over CP ranks.
    """
    e, token = shape.element_byte, shape.token
    heads = a.n_head / shape.tp
    kv_heads = kv_head_per_rank(a.n_kv_head, shape.tp)
    q_width = heads * (a.d_head + (a.d_v if a.output_gate else 0.0))
    d_in = a.d_in or d_model
    kv_width = kv_heads * (a.d_head + a.d_v)
    key_token = shape.encoder_token if a.cross else token
    if a.shares_kv:
        yield gemm(f"{prefix}.q", shape, m=token, n=q_width, k=d_in, bias=a.q_bias)
    elif a.cross or a.d_source is not None:
        yield gemm(f"{prefix}.q", shape, m=token, n=q_width, k=d_in, bias=a.q_bias)
        yield gemm(f"{prefix}.kv", shape, m=key_token, n=kv_width, k=a.d_source or d_in, bias=a.kv_bias)
    else:
        yield gemm(f"{prefix}.qkv", shape, m=token, n=q_width + kv_width, k=d_in, bias=a.q_bias)
        if not shape.fused:
            # autograd joins the gradients of the three parts of the product before it goes on
            yield memory(f"{prefix}.split", forward=0.0, backward=2.0 * e * token * (q_width + kv_width), launches=(0.0, 1.0))
    q, k = token * heads * a.d_head, 0.0 if a.shares_kv else key_token * kv_heads * a.d_head
    if a.qk_norm != "none":
        yield norm_step(f"{prefix}.qk_norm", shape, token=1.0, width=q + k, kind="layer" if a.qk_norm_bias else "rms")
    if a.rotary:
        yield _rotary(f"{prefix}.rotary", shape, q + k)
    key = shape.seq if not a.cross or shape.encoder_seq is None else shape.encoder_seq
    yield from core_steps(
        f"{prefix}.core",
        shape,
        n_head=heads,
        n_kv_head=kv_heads,
        d_qk=a.d_head,
        d_v=a.d_v,
        query=shape.seq / shape.cp,
        key=key,
        pairs=score_pairs(shape.seq, key, causal=a.causal and not a.cross, window=a.window, chunked=a.chunked) / shape.cp,
    )
    o = token * heads * a.d_v
    if a.output_gate:
        yield memory(f"{prefix}.gate", forward=3.0 * e * o, backward=5.0 * e * o)
    yield gemm(f"{prefix}.out", shape, m=token, n=d_model, k=heads * a.d_v, bias=a.out_bias)
