"""Parameter counts of mixtures of experts equal those of transformers' own models."""

from __future__ import annotations

import pytest
from parameter_oracle import check, counted_by_transformers, make_config, odd

from suanchou.errors import SpecError
from suanchou.model.architecture import LatentAttention, MoE
from suanchou.model.config import architecture_from_config
from suanchou.model.parameters import active_parameter_count, parameter_count


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


def read(**values):
    return architecture_from_config(values, name="x", where="config.json")


def test_longcat_flash_differs_only_by_the_gates_that_transformers_gives_to_zero_experts():
    values = small(59, **LATENT, num_layers=3, ffn_hidden_size=29, expert_ffn_hidden_size=13, n_routed_experts=5)
    for key in ("num_hidden_layers", "intermediate_size", *MOE_WIDTH):
        del values[key]
    values |= {"zero_expert_num": 4, "moe_topk": 3, "attention_bias": True}
    arch = read(model_type="longcat_flash", **values)
    surplus = 3 * 4 * 2 * 13 * values["hidden_size"]
    assert parameter_count(arch) == counted_by_transformers(make_config("longcat_flash", **values)) - surplus


def test_kimi_k2_is_deepseek_v3_with_other_sizes():
    sizes = {"n_routed_experts": 384, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "vocab_size": 163840}
    sizes |= {"num_attention_heads": 64, "num_key_value_heads": 64}
    arch = read(model_type="kimi_k2", **sizes)
    assert parameter_count(arch) == counted_by_transformers(make_config("deepseek_v3", **sizes))
    assert round(parameter_count(arch) / 1e12, 1) == 1.0
    assert round(active_parameter_count(arch) / 1e9) == 33


def test_pangu_ultra_moe_is_deepseek_v3_with_two_more_norms():
    names = {"attention_kv_lora_dim": 14, "attention_q_lora_dim": 22, "attention_qk_dim": 10, "attention_qk_rope_dim": 6}
    names |= {"attention_v_dim": 9, "num_routed_experts": 6, "num_shared_experts": 2, "num_dense_layers": 2}
    common = small(60, **MOE_WIDTH)
    theirs = small(60, **LATENT, n_routed_experts=6, n_shared_experts=2, first_k_dense_replace=2, n_group=2, topk_group=1)
    arch = read(model_type="pangu_ultra_moe", sandwich_norm=True, num_mtp_layers=1, **common, **names)
    more = 2 * common["num_hidden_layers"] * common["hidden_size"]
    assert parameter_count(arch) == counted_by_transformers(make_config("deepseek_v3", **theirs)) + more
    assert len(arch.mtp) == 1
    with pytest.raises(SpecError) as refusal:
        read(model_type="pangu_ultra_moe", **common, **{**names, "attention_v_dim": -1})
    assert refusal.value.where == "config.json: attention_v_dim"


def test_published_counts_of_models_with_their_own_code():
    """DeepSeekMoE 16B: 16.38 B (its weights' index); openPangu Pro MoE: 71.99 B, 16.50 B active (arXiv 2505.21411)."""
    deepseek = read(
        model_type="deepseek",
        hidden_size=2048,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=16,
        intermediate_size=10944,
        moe_intermediate_size=1408,
        n_routed_experts=64,
        n_shared_experts=2,
        num_experts_per_tok=6,
        first_k_dense_replace=1,
    )
    assert parameter_count(deepseek) == 16_375_728_128
    pangu = read(model_type="PanguProMoE")
    assert (round(parameter_count(pangu) / 1e7), round(active_parameter_count(pangu) / 1e7)) == (7199, 1650)


def test_deepseek_v3_adds_up_to_what_is_published():
    """671 B main model and a module of 11.6 B of its own; with its copies of embedding and head the files hold 684.5 B."""
    arch = read(model_type="deepseek_v3", num_nextn_predict_layers=1)
    main, both = parameter_count(arch), parameter_count(arch, mtp=True)
    assert main == 671_026_404_352
    assert round((both - main) / 1e8) == 116
    assert round((both + 2 * arch.vocab * arch.d_model) / 1e8) == 6845
    assert round(active_parameter_count(arch, embedding=False) / 1e9) == 36


DBRX = {
    "d_model": 6144,
    "n_heads": 48,
    "n_layers": 40,
    "vocab_size": 100352,
    "attn_config": {"kv_n_heads": 8},
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
}


@pytest.mark.parametrize(
    ("model_type", "values", "total_b", "active_b"),
    [
        ("mixtral", {}, 46.7, 12.9),
        ("dbrx", DBRX, 132, 36),
        ("qwen3_moe", {"num_hidden_layers": 48, "head_dim": 128}, 30.5, 3.3),
        ("llama4_text", {"num_local_experts": 128, "interleave_moe_layer_step": 2}, 400, 17),
        ("minimax_m2", {}, 229, 11),
        ("longcat_flash", {}, 560, 27),
        ("jetmoe", {"num_hidden_layers": 24}, 8.5, 2.2),
    ],
)
def test_published_totals_and_active_parameters(model_type, values, total_b, active_b):
    """As the model cards say, which round, and differ in whether the embedding counts as active."""
    arch = read(model_type=model_type, **values)
    assert parameter_count(arch) / 1e9 == pytest.approx(total_b, rel=0.01)
    table = arch.vocab * arch.d_model / 1e9
    assert active_b == pytest.approx(active_parameter_count(arch) / 1e9, rel=0.06, abs=2 * table)


def test_structure_of_deepseek_v3():
    arch = read(model_type="deepseek_v3", num_nextn_predict_layers=1)
    assert [isinstance(layer.ffn, MoE) for layer in arch.layers] == [False] * 3 + [True] * 58
    moe, mixer = arch.layers[3].ffn, arch.layers[3].mixer
    assert isinstance(mixer, LatentAttention)
    assert (mixer.kv_rank, mixer.d_rope, mixer.q_rank) == (512, 64, 1536)
    assert (moe.n_expert, moe.top_k, moe.n_group, moe.top_group, moe.shared.d_ff) == (256, 8, 8, 4, 2048)
    assert moe.score_bias
    assert arch.mtp == (arch.layers[-1],)


def test_windows_follow_the_layer_kinds():
    assert {layer.mixer.window for layer in read(model_type="gpt_oss").layers[::2]} == {128}
    assert {layer.mixer.window for layer in read(model_type="gpt_oss").layers[1::2]} == {None}
    llama4 = read(model_type="llama4_text").layers
    assert [layer.mixer.window for layer in llama4[:4]] == [8192, 8192, 8192, None]
    assert [layer.mixer.rotary for layer in llama4[:4]] == [True, True, True, False]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model_type": "mixtral", "num_key_value_heads": 5}, "num_key_value_heads"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"model_type": "gpt_oss", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gpt_oss", "layer_types": ["no_attention"] * 36}, "layer_types"),
        ({"model_type": "gpt_oss", "sliding_window": 0}, "sliding_window"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [99]}, "mlp_only_layers"),
        ({"model_type": "qwen3_moe", "hidden_size": 12}, "num_attention_heads"),
        ({"model_type": "deepseek_v2"}, "num_experts_per_tok"),
        ({"model_type": "deepseek_v32", "q_lora_rank": None}, "q_lora_rank"),
        ({"model_type": "glm_moe_dsa", "indexer_types": ["shared"] * 78}, "indexer_types"),
        ({"model_type": "hunyuan_v1_moe", "num_experts": [1, 2]}, "num_experts"),
    ],
)
def test_refusals_name_the_key(values, key):
    with pytest.raises(SpecError) as refusal:
        read(**values)
    assert refusal.value.where == f"config.json: {key}"
