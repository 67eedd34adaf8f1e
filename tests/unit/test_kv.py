"""Caches and states: published figures, windows, sharding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from suanchou.model.architecture import (
    MLP,
    Architecture,
    Attention,
    LatentAttention,
    Layer,
    LinearAttention,
    Mixer,
    SparseIndexer,
    StateSpace,
)
from suanchou.model.kv import cross_kv_byte, kv_byte, kv_byte_per_token, mixer_kv_element, mixer_state_byte, state_byte


def model(*mixers: Mixer, cross: Attention | None = None) -> Architecture:
    layers = tuple(Layer(mixer=mixer, ffn=MLP(d_ff=8), cross=cross) for mixer in mixers)
    return Architecture(name="t", family="t", d_model=8, vocab=8, layers=layers, max_position=8)


def heads(n_kv_head: int, d_head: int = 128, **fields: object) -> Attention:
    return Attention(n_head=n_kv_head * 2, n_kv_head=n_kv_head, d_head=d_head, **fields)


MLA = LatentAttention(n_head=128, kv_rank=512, d_nope=128, d_rope=64, d_value=128)

KIB = {
    "GPT-3": (96, heads(96), 4608),
    "Gopher": (80, heads(128), 5120),
    "MT-NLG": (105, heads(128, 160), 8400),
    "PaLM": (118, heads(1, 256), 118),
    "Chinchilla": (80, heads(64), 2560),
    "BLOOM": (70, heads(112), 3920),
    "ChatGLM-6B": (28, heads(32), 448),
    "LLaMA-7B": (32, heads(32), 512),
    "LLaMA-13B": (40, heads(40), 800),
    "LLaMA-65B": (80, heads(64), 2560),
    "Llama 2 70B": (80, heads(8), 320),
    "Llama 3.1 405B": (126, heads(8), 504),
    "Qwen2.5-72B": (80, heads(8), 320),
    "Pangu Ultra": (94, heads(8), 376),
    "DeepSeek-V3": (61, MLA, 69),
    "Qwen3-235B": (94, heads(4), 188),
    "GLM-4.5": (92, heads(8), 368),
    "Kimi K2": (61, replace(MLA, n_head=64), 69),
}


@pytest.mark.parametrize("name", KIB)
def test_kib_per_token(name: str) -> None:
    n_layer, mixer, kib = KIB[name]
    assert round(kv_byte_per_token(model(*(mixer,) * n_layer)) / 1024) == kib


@pytest.mark.parametrize(
    ("name", "byte"), [("GPT-3", 4_718_592), ("Llama 2 70B", 327_680), ("DeepSeek-V3", 70_272), ("Llama 3.1 405B", 516_096)]
)
def test_byte_per_token(name: str, byte: int) -> None:
    n_layer, mixer, _ = KIB[name]
    assert kv_byte_per_token(model(*(mixer,) * n_layer)) == byte


def test_windows_cap_and_contexts_broadcast() -> None:
    arch = model(heads(2, 4), heads(2, 4, window=10), heads(2, 4, window=8, chunked=True))
    context = np.array([1.0, 8.0, 10.0, 100.0])
    assert kv_byte(arch, context) == pytest.approx(32 * (context + np.minimum(context, 10) + np.minimum(context, 8)))
    assert kv_byte(arch, 5.0) == 5 * kv_byte_per_token(arch)


def test_what_keeps_nothing() -> None:
    assert kv_byte_per_token(model(heads(2, shares_kv=True))) == 0
    assert kv_byte_per_token(model(StateSpace(kind="mamba1", d_inner=8, d_state=4, conv_kernel=4))) == 0
    assert state_byte(model(heads(2))) == 0


def test_indexer_keys_are_cached_once() -> None:
    indexer = SparseIndexer(n_head=64, d_head=128, top_k=2048)
    assert mixer_kv_element(replace(MLA, indexer=indexer)) == 512 + 64 + 128
    assert mixer_kv_element(replace(MLA, indexer=replace(indexer, reuses=True))) == 512 + 64


def test_cross_attention_is_apart() -> None:
    arch = model(heads(2, 4), heads(2, 4), cross=heads(3, 8, cross=True, causal=False))
    assert kv_byte_per_token(arch) == 2 * 2 * 2 * 4 * 2
    assert cross_kv_byte(arch, 7.0) == 2 * 7 * 3 * (8 + 8) * 2


def test_values_of_another_width() -> None:
    assert mixer_kv_element(heads(4, 192, d_value=128)) == 4 * (192 + 128)


def test_tensor_parallelism_splits_heads_then_replicates() -> None:
    tp = np.array([1.0, 2.0, 4.0, 8.0])
    assert mixer_kv_element(heads(4, 16), tp) == pytest.approx([128, 64, 32, 32])
    assert mixer_kv_element(MLA, tp) == pytest.approx([576] * 4)


def test_states() -> None:
    delta = LinearAttention(kind="gated-delta", n_key_head=16, n_value_head=32, d_key=128, d_value=128, conv_kernel=4)
    assert mixer_state_byte(delta) == 32 * 128 * 128 * 4 + 3 * (2 * 16 * 128 + 32 * 128) * 2
    lightning = LinearAttention(kind="lightning", n_key_head=64, n_value_head=64, d_key=96, d_value=96)
    assert mixer_state_byte(lightning) == 64 * 96 * 96 * 4
    mamba1 = StateSpace(kind="mamba1", d_inner=8192, d_state=16, conv_kernel=4)
    assert mixer_state_byte(mamba1) == 8192 * (16 * 4 + 3 * 2)
    mamba2 = StateSpace(kind="mamba2", d_inner=8192, d_state=128, conv_kernel=4, n_head=128, n_group=8)
    assert state_byte(model(mamba2, mamba2)) == 2 * (8192 * 128 * 4 + 3 * (8192 + 2 * 8 * 128) * 2)
    assert mixer_state_byte(mamba2, tp=16.0) == (8192 / 16) * 128 * 4 + 3 * (8192 / 16 + 2 * 128) * 2
