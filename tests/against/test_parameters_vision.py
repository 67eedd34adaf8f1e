"""Parameter counts of multimodal models equal those of transformers' own models, vision encoder and projector included."""

from __future__ import annotations

import pytest
from parameter_oracle import check, counted_by_transformers, make_config

from suanchou.errors import SpecError
from suanchou.model.config import architecture_from_config
from suanchou.model.parameters import parameter_count

TEXT = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 35,
    "num_hidden_layers": 5,
    "vocab_size": 101,
}
CLIP = {
    "hidden_size": 24,
    "intermediate_size": 31,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 30,
    "patch_size": 7,
    "num_channels": 5,
}
QWEN_VISION = {"depth": 3, "num_heads": 4, "patch_size": 7, "in_channels": 5, "temporal_patch_size": 3, "spatial_merge_size": 3}
WIDE = {**QWEN_VISION, "hidden_size": 24, "intermediate_size": 31, "out_hidden_size": 48}
SPARSE = {"moe_intermediate_size": 17, "num_experts_per_tok": 2}


def parts(text=None, vision=None, **values):
    """Sections with their own values, and those at the top."""
    return {"text_config": {**TEXT, **(text or {})}, "vision_config": {**(vision or {})}, **values}


CASES = {
    "llava": [
        parts({"model_type": "llama"}, {"model_type": "clip_vision_model", **CLIP}, vision_feature_layer=[-2, -1]),
        parts({"model_type": "mistral"}, {"model_type": "siglip_vision_model", **CLIP}, multimodal_projector_bias=False),
        parts({"model_type": "mistral"}, {"model_type": "pixtral", **CLIP}),
    ],
    "llava_next": [parts({"model_type": "mistral"}, {"model_type": "clip_vision_model", **CLIP})],
    "llava_onevision": [parts({"model_type": "qwen2"}, {"model_type": "siglip_vision_model", **CLIP})],
    "mistral3": [
        parts({"model_type": "mistral"}, {"model_type": "pixtral", **CLIP}, spatial_merge_size=3, tie_word_embeddings=False),
        parts({"model_type": "ministral3"}, {"model_type": "pixtral", **CLIP}, multimodal_projector_bias=True),
    ],
    "paligemma": [
        parts({"model_type": "gemma"}, {"model_type": "siglip_vision_model", **CLIP}, projection_dim=48),
        parts({"model_type": "gemma2"}, {"model_type": "siglip_vision_model", **CLIP, "vision_use_head": False}),
    ],
    "gemma3": [
        parts({"head_dim": 10}, {"model_type": "siglip_vision_model", **CLIP, "vision_use_head": False}),
        parts({}, {"model_type": "siglip_vision_model", **CLIP}, tie_word_embeddings=False),
    ],
    "internvl": [
        parts({"model_type": "qwen2"}, {**CLIP, "image_size": [28, 35], "patch_size": [7, 7], "use_qk_norm": True}),
        parts({"model_type": "llama"}, {**CLIP, "norm_type": "rms_norm", "attention_bias": True, "use_mean_pooling": False}),
        parts({"model_type": "qwen3"}, {**CLIP, "use_mask_token": True, "use_absolute_position_embeddings": False}),
    ],
    "qwen2_vl": [
        parts({}, {**QWEN_VISION, "embed_dim": 24, "hidden_size": 48, "mlp_ratio": 3}),
        parts({"tie_word_embeddings": True}, {**QWEN_VISION, "embed_dim": 24, "hidden_size": 48}, tie_word_embeddings=True),
    ],
    "qwen2_5_vl": [parts({}, WIDE), parts({}, WIDE, tie_word_embeddings=True)],
    "qwen3_vl": [parts({"head_dim": 10}, {**WIDE, "num_position_embeddings": 16, "deepstack_visual_indexes": [1, 2]})],
    "qwen3_vl_moe": [parts({**SPARSE, "num_experts": 5}, {**WIDE, "num_position_embeddings": 16})],
    "qwen3_5": [parts({"head_dim": 12}, WIDE), parts({}, WIDE, tie_word_embeddings=True)],
    "qwen3_5_moe": [parts({**SPARSE, "num_experts": 5, "shared_expert_intermediate_size": 19}, WIDE)],
    "glm4v": [parts({}, WIDE), parts({}, {**WIDE, "attention_bias": True, "image_size": 35})],
    "glm4v_moe": [parts({**SPARSE, "n_routed_experts": 6, "first_k_dense_replace": 2}, WIDE)],
    "llama4": [
        parts(
            {"intermediate_size_mlp": 45, "num_local_experts": 3, "interleave_moe_layer_step": 2},
            {**CLIP, "vision_output_dim": 20, "projector_input_dim": 16, "projector_output_dim": 20},
        )
    ],
    "mllama": [
        parts(
            {"cross_attention_layers": [1, 4], "pad_token_id": 0},
            {
                **{key: CLIP[key] for key in CLIP if key != "num_attention_heads"},
                "attention_heads": 4,
                "num_global_layers": 2,
                "vision_output_dim": 72,
                "max_num_tiles": 3,
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
                "intermediate_layers_indices": [0, 2],
            },
        )
    ],
    "kimi_k25": [
        parts(
            {"model_type": "deepseek_v3", **SPARSE, "n_routed_experts": 8, "first_k_dense_replace": 2},
            {**CLIP, "num_channels": 3, "pos_emb_height": 6, "pos_emb_width": 6, "merge_kernel_size": [2, 3]},
            projection_hidden_size=24,
        )
    ],
}


