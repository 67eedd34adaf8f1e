"""State-space mixers, alone and beside attention: Mamba, Jamba, Bamba, Granite 4, Falcon-H1, Nemotron-H, Griffin, LFM2."""

from __future__ import annotations

import math
from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import MLP, Architecture, Layer, Mixer, MoE, Norm, StateSpace, Weight
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import (
    attention,
    decoder,
    experts,
    layer_kinds,
    layer_numbers,
    mlp,
    next_token_head,
    sizes,
    with_defaults,
)

__all__ = ["inner_width", "mamba2_mixer", "step_rank"]

TWO_NORMS = (Norm(), Norm())
KINDS = ("linear_attention", "full_attention")


def inner_width(config: Config, key: str) -> int:
    """Inner width: the model width times an expansion."""
    width = int(config.ratio(key, 2.0) * config.count("hidden_size"))
    if not 1 <= width <= 10**9:
        raise SpecError(f"an inner width of {width} is not possible", where=f"{config.where}: {key}")
    return width


def step_rank(config: Config, key: str) -> int:
    """Rank of the time step's projection; ``auto``: a sixteenth of the model width, rounded up."""
    automatic = config.raw(key, "auto") == "auto"
    return math.ceil(config.count("hidden_size") / 16) if automatic else config.count(key)


@family("mamba", "falcon_mamba")
def mamba(config: Config) -> Architecture:
    """Mamba, and Falcon Mamba, which normalises dt, B and C without weights."""
    usual = {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 32, "tie_word_embeddings": True}
    config = with_defaults(config, **usual)
    mixer = StateSpace(
        kind="mamba1",
        d_inner=inner_width(config, "expand"),
        d_state=config.count("state_size", default=16),
        conv_kernel=config.count("conv_kernel", default=4),
        dt_rank=step_rank(config, "time_step_rank"),
        conv_bias=config.flag("use_conv_bias", True),
        proj_bias=config.flag("use_bias"),
    )
    return decoder(config, (Layer(mixer=mixer, ffn=None, norms=(Norm(),)),) * config.n_layer())


@family("mamba2")
def mamba2(config: Config) -> Architecture:
    """Mamba-2."""
    config = with_defaults(config, vocab_size=32768, hidden_size=4096, num_hidden_layers=64)
    mixer = mamba2_mixer(
        config,
        d_inner=inner_width(config, "expand"),
        keys=("num_heads", "head_dim", "n_groups", "state_size", "conv_kernel"),
        defaults=(128, 64, 8, 128, 4),
        conv_bias=config.flag("use_conv_bias", True),
        proj_bias=config.flag("use_bias"),
    )
    return decoder(config, (Layer(mixer=mixer, ffn=None, norms=(Norm(),)),) * config.n_layer())


def mamba2_mixer(
    config: Config, *, d_inner: int, keys: tuple[str, ...], defaults: tuple[int, ...], norm: bool = True, **bias: bool
) -> StateSpace:
    """A Mamba-2 mixer; ``keys`` and ``defaults`` are those of heads, head width, groups, state and kernel.

    Raises
    ------
    SpecError : heads that do not fill the inner width, or groups that do not divide the heads.
    """
    n_head = config.count(keys[0], default=defaults[0])
    d_head = d_inner // n_head if config.raw(keys[1], "auto") == "auto" else config.count(keys[1])
    if n_head * d_head != d_inner:
        raise SpecError(f"{n_head} heads of {d_head} channels do not fill {d_inner}", where=f"{config.where}: {keys[0]}")
    n_group = config.count(keys[2], default=defaults[2])
    if n_head % n_group:
        raise SpecError(f"{n_head} heads cannot share {n_group} groups evenly", where=f"{config.where}: {keys[2]}")
    return StateSpace(
        kind="mamba2",
        d_inner=d_inner,
        d_state=config.count(keys[3], default=defaults[3]),
        conv_kernel=config.count(keys[4], default=defaults[4]),
        n_head=n_head,
        n_group=n_group,
        norm=norm,
        chunk=config.count("mamba_chunk_size", "chunk_size", default=128 if config.text("model_type") == "nemotron_h" else 256),
        **bias,
    )


MAMBA_KEYS = ("mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state", "mamba_d_conv")


def _granite_mamba(config: Config, **options: Any) -> StateSpace:
    """The Mamba-2 mixer under the names of Bamba, Granite 4 and Falcon-H1."""
    usual: dict[str, Any] = {
        "d_inner": inner_width(config, "mamba_expand"),
        "keys": MAMBA_KEYS,
        "defaults": (128, 0, 1, 256, 4),
        "conv_bias": config.flag("mamba_conv_bias", True),
        "proj_bias": config.flag("mamba_proj_bias"),
    }
    return mamba2_mixer(config, **(usual | options))


