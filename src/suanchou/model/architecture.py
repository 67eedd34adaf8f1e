"""Architecture: the shape of a language model, independent of any framework.

A model is a tuple of :class:`Layer`; a layer is a token mixer (softmax attention, latent attention, linear attention or a
state-space mixer) and a channel mixer (MLP or mixture of experts), with their norms. Widths are counts; nothing here knows
about hardware.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from suanchou.errors import SpecError

__all__ = [
    "MLP",
    "Architecture",
    "Attention",
    "LatentAttention",
    "Layer",
    "LinearAttention",
    "Mixer",
    "MoE",
    "Norm",
    "SparseIndexer",
    "Stack",
    "StateSpace",
    "VisionTower",
    "Weight",
]

Shard = Literal["column", "row", "vocab", "kv", "expert", "replicated"]
Role = Literal[
    "embedding",
    "position",
    "attention",
    "mixer",
    "mlp",
    "expert",
    "shared_expert",
    "router",
    "norm",
    "head",
    "vision",
    "mtp",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One parameter tensor.

    ``role`` groups tensors in breakdowns. ``shard`` says how tensor parallelism splits it: ``column`` (output dimension),
    ``row`` (input dimension), ``vocab``, ``kv`` (column, but at most ``n_kv_head`` ways, in Mamba-2 ``n_group`` ways, and
    replicated beyond), ``expert`` (whole experts over EP, each expert's matrices over TP) or ``replicated``.
    ``idle``: a token does not visit it (experts of an attention that were not chosen), so it does not count as active.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    shard: Shard = "replicated"
    idle: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for extent in self.shape:
            n *= extent
        return n


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """A normalisation over ``width`` channels (``None``: the model width)."""

    kind: Literal["rms", "layer", "none"] = "rms"
    weight: bool = True
    bias: bool = False
    width: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Softmax attention: MHA (``n_kv_head == n_head``), GQA or MQA.

    ``window`` is the number of positions a query sees (sliding window, or chunk when ``chunked``); ``None`` means all of them.
    ``qk_norm`` names what the query/key norms normalise: each head with shared weights (``head``) or with weights of its own
    (``per_head``), or the whole projection (``full``); ``qk_norm_weight`` is false where they only normalise.
    ``output_gate``: the query projection also produces a gate as wide as the head outputs.
    ``cross``: keys and values come from the encoder. ``shares_kv``: reuses another layer's keys and values, so it holds no
    KV projection and no cache of its own. ``d_in``: width of the input where it is not the model width; ``d_source``: width
    of what keys and values are projected from, where that differs again.
    """

    n_head: int
    n_kv_head: int
    d_head: int
    d_value: int | None = None
    window: int | None = None
    chunked: bool = False
    causal: bool = True
    cross: bool = False
    q_bias: bool = False
    kv_bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["none", "head", "per_head", "full"] = "none"
    qk_norm_bias: bool = False
    qk_norm_weight: bool = True
    output_gate: bool = False
    sinks: bool = False
    rotary: bool = True
    shares_kv: bool = False
    d_in: int | None = None
    d_source: int | None = None

    def __post_init__(self) -> None:
        if min(self.n_head, self.n_kv_head, self.d_head) < 1:
            raise SpecError("attention needs at least one head of at least one channel")
        if self.n_head % self.n_kv_head:
            raise SpecError(
                f"{self.n_head} query heads cannot share {self.n_kv_head} KV heads evenly",
                hint="num_attention_heads must be a multiple of num_key_value_heads",
            )

    @property
    def d_v(self) -> int:
        """Width of one value head."""
        return self.d_head if self.d_value is None else self.d_value


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseIndexer:
    """The lightning indexer of DeepSeek sparse attention: scores all positions, keeps ``top_k``.

    ``reuses``: the layer takes over the positions that an earlier layer chose; it holds no indexer and scores nothing.
    """

    n_head: int
    d_head: int
    top_k: int
    reuses: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA): the cache holds ``kv_rank + d_rope`` values per token, shared by all heads.

    ``q_rank`` is ``None`` where queries are projected directly. ``bias``: on the down projections and the output.
    """

    n_head: int
    kv_rank: int
    d_nope: int
    d_rope: int
    d_value: int
    q_rank: int | None = None
    bias: bool = False
    indexer: SparseIndexer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """Attention without softmax: a matrix-valued state of ``n_value_head x d_key x d_value`` per sequence.

    ``gated-delta`` (Qwen3-Next, with a short convolution over q, k and v) or ``lightning`` (MiniMax-01, M1).
    ``channel_decay``: a gated delta whose decay is one per key channel, not one per head (Kimi Delta Attention);
    ``gate_rank``: its decay and output gates are projected through this width (``None``: directly). ``chunk``: tokens
    that kernels treat at once (``None``: what the usual kernels of this kind do).
    """

    kind: Literal["gated-delta", "lightning"]
    n_key_head: int
    n_value_head: int
    d_key: int
    d_value: int
    conv_kernel: int = 0
    chunk: int | None = None
    channel_decay: bool = False
    gate_rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpace:
    """A selective state-space mixer; the state is ``d_inner x d_state`` plus the convolution's last inputs.

    ``norm``: Mamba-2's gated norm over ``d_inner``; in a Mamba-1 mixer, Jamba's norms of dt, B and C.
    ``rg-lru``: RecurrentGemma's gated linear recurrence (``d_state`` 1), its gates in ``n_head`` diagonal blocks.
    ``short-conv``: LFM2's gated short convolution, whose only state (``d_state`` 0) is the convolution's. ``chunk``:
    tokens that the Mamba-2 kernels treat at once.
    """

    kind: Literal["mamba1", "mamba2", "rg-lru", "short-conv"]
    d_inner: int
    d_state: int
    conv_kernel: int
    n_head: int = 1
    n_group: int = 1
    dt_rank: int = 0
    conv_bias: bool = True
    proj_bias: bool = False
    norm: bool = False
    chunk: int = 256


Mixer = Attention | LatentAttention | LinearAttention | StateSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class MLP:
    """Two matrices (up, down), or three when ``gated`` (up, gate, down)."""

    d_ff: int
    gated: bool = True
    up_bias: bool = False
    down_bias: bool = False
    activation: str = "silu"

    def __post_init__(self) -> None:
        if self.d_ff < 1:
            raise SpecError("an MLP needs a positive width")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoE:
    """A mixture of experts: each token visits ``top_k`` of ``n_expert`` experts and every shared expert.

    ``shared`` is the shared experts' MLP (all of them as one MLP of their summed width). ``score_bias``: the router keeps a
    correction per expert (DeepSeek-V3) that no gradient reaches; ``score_bias_trained``: it is an ordinary parameter, and
    counts as one. ``n_group`` and ``top_group`` limit routing to some groups of experts. ``d_latent``: tokens are projected
    to this width before the experts and back after them (``latent_bias``: with biases). ``n_zero_expert``: the router also
    chooses among this many experts that return their input and cost nothing (LongCat-Flash).
    """

    n_expert: int
    top_k: int
    expert: MLP
    shared: MLP | None = None
    shared_gate: bool = False
    router_bias: bool = False
    score_bias: bool = False
    score_bias_trained: bool = False
    n_group: int = 1
    top_group: int = 1
    d_latent: int | None = None
    latent_bias: bool = False
    n_zero_expert: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.n_expert:
            raise SpecError(f"{self.top_k} active experts of {self.n_expert} is impossible")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One residual layer.

    ``norms`` lists every norm of the residual path in it (pre- and post-norms). ``parallel``: mixer and MLP read the same
    input (GPT-J, Falcon, Cohere). ``hybrid``: a second mixer that runs beside the first (Falcon-H1). ``cross`` is a decoder's
    cross-attention. ``extra``: parameters of this family that no field describes. ``shares_weights``: mixer, MLP and norms run
    with the weights of an earlier layer, so that only ``extra`` is its own (Zamba).
    """

    mixer: Mixer | None
    ffn: MLP | MoE | None
    norms: tuple[Norm, ...] = ()
    cross: Attention | None = None
    hybrid: Mixer | None = None
    parallel: bool = False
    extra: tuple[Weight, ...] = ()
    shares_weights: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """An encoder: its layers and what comes after them."""

    layers: tuple[Layer, ...]
    final_norm: Norm | None = None
    extra: tuple[Weight, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTower:
    """A vision encoder and its projector, counted tensor by tensor."""

    weights: tuple[Weight, ...]
    n_layer: int
    d_model: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A language model.

    ``max_position`` is the longest context the configuration claims. ``n_position`` counts learned position embeddings (0:
    none). ``d_embed``: width of the token embedding when it differs from ``d_model`` (then projections lead in and out).
    ``mtp``: multi-token-prediction layers, trained but not used in ordinary decoding. ``extra``: parameters outside the
    layers that no field describes.
    """

    name: str
    family: str
    d_model: int
    vocab: int
    layers: tuple[Layer, ...]
    max_position: int
    tied: bool = False
    head_bias: bool = False
    final_norm: Norm | None = field(default_factory=Norm)
    embedding_norm: Norm | None = None
    n_position: int = 0
    d_embed: int | None = None
    encoder: Stack | None = None
    mtp: tuple[Layer, ...] = ()
    mtp_extra: tuple[Weight, ...] = ()
    vision: VisionTower | None = None
    extra: tuple[Weight, ...] = ()
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        if min(self.d_model, self.vocab) < 1:
            raise SpecError("a model needs a positive width and vocabulary", where=self.name)
        if not self.layers:
            raise SpecError("a model needs at least one layer", where=self.name)

    @property
    def n_layer(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)
