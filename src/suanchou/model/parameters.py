"""Parameters: every weight tensor of an Architecture, named, shaped, and marked with how tensor parallelism splits it."""

from __future__ import annotations

from collections.abc import Iterator

from suanchou.model.architecture import MLP, Architecture, Attention, Layer, MoE, Norm, Role, Weight

__all__ = ["layer_weights", "parameter_count", "weights"]


def _norm(name: str, norm: Norm, d_model: int) -> Iterator[Weight]:
    width = norm.width or d_model
    if norm.kind != "none" and norm.weight:
        yield Weight(name=f"{name}.weight", shape=(width,), role="norm")
    if norm.kind != "none" and norm.bias:
        yield Weight(name=f"{name}.bias", shape=(width,), role="norm")


def _attention(a: Attention, d: int) -> Iterator[Weight]:
    d_query = a.n_head * a.d_head * (2 if a.output_gate else 1)
    yield Weight(name="attention.q", shape=(d_query, d), role="attention", shard="column")
    if a.q_bias:
        yield Weight(name="attention.q.bias", shape=(d_query,), role="attention", shard="column")
    if not a.shares_kv:
        for name, width in (("k", a.n_kv_head * a.d_head), ("v", a.n_kv_head * a.d_v)):
            yield Weight(name=f"attention.{name}", shape=(width, d), role="attention", shard="kv")
            if a.kv_bias:
                yield Weight(name=f"attention.{name}.bias", shape=(width,), role="attention", shard="kv")
    yield Weight(name="attention.out", shape=(d, a.n_head * a.d_v), role="attention", shard="row")
    if a.out_bias:
        yield Weight(name="attention.out.bias", shape=(d,), role="attention")


def _mlp(name: str, mlp: MLP, d: int, role: Role) -> Iterator[Weight]:
    for part in ("up", "gate") if mlp.gated else ("up",):
        yield Weight(name=f"{name}.{part}", shape=(mlp.d_ff, d), role=role, shard="column")
        if mlp.up_bias:
            yield Weight(name=f"{name}.{part}.bias", shape=(mlp.d_ff,), role=role, shard="column")
    yield Weight(name=f"{name}.down", shape=(d, mlp.d_ff), role=role, shard="row")
    if mlp.down_bias:
        yield Weight(name=f"{name}.down.bias", shape=(d,), role=role)


def _moe(moe: MoE, d: int) -> Iterator[Weight]:
    yield Weight(name="moe.router", shape=(moe.n_expert, d), role="router")


def layer_weights(layer: Layer, d_model: int) -> Iterator[Weight]:
    """The weights of one layer."""
    for i, norm in enumerate(layer.norms):
        yield from _norm(f"norm{i}", norm, d_model)
    if isinstance(layer.mixer, Attention):
        yield from _attention(layer.mixer, d_model)
    if isinstance(layer.ffn, MLP):
        yield from _mlp("mlp", layer.ffn, d_model, "mlp")
    elif isinstance(layer.ffn, MoE):
        yield from _moe(layer.ffn, d_model)
    yield from layer.extra


def weights(arch: Architecture) -> Iterator[Weight]:
    """Every weight of the model, once (a tied head is not repeated)."""
    yield Weight(name="embedding", shape=(arch.vocab, arch.d_embed or arch.d_model), role="embedding", shard="vocab")
    for layer in arch.layers:
        yield from layer_weights(layer, arch.d_model)
    if arch.final_norm:
        yield from _norm("final_norm", arch.final_norm, arch.d_model)
    if not arch.tied:
        yield Weight(name="head", shape=(arch.vocab, arch.d_embed or arch.d_model), role="head", shard="vocab")
    yield from arch.extra


def parameter_count(arch: Architecture) -> int:
    """Number of trained parameters."""
    return sum(weight.size for weight in weights(arch))
