"""Zamba: Mamba layers, and between some of them one or two transformer layers used again and again.

The shared layer reads the embedding beside the hidden state (so twice the model width), and a matrix of its own leads each
use of it into the Mamba layer behind. A hybrid layer of the configuration therefore stands here as two: the shared
transformer layer, whose weights only its first uses hold, and the Mamba layer.
"""

from __future__ import annotations

from dataclasses import replace

from suanchou.errors import SpecError
from suanchou.model.architecture import Architecture, Layer, Norm, StateSpace, Weight
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import attention, decoder, layer_kinds, mlp, sizes, with_defaults
from suanchou.model.families.state_space import inner_width, mamba2_mixer, step_rank

__all__: list[str] = []

KINDS = ("linear_attention", "hybrid")


@family("zamba")
def zamba(config: Config) -> Architecture:
    """Zamba: Mamba, and one shared transformer layer."""
    config = with_defaults(config, **sizes(32000, 3712, 14848, 76, 16, 16, 4096, tie_word_embeddings=True))
    n_layer, n_head = config.n_layer(), config.count("n_mamba_heads", default=2)
    period, offset = config.count("attn_layer_period", default=6), config.count("attn_layer_offset", default=4, zero=True)
    default = ["linear_attention", "linear_attention", "hybrid"]
    default += ["hybrid" if i % period == offset else "linear_attention" for i in range(n_layer - 3)]
    kinds = layer_kinds(config, n_layer, default[:n_layer], KINDS, "layers_block_type", "layer_types")
    d_inner = inner_width(config, "mamba_expand")
    if d_inner % n_head:
        raise SpecError(f"{n_head} heads do not divide {d_inner} channels", where=f"{config.where}: n_mamba_heads")
    scan = StateSpace(
        kind="mamba1",
        d_inner=d_inner,
        d_state=config.count("mamba_d_state", default=16),
        conv_kernel=config.count("mamba_d_conv", default=4),
        n_head=n_head,
        dt_rank=step_rank(config, "mamba_dt_rank"),
        conv_bias=config.flag("mamba_conv_bias", True),
        proj_bias=config.flag("mamba_proj_bias"),
    )
    width = config.count("attention_hidden_size", default=2 * config.count("hidden_size"))
    shared = _shared_layer(config, width, bias=False)
    return decoder(config, _layers(kinds, scan, [shared], [_leading(config)] * n_layer))


@family("zamba2")
def zamba2(config: Config) -> Architecture:
    """Zamba2: Mamba-2, and ``num_mem_blocks`` shared transformer layers in turn, with low-rank adapters for each use."""
    d_model = config.count("hidden_size", default=2560)
    usual = sizes(32000, 2560, None, 54, 32, None, 4096, tie_word_embeddings=True)
    config = with_defaults(config, **usual)
    config = config.replaced(intermediate_size=config.count("intermediate_size", default=4 * d_model))
    n_layer = config.n_layer()
    turns = ["linear_attention"] * 5 + ["hybrid"]
    default = ["linear_attention", *(turns * 7), *(["linear_attention"] * 4), "hybrid"]
    default += ["linear_attention"] * 3 + ["hybrid"] + ["linear_attention"] * 2
    if n_layer != len(default) and not config.items("layers_block_type"):
        raise SpecError("missing", where=f"{config.where}: layers_block_type", hint="say which layers are hybrid")
    kinds = layer_kinds(config, n_layer, default, KINDS, "layers_block_type")
    bias, d_ff = config.flag("add_bias_linear"), config.count("intermediate_size")
    scan = mamba2_mixer(
        config,
        d_inner=inner_width(config, "mamba_expand"),
        keys=("n_mamba_heads", "mamba_headdim", "mamba_ngroups", "mamba_d_state", "mamba_d_conv"),
        defaults=(8, 0, 1, 64, 4),
        conv_bias=True,
        proj_bias=bias,
    )
    rank = config.count("adapter_rank", default=128)
    adapters = [("mlp.up", 2 * d_ff, d_model)]
    if config.flag("use_shared_attention_adapter"):
        adapters += [(f"attention.{part}", 2 * d_model, 2 * d_model) for part in ("q", "k", "v")]
    own = _leading(config)
    for name, d_out, d_in in adapters:
        own += (Weight(name=f"{name}.adapter_down", shape=(rank, d_in), role="mixer"),)
        own += (Weight(name=f"{name}.adapter_up", shape=(d_out, rank), role="mixer", shard="column"),)
    shared = [_shared_layer(config, 2 * d_model, bias=bias)] * config.count("num_mem_blocks", default=1, most=n_layer)
    position = 16384 if config.flag("use_long_context") else config.count("max_position_embeddings")
    return decoder(config, _layers(kinds, scan, shared, [own] * n_layer), max_position=position)


def _leading(config: Config) -> tuple[Weight, ...]:
    d_model = config.count("hidden_size")
    return (Weight(name="leading", shape=(d_model, d_model), role="mixer"),)


def _shared_layer(config: Config, width: int, *, bias: bool) -> Layer:
    """Transformer layer that reads ``width`` channels and writes the model width."""
    n_head = config.count("num_attention_heads")
    d_head = config.count("attention_head_dim", default=max(1, 2 * config.count("hidden_size") // n_head))
    mixer = attention(config, d_head=d_head, d_in=width, rotary=config.flag("use_mem_rope"))
    return Layer(mixer=mixer, ffn=mlp(config, bias=bias), norms=(Norm(width=width), Norm()))


def _layers(kinds: list[str], scan: StateSpace, shared: list[Layer], own: list[tuple[Weight, ...]]) -> list[Layer]:
    """Each hybrid layer as a shared transformer layer, the next in turn, and a Mamba layer."""
    layers: list[Layer] = []
    plain, n_use = Layer(mixer=scan, ffn=None, norms=(Norm(),)), 0
    for kind, extra in zip(kinds, own, strict=True):
        if kind == "hybrid":
            block = shared[n_use % len(shared)]
            layers.append(replace(block, extra=extra, shares_weights=n_use >= len(shared)))
            n_use += 1
        layers.append(plain)
    return layers
