"""Parameter counts of linear-attention, state-space and hybrid models equal those of transformers' own models."""

from __future__ import annotations

import pytest
from parameter_oracle import check, counted_by_transformers, make_config

from suanchou.errors import SpecError
from suanchou.model.architecture import Attention, LinearAttention, MoE, StateSpace
from suanchou.model.config import architecture_from_config
from suanchou.model.parameters import parameter_count

WIDTHS = {"hidden_size": 48, "vocab_size": 101, "num_hidden_layers": 9}
HEADS = {"num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 35, **WIDTHS}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 9,
    "linear_conv_kernel_dim": 3,
}
SPARSE = {
    "moe_intermediate_size": 17,
    "shared_expert_intermediate_size": 19,
    "num_experts": 7,
    "num_experts_per_tok": 3,
}
LATENT = {"kv_lora_rank": 14, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 9}
MAMBA = {"mamba_n_heads": 12, "mamba_d_state": 5, "mamba_n_groups": 3, "mamba_d_conv": 3}
ZAMBA2 = {
    "n_mamba_heads": 6,
    "mamba_ngroups": 3,
    "mamba_d_state": 5,
    "layers_block_type": ["mamba", "hybrid", "hybrid"] * 3,
}
PATTERN = ["linear_attention", "full_attention", "linear_attention"] * 3

