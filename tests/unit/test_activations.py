"""Activation bytes: the published formulas, sharding, recompute, and one formula for any shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from suanchou.errors import MissingData
from suanchou.model.activations import (
    FUSED,
    MEGATRON_2021,
    STACKS,
    TRANSFORMERS,
    embedding_activation_byte,
    head_activation_byte,
    layer_activation_byte,
    layer_saved,
)
from suanchou.model.architecture import (
    MLP,
    Architecture,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    MoE,
    Norm,
    StateSpace,
)
from suanchou.model.operators import Shape

H, A, B, S, V = 1024, 16, 2, 512, 32000
GPT = Layer(
    mixer=Attention(n_head=A, n_kv_head=A, d_head=H // A, rotary=False),
    ffn=MLP(d_ff=4 * H, gated=False, activation="gelu"),
    norms=(Norm(kind="layer"), Norm(kind="layer")),
)
EAGER = Shape(batch=float(B), seq=float(S), attention="eager")
FLASH = replace(EAGER, attention="flash")
SBH = S * B * H


def gpt(shape: Shape, recompute: str = "none") -> float:
    return float(layer_activation_byte(GPT, H, shape, recompute, stack=MEGATRON_2021))


class TestKorthikanti:
    """Equations 1 to 5 and table 2 of arXiv 2205.05198."""

    def test_no_parallelism(self) -> None:
        assert gpt(EAGER) == SBH * (34 + 5 * A * S / H)

    @pytest.mark.parametrize("t", [2.0, 8.0])
    def test_tensor_parallelism(self, t: float) -> None:
        assert gpt(replace(EAGER, tp=t)) == SBH * (10 + 24 / t + 5 * A * S / (H * t))

    @pytest.mark.parametrize("t", [2.0, 8.0])
    def test_tensor_and_sequence_parallelism(self, t: float) -> None:
        assert gpt(replace(EAGER, tp=t, sp=1.0)) == SBH / t * (34 + 5 * A * S / H)

    def test_selective_and_full_recompute(self) -> None:
        assert gpt(EAGER, "selective") == 34 * SBH
        assert gpt(replace(EAGER, tp=4.0), "selective") == SBH * (10 + 24 / 4)
        assert gpt(EAGER, "full") == 2 * SBH

    def test_ends(self) -> None:
        """sbh for the embedding's dropout; the output layer's 4sbh (1 + v/h), its norm's input included."""
        arch = Architecture(
            name="t", family="t", d_model=H, vocab=V, layers=(GPT,), max_position=S, n_position=S, final_norm=Norm(kind="layer")
        )
        ids = 8 * S * B
        assert embedding_activation_byte(arch, EAGER, stack=MEGATRON_2021) == SBH + 2 * ids
        assert head_activation_byte(arch, EAGER, stack=MEGATRON_2021) == 4 * SBH * (1 + V / H) + ids


def test_flash_keeps_a_logsumexp_in_place_of_the_scores() -> None:
    flash = layer_activation_byte(GPT, H, FLASH, stack=FUSED)
    assert flash - layer_activation_byte(GPT, H, FLASH, "selective", stack=FUSED) == 4 * B * S * A
    assert layer_activation_byte(GPT, H, EAGER, stack=FUSED) - flash == 2 * B * A * S * S - 4 * B * S * A