@family("jamba")
def jamba(config: Config) -> Architecture:
    """Jamba: Mamba with norms on dt, B and C; attention and experts each in every n-th layer, from an offset."""
    config = with_defaults(config, **sizes(65536, 4096, 14336, 32, 32, 8, 262144, num_experts_per_tok=2))
    n_layer, n_expert = config.n_layer(), config.count("num_experts", "num_local_experts", default=16)
    mixers: dict[bool, Mixer] = {
        True: attention(config, rotary=False),
        False: StateSpace(
            kind="mamba1",
            d_inner=inner_width(config, "mamba_expand"),
            d_state=config.count("mamba_d_state", default=16),
            conv_kernel=config.count("mamba_d_conv", default=4),
            dt_rank=step_rank(config, "mamba_dt_rank"),
            conv_bias=config.flag("mamba_conv_bias", True),
            proj_bias=config.flag("mamba_proj_bias"),
            norm=True,
        ),
    }
    attends = _periodic(config, "attn_layer_period", "attn_layer_offset", 8, 4)
    sparse = _periodic(config, "expert_layer_period", "expert_layer_offset", 2, 1)
    ffn: dict[bool, MLP | MoE] = {False: mlp(config), True: mlp(config)}
    if n_expert > 1:
        ffn[True] = experts(config, mlp(config), default=16)
    layers = [Layer(mixer=mixers[attends(i)], ffn=ffn[sparse(i)], norms=TWO_NORMS) for i in range(n_layer)]
    return decoder(config, layers)


def _periodic(config: Config, period_key: str, offset_key: str, period: int, offset: int) -> Any:
    """Whether layer i is the one of its period at the offset."""
    step, first = config.count(period_key, default=period), config.count(offset_key, default=offset, zero=True)
    if first >= step:
        raise SpecError(f"an offset of {first} in a period of {step}", where=f"{config.where}: {offset_key}")
    return lambda i: i % step == first


@family("bamba")
def bamba(config: Config) -> Architecture:
    """Bamba: Mamba-2, with attention in the layers of ``attn_layer_indices``."""
    config = with_defaults(config, **sizes(128000, 4096, 14336, 32, 32, 8, 262144))
    n_layer = config.n_layer()
    attends = layer_numbers(config, "attn_layer_indices", n_layer)
    bias = config.flag("mlp_bias")
    full, scan = attention(config, bias=config.flag("attention_bias")), _granite_mamba(config)
    layers = [Layer(mixer=full if i in attends else scan, ffn=mlp(config, bias=bias), norms=TWO_NORMS) for i in range(n_layer)]
    return decoder(config, layers)


@family("granitemoehybrid")
def granitemoehybrid(config: Config) -> Architecture:
    """Granite 4: Mamba-2 or attention as ``layer_types`` says; a shared MLP, with experts beside it where there are any."""
    config = with_defaults(config, **sizes(32000, 4096, 11008, 32, 32, None, 2048, num_experts_per_tok=2))
    n_layer = config.n_layer()
    shared = mlp(with_defaults(config, shared_intermediate_size=1024), "shared_intermediate_size")
    n_expert = config.count("num_local_experts", "num_experts", default=8, zero=True)
    ffn = experts(config, mlp(config), default=8, shared=shared) if n_expert else shared
    rotary = config.text("position_embedding_type") == "rope"
    mixers: dict[str, Mixer] = {
        "linear_attention": _granite_mamba(config),
        "full_attention": attention(config, bias=config.flag("attention_bias"), rotary=rotary),
    }
    kinds = layer_kinds(config, n_layer, ["linear_attention"] * n_layer, KINDS, "layer_types", "layers_block_type")
    return decoder(config, [Layer(mixer=mixers[kind], ffn=ffn, norms=TWO_NORMS) for kind in kinds])


@family("falcon_h1")
def falcon_h1(config: Config) -> Architecture:
    """Falcon-H1: attention and Mamba-2 side by side in every layer."""
    config = with_defaults(config, mamba_d_ssm=1024, **sizes(128000, 4096, 14336, 32, 32, 8, 8192))
    d_inner = config.count("mamba_d_ssm") if "mamba_d_ssm" in config else inner_width(config, "mamba_expand")
    in_bias, out_bias = config.flag("mamba_proj_bias"), config.flag("projectors_bias")
    scan = _granite_mamba(config, d_inner=d_inner, norm=config.flag("mamba_rms_norm"), proj_bias=in_bias and out_bias)
    # Input and output projections have switches of their own; where they differ, the one bias stands beside the mixer.
    extra: tuple[Weight, ...] = ()
    if in_bias and not out_bias:
        width = 2 * d_inner + 2 * scan.n_group * scan.d_state + scan.n_head
        extra = (Weight(name="hybrid.in.bias", shape=(width,), role="mixer", shard="column"),)
    elif out_bias and not in_bias:
        extra = (Weight(name="hybrid.out.bias", shape=(config.count("hidden_size"),), role="mixer"),)
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias")),
        hybrid=scan,
        ffn=mlp(config, bias=config.flag("mlp_bias")),
        norms=TWO_NORMS,
        extra=extra,
    )
    return decoder(config, (layer,) * config.n_layer())