CASES = {
    "qwen3_next": [
        {**HEADS, **LINEAR, **SPARSE, "head_dim": 10, "decoder_sparse_step": 2},
        {**HEADS, **LINEAR, **SPARSE, "attention_bias": True, "mlp_only_layers": [1, 8], "layer_types": PATTERN},
    ],
    "qwen3_5_text": [{**HEADS, **LINEAR, "head_dim": 10}, {**HEADS, **LINEAR, "attention_bias": True, "layer_types": PATTERN}],
    "qwen3_5_moe_text": [{**HEADS, **LINEAR, **SPARSE, "head_dim": 10}, {**HEADS, **SPARSE, "tie_word_embeddings": True}],
    "minimax": [
        {**HEADS, "num_local_experts": 5},
        {**HEADS, "head_dim": 14, "layer_types": PATTERN, "sliding_window": 8},
    ],
    "kimi_linear": [
        {**HEADS, **LATENT, "pad_token_id": 0, "linear_head_dim": 5, "linear_num_heads": 7, "num_local_experts": 9},
        {
            **HEADS,
            **LATENT,
            "pad_token_id": 0,
            "q_lora_rank": 13,
            "attention_bias": True,
            "layer_types": PATTERN,
            "n_shared_experts": 2,
        },
    ],
    "bailing_hybrid": [
        {
            **HEADS,
            **LATENT,
            "pad_token_id": 0,
            "head_dim": 12,
            "num_local_experts": 9,
            "moe_intermediate_size": 13,
            "short_conv_kernel_size": 3,
        },
        {**HEADS, **LATENT, "pad_token_id": 0, "attention_bias": True, "layer_group_size": 2, "first_k_dense_replace": 5},
    ],
    "olmo_hybrid": [
        {**HEADS, **LINEAR, "pad_token_id": 0, "attention_bias": True},
        {**HEADS, "pad_token_id": 0, "layer_types": PATTERN},
        {**HEADS, "num_hidden_layers": 3, "pad_token_id": 0},
    ],
    "mamba": [
        {**WIDTHS, "state_size": 5, "conv_kernel": 3, "time_step_rank": 7, "use_bias": True},
        {**WIDTHS, "hidden_size": 50, "use_conv_bias": False, "expand": 3, "tie_word_embeddings": False},
    ],
    "falcon_mamba": [{**WIDTHS, "state_size": 5, "conv_kernel": 3}, {**WIDTHS, "use_conv_bias": False, "use_bias": True}],
    "mamba2": [
        {**WIDTHS, "num_heads": 12, "head_dim": 8, "n_groups": 3, "state_size": 7, "conv_kernel": 3},
        {**WIDTHS, "num_heads": 16, "head_dim": 9, "expand": 3, "use_bias": True, "use_conv_bias": False},
    ],
    "jamba": [
        {**HEADS, "mamba_d_state": 5, "mamba_dt_rank": 7, "num_experts": 5, "attn_layer_period": 4, "attn_layer_offset": 1},
        {**HEADS, "mamba_proj_bias": True, "mamba_conv_bias": False, "expert_layer_period": 3, "num_experts": 1},
    ],
    "bamba": [
        {**HEADS, **MAMBA, "attn_layer_indices": [2, 5]},
        {**HEADS, **MAMBA, "attn_layer_indices": [0], "attention_bias": True, "mlp_bias": True, "mamba_proj_bias": True},
    ],
    "granitemoehybrid": [
        {**HEADS, **MAMBA, "layer_types": PATTERN, "shared_intermediate_size": 21},
        {**HEADS, **MAMBA, "layer_types": ["mamba", "attention", "mamba"] * 3, "num_local_experts": 0, "attention_bias": True},
    ],
    "falcon_h1": [
        {**HEADS, **MAMBA, "mamba_d_ssm": 60, "mamba_rms_norm": True},
        {**HEADS, **MAMBA, "mamba_d_ssm": None, "attention_bias": True, "mlp_bias": True, "projectors_bias": True},
        {**HEADS, **MAMBA, "mamba_d_ssm": 36, "mamba_proj_bias": True, "mamba_conv_bias": False},
        {**HEADS, **MAMBA, "mamba_d_ssm": 36, "mamba_proj_bias": True, "projectors_bias": True},
    ],
    "nemotron_h": [
        {**HEADS, "hybrid_override_pattern": "M-M*-E", "mamba_num_heads": 6, "mamba_head_dim": 10, "n_groups": 2},
        {
            **HEADS,
            "layers_block_type": ["mamba", "moe", "attention"],
            "mlp_bias": True,
            "use_bias": True,
            "moe_latent_size": 11,
        },
        {**HEADS, "layers_block_type": ["moe", "mlp"], "mlp_bias": True, "n_routed_experts": 5, "head_dim": 7},
    ],
    "recurrent_gemma": [
        {**HEADS, "intermediate_size": 34, "lru_width": 42, "conv1d_width": 3},
        {**HEADS, "intermediate_size": 34, "attention_bias": True, "block_types": ["attention", "recurrent"]},
    ],
    "lfm2": [
        {**HEADS, "conv_bias": True, "full_attn_idxs": [2, 5], "block_multiple_of": 4, "block_ffn_dim_multiplier": 1.3},
        {**HEADS, "block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention", "conv"] * 3, "conv_L_cache": 5},
    ],
    "lfm2_moe": [
        {**HEADS, **SPARSE, "layer_types": ["conv", "full_attention", "conv"] * 3, "conv_bias": True},
        {**HEADS, **SPARSE, "layer_types": ["conv"] * 9, "num_dense_layers": 0, "use_expert_bias": False},
    ],
    "zamba": [
        {**HEADS, "mamba_d_state": 5, "mamba_dt_rank": 7, "n_mamba_heads": 3, "attn_layer_period": 3, "attn_layer_offset": 1},
        {**HEADS, "layers_block_type": ["hybrid", "mamba", "mamba"] * 3, "mamba_proj_bias": True, "mamba_conv_bias": False},
    ],
    "zamba2": [
        {**HEADS, **ZAMBA2, "num_mem_blocks": 2, "adapter_rank": 5},
        {**HEADS, **ZAMBA2, "add_bias_linear": True, "use_shared_attention_adapter": True, "num_key_value_heads": 6},
    ],
}

INCOMPLETE_BY_DEFAULT = {"lfm2_moe"}
"""Its default configuration cannot be built: transformers leaves the layer kinds empty."""


@pytest.mark.parametrize("model_type", sorted(set(CASES) - INCOMPLETE_BY_DEFAULT))
def test_default_configuration(model_type):
    check(make_config(model_type))


@pytest.mark.parametrize(("model_type", "values"), [(key, values) for key in CASES for values in CASES[key]])
def test_odd_small_configurations(model_type, values):
    check(make_config(model_type, **values))


