"""FLOP conventions: published formulas and figures, causal against full, decoding against prefilling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suanchou.errors import SpecError
from suanchou.estimate import Estimate
from suanchou.model.architecture import (
    MLP,
    Architecture,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    MoE,
    Norm,
    SparseIndexer,
    Stack,
    StateSpace,
    Weight,
)
from suanchou.model.attention import score_pairs, visible_keys
from suanchou.model.flop import (
    decode_flop_per_token,
    decode_mixer_flop,
    executed_flop_per_token,
    flop_per_token,
    training_flop,
)
from suanchou.model.parameters import parameter_count

PFLOPS_DAY = 1e15 * 86400


def gpt(n_layer: int, d_model: int, n_head: int, vocab: int, **fields: object) -> Architecture:
    attention = Attention(
        n_head=n_head, n_kv_head=n_head, d_head=d_model // n_head, q_bias=True, kv_bias=True, out_bias=True, rotary=False
    )
    mlp = MLP(d_ff=4 * d_model, gated=False, up_bias=True, down_bias=True, activation="gelu")
    norm = Norm(kind="layer", bias=True)
    layer = Layer(mixer=attention, ffn=mlp, norms=(norm, norm))
    return Architecture(
        name="gpt",
        family="gpt2",
        d_model=d_model,
        vocab=vocab,
        layers=(layer,) * n_layer,
        max_position=2048,
        n_position=2048,
        tied=True,
        final_norm=norm,
        **fields,
    )


GPT3 = gpt(96, 12288, 96, 50257)


def test_megatron_formula() -> None:
    """72 s L h^2 (1 + s / 6h + V / 12Lh) per sequence, attention in full (arXiv 2104.04473, without its recompute)."""
    s, n_layer, h, v = 2048, 96, 12288, 50257
    expected = 72 * n_layer * h**2 * (1 + s / (6 * h) + v / (12 * n_layer * h))
    assert flop_per_token(GPT3, s, attention="full").value == pytest.approx(expected, rel=1e-12)


def test_full_recompute_is_the_96_of_megatron() -> None:
    """Recomputing every layer turns the layers' 72 into 96; the head stays."""
    s, n_layer, h = 2048, 96, 12288
    executed = executed_flop_per_token(GPT3, s, recompute="full", attention="eager")
    assert executed["recompute"].value == pytest.approx(24 * n_layer * h**2 * (1 + s / (6 * h)), rel=1e-12)
    assert executed.value == pytest.approx(flop_per_token(GPT3, s, attention="full").value + executed["recompute"].value)


def test_gpt3_in_pflops_days() -> None:
    flop = training_flop(GPT3, 300e9, convention="6nd")
    assert flop.value / PFLOPS_DAY == pytest.approx(3637, rel=0.005)
    assert flop.value == 6 * parameter_count(GPT3) * 300e9
    assert training_flop(GPT3, 300e9, convention="8nd").value == pytest.approx(flop.value * 8 / 6)


def test_t5_meets_half_of_its_weights() -> None:
    """T5-11B: 3ND is what its authors report, 3.3e22, and close to the exact count; 6ND would be twice as much."""
    attention = Attention(n_head=128, n_kv_head=128, d_head=128, rotary=False)
    layer = Layer(
        mixer=attention,
        cross=replace(attention, cross=True, causal=False),
        ffn=MLP(d_ff=65536, gated=False, activation="relu"),
        norms=(Norm(),) * 3,
    )
    encoder = Stack(
        layers=(replace(layer, mixer=replace(attention, causal=False), cross=None, norms=(Norm(),) * 2),) * 24,
        final_norm=Norm(),
    )
    t5 = Architecture(
        name="t5-11b",
        family="t5",
        d_model=1024,
        vocab=32128,
        layers=(layer,) * 24,
        max_position=512,
        encoder=encoder,
        tied=True,
    )
    reported = training_flop(t5, 1e12, convention="3nd")
    assert reported.value == pytest.approx(3.3e22, rel=0.04)
    assert training_flop(t5, 1e12, convention="exact_full", seq=512).value == pytest.approx(reported.value, rel=0.15)


def brute_pairs(seq: int, *, causal: bool, window: int | None, chunked: bool) -> int:
    query, key = np.indices((seq, seq))
    mask = query >= key if causal else np.ones((seq, seq), dtype=bool)
    if window is not None and chunked:
        mask &= query // window == key // window
    elif window is not None and causal:
        mask &= query - key < window
    elif window is not None:
        mask &= abs(query - key) <= window // 2
    return int(mask.sum())


@settings(max_examples=200, deadline=None)
@given(
    seq=st.integers(1, 70),
    window=st.none() | st.integers(1, 90),
    kind=st.sampled_from([(True, False), (True, True), (False, False)]),
)
def test_pairs_are_those_of_the_mask(seq: int, window: int | None, kind: tuple[bool, bool]) -> None:
    causal, chunked = kind
    if not causal and window is not None and window % 2 == 0:
        window += 1
    counted = score_pairs(float(seq), float(seq), causal=causal, window=window, chunked=chunked)
    assert counted == brute_pairs(seq, causal=causal, window=window, chunked=chunked)
    if causal:
        seen = score_pairs(seq - 1.0, seq - 1.0, causal=True, window=window, chunked=chunked)
        assert visible_keys(float(seq), window, chunked) == counted - seen