NEMOTRON_LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
"""The letters of ``hybrid_override_pattern``."""


def _nemotron_kinds(config: Config, list_key: str, pattern_key: str, default: list[str]) -> list[str]:
    known = tuple(NEMOTRON_LETTERS.values())
    if list_key in config:
        return layer_kinds(config, len(config.items(list_key)), [], known, list_key)
    pattern = config.text(pattern_key)
    for letter in pattern:
        if letter not in NEMOTRON_LETTERS:
            raise SpecError(
                f"unknown letter {letter!r}",
                where=f"{config.where}: {pattern_key}",
                hint=f"known: {' '.join(NEMOTRON_LETTERS)}",
            )
    return [NEMOTRON_LETTERS[letter] for letter in pattern] or default


@family("nemotron_h")
def nemotron_h(config: Config) -> Architecture:
    """Nemotron-H and Nemotron 3: every layer is one thing, a Mamba-2 mixer, attention, an MLP or experts."""
    usual = sizes(131072, 4096, 21504, 4, 32, 8, 4096, head_dim=128, num_experts_per_tok=2)
    usual |= {"moe_intermediate_size": 7688, "moe_shared_expert_intermediate_size": 7688}
    config = with_defaults(config, hidden_act=config.raw("mlp_hidden_act", "relu2"), **usual)
    default = ["linear_attention", "moe", "full_attention", "mlp"]
    key = "layer_types" if "layer_types" in config else "layers_block_type"
    kinds = _nemotron_kinds(config, key, "hybrid_override_pattern", default)
    made = {kind: _nemotron_layer(config, kind) for kind in dict.fromkeys(kinds)}
    n_next = config.count("num_nextn_predict_layers", default=0, zero=True, most=1000)
    fields: dict[str, Any] = {}
    if n_next:
        ahead = _nemotron_kinds(config, "mtp_layers_block_type", "mtp_hybrid_override_pattern", ["full_attention", "moe"])
        modules = next_token_head(config, made[kinds[-1]], "num_nextn_predict_layers")
        fields = {"mtp": tuple(_nemotron_layer(config, kind) for kind in ahead) * n_next, "mtp_extra": modules["mtp_extra"]}
    return decoder(config, [made[kind] for kind in kinds], **fields)


def _nemotron_layer(config: Config, kind: str) -> Layer:
    norms, bias = (Norm(),), config.flag("mlp_bias")
    if kind == "full_attention":
        window = config.count("sliding_window") if "sliding_window" in config else None
        return Layer(mixer=attention(config, rotary=False, window=window), ffn=None, norms=norms)
    if kind == "mlp":
        return Layer(mixer=None, ffn=mlp(config, bias=bias, gated=False), norms=norms)
    if kind == "moe":
        return Layer(mixer=None, ffn=_nemotron_moe(config, bias), norms=norms)
    keys = ("mamba_num_heads", "mamba_head_dim", "mamba_n_groups", "ssm_state_size", "mamba_d_conv")
    older = {"mamba_n_groups": "n_groups", "mamba_d_conv": "conv_kernel", "mamba_conv_bias": "use_conv_bias"}
    config = with_defaults(config, **{new: config.raw(old) for new, old in older.items() if old in config})
    n_head, d_head = config.count(keys[0], default=128), config.count(keys[1], default=64)
    scan = mamba2_mixer(
        config,
        d_inner=n_head * d_head,
        keys=keys,
        defaults=(128, 64, 8, 128, 4),
        conv_bias=config.flag("mamba_conv_bias", True),
        proj_bias=config.flag("use_bias"),
    )
    return Layer(mixer=scan, ffn=None, norms=norms)


def _nemotron_moe(config: Config, bias: bool) -> MoE:
    n_shared = config.count("n_shared_experts", default=1, zero=True)
    shared = mlp(config, "moe_shared_expert_intermediate_size", bias=bias, gated=False) if n_shared else None
    return experts(
        config,
        mlp(config, "moe_intermediate_size", gated=False),
        n=("n_routed_experts", "num_local_experts"),
        default=8,
        shared=shared,
        score_bias=True,
        n_group=config.count("n_group", default=1),
        top_group=config.count("topk_group", default=1),
        d_latent=config.count("moe_latent_size") if "moe_latent_size" in config else None,
        latent_bias=bias,
    )


