"""Parameters: every weight tensor of an Architecture, named, shaped, and marked with how tensor parallelism splits it.

Buffers (rotary frequencies, causal masks, a router's correction that no gradient reaches) are not parameters and are left
out, as `sum(p.numel() for p in model.parameters())` leaves them out. Multi-token-prediction heads count only when asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

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
    Role,
    Shard,
    SparseIndexer,
    StateSpace,
    Weight,
)

__all__ = [
    "active_parameter_count",
    "distinct_layers",
    "kv_ways",
    "layer_parameter_count",
    "layer_weights",
    "mixer_weights",
    "mtp_weights",
    "outer_weights",
    "parameter_count",
    "parameters_by_role",
    "weights",
]

EMBEDDING_ROLES: tuple[Role, ...] = ("embedding", "position", "head")


def _norm(name: str, norm: Norm | None, d_model: int) -> Iterator[Weight]:
    if norm is None or norm.kind == "none":
        return
    width = norm.width or d_model
    if norm.weight:
        yield Weight(name=f"{name}.weight", shape=(width,), role="norm")
    if norm.bias:
        yield Weight(name=f"{name}.bias", shape=(width,), role="norm")


def _linear(name: str, d_out: int, d_in: int, role: Role, shard: Shard = "replicated", bias: bool = False) -> Iterator[Weight]:
    yield Weight(name=name, shape=(d_out, d_in), role=role, shard=shard)
    if bias:
        # A row-split product is summed over TP first, so its bias is whole on every rank.
        yield Weight(name=f"{name}.bias", shape=(d_out,), role=role, shard="replicated" if shard == "row" else shard)


def _qk_norm(a: Attention, name: str) -> Iterator[Weight]:
    if a.qk_norm == "none" or not a.qk_norm_weight:
        return
    sides: tuple[tuple[str, int, Shard], ...] = (("q", a.n_head, "column"), ("k", a.n_kv_head, "kv"))
    for side, n_head, shard in sides[:1] if a.shares_kv else sides:
        one = a.qk_norm == "head"
        for part in ("weight", "bias") if a.qk_norm_bias else ("weight",):
            yield Weight(
                name=f"{name}.{side}_norm.{part}",
                shape=(a.d_head,) if one else (n_head * a.d_head,),
                role="norm",
                shard="replicated" if one else shard,
            )


def _attention(a: Attention, d: int, name: str) -> Iterator[Weight]:
    d_in = a.d_in or d
    d_query = a.n_head * (a.d_head + (a.d_v if a.output_gate else 0))
    yield from _linear(f"{name}.q", d_query, d_in, "attention", "column", a.q_bias)
    if not a.shares_kv:
        for part, width in (("k", a.n_kv_head * a.d_head), ("v", a.n_kv_head * a.d_v)):
            yield from _linear(f"{name}.{part}", width, a.d_source or d_in, "attention", "kv", a.kv_bias)
    yield from _linear(f"{name}.out", d, a.n_head * a.d_v, "attention", "row", a.out_bias)
    yield from _qk_norm(a, name)
    if a.sinks:
        yield Weight(name=f"{name}.sinks", shape=(a.n_head,), role="attention", shard="column")


def _indexer(i: SparseIndexer, d: int, d_query: int, name: str) -> Iterator[Weight]:
    # The indexer is small and every rank needs all of its scores, so it is replicated.
    yield from _linear(f"{name}.q", i.n_head * i.d_head, d_query, "attention")
    yield from _linear(f"{name}.k", i.d_head, d, "attention")
    yield from _norm(f"{name}.k_norm", Norm(kind="layer", bias=True, width=i.d_head), d)
    yield from _linear(f"{name}.weights", i.n_head, d, "attention")


def _latent_attention(a: LatentAttention, d: int, name: str) -> Iterator[Weight]:
    d_query = a.n_head * (a.d_nope + a.d_rope)
    if a.q_rank is None:
        yield from _linear(f"{name}.q", d_query, d, "attention", "column")
    else:
        yield from _linear(f"{name}.q_down", a.q_rank, d, "attention", "replicated", a.bias)
        yield from _norm(f"{name}.q_norm", Norm(width=a.q_rank), d)
        yield from _linear(f"{name}.q_up", d_query, a.q_rank, "attention", "column")
    yield from _linear(f"{name}.kv_down", a.kv_rank + a.d_rope, d, "attention", "replicated", a.bias)
    yield from _norm(f"{name}.kv_norm", Norm(width=a.kv_rank), d)
    yield from _linear(f"{name}.kv_up", a.n_head * (a.d_nope + a.d_value), a.kv_rank, "attention", "column")
    yield from _linear(f"{name}.out", d, a.n_head * a.d_value, "attention", "row", a.bias)
    if a.indexer is not None and not a.indexer.reuses:
        yield from _indexer(a.indexer, d, a.q_rank or d, f"{name}.indexer")


def _linear_attention(a: LinearAttention, d: int, name: str) -> Iterator[Weight]:
    d_key, d_value = a.n_key_head * a.d_key, a.n_value_head * a.d_value
    for part, width in (("q", d_key), ("k", d_key), ("v", d_value)):
        yield from _linear(f"{name}.{part}", width, d, "mixer", "column")
    for part, width in (("gate", d_value), ("decay", d_key)) if a.channel_decay else (("gate", d_value),):
        if a.gate_rank is not None:
            yield from _linear(f"{name}.{part}_down", a.gate_rank, d, "mixer")
        yield from _linear(f"{name}.{part}", width, a.gate_rank or d, "mixer", "column")
    yield from _linear(f"{name}.out", d, d_value, "mixer", "row")
    if a.kind == "lightning":
        yield Weight(name=f"{name}.norm.weight", shape=(d_value,), role="norm", shard="column")
        return
    for part in ("b",) if a.channel_decay else ("a", "b"):
        yield from _linear(f"{name}.{part}", a.n_value_head, d, "mixer", "column")
    for part, width in (("dt_bias", d_key if a.channel_decay else a.n_value_head), ("a_log", a.n_value_head)):
        yield Weight(name=f"{name}.{part}", shape=(width,), role="mixer", shard="column")
    if a.conv_kernel:
        yield Weight(name=f"{name}.conv", shape=(2 * d_key + d_value, a.conv_kernel), role="mixer", shard="column")
    yield Weight(name=f"{name}.norm.weight", shape=(a.d_value,), role="norm")


def _mamba1(s: StateSpace, d: int, name: str) -> Iterator[Weight]:
    yield from _linear(f"{name}.in", 2 * s.d_inner, d, "mixer", "column", s.proj_bias)
    yield Weight(name=f"{name}.conv", shape=(s.d_inner, s.conv_kernel), role="mixer", shard="column")
    if s.conv_bias:
        yield Weight(name=f"{name}.conv.bias", shape=(s.d_inner,), role="mixer", shard="column")
    yield from _linear(f"{name}.x", s.dt_rank + 2 * s.d_state, s.d_inner, "mixer", "row")
    yield from _linear(f"{name}.dt", s.d_inner, s.dt_rank, "mixer", "column", bias=True)
    yield Weight(name=f"{name}.a_log", shape=(s.d_inner, s.d_state), role="mixer", shard="column")
    yield Weight(name=f"{name}.d", shape=(s.d_inner,), role="mixer", shard="column")
    yield from _linear(f"{name}.out", d, s.d_inner, "mixer", "row", s.proj_bias)
    if s.norm:
        for part, width in (("dt", s.dt_rank), ("b", s.d_state), ("c", s.d_state)):
            yield from _norm(f"{name}.{part}_norm", Norm(width=width), d)


def _mamba2(s: StateSpace, d: int, name: str) -> Iterator[Weight]:
    d_group = 2 * s.n_group * s.d_state
    yield from _linear(f"{name}.in_zx", 2 * s.d_inner, d, "mixer", "column", s.proj_bias)
    yield from _linear(f"{name}.in_bc", d_group, d, "mixer", "kv", s.proj_bias)
    yield from _linear(f"{name}.in_dt", s.n_head, d, "mixer", "column", s.proj_bias)
    sides: tuple[tuple[str, int, Shard], ...] = (("conv_x", s.d_inner, "column"), ("conv_bc", d_group, "kv"))
    for part, width, shard in sides:
        yield Weight(name=f"{name}.{part}", shape=(width, s.conv_kernel), role="mixer", shard=shard)
        if s.conv_bias:
            yield Weight(name=f"{name}.{part}.bias", shape=(width,), role="mixer", shard=shard)
    for part in ("dt_bias", "a_log", "d"):
        yield Weight(name=f"{name}.{part}", shape=(s.n_head,), role="mixer", shard="column")
    if s.norm:
        yield Weight(name=f"{name}.norm.weight", shape=(s.d_inner,), role="norm", shard="column")
    yield from _linear(f"{name}.out", d, s.d_inner, "mixer", "row", s.proj_bias)


def _rg_lru(s: StateSpace, d: int, name: str) -> Iterator[Weight]:
    for part in ("in", "gate"):
        yield from _linear(f"{name}.{part}", s.d_inner, d, "mixer", "column", s.proj_bias)
    yield Weight(name=f"{name}.conv", shape=(s.d_inner, s.conv_kernel), role="mixer", shard="column")
    if s.conv_bias:
        yield Weight(name=f"{name}.conv.bias", shape=(s.d_inner,), role="mixer", shard="column")
    yield Weight(name=f"{name}.a_log", shape=(s.d_inner,), role="mixer", shard="column")
    width = s.d_inner // s.n_head
    for part in ("input_gate", "decay_gate"):
        yield Weight(name=f"{name}.{part}", shape=(s.n_head, width, width), role="mixer", shard="column")
        yield Weight(name=f"{name}.{part}.bias", shape=(s.n_head, width), role="mixer", shard="column")
    yield from _linear(f"{name}.out", d, s.d_inner, "mixer", "row", s.proj_bias)


def _short_conv(s: StateSpace, d: int, name: str) -> Iterator[Weight]:
    yield from _linear(f"{name}.in", 3 * s.d_inner, d, "mixer", "column", s.proj_bias)
    yield Weight(name=f"{name}.conv", shape=(s.d_inner, s.conv_kernel), role="mixer", shard="column")
    if s.conv_bias:
        yield Weight(name=f"{name}.conv.bias", shape=(s.d_inner,), role="mixer", shard="column")
    yield from _linear(f"{name}.out", d, s.d_inner, "mixer", "row", s.proj_bias)


def mixer_weights(mixer: Mixer, d_model: int, name: str = "attention") -> Iterator[Weight]:
    """The weights of one token mixer, their names beginning with ``name``."""
    if isinstance(mixer, Attention):
        yield from _attention(mixer, d_model, name)
    elif isinstance(mixer, LatentAttention):
        yield from _latent_attention(mixer, d_model, name)
    elif isinstance(mixer, LinearAttention):
        yield from _linear_attention(mixer, d_model, name)
    else:
        state_space = {"mamba1": _mamba1, "mamba2": _mamba2, "rg-lru": _rg_lru, "short-conv": _short_conv}
        yield from state_space[mixer.kind](mixer, d_model, name)


def _mlp(name: str, mlp: MLP, d: int, role: Role) -> Iterator[Weight]:
    for part in ("up", "gate") if mlp.gated else ("up",):
        yield from _linear(f"{name}.{part}", mlp.d_ff, d, role, "column", mlp.up_bias)
    yield from _linear(f"{name}.down", d, mlp.d_ff, role, "row", mlp.down_bias)


def _moe(moe: MoE, d: int) -> Iterator[Weight]:
    yield from _linear("moe.router", moe.n_expert + moe.n_zero_expert, d, "router", "replicated", moe.router_bias)
    if moe.score_bias_trained:
        yield Weight(name="moe.router.score_bias", shape=(moe.n_expert,), role="router")
    d_expert = moe.d_latent or d
    if moe.d_latent is not None:
        yield from _linear("moe.latent_in", moe.d_latent, d, "mlp", "replicated", moe.latent_bias)
        yield from _linear("moe.latent_out", d, moe.d_latent, "mlp", "replicated", moe.latent_bias)
    for weight in _mlp("moe.expert", moe.expert, d_expert, "expert"):
        yield replace(weight, shape=(moe.n_expert, *weight.shape), shard="expert")
    if moe.shared is not None:
        yield from _mlp("moe.shared", moe.shared, d, "shared_expert")
        if moe.shared_gate:
            yield from _linear("moe.shared_gate", 1, d, "shared_expert")


def layer_weights(layer: Layer, d_model: int) -> Iterator[Weight]:
    """The weights of one layer; of one that shares another's, only those that are its own."""
    if layer.shares_weights:
        yield from layer.extra
        return
    for i, norm in enumerate(layer.norms):
        yield from _norm(f"norm{i}", norm, d_model)
    if layer.mixer is not None:
        yield from mixer_weights(layer.mixer, d_model)
    if layer.hybrid is not None:
        yield from mixer_weights(layer.hybrid, d_model, "hybrid")
    if layer.cross is not None:
        yield from mixer_weights(layer.cross, d_model, "cross")
    if isinstance(layer.ffn, MLP):
        yield from _mlp("mlp", layer.ffn, d_model, "mlp")
    elif isinstance(layer.ffn, MoE):
        yield from _moe(layer.ffn, d_model)
    yield from layer.extra


