"""Parameter counts of dense decoders equal those of transformers' own models."""

from __future__ import annotations

import pytest
from parameter_oracle import (
    check,
    counted_by_transformers,
    make_config,
    odd,
    ours,
    split_by_transformers,
    with_tensor_parallel_plan,
)

from suanchou.model.config import architecture_from_config
from suanchou.model.parameters import parameter_count, weights


def small(seed, **values):
    """Odd small sizes under the usual keys; heads and KV heads that divide."""
    n_kv, d_head = odd(seed, 1, 3), 2 * odd((seed, 1), 2, 6)
    usual = {
        "hidden_size": n_kv * 2 * d_head,
        "num_attention_heads": n_kv * 2,
        "num_key_value_heads": n_kv,
        "intermediate_size": odd((seed, 2)),
        "vocab_size": odd((seed, 3), 40, 90),
        "num_hidden_layers": 5,
        "max_position_embeddings": odd((seed, 4), 50, 90),
    }
    return {**usual, **values}


def without(sizes, *keys, **more):
    """The sizes without some keys, and with others."""
    return {key: value for key, value in sizes.items() if key not in keys} | more


def gpt2_like(seed, **values):
    """Small sizes under GPT-2's keys."""
    s = small(seed)
    sizes = {"n_embd": s["hidden_size"], "n_head": s["num_attention_heads"], "n_layer": 3, "vocab_size": s["vocab_size"]}
    return sizes | {"n_positions": s["max_position_embeddings"]} | values


def falcon_like(seed, **values):
    """Small sizes under Falcon's keys."""
    return without(small(seed), "num_key_value_heads", "intermediate_size") | values


TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
BIASED = {"attention_bias": True}
SLIDING, FULL = "sliding_attention", "full_attention"

