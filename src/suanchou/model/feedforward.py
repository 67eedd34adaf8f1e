"""Operators of the channel mixers: MLP and mixture of experts."""

from __future__ import annotations

from collections.abc import Iterator

from suanchou.model.architecture import MLP, MoE
from suanchou.model.operators import Num, Shape, Step, gemm, grouped_gemm, memory

__all__ = ["expert_rows", "mlp_steps", "moe_steps"]


def _activation(name: str, shape: Shape, gated: bool, element: Num) -> Step:
    """The non-linearity over ``element`` outputs; a gated one reads two inputs per output.

    Unfused and gated: the function and the product are kernels of their own.
    """
    e = shape.element_byte
    if not gated:
        return memory(name, forward=2.0 * e * element, backward=3.0 * e * element)
    if shape.fused:
        return memory(name, forward=3.0 * e * element, backward=5.0 * e * element)
    return memory(name, forward=5.0 * e * element, backward=9.0 * e * element, launches=(2.0, 3.0))


def mlp_steps(mlp: MLP, d_model: int, shape: Shape, *, prefix: str = "mlp") -> Iterator[Step]:
    """Up (and gate, as one GEMM), activation, down; the inner width is split over TP."""
    width = mlp.d_ff / shape.tp
    yield gemm(f"{prefix}.up", shape, m=shape.token, n=width * (2.0 if mlp.gated else 1.0), k=d_model, bias=mlp.up_bias)
    yield _activation(f"{prefix}.activation", shape, mlp.gated, shape.token * width)
    yield gemm(f"{prefix}.down", shape, m=shape.token, n=d_model, k=width, bias=mlp.down_bias)


def _visits(moe: MoE) -> float:
    """Experts a token visits: of evenly spread choices, those that fall on a zero expert cost nothing."""
    return moe.top_k * moe.n_expert / (moe.n_expert + moe.n_zero_expert)


def expert_rows(moe: MoE, shape: Shape) -> Num:
    """Rows that go through a rank's experts, all together.

    A rank contributes ``token / tp`` tokens, each to ``top_k`` experts; the ``expert_tp`` ranks that share an expert gather
    theirs. So a rank's experts get ``token / tp * expert_tp * top_k`` rows on average (times the imbalance on the busiest
    rank), whatever EP is.
    """
    expert_tp = shape.tp if shape.expert_tp is None else shape.expert_tp
    return shape.token / shape.tp * expert_tp * _visits(moe) * shape.imbalance


def moe_steps(moe: MoE, d_model: int, shape: Shape) -> Iterator[Step]:
    """Router, permute, experts, unpermute, shared experts.

    The rows that experts get are :func:`expert_rows`, spread over the ``n_expert / ep`` experts of a rank.
    """
    e = shape.element_byte
    expert_tp = shape.tp if shape.expert_tp is None else shape.expert_tp
    count = moe.n_expert / shape.ep
    routed = float(moe.n_expert + moe.n_zero_expert)
    rows = expert_rows(moe, shape)
    width = moe.expert.d_ff / expert_tp
    yield gemm("moe.router", shape, m=shape.token_sp, n=routed, k=d_model)
    logits = 4.0 * shape.token_sp * routed
    yield memory("moe.top_k", forward=3.0 * logits, backward=2.0 * logits)
    d_expert = moe.d_latent or d_model
    if moe.d_latent is not None:
        yield gemm("moe.latent_in", shape, m=shape.token_sp, n=float(moe.d_latent), k=d_model)
    sent = e * shape.token / shape.tp * _visits(moe) * d_expert
    received = e * rows * d_expert
    # one pass sorts a rank's own tokens by destination, a second one what it received by expert
    moved = 2.0 * sent + 2.0 * received
    yield memory("moe.permute", forward=moved, backward=moved, launches=(2.0, 2.0), permutes=True)
    up = 2.0 if moe.expert.gated else 1.0
    yield grouped_gemm("moe.experts.up", shape, count=count, m=rows / count, n=width * up, k=d_expert)
    yield _activation("moe.experts.activation", shape, moe.expert.gated, rows * width)
    yield grouped_gemm("moe.experts.down", shape, count=count, m=rows / count, n=d_expert, k=width)
    yield memory("moe.unpermute", forward=moved, backward=moved, launches=(2.0, 2.0), permutes=True)
    if moe.d_latent is not None:
        yield gemm("moe.latent_out", shape, m=shape.token_sp, n=d_model, k=moe.d_latent)
    if moe.shared is not None:
        yield from mlp_steps(moe.shared, d_model, shape, prefix="moe.shared")
        if moe.shared_gate:
            yield gemm("moe.shared.gate", shape, m=shape.token_sp, n=1.0, k=d_model)
        added = e * shape.token_sp * d_model
        yield memory("moe.shared.add", forward=3.0 * added, backward=2.0 * added)