def outer_weights(arch: Architecture) -> Iterator[Weight]:
    """The weights outside decoder and encoder layers: embeddings, positions, final norms, head, vision tower."""
    d, d_embed = arch.d_model, arch.d_embed or arch.d_model
    yield Weight(name="embedding", shape=(arch.vocab, d_embed), role="embedding", shard="vocab")
    if arch.n_position:
        yield Weight(name="position", shape=(arch.n_position, d), role="position")
    if d_embed != d:
        yield from _linear("embedding.in", d, d_embed, "embedding")
        yield from _linear("embedding.out", d_embed, d, "head")
    yield from _norm("embedding_norm", arch.embedding_norm, d)
    if arch.encoder is not None:
        yield from _norm("encoder.final_norm", arch.encoder.final_norm, d)
        yield from arch.encoder.extra
    yield from _norm("final_norm", arch.final_norm, d)
    if not arch.tied:
        yield Weight(name="head", shape=(arch.vocab, d_embed), role="head", shard="vocab")
    if arch.head_bias:
        yield Weight(name="head.bias", shape=(arch.vocab,), role="head", shard="vocab")
    if arch.vision is not None:
        yield from arch.vision.weights
    yield from arch.extra


def mtp_weights(arch: Architecture) -> Iterator[Weight]:
    """The weights of the multi-token-prediction heads, all under the role ``mtp``."""
    for weight in _layers_weights("mtp", arch.mtp, arch.d_model):
        yield replace(weight, role="mtp")
    for weight in arch.mtp_extra:
        yield replace(weight, role="mtp")


