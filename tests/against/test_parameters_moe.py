"""Parameter counts of mixtures of experts equal those of transformers' own models."""

from __future__ import annotations

import pytest
from parameter_oracle import check, make_config, odd

GQA = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size", "num_hidden_layers")


def small(seed, **values):
    """Odd small sizes under the usual keys; heads and KV heads that divide."""
    n_kv, group, d_head = odd(seed, 1, 3), 2, 2 * odd((seed, 1), 2, 6)
    usual = {
        "hidden_size": n_kv * group * d_head,
        "num_attention_heads": n_kv * group,
        "num_key_value_heads": n_kv,
        "intermediate_size": odd((seed, 2)),
        "vocab_size": odd((seed, 3), 40, 90),
        "num_hidden_layers": 5,
    }
    return {**usual, **values}


MOE_WIDTH = {"moe_intermediate_size": 17, "num_experts_per_tok": 2}
LATENT = {
    "q_lora_rank": 22,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 9,
    **MOE_WIDTH,
}

CASES = {
    "mixtral": [small(1, num_local_experts=3), small(2, head_dim=14, sliding_window=11, tie_word_embeddings=True)],
    "minimax_m2": [small(3, num_local_experts=9, head_dim=26)],
    "olmoe": [small(4, num_experts=9), small(5, attention_bias=True)],
    "flex_olmo": [small(6, num_experts=9, pad_token_id=0), small(7, attention_bias=True, pad_token_id=0)],
    "phimoe": [small(8, num_local_experts=5), small(9, attention_bias=True, lm_head_bias=True)],
    "granitemoe": [small(10, num_local_experts=5), small(11, attention_bias=True)],
    "granitemoeshared": [small(12, shared_intermediate_size=13), small(13)],
    "granitemoe_swa": [small(14, shared_intermediate_size=13), small(15, sliding_window=7, attention_bias=True)],
    "qwen2_moe": [
        small(16, **MOE_WIDTH, num_experts=7, shared_expert_intermediate_size=21, decoder_sparse_step=2),
        small(17, **MOE_WIDTH, qkv_bias=False, mlp_only_layers=[1, 2], use_sliding_window=True, max_window_layers=3),
    ],
    "qwen3_moe": [
        small(18, **MOE_WIDTH, num_experts=7, head_dim=18, mlp_only_layers=[0, 4]),
        small(19, **MOE_WIDTH, decoder_sparse_step=3, attention_bias=True, use_sliding_window=True, sliding_window=9),
    ],
    "glm4_moe": [
        small(20, **MOE_WIDTH, n_routed_experts=6, n_shared_experts=3, first_k_dense_replace=2, n_group=2),
        small(21, **MOE_WIDTH, use_qk_norm=True, attention_bias=True, head_dim=20, first_k_dense_replace=0),
    ],
    "solar_open": [small(22, **MOE_WIDTH, head_dim=20), small(23, **MOE_WIDTH, attention_bias=True)],
    "dots1": [
        small(24, **MOE_WIDTH, n_routed_experts=8, n_shared_experts=2, first_k_dense_replace=1),
        small(25, **MOE_WIDTH, n_routed_experts=8, n_shared_experts=1, max_window_layers=2, attention_bias=True),
    ],
    "hy_v3": [small(26, **MOE_WIDTH, num_experts=8, num_shared_experts=2), small(27, attention_bias=True, mlp_bias=True)],
    "gpt_oss": [
        small(28, num_local_experts=6),
        small(29, attention_bias=False, head_dim=14, layer_types=["full_attention"] * 5),
    ],
    "dbrx": [
        {
            "d_model": 60,
            "n_heads": 6,
            "n_layers": 3,
            "vocab_size": 97,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 5e5},
            "ffn_config": {"ffn_hidden_size": 31, "moe_num_experts": 5, "moe_top_k": 3},
        }
    ],
    "jetmoe": [small(30, kv_channels=14, num_local_experts=5, num_experts_per_tok=2), small(31, num_local_experts=2)],
    "hunyuan_v1_moe": [small(32, num_experts=5, moe_topk=2, head_dim=12), small(33, head_dim=10, attention_bias=True)],
    "ernie4_5_moe": [
        small(34, moe_intermediate_size=15, moe_num_experts=9, moe_k=4, moe_layer_interval=2),
        small(35, use_bias=True, moe_layer_start_index=2, moe_layer_end_index=3, moe_num_shared_experts=0),
        small(36, use_bias=True, tie_word_embeddings=False, moe_num_shared_experts=3),
    ],
    "llama4_text": [
        small(37, intermediate_size_mlp=45, interleave_moe_layer_step=2, num_local_experts=3),
        small(38, attention_bias=True, head_dim=14, use_qk_norm=False, no_rope_layers=[1, 0, 1, 1, 0], moe_layers=[0, 3]),
    ],
    "afmoe": [
        small(39, **MOE_WIDTH, num_experts=7, num_dense_layers=2, head_dim=14),
        small(40, **MOE_WIDTH, attention_bias=True, num_shared_experts=1, global_attn_every_n_layers=2),
    ],
    "exaone_moe": [
        small(41, **MOE_WIDTH, num_experts=9, num_shared_experts=2, first_k_dense_replace=3),
        small(42, **MOE_WIDTH),
    ],
    "mimo_v2_flash": [
        small(43, **MOE_WIDTH, n_routed_experts=7, head_dim=16, v_head_dim=10),
        small(44, **MOE_WIDTH, attention_bias=True, sliding_window=9),
    ],
    "deepseek_v2": [
        small(45, **LATENT, n_routed_experts=6, n_shared_experts=1, first_k_dense_replace=2, mlp_bias=True),
        small(46, **{**LATENT, "q_lora_rank": None}, attention_bias=True),
    ],
    "deepseek_v3": [
        small(47, **LATENT, n_routed_experts=6, n_group=2, topk_group=1, n_shared_experts=2, first_k_dense_replace=2),
        small(48, **{**LATENT, "q_lora_rank": None}, attention_bias=True, tie_word_embeddings=True),
    ],
    "deepseek_v32": [
        small(49, **LATENT, index_n_heads=6, index_head_dim=8, index_topk=12, first_k_dense_replace=1),
        small(50, **LATENT, attention_bias=True, mlp_layer_types=["sparse", "dense", "sparse", "dense", "sparse"]),
    ],
    "glm_moe_dsa": [
        small(51, **LATENT, index_n_heads=6, index_head_dim=8, index_topk_freq=2, index_skip_topk_offset=1),
        small(52, **LATENT, attention_bias=True, indexer_types=["full", "shared", "shared", "full", "shared"]),
    ],
    "glm4_moe_lite": [small(53, **LATENT, n_shared_experts=2), small(54, **LATENT, attention_bias=True)],
    "axk1": [small(55, **LATENT, n_routed_experts=6), small(56, **LATENT, first_k_dense_replace=3, attention_bias=True)],
    "youtu": [small(57, **LATENT), small(58, **LATENT, attention_bias=True)],
}

INCOMPLETE_BY_DEFAULT = {"dbrx", "deepseek_v2", "dots1", "hunyuan_v1_moe"}
"""Their default configurations cannot be built: transformers leaves a size empty."""


@pytest.mark.parametrize("model_type", sorted(set(CASES) - INCOMPLETE_BY_DEFAULT))
def test_default_configuration(model_type):
    check(make_config(model_type))


@pytest.mark.parametrize(("model_type", "values"), [(key, values) for key in CASES for values in CASES[key]])
def test_odd_small_configurations(model_type, values):
    check(make_config(model_type, **values))