CASES = {
    "llama": [small(1), small(2, **TIED, **BIASED, mlp_bias=True), small(3, head_dim=22, num_key_value_heads=None)],
    "granite": [small(4), small(5, **TIED, **BIASED, mlp_bias=True)],
    "helium": [
        small(6, hidden_size=48, head_dim=8, num_attention_heads=6, num_key_value_heads=2),
        small(7, hidden_size=48, head_dim=8, num_attention_heads=6, num_key_value_heads=3, **BIASED, mlp_bias=True, **TIED),
    ],
    "iquestcoder": [small(8, head_dim=18), small(9, **BIASED, mlp_bias=True)],
    "hyperclovax": [small(10, use_post_norm=False), small(11, use_post_norm=True, **BIASED, **TIED)],
    "internlm3": [small(12, qkv_bias=True, bias=True), small(13, head_dim=14, **TIED)],
    "mistral": [small(14, sliding_window=None), small(15, sliding_window=7, head_dim=26, **TIED)],
    "ministral": [small(16, head_dim=26), small(17, head_dim=8, layer_types=[FULL, SLIDING, FULL, FULL, SLIDING])],
    "ministral3": [small(18, sliding_window=9), small(19, head_dim=12, **TIED)],
    "phi3": [
        small(20, pad_token_id=0),
        small(21, sliding_window=9, pad_token_id=0, **TIED),
        small(22, num_key_value_heads=None, pad_token_id=0),
    ],
    "qwen2": [small(23, **TIED), small(24, use_sliding_window=True, sliding_window=9, max_window_layers=2)],
    "qwen3": [small(25, head_dim=20), small(26, **BIASED, **TIED, use_sliding_window=True, max_window_layers=1)],
    "smollm3": [
        small(27, **UNTIED, pad_token_id=None, layer_types=[FULL] * 5),
        small(28, **BIASED, mlp_bias=True, no_rope_layer_interval=2, pad_token_id=None),
    ],
    "granite_swa": [small(29), small(30, **UNTIED, **BIASED, mlp_bias=True, sliding_window=9)],
    "cwm": [small(31, head_dim=20), small(32, mlp_bias=True, sliding_window=5, **TIED)],
    "seed_oss": [small(33, head_dim=6), small(34, attention_bias=False, attention_out_bias=True, mlp_bias=True, **TIED)],
    "ernie4_5": [small(35, use_bias=True), small(36, **UNTIED, head_dim=10)],
    "glm": [small(37, pad_token_id=0), small(38, attention_bias=False, head_dim=10, pad_token_id=0, **TIED)],
    "glm4": [small(39, pad_token_id=0), small(40, attention_bias=False, head_dim=10, pad_token_id=0, **TIED)],
    "hunyuan_v1_dense": [small(41, head_dim=10), small(42, head_dim=18, **BIASED, **TIED)],
    "arcee": [small(43), small(44, **BIASED, mlp_bias=True, head_dim=10, **TIED)],
    "nemotron": [small(45), small(46, **BIASED, mlp_bias=True, head_dim=10, **TIED)],
    "jais2": [small(47), small(48, attention_bias=False, mlp_bias=False, head_dim=10, **TIED)],
    "nanochat": [small(49), small(50, **BIASED, **TIED)],
    "modernbert-decoder": [
        without(small(51), "num_key_value_heads", pad_token_id=0, norm_bias=True, classifier_bias=True),
        without(small(52), "num_key_value_heads", pad_token_id=0, **BIASED, mlp_bias=True, decoder_bias=False),
        without(small(53), "num_key_value_heads", pad_token_id=0, **UNTIED, local_attention=11),
    ],
    "gemma": [small(54, head_dim=10), small(55, **BIASED, **UNTIED)],
    "gemma2": [small(56, head_dim=10, sliding_window=9), small(57, **BIASED, **UNTIED)],
    "vaultgemma": [small(58, head_dim=10, sliding_window=9), small(59, **BIASED, **UNTIED)],
    "gemma3_text": [
        small(60, head_dim=10, sliding_window=9, num_hidden_layers=13),
        small(61, **BIASED, **UNTIED, sliding_window_pattern=3),
        small(62, layer_types=[FULL, SLIDING, FULL, SLIDING, SLIDING]),
    ],
    "gemma3n_text": [
        small(63, num_kv_shared_layers=0, hidden_size_per_layer_input=6, vocab_size_per_layer_input=31, laurel_rank=3),
        small(
            64,
            num_hidden_layers=12,
            num_kv_shared_layers=5,
            altup_num_inputs=3,
            altup_correct_scale=False,
            intermediate_size=[7 + i for i in range(12)],
            hidden_size_per_layer_input=6,
            vocab_size_per_layer_input=31,
        ),
    ],
    "olmo": [small(65), small(66, **BIASED, **TIED)],
    "olmo2": [small(67), small(68, **BIASED, **TIED)],
    "olmo3": [small(69, sliding_window=9), small(70, **BIASED, **TIED, num_hidden_layers=9)],
    "cohere": [small(71, use_qk_norm=True), small(72, **BIASED, **UNTIED)],
    "cohere2": [small(73, sliding_window=9), small(74, **BIASED, **UNTIED, sliding_window_pattern=2)],
    "exaone4": [
        small(75, sliding_window=9),
        small(76, **TIED, sliding_window_pattern=2),
        small(77, sliding_window=None, layer_types=[FULL] * 5),
    ],
    "apertus": [small(78), small(79, **BIASED, **TIED, hidden_act="relu2")],
    "bitnet": [small(80), small(81, **BIASED, **TIED)],
    "diffllama": [
        small(82, num_key_value_heads=2, num_attention_heads=4, hidden_size=48),
        small(83, num_key_value_heads=2, num_attention_heads=2, hidden_size=44, **BIASED, **TIED),
    ],
    "minicpm3": [
        small(84, q_lora_rank=22, kv_lora_rank=14, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=9),
        small(85, q_lora_rank=None, kv_lora_rank=14, qk_rope_head_dim=6, **BIASED, mlp_bias=True, **UNTIED),
    ],
    "doge": [small(86), small(87, **BIASED, mlp_bias=True, **TIED)],
    "gpt2": [gpt2_like(88), gpt2_like(89, n_inner=31, **UNTIED)],
    "openai-gpt": [gpt2_like(90), gpt2_like(91, **UNTIED)],
    "gpt_bigcode": [gpt2_like(92), gpt2_like(93, multi_query=False, n_inner=31, **UNTIED)],
    "gptj": [gpt2_like(94, rotary_dim=4), gpt2_like(95, rotary_dim=4, n_inner=31, **TIED)],
    "codegen": [gpt2_like(96, rotary_dim=4), gpt2_like(97, rotary_dim=4, n_inner=31)],
    "gpt_neo": [
        {"hidden_size": 30, "num_layers": 6, "num_heads": 3, "vocab_size": 91, "attention_types": [[["global", "local"], 3]]},
        {"hidden_size": 26, "num_layers": 3, "num_heads": 2, "vocab_size": 91, "intermediate_size": 17, "window_size": 9}
        | {"attention_types": [[["local"], 1], [["global"], 2]], "max_position_embeddings": 51},
    ],
    "gpt_neox": [
        without(small(98), "num_key_value_heads"),
        without(small(99), "num_key_value_heads", attention_bias=False, use_parallel_residual=False, **TIED),
    ],
    "gpt_neox_japanese": [
        without(small(100), "num_key_value_heads", "intermediate_size"),
        without(small(101), "num_key_value_heads", "intermediate_size", intermediate_multiple_size=3, num_hidden_layers=1),
    ],
    "opt": [
        without(small(102), "num_key_value_heads", "intermediate_size", ffn_dim=31, word_embed_proj_dim=14),
        without(small(103), "num_key_value_heads", ffn_dim=31, do_layer_norm_before=False, enable_bias=False, **UNTIED),
        without(small(104), "num_key_value_heads", ffn_dim=31, layer_norm_elementwise_affine=False),
        without(small(105), "num_key_value_heads", ffn_dim=31, _remove_final_layer_norm=True),
    ],
    "xglm": [
        {"d_model": 30, "num_layers": 3, "attention_heads": 3, "ffn_dim": 17, "vocab_size": 91},
        {"d_model": 28, "num_layers": 2, "attention_heads": 2, "vocab_size": 91, "max_position_embeddings": 33, **UNTIED},
    ],
    "biogpt": [without(small(106), "num_key_value_heads"), without(small(107), "num_key_value_heads", **UNTIED)],
    "ctrl": [gpt2_like(108, dff=31), gpt2_like(109, **UNTIED)],
    "bloom": [
        {"hidden_size": 30, "n_layer": 3, "n_head": 3, "vocab_size": 91},
        {"hidden_size": 28, "n_layer": 1, "n_head": 2, "vocab_size": 77, **UNTIED},
    ],
    "mpt": [
        {"d_model": 32, "n_layers": 3, "n_heads": 4, "vocab_size": 91, "max_seq_len": 37},
        {"d_model": 28, "n_layers": 1, "n_heads": 2, "vocab_size": 77, **UNTIED},
    ],
    "falcon": [
        falcon_like(110),
        falcon_like(111, new_decoder_architecture=True, num_kv_heads=3, num_attention_heads=6, hidden_size=48),
        falcon_like(112, multi_query=False, alibi=True, bias=True, parallel_attn=False),
        falcon_like(113, multi_query=False, bias=True, alibi=True, ffn_hidden_size=29, **UNTIED),
        falcon_like(114, new_decoder_architecture=True, num_ln_in_parallel_attn=1, num_kv_heads=1),
        falcon_like(115, new_decoder_architecture=True),
    ],
    "phi": [small(115), small(116, qk_layernorm=True, **TIED)],
    "persimmon": [
        without(small(117), "num_key_value_heads"),
        without(small(118), "num_key_value_heads", qk_layernorm=False, **TIED),
    ],
    "stablelm": [
        small(119, use_qkv_bias=True),
        small(120, qk_layernorm=True, use_parallel_residual=True, **TIED),
    ],
    "starcoder2": [small(121, sliding_window=9), small(122, use_bias=False, **UNTIED)],
}

