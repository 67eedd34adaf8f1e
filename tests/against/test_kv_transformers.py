"""Caches and states against what transformers keeps after a forward pass under fake tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is the oracle of cache sizes")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle of cache sizes")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from suanchou.model.architecture import Attention  # noqa: E402
from suanchou.model.config import architecture_from_config  # noqa: E402
from suanchou.model.kv import kv_byte, mixer_state_byte  # noqa: E402

CONTEXT = 64
SMALL: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "head_dim": 16,
}
LATENT = {"kv_lora_rank": 24, "q_lora_rank": 40, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mixtral": {"sliding_window": None},
    "gpt_oss": {"sliding_window": 20},
    "deepseek_v3": {**LATENT, "head_dim": 8, "num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 2, "topk_group": 1},
    "qwen3_next": {
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 8,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    "mamba2": {"num_heads": 4, "head_dim": 32, "state_size": 16, "n_groups": 2, "chunk_size": 32},
    "mamba": {"state_size": 8, "intermediate_size": 128},
}


def cached(model_type: str) -> tuple[Any, Any]:
    """Our architecture, and the cache that transformers holds after ``CONTEXT`` tokens."""
    config = transformers.CONFIG_MAPPING[model_type](**SMALL | CASES[model_type])
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        out = model(input_ids=torch.zeros(1, CONTEXT, dtype=torch.long), use_cache=True)
    kept = out.cache_params if "mamba" in model_type else out.past_key_values
    return architecture_from_config(json.loads(json.dumps(config.to_dict(), default=str)), name=model_type), kept


@pytest.mark.parametrize("model_type", CASES)
def test_cache(model_type: str) -> None:
    arch, cache = cached(model_type)
    assert len(cache.layers) == arch.n_layer
    keys, expected = 0, 0.0
    for layer, kept in zip(arch.layers, cache.layers, strict=True):
        if hasattr(kept, "keys"):
            keys += kept.keys.nbytes + kept.values.nbytes
            if isinstance(layer.mixer, Attention) and layer.mixer.window is not None:
                # between two steps transformers keeps one position fewer than a query sees: the query's own is still to come
                assert kept.keys.shape[2] == layer.mixer.window - 1
                keys += (kept.keys.nbytes + kept.values.nbytes) // kept.keys.shape[2]
            continue
        state, conv = kept.recurrent_states[0], kept.conv_states[0]
        # transformers keeps all taps of the convolution, one more than the next token needs
        expected = mixer_state_byte(layer.mixer, element_byte=conv.element_size(), state_element_byte=state.element_size())
        assert state.nbytes + conv.nbytes * (conv.shape[-1] - 1) // conv.shape[-1] == expected
    assert keys == kv_byte(arch, float(CONTEXT))
    assert keys or expected