def test_gated_mlp_and_grouped_heads() -> None:
    """Fused LLaMA: two norm inputs and two GEMM inputs of h, q and o of h, k and v of the KV heads, three widths of the MLP."""
    layer = Layer(mixer=Attention(n_head=A, n_kv_head=4, d_head=H // A), ffn=MLP(d_ff=2816), norms=(Norm(), Norm()))
    kv = 2 * 4 * (H // A)
    statistics = 4 * (2 + A)
    assert layer_activation_byte(layer, H, FLASH) == B * S * (2 * (6 * H + kv + 3 * 2816) + statistics)


def test_narrow_linear_layers_keep_their_inputs_narrow() -> None:
    """One byte for the two norm outputs, the core's output (kept wide for the core, too) and the MLP's product."""
    layer = Layer(mixer=Attention(n_head=A, n_kv_head=4, d_head=H // A), ffn=MLP(d_ff=2816), norms=(Norm(), Norm()))
    wide, narrow, all_ = (
        layer_activation_byte(layer, H, replace(FLASH, **kept))
        for kept in ({}, {"linear_byte": 1.0}, {"linear_byte": 1.0, "activation_byte": 1.0})
    )
    assert wide - narrow == B * S * (2 * H - H + 2816)
    assert narrow - all_ == B * S * 2 * 2816
    mixed = layer_activation_byte(layer, H, replace(FLASH, linear_byte=np.array([2.0, 1.0])))
    assert list(np.asarray(mixed)) == [wide, narrow]


def test_frozen_layers_keep_no_inputs_but_those_of_adapters() -> None:
    """Adapters sit on the attention projections: the MLP's two inputs go, those of qkv and of the output projection stay."""
    layer = Layer(mixer=Attention(n_head=A, n_kv_head=4, d_head=H // A), ffn=MLP(d_ff=2816), norms=(Norm(), Norm()))
    frozen = layer_activation_byte(layer, H, replace(FLASH, frozen=True))
    assert layer_activation_byte(layer, H, FLASH) - frozen == B * S * 2 * (H + 2816)
    assert layer_activation_byte(layer, H, replace(FLASH, frozen=True, linear_byte=1.0)) == frozen


def test_unfused_norms_keep_fp32_copies() -> None:
    layer = replace(GPT, norms=(Norm(), Norm()), ffn=MLP(d_ff=H, gated=False, activation="relu"))
    fused, unfused = (layer_activation_byte(layer, H, FLASH, stack=stack) for stack in (FUSED, TRANSFORMERS))
    # each norm 6 bytes per channel for 2; relu keeps only its output
    assert unfused - fused == B * S * (2 * 4 * H - 2 * H)


def test_experts() -> None:
    """The routed rows' input, up, gate and product; scores in fp32; EP changes nothing, imbalance does."""
    moe = MoE(n_expert=64, top_k=8, expert=MLP(d_ff=256))
    layer = Layer(mixer=None, ffn=moe, norms=(Norm(),))
    dense = B * S * (2 * H + 4 + 2 * H + 4 * 64)
    routed = B * S * 8 * 2 * (H + 3 * 256)
    assert layer_activation_byte(layer, H, FLASH) == dense + routed
    assert layer_activation_byte(layer, H, replace(FLASH, ep=8.0)) == dense + routed
    assert layer_activation_byte(layer, H, replace(FLASH, ep=8.0, imbalance=1.5)) == dense + 1.5 * routed


def test_latent_attention_keeps_expanded_heads() -> None:
    mla = LatentAttention(n_head=8, kv_rank=64, d_nope=32, d_rope=16, d_value=32, q_rank=96)
    layer = Layer(mixer=mla, ffn=None, norms=(Norm(),))
    per_token = 2 * (2 * H + 2 * (64 + 96) + 2 * 8 * 48 + 2 * 8 * 32) + 4 * (3 + 8)
    assert layer_activation_byte(layer, H, FLASH) == B * S * per_token


def test_unfused_scans_are_refused() -> None:
    for mixer in (
        LinearAttention(kind="lightning", n_key_head=8, n_value_head=8, d_key=64, d_value=64),
        StateSpace(kind="mamba2", d_inner=2048, d_state=64, conv_kernel=4, n_head=16),
    ):
        layer = Layer(mixer=mixer, ffn=None)
        assert layer_activation_byte(layer, H, FLASH) > 0
        with pytest.raises(MissingData, match=mixer.kind):
            layer_activation_byte(layer, H, FLASH, stack=TRANSFORMERS)


LAYERS = {
    "gpt": GPT,
    "moe": Layer(
        mixer=Attention(n_head=16, n_kv_head=2, d_head=64, qk_norm="head", output_gate=True),
        cross=Attention(n_head=16, n_kv_head=16, d_head=64, cross=True, causal=False),
        ffn=MoE(n_expert=8, top_k=2, expert=MLP(d_ff=512), shared=MLP(d_ff=512), d_latent=128),
        norms=(Norm(),) * 3,
    ),
    "latent": Layer(mixer=LatentAttention(n_head=16, kv_rank=64, d_nope=32, d_rope=16, d_value=32), ffn=MLP(d_ff=512)),
}
MIXERS = {
    "delta": LinearAttention(kind="gated-delta", n_key_head=8, n_value_head=16, d_key=64, d_value=64, conv_kernel=4),
    **{
        kind: StateSpace(kind=kind, d_inner=2048, d_state=16, conv_kernel=4, n_head=16, n_group=2, dt_rank=64)
        for kind in ("mamba1", "mamba2", "rg-lru", "short-conv")
    },
}


@pytest.mark.parametrize("attention", ["flash", "eager"])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("name", [*LAYERS, *MIXERS])
def test_many_equals_one_and_recompute_never_keeps_more(name: str, recompute: str, attention: str) -> None:
    layer = LAYERS[name] if name in LAYERS else Layer(mixer=MIXERS[name], ffn=None, norms=(Norm(),))
    stacks = [stack for stack in STACKS.values() if stack.fused or name in LAYERS]
    many = {
        "batch": np.array([1.0, 2.0, 4.0, 3.0]),
        "seq": np.array([512.0, 128.0, 4096.0, 1000.0]),
        "tp": np.array([1.0, 4.0, 8.0, 2.0]),
        "sp": np.array([0.0, 1.0, 1.0, 0.0]),
        "cp": np.array([1.0, 2.0, 1.0, 4.0]),
        "ep": np.array([1.0, 2.0, 8.0, 4.0]),
        "expert_tp": np.array([1.0, 1.0, 2.0, 2.0]),
    }
    for stack in stacks:
        together = layer_activation_byte(layer, H, Shape(**many, attention=attention), recompute, stack=stack)
        for i in range(4):
            shape = Shape(**{key: float(value[i]) for key, value in many.items()}, attention=attention)
            alone = layer_activation_byte(layer, H, shape, recompute, stack=stack)
            assert np.broadcast_to(together, 4)[i] == alone
            assert 0 < alone <= layer_activation_byte(layer, H, shape, "none", stack=stack)
            names = [saved.name for saved in layer_saved(layer, H, shape, recompute, stack=stack)]
            assert len(set(names)) == len(names)