WITHOUT_DEFAULT_MODEL = {"ministral", "hunyuan_v1_dense", "nemotron"}
"""Transformers cannot build a model from the defaults of these configurations."""


@pytest.mark.parametrize("model_type", sorted(CASES.keys() - WITHOUT_DEFAULT_MODEL))
def test_default_configuration(model_type):
    check(make_config(model_type))


@pytest.mark.parametrize(("model_type", "case"), [(name, i) for name, cases in CASES.items() for i in range(len(cases))])
def test_small_configuration(model_type, case):
    check(make_config(model_type, **CASES[model_type][case]))


TWINS = {
    "internlm": ("llama", {"bias": True}, {"attention_bias": True}),
    "PanguEmbedded": ("llama", {"bias": True, "tie_word_embeddings": False}, {"attention_bias": True}),
    "xverse": ("llama", {}, {}),
    "aquila": ("llama", {}, {}),
    "minicpm": ("llama", {"tie_word_embeddings": False}, {}),
    "orion": ("stablelm", {}, {"use_qkv_bias": False}),
    "baichuan": ("llama", {}, {}),
    "exaone": ("llama", {"tie_word_embeddings": False, "num_layers": 5}, {}),
}
"""Families without code in transformers whose shape is that of a family with it."""


@pytest.mark.parametrize("model_type", TWINS)
def test_twins_of_families_without_code(model_type):
    twin, ours, theirs = TWINS[model_type]
    sizes = small(model_type)
    if model_type in ("internlm", "baichuan"):
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    built = counted_by_transformers(make_config(twin, **sizes, **theirs))
    arch = architecture_from_config({**sizes, **ours, "model_type": model_type}, name=model_type)
    assert parameter_count(arch) == built


@pytest.mark.parametrize("model_type", with_tensor_parallel_plan(CASES))
def test_tensor_parallel_split(model_type):
    config = make_config(model_type, **CASES[model_type][-1])
    split = {"column": 0, "row": 0}
    sides = {"column": "column", "kv": "column", "row": "row"}
    for weight in weights(ours(config)):
        # The plans do not name attention sinks.
        if weight.shard in sides and weight.role in ("attention", "mlp") and not weight.name.endswith("sinks"):
            split[sides[weight.shard]] += weight.size
    assert split == split_by_transformers(config)
