"""Families without code in transformers: published totals, from the sizes in their published config.json."""

from __future__ import annotations

import pytest

from suanchou.errors import SpecError
from suanchou.model.config import architecture_from_config
from suanchou.model.parameters import parameter_count


def sizes(model_type, vocab, d, d_ff, layers, heads, **more):
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {"model_type": model_type, **dict(zip(keys, (vocab, d, d_ff, layers, heads), strict=True)), **more}


CHATGLM = {"model_type": "chatglm", "num_layers": 28, "multi_query_attention": True, "multi_query_group_num": 2}
CHATGLM |= {"padded_vocab_size": 65024, "add_qkv_bias": True, "add_bias_linear": False}
OPENELM_270M = {
    "model_type": "openelm",
    "vocab_size": 32000,
    "head_dim": 64,
    "model_dim": 1280,
    "num_transformer_layers": 16,
    "ffn_multipliers": [0.5, 0.73, 0.97, 1.2, 1.43, 1.67, 1.9, 2.13, 2.37, 2.6, 2.83, 3.07, 3.3, 3.53, 3.77, 4.0],
    "num_kv_heads": [3] * 5 + [4] * 7 + [5] * 4,
    "num_query_heads": [12] * 5 + [16] * 7 + [20] * 4,
}

PUBLISHED = {
    "InternLM2-1.8B": (sizes("internlm2", 92544, 2048, 8192, 24, 16, num_key_value_heads=8, bias=False), 1_889_110_016),
    "InternLM2-7B": (sizes("internlm2", 92544, 4096, 14336, 32, 32, num_key_value_heads=8, bias=False), 7_737_708_544),
    "InternLM2-20B": (sizes("internlm2", 92544, 6144, 16384, 48, 48, num_key_value_heads=8, bias=False), 19_861_149_696),
    "Baichuan-7B": (sizes("baichuan", 64000, 4096, 11008, 32, 32, max_position_embeddings=4096), 7_000_559_616),
    "Baichuan2-7B": (sizes("baichuan", 125696, 4096, 11008, 32, 32, max_position_embeddings=4096), 7_505_973_248),
    "Baichuan-13B": (sizes("baichuan", 64000, 5120, 13696, 40, 40, model_max_length=4096), 13_264_901_120),
    "Baichuan2-13B": (sizes("baichuan", 125696, 5120, 13696, 40, 40, model_max_length=4096), 13_896_668_160),
    "ChatGLM3-6B": (CHATGLM, 6_243_584_000),
    "GLM-4-9B": (CHATGLM | {"padded_vocab_size": 151552, "num_layers": 40, "seq_length": 131072}, 9_399_951_360),
    "Qwen-1.8B": (sizes("qwen", 151936, 2048, 11008, 24, 16), 1_836_828_672),
    "Qwen-7B": (sizes("qwen", 151936, 4096, 22016, 32, 32), 7_721_324_544),
    "Qwen-14B": (sizes("qwen", 152064, 5120, 27392, 40, 40), 14_167_290_880),
    "Qwen-72B": (sizes("qwen", 152064, 8192, 49152, 80, 64), 72_287_920_128),
    "EXAONE-3.0-7.8B": (
        {"model_type": "exaone", "intermediate_size": 14336, "num_key_value_heads": 8, "tie_word_embeddings": False},
        7_818_448_896,
    ),
    "MiniCPM-2B": (sizes("minicpm", 122753, 2304, 5760, 40, 36), 2_724_880_896),
    "OpenELM-270M": (OPENELM_270M, 271_527_168),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_total(name):
    data, total = PUBLISHED[name]
    assert parameter_count(architecture_from_config(data, name=name)) == total


def test_baichuan_13b_has_no_rotary_positions():
    data, _ = PUBLISHED["Baichuan-13B"]
    arch = architecture_from_config(data, name="x")
    assert not arch.layers[0].mixer.rotary
    assert arch.max_position == 4096
    assert architecture_from_config(PUBLISHED["Baichuan-7B"][0], name="x").layers[0].mixer.rotary


def test_the_first_chatglm_is_refused():
    with pytest.raises(SpecError, match="first ChatGLM-6B"):
        architecture_from_config({"model_type": "chatglm", "position_encoding_2d": True}, name="x")


def test_openelm_needs_its_lists():
    with pytest.raises(SpecError, match="one entry per layer"):
        architecture_from_config(OPENELM_270M | {"num_kv_heads": None}, name="x")
    with pytest.raises(SpecError, match="entries for 16 layers"):
        architecture_from_config(OPENELM_270M | {"num_kv_heads": [3]}, name="x")