def _layers_weights(prefix: str, layers: Iterable[Layer], d_model: int) -> Iterator[Weight]:
    for i, layer in enumerate(layers):
        for weight in _cached_weights(layer, d_model):
            yield replace(weight, name=f"{prefix}.{i}.{weight.name}")


def weights(arch: Architecture, *, mtp: bool = False) -> Iterator[Weight]:
    """Every weight of the model, once (a tied head is not repeated); with the MTP heads where ``mtp``."""
    if arch.encoder is not None:
        yield from _layers_weights("encoder", arch.encoder.layers, arch.d_model)
    yield from _layers_weights("layer", arch.layers, arch.d_model)
    yield from outer_weights(arch)
    if mtp:
        yield from mtp_weights(arch)


@lru_cache(maxsize=4096)
def _cached_weights(layer: Layer, d_model: int) -> tuple[Weight, ...]:
    return tuple(layer_weights(layer, d_model))


@lru_cache(maxsize=4096)
def _role_counts(layer: Layer, d_model: int) -> tuple[tuple[Role, int], ...]:
    found: dict[Role, int] = {}
    for weight in _cached_weights(layer, d_model):
        found[weight.role] = found.get(weight.role, 0) + weight.size
    return tuple(found.items())


def distinct_layers(layers: Iterable[Layer]) -> tuple[tuple[Layer, int], ...]:
    """Equal layers once each, with how many there are, in order of first appearance.

    Models repeat a few layers many times; whatever is computed per layer need be computed only for these.
    """
    # Repeated layers are mostly one object: comparing identities first saves hashing each of them in depth.
    by_identity: dict[int, tuple[Layer, int]] = {}
    for layer in layers:
        by_identity[id(layer)] = (layer, by_identity.get(id(layer), (layer, 0))[1] + 1)
    found: dict[Layer, int] = {}
    for layer, n in by_identity.values():
        found[layer] = found.get(layer, 0) + n
    return tuple(found.items())


