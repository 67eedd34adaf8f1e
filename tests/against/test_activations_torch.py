"""Activation bytes against what saved-tensor hooks see in transformers' models under fake tensors."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is the oracle of activation bytes")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle of activation bytes")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from transformers import AttentionInterface, AttentionMaskInterface  # noqa: E402
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402
from transformers.masking_utils import eager_mask  # noqa: E402

from suanchou.model.activations import (  # noqa: E402
    TRANSFORMERS,
    embedding_activation_byte,
    head_activation_byte,
    layer_activation_byte,
)
from suanchou.model.architecture import Architecture  # noqa: E402
from suanchou.model.config import architecture_from_config  # noqa: E402
from suanchou.model.operators import Shape  # noqa: E402

BATCH, SEQ = 2, 256
SMALL: dict[str, Any] = {
    "vocab_size": 640,
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 704,
    "pad_token_id": 0,
}
NO_DROPOUT = dict.fromkeys(
    ["attn_pdrop", "resid_pdrop", "embd_pdrop", "dropout", "attention_dropout", "hidden_dropout", "activation_dropout"], 0.0
)
FP32_NORM = replace(TRANSFORMERS, rms="fp32")
FUSED_QKV = replace(TRANSFORMERS, fused_qkv=True)
# family: what its configuration adds, how its code differs from LLaMA's, the attention implementations it has
CASES: dict[str, tuple[dict[str, Any], Any, tuple[str, ...]]] = {
    "llama": ({}, TRANSFORMERS, ("eager", "sdpa")),
    "mistral": ({"head_dim": 48}, TRANSFORMERS, ("eager", "sdpa")),
    "qwen2": ({"num_key_value_heads": 4}, TRANSFORMERS, ("eager", "sdpa")),
    "qwen3": ({"head_dim": 32}, TRANSFORMERS, ("eager", "sdpa")),
    "starcoder2": ({"residual_dropout": 0.0, "embedding_dropout": 0.0}, TRANSFORMERS, ("eager", "sdpa")),
    "olmo2": ({}, FP32_NORM, ("eager", "sdpa")),
    "gemma2": ({"head_dim": 32, "attn_logit_softcapping": None}, FP32_NORM, ("eager",)),
    "phi3": ({}, FUSED_QKV, ("eager", "sdpa")),
    "gpt2": ({}, replace(FUSED_QKV, softmax_fp32=False), ("eager", "sdpa")),
    "gpt_neox": ({}, FUSED_QKV, ("eager", "sdpa")),
    "opt": ({"ffn_dim": 704, "word_embed_proj_dim": 256}, TRANSFORMERS, ("eager", "sdpa")),
    "bloom": ({"n_head": 8}, TRANSFORMERS, ("eager",)),
    "mixtral": ({"num_local_experts": 8}, TRANSFORMERS, ("eager", "sdpa")),
    "qwen3_moe": ({"head_dim": 32, "num_experts": 8, "num_experts_per_tok": 2}, TRANSFORMERS, ("eager", "sdpa")),
    # torch has no flash kernel for values narrower than keys
    "deepseek_v3": (
        {
            "num_key_value_heads": 8,
            "kv_lora_rank": 64,
            "q_lora_rank": 96,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "head_dim": 16,
            "first_k_dense_replace": 3,
        },
        TRANSFORMERS,
        ("eager",),
    ),
    "falcon": ({"num_kv_heads": 8, "alibi": False}, replace(TRANSFORMERS, softmax_fp32=False), ("eager",)),
}
OWN_CORE = {"bloom", "falcon"}
"""Their attention core is not a function that could be exchanged, so it cannot be recomputed alone."""
RUNS = [
    (family, attention, recompute)
    for family, (_, _, kinds) in CASES.items()
    for attention in kinds
    for recompute in ("none", "selective", "full")
    if not (family in OWN_CORE and recompute == "selective")
]


def eager_of(module: Any) -> Any:
    return sys.modules[type(module).__module__].eager_attention_forward


def again(forward: Any) -> Any:
    """The attention core under recompute: keeps its inputs only."""

    def run(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        inner = forward if forward is not None else eager_of(module)

        def core(q: Any, k: Any, v: Any) -> Any:
            return inner(module, q, k, v, attention_mask, **kwargs)[0]

        return checkpoint(core, query, key, value, use_reentrant=True), None

    return run


def no_mask(*args: Any, **kwargs: Any) -> None:
    """A whole batch without padding needs no mask: the kernel is told that it is causal."""


for name, forward, mask in (
    ("eager_none", lambda module, *args, **kwargs: eager_of(module)(module, *args, **kwargs), eager_mask),
    ("sdpa_none", sdpa_attention_forward, no_mask),
    ("eager_selective", again(None), eager_mask),
    ("sdpa_selective", again(sdpa_attention_forward), no_mask),
):
    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, mask)


def config_of(family: str, n_layer: int) -> Any:
    values = SMALL | NO_DROPOUT | CASES[family][0] | {"num_hidden_layers": n_layer}
    if family in {"gpt2", "bloom", "falcon"}:
        del values["intermediate_size"]  # they have a key of their own for it
    return transformers.CONFIG_MAPPING[family](**values)


def ours(family: str) -> Architecture:
    return architecture_from_config(json.loads(json.dumps(config_of(family, 1).to_dict(), default=str)), name=family)


def kept_byte(family: str, attention: str, n_layer: int, recompute: str) -> int:
    """Bytes of all distinct storages that one forward pass keeps for its backward, weights left out."""
    implementation = attention if family in OWN_CORE else f"{attention}_{recompute.replace('full', 'none')}"
    storages: dict[int, int] = {}
    held = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = transformers.AutoModelForCausalLM.from_config(
            config_of(family, n_layer), dtype=torch.bfloat16, attn_implementation=implementation
        )
        model.train()
        if recompute == "full":
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": True})
        weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}

        def pack(tensor: Any) -> Any:
            held.append(tensor)  # a freed storage's address could come back as another's
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                storages[storage._cdata] = storage.nbytes()
            return tensor

        ids = torch.zeros(BATCH, SEQ, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(input_ids=ids, labels=ids, use_cache=False)
    return sum(storages.values())


def shape(attention: str) -> Shape:
    return Shape(batch=float(BATCH), seq=float(SEQ), attention=attention)


@pytest.mark.parametrize(("family", "attention", "recompute"), RUNS)
def test_layer(family: str, attention: str, recompute: str) -> None:
    """One more layer keeps as many more bytes: what layers share (rotary tables, ids, the loss) falls out of the difference."""
    arch = ours(family)
    seen = kept_byte(family, attention, 3, recompute) - kept_byte(family, attention, 2, recompute)
    expected = layer_activation_byte(arch.layers[0], arch.d_model, shape(attention), recompute, stack=CASES[family][1])
    assert expected == pytest.approx(seen, rel=0.02)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "opt", "starcoder2"])
def test_ends(family: str) -> None:
    """Embedding and head together keep what a one-layer model keeps besides its layer, but for rotary tables and the loss."""
    arch = ours(family)
    one, two = (kept_byte(family, "sdpa", n, "none") for n in (1, 2))
    stack = CASES[family][1]
    expected = head_activation_byte(arch, shape("sdpa"), stack=stack) + embedding_activation_byte(
        arch, shape("sdpa"), stack=stack
    )
    assert expected == pytest.approx(one - (two - one), rel=0.02)