@pytest.mark.parametrize("seq", [1, 7, 1024])
def test_causal_is_half_of_full_and_a_little(seq: int) -> None:
    causal, full = (
        flop_per_token(GPT3, seq, attention=kind).find("forward.attention_core").value for kind in ("causal", "full")
    )
    assert causal == pytest.approx(full * (seq + 1) / (2 * seq), rel=1e-12)


GQA = Attention(n_head=8, n_kv_head=2, d_head=16, qk_norm="head")


def model(*layers: Layer, **fields: object) -> Architecture:
    return Architecture(name="t", family="t", d_model=64, vocab=100, layers=layers, max_position=512, **fields)


@pytest.mark.parametrize("context", [1, 5, 33, 64, 100])
def test_a_decoded_token_costs_what_it_adds_to_a_prefill(context: int) -> None:
    arch = model(
        Layer(mixer=GQA, ffn=MLP(d_ff=96)),
        Layer(mixer=replace(GQA, window=32), ffn=MoE(n_expert=8, top_k=2, expert=MLP(d_ff=32), shared=MLP(d_ff=16))),
        Layer(mixer=replace(GQA, window=16, chunked=True), ffn=MLP(d_ff=96)),
    )

    def prefill(seq: int) -> float:
        return flop_per_token(arch, seq, backward=False).value * seq if seq else 0.0

    assert decode_flop_per_token(arch, context).value == pytest.approx(prefill(context) - prefill(context - 1), rel=1e-9)


def test_decoding_is_two_per_active_weight_plus_attention() -> None:
    """At context s: 2 N + 4 L h s for MHA (N: matrices and head, no look-ups)."""
    h, n_layer, s = 12288, 96, 1000
    weights = n_layer * 12 * h**2 + 50257 * h
    assert decode_flop_per_token(GPT3, s).value == pytest.approx(2 * weights + 4 * n_layer * h * s, rel=1e-12)


def test_decoding_other_mixers() -> None:
    mla = LatentAttention(n_head=128, kv_rank=512, d_nope=128, d_rope=64, d_value=128)
    assert decode_mixer_flop(mla, 1000.0) == 128 * 1000 * 2 * (512 + 64 + 512)
    sparse = replace(mla, indexer=SparseIndexer(n_head=64, d_head=128, top_k=100))
    assert decode_mixer_flop(sparse, 1000.0) == 128 * 100 * 2 * (512 + 64 + 512) + 64 * 1000 * 2 * 129
    state = StateSpace(kind="mamba1", d_inner=100, d_state=16, conv_kernel=4)
    delta = LinearAttention(kind="gated-delta", n_key_head=2, n_value_head=4, d_key=8, d_value=16)
    contexts = np.array([1.0, 1e6])
    assert decode_mixer_flop(state, contexts) == pytest.approx([100 * (7 * 16 + 8)] * 2)
    assert decode_mixer_flop(delta, contexts) == pytest.approx([7 * 4 * 8 * 16] * 2)


def test_mtp_adds_a_layer_a_projection_and_a_head() -> None:
    layer = Layer(mixer=GQA, ffn=MLP(d_ff=96), norms=(Norm(), Norm()))
    plain = model(layer, layer)
    with_mtp = model(layer, mtp=(layer,), mtp_extra=(Weight(name="mtp.project", shape=(64, 128), role="mtp"),))
    seq = 128
    projection = 6 * 64 * 128
    head = 3 * flop_per_token(plain, seq).find("forward.head").value
    expected = flop_per_token(plain, seq).value + projection + head
    assert flop_per_token(with_mtp, seq, mtp=True).value == pytest.approx(expected, rel=1e-12)
    executed = executed_flop_per_token(with_mtp, seq, mtp=True, attention="eager").value
    assert executed == pytest.approx(flop_per_token(with_mtp, seq, mtp=True, attention="full").value, rel=1e-12)


def test_flash_backward_is_two_and_a_half_times_forward() -> None:
    flash, eager = (executed_flop_per_token(GPT3, 2048, attention=kind) for kind in ("flash", "eager"))
    core = flop_per_token(GPT3, 2048).find("forward.attention_core").value
    causal = flop_per_token(GPT3, 2048)
    assert flash.value == pytest.approx(causal.value + 0.5 * core, rel=1e-12)
    assert flash["recompute"].value == 0
    selective = executed_flop_per_token(GPT3, 2048, recompute="selective")
    assert selective["recompute"].value == pytest.approx(core, rel=1e-12)
    assert eager["forward"].value > flash["forward"].value


def test_every_estimate_explains_itself() -> None:
    for estimate in (
        flop_per_token(GPT3, 2048),
        executed_flop_per_token(GPT3, 2048),
        decode_flop_per_token(GPT3, 2048),
        training_flop(GPT3, 1e9, convention="exact_causal"),
    ):
        for path, node in estimate.walk():
            assert node.formula, path
            assert node.unit == "flop"
            if node.summed:
                assert node.value == pytest.approx(sum(child.value for child in node.children))
        assert Estimate.from_dict(estimate.to_dict()) == estimate


@pytest.mark.parametrize("seq", [0, -5])
def test_impossible_lengths_are_refused(seq: int) -> None:
    for ask in (flop_per_token, executed_flop_per_token, decode_flop_per_token):
        with pytest.raises(SpecError, match="impossible"):
            ask(GPT3, seq)


def test_impossible_trainings_are_refused() -> None:
    with pytest.raises(SpecError, match="impossible"):
        training_flop(GPT3, 0, convention="6nd")
    with pytest.raises(SpecError, match="convention"):
        training_flop(GPT3, 1, convention="7nd")