def layer_parameter_count(layer: Layer, d_model: int) -> int:
    """Number of parameters of one layer."""
    return sum(n for _, n in _role_counts(layer, d_model))


def parameters_by_role(arch: Architecture, *, mtp: bool = False) -> dict[Role, int]:
    """Number of parameters by role; the values add up to :func:`parameter_count` with the same arguments."""
    found: dict[Role, int] = {}
    for layer, n in distinct_layers((*(arch.encoder.layers if arch.encoder else ()), *arch.layers)):
        for role, size in _role_counts(layer, arch.d_model):
            found[role] = found.get(role, 0) + n * size
    for weight in (*outer_weights(arch), *(mtp_weights(arch) if mtp else ())):
        found[weight.role] = found.get(weight.role, 0) + weight.size
    return found


def parameter_count(arch: Architecture, *, embedding: bool = True, mtp: bool = False) -> int:
    """Number of parameters.

    ``embedding=False`` leaves out the token and position tables and the head, tied or not: the "non-embedding parameters" of
    model cards. ``mtp=True`` adds the multi-token-prediction heads, which ordinary decoding never runs.
    """
    return sum(n for role, n in parameters_by_role(arch, mtp=mtp).items() if embedding or role not in EMBEDDING_ROLES)


def active_parameter_count(arch: Architecture, *, embedding: bool = True, mtp: bool = False) -> int:
    """Number of parameters that one token visits.

    Of every mixture of experts, ``top_k`` experts (fewer on average, where some of those do nothing) and the shared ones;
    everything else whole, but for weights that say they are idle. The whole token table counts
    (``embedding=True``), as in published "active parameters"; ``embedding`` and ``mtp`` as in :func:`parameter_count`.
    """
    idle = 0
    encoder = arch.encoder.layers if arch.encoder else ()
    for layer, n in distinct_layers((*encoder, *arch.layers, *(arch.mtp if mtp else ()))):
        idle += n * sum(weight.size for weight in layer.extra if weight.idle)
        if isinstance(layer.ffn, MoE):
            in_experts, moe = dict(_role_counts(layer, arch.d_model)).get("expert", 0), layer.ffn
            n_choice = moe.n_expert + moe.n_zero_expert
            idle += n * (in_experts * (n_choice - moe.top_k) // n_choice)
    return parameter_count(arch, embedding=embedding, mtp=mtp) - idle


def kv_ways(mixer: Mixer) -> int:
    """How many ways tensor parallelism can split this mixer's ``kv`` weights before it must repeat them."""
    if isinstance(mixer, Attention):
        return mixer.n_kv_head
    if isinstance(mixer, StateSpace):
        return mixer.n_group
    return mixer.n_head if isinstance(mixer, LatentAttention) else mixer.n_key_head