def read(**values):
    return architecture_from_config(values, name="x", where="config.json")


def test_minimax_m1_adds_up_to_what_is_published():
    """456 B; the same keys under the name that transformers has give the same count."""
    sizes = {"hidden_size": 6144, "intermediate_size": 9216, "num_hidden_layers": 80, "num_attention_heads": 64}
    sizes |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 200064, "num_local_experts": 32}
    arch = read(model_type="minimax_m1", attn_type_list=([0] * 7 + [1]) * 10, **sizes)
    kinds = (["linear_attention"] * 7 + ["full_attention"]) * 10
    assert parameter_count(arch) == counted_by_transformers(make_config("minimax", layer_types=kinds, **sizes))
    assert round(parameter_count(arch) / 1e9) == 456
    assert [isinstance(layer.mixer, LinearAttention) for layer in arch.layers] == [kind == "linear_attention" for kind in kinds]


def test_zamba_counts_its_shared_layer_once_and_runs_it_often():
    """Zamba 7B: 7.2 B parameters; its transformer layer runs thirteen times."""
    arch = read(model_type="zamba")
    uses = [layer for layer in arch.layers if isinstance(layer.mixer, Attention)]
    assert [layer.shares_weights for layer in uses] == [False] + [True] * 12
    assert {layer.mixer.d_in for layer in uses} == {2 * arch.d_model}


def test_structure_of_jamba():
    layers = read(model_type="jamba").layers
    assert [i for i, layer in enumerate(layers) if isinstance(layer.mixer, Attention)] == [4, 12, 20, 28]
    assert [i for i, layer in enumerate(layers) if isinstance(layer.ffn, MoE)] == list(range(1, 32, 2))


def test_structure_of_nemotron_h():
    """The first layers of Nemotron-H 8B: M-M-M-M*-."""
    layers = read(model_type="nemotron_h", hybrid_override_pattern="M-M-M-M*-").layers
    kinds = ["M" if isinstance(a.mixer, StateSpace) else "*" if a.mixer else "-" for a in layers]
    assert "".join(kinds) == "M-M-M-M*-"


def test_structure_of_qwen3_next_and_kimi_linear():
    full = [i for i, layer in enumerate(read(model_type="qwen3_next").layers) if isinstance(layer.mixer, Attention)]
    assert full == list(range(3, 48, 4))
    ahead = read(model_type="qwen3_next", num_nextn_predict_layers=1).mtp
    assert isinstance(ahead[0].mixer, Attention)
    published = {
        "full_attn_layers": [2, 4],
        "kda_layers": [1, 3],
        "head_dim": 128,
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    }
    kimi = read(model_type="kimi_linear", num_hidden_layers=4, linear_attn_config=published)
    assert [isinstance(layer.mixer, LinearAttention) for layer in kimi.layers] == [True, False, True, False]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model_type": "qwen3_next", "linear_num_value_heads": 33}, "linear_num_value_heads"),
        ({"model_type": "minimax", "attn_type_list": [2] * 32}, "attn_type_list"),
        ({"model_type": "minimax", "attn_type_list": [1]}, "attn_type_list"),
        (
            {"model_type": "kimi_linear", "linear_attn_config": {"full_attn_layers": [[]], "kda_layers": []}},
            "linear_attn_config: kda_layers",
        ),
        ({"model_type": "mamba2", "num_heads": 100}, "num_heads"),
        ({"model_type": "mamba2", "n_groups": 7}, "n_groups"),
        ({"model_type": "jamba", "attn_layer_offset": 8}, "attn_layer_offset"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M?"}, "hybrid_override_pattern"),
        ({"model_type": "recurrent_gemma", "block_types": ["other"]}, "block_types"),
        ({"model_type": "lfm2_moe"}, "layer_types"),
        ({"model_type": "zamba2", "num_hidden_layers": 7, "layers_block_type": []}, "layers_block_type"),
    ],
)
def test_refusals_name_the_key(values, key):
    with pytest.raises(SpecError) as refusal:
        read(**values)
    assert refusal.value.where == f"config.json: {key}"