@pytest.mark.parametrize("model_type", sorted(CASES))
def test_default_configuration(model_type):
    check(make_config(model_type), "AutoModelForImageTextToText")


@pytest.mark.parametrize(("model_type", "values"), [(key, values) for key in CASES for values in CASES[key]])
def test_odd_small_configurations(model_type, values):
    arch = check(make_config(model_type, **values), "AutoModelForImageTextToText")
    assert arch.vision is not None
    assert arch.vision.n_layer >= 3


def read(**values):
    return architecture_from_config(values, name="x", where="config.json")


def test_internvl_chat_is_internvl_under_other_names():
    text, vision = {**TEXT, "model_type": "qwen2"}, {**CLIP, "norm_type": "rms_norm"}
    config = make_config(
        "internvl",
        text_config=text,
        vision_config={**vision, "attention_bias": True, "use_qk_norm": True},
        tie_word_embeddings=False,
    )
    published = {"llm_config": text, "vision_config": {**vision, "qkv_bias": True, "qk_normalization": True}}
    arch = read(model_type="internvl_chat", **published)
    assert parameter_count(arch) == counted_by_transformers(config, "AutoModelForImageTextToText")


def test_early_qwen2_vl_files_have_the_language_model_at_the_top():
    vision = {**QWEN_VISION, "embed_dim": 24, "hidden_size": 48}
    flat = read(model_type="qwen2_vl", **TEXT, vision_config={**vision, "model_type": "qwen2_vl"})
    config = make_config("qwen2_vl", text_config=TEXT, vision_config=vision)
    assert parameter_count(flat) == counted_by_transformers(config, "AutoModelForImageTextToText")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model_type": "llava", "text_config": {"model_type": "nothing"}}, "text_config"),
        ({"model_type": "llava", "vision_config": {"model_type": "nothing"}}, "vision_config: model_type"),
        ({"model_type": "llava", "vision_config": {"patch_size": 500}}, "vision_config: patch_size"),
        ({"model_type": "internvl", "vision_config": {"image_size": [1, 2, 3]}}, "vision_config: image_size"),
        ({"model_type": "llama4", "vision_config": {"num_attention_heads": 7}}, "vision_config: num_attention_heads"),
        ({"model_type": "qwen3_vl", "text_config": {"hidden_size": -1}}, "text_config: hidden_size"),
    ],
)
def test_refusals_name_the_key(values, key):
    with pytest.raises(SpecError) as refusal:
        read(**values)
    assert refusal.value.where == f"config.json: {key}"
