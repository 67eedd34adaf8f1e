"""Operators of multi-head latent attention in its training form, with or without the sparse indexer."""

from __future__ import annotations

from collections.abc import Iterator

from suanchou.model.architecture import LatentAttention, SparseIndexer
from suanchou.model.attention import core_steps, norm_step, score_pairs
from suanchou.model.operators import Num, Operator, Shape, Step, gemm, memory

__all__ = ["latent_attention_steps"]


def _indexer_steps(i: SparseIndexer, d_model: int, d_query: int, shape: Shape, prefix: str) -> Iterator[Step]:
    """The lightning indexer: every TP rank scores all pairs, since each needs the same top positions.

    A score is the weighted sum of the heads' products. Its backward computes the gradients of both operands of the scores.
    """
    e, token = shape.element_byte, shape.token
    width = float(i.n_head * i.d_head)
    yield gemm(f"{prefix}.q", shape, m=token, n=width, k=d_query)
    yield gemm(f"{prefix}.k", shape, m=token, n=float(i.d_head), k=d_model)
    yield norm_step(f"{prefix}.k_norm", shape, token=token, width=float(i.d_head), kind="layer")
    yield gemm(f"{prefix}.weights", shape, m=token, n=float(i.n_head), k=d_model)
    query = shape.seq / shape.cp
    pairs = shape.batch * score_pairs(shape.seq, shape.seq, causal=shape.attention != "eager") / shape.cp
    flop, scores = 2.0 * pairs * i.n_head * (i.d_head + 1.0), 4.0 * pairs
    moved = e * (token * width + shape.batch * shape.seq * i.d_head)

    def op(suffix: str, factor: float) -> Operator:
        return Operator(
            name=f"{prefix}.scores{suffix}",
            kind="attention",
            flop=factor * flop,
            byte=factor * (moved + scores),
            m=query,
            n=shape.seq,
            k=i.d_head,
            count=shape.batch * i.n_head,
        )

    yield Step(op("", 1.0), (op(".backward", 2.0),))
    yield memory(f"{prefix}.top_k", forward=scores + 4.0 * token * i.top_k, backward=2.0 * scores)


def latent_attention_steps(a: LatentAttention, d_model: int, shape: Shape, *, prefix: str = "attention") -> Iterator[Step]:
    """Latent attention as training runs it: keys and values expanded to every head.

    The down projections are whole on every TP rank and run on sequence-parallel tokens; the up projections split by heads.
    With an indexer a query attends to at most ``top_k`` of the positions before it.
    """
    e, token = shape.element_byte, shape.token
    heads = a.n_head / shape.tp
    d_qk = a.d_nope + a.d_rope
    if a.q_rank is None:
        yield gemm(f"{prefix}.q", shape, m=token, n=heads * d_qk, k=d_model)
    else:
        yield gemm(f"{prefix}.q_down", shape, m=shape.token_sp, n=float(a.q_rank), k=d_model)
        yield norm_step(f"{prefix}.q_norm", shape, token=shape.token_sp, width=float(a.q_rank), kind="rms")
        yield gemm(f"{prefix}.q_up", shape, m=token, n=heads * d_qk, k=a.q_rank)
    yield gemm(f"{prefix}.kv_down", shape, m=shape.token_sp, n=float(a.kv_rank + a.d_rope), k=d_model)
    yield norm_step(f"{prefix}.kv_norm", shape, token=shape.token_sp, width=float(a.kv_rank), kind="rms")
    yield gemm(f"{prefix}.kv_up", shape, m=token, n=heads * (a.d_nope + a.d_value), k=a.kv_rank)
    # queries rotate in place; keys are put together from their expanded part and the rotated part that heads share
    rotated: Num = 2.0 * e * token * heads * (a.d_rope + d_qk)
    yield memory(f"{prefix}.rotary", forward=rotated, backward=rotated, launches=(2.0, 2.0))
    window = None
    if a.indexer is not None:
        if not a.indexer.reuses:
            yield from _indexer_steps(a.indexer, d_model, a.q_rank or d_model, shape, f"{prefix}.indexer")
        window = a.indexer.top_k
    yield from core_steps(
        f"{prefix}.core",
        shape,
        n_head=heads,
        n_kv_head=heads,
        d_qk=d_qk,
        d_v=a.d_value,
        query=shape.seq / shape.cp,
        key=shape.seq,
        pairs=score_pairs(shape.seq, shape.seq, causal=True, window=window) / shape.cp,
    )
    yield gemm(f"{prefix}.out", shape, m=token, n=d_model, k=heads * a.d_value)