@family("recurrent_gemma")
def recurrent_gemma(config: Config) -> Architecture:
    """RecurrentGemma (Griffin): two gated linear recurrences, then one layer of sliding attention, and so on."""
    usual = sizes(256000, 2560, 7680, 26, 10, None, 2048, attention_window_size=2048, tie_word_embeddings=True)
    config = with_defaults(config, hidden_act=config.raw("hidden_activation", "gelu_pytorch_tanh"), **usual)
    n_layer, n_head, d_model = config.n_layer(), config.count("num_attention_heads"), config.count("hidden_size")
    d_inner = config.count("lru_width", default=d_model)
    if d_inner % n_head:
        raise SpecError(f"{n_head} gate blocks do not divide {d_inner} channels", where=f"{config.where}: lru_width")
    pattern = config.items("block_types") or ["recurrent", "recurrent", "attention"]
    bias, d_ff = config.flag("attention_bias"), config.count("intermediate_size") // 2
    mixers: dict[str, Mixer] = {
        "recurrent": StateSpace(
            kind="rg-lru",
            d_inner=d_inner,
            d_state=1,
            conv_kernel=config.count("conv1d_width", default=4),
            n_head=n_head,
            proj_bias=True,
        ),
        "attention": attention(
            config,
            q_bias=bias,
            kv_bias=bias,
            out_bias=True,
            window=config.count("attention_window_size"),
            d_head=d_model // n_head,
        ),
    }
    for kind in pattern:
        if kind not in tuple(mixers):
            raise SpecError(f"unknown block {kind!r}", where=f"{config.where}: block_types", hint="recurrent or attention")
    ffn = MLP(d_ff=d_ff, up_bias=True, down_bias=True, activation=config.text("hidden_act"))
    layers = [Layer(mixer=mixers[pattern[i % len(pattern)]], ffn=ffn, norms=TWO_NORMS) for i in range(n_layer)]
    return decoder(config, layers)


@family("lfm2", "lfm2_moe")
def lfm2(config: Config) -> Architecture:
    """LFM2: gated short convolutions, with attention in some layers; LFM2-MoE has experts after its first dense layers."""
    sparse = config.text("model_type") == "lfm2_moe"
    usual = sizes(65536, 2560, 12288, 32, 32, 8, 128000, tie_word_embeddings=config.raw("tie_embedding", True))
    if sparse:
        usual |= {"hidden_size": 2048, "intermediate_size": 7168, "moe_intermediate_size": 1792, "num_experts_per_tok": 4}
    config = with_defaults(config, **usual)
    n_layer, bias = config.n_layer(), config.flag("conv_bias")
    kinds = layer_kinds(config, n_layer, _lfm2_kinds(config, n_layer, sparse), ("conv", "full_attention"))
    mixers: dict[str, Mixer] = {
        "full_attention": attention(config, qk_norm="head"),
        "conv": StateSpace(
            kind="short-conv",
            d_inner=config.count("hidden_size"),
            d_state=0,
            conv_kernel=config.count("conv_L_cache", default=3),
            conv_bias=bias,
            proj_bias=bias,
        ),
    }
    ffn: list[MLP | MoE]
    if sparse:
        n_dense = config.count("num_dense_layers", default=2, zero=True)
        score_bias = config.flag("use_expert_bias", True)
        moe = experts(config, mlp(config, "moe_intermediate_size"), default=32, score_bias=score_bias)
        ffn = [mlp(config) if i < n_dense else moe for i in range(n_layer)]
    else:
        ffn = [_lfm2_mlp(config)] * n_layer
    return decoder(config, [Layer(mixer=mixers[kind], ffn=f, norms=TWO_NORMS) for kind, f in zip(kinds, ffn, strict=True)])


def _lfm2_kinds(config: Config, n_layer: int, sparse: bool) -> list[str]:
    if sparse and "layer_types" not in config:
        raise SpecError("missing", where=f"{config.where}: layer_types")
    full = layer_numbers(config, "full_attn_idxs", n_layer) if "full_attn_idxs" in config else set(range(n_layer))
    return ["full_attention" if i in full else "conv" for i in range(n_layer)]


def _lfm2_mlp(config: Config) -> MLP:
    """Two thirds of the given width, times a factor, rounded up to a multiple, unless it is to be taken as it stands."""
    d_ff = config.count("block_ff_dim", "intermediate_size")
    if config.flag("block_auto_adjust_ff_dim", True):
        d_ff = 2 * d_ff // 3
        if config.raw("block_ffn_dim_multiplier", 1.0) is not None:
            multiple = config.count("block_multiple_of", default=256)
            d_ff = multiple * math.ceil(int(config.ratio("block_ffn_dim_multiplier", 1.0) * d_ff) / multiple)
    return MLP(d_ff=d_ff, activation="silu")
