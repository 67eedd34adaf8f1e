"""Multimodal models: a vision encoder, a projector and one of the language models of the other modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import Architecture, Attention, Layer, Norm, Weight
from suanchou.model.config import Config, family, section_architecture
from suanchou.model.families.blocks import attention, decoder, layer_numbers, mlp, sizes, with_defaults
from suanchou.model.families.vision_towers import Tensors, build_tower

__all__: list[str] = []

_CLIP_336 = {"hidden_size": 1024, "intermediate_size": 4096, "patch_size": 14, "image_size": 336, "num_hidden_layers": 24}
_SIGLIP_SO = {"hidden_size": 1152, "patch_size": 14, "vision_use_head": False}
_GEMMA_2B = {
    "hidden_size": 2048,
    "num_hidden_layers": 18,
    "intermediate_size": 16384,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "vocab_size": 257152,
}
_MISTRAL_24B = {
    **sizes(131072, 5120, 32768, 40, 32, 8, 131072),
    "head_dim": 128,
    "sliding_window": None,
}

_VISION: dict[str, tuple[str, Mapping[str, Any]]] = {
    "llava": ("clip_vision_model", _CLIP_336),
    "llava_next": ("clip_vision_model", _CLIP_336),
    "llava_onevision": (
        "siglip_vision_model",
        _SIGLIP_SO | {"intermediate_size": 4304, "image_size": 384, "num_hidden_layers": 26},
    ),
    "paligemma": (
        "siglip_vision_model",
        _SIGLIP_SO | {"intermediate_size": 4096, "image_size": 224, "num_hidden_layers": 27},
    ),
    "gemma3": ("siglip_vision_model", {}),
    "mistral3": ("pixtral", {"patch_size": 14, "image_size": 1540}),
    "internvl": ("internvl_vision", {}),
    "kimi_k25": ("kimi_k25_vision", {}),
    "llama4": ("llama4_vision_model", {}),
    "mllama": ("mllama_vision_model", {}),
}
_TEXT: dict[str, tuple[str, Mapping[str, Any]]] = {
    "llava": ("llama", {}),
    "llava_next": ("llama", {}),
    "llava_onevision": ("qwen2", {}),
    "paligemma": ("gemma", _GEMMA_2B),
    "gemma3": ("gemma3_text", {}),
    "mistral3": ("mistral", _MISTRAL_24B),
    "internvl": ("qwen2", {}),
    "kimi_k25": ("deepseek_v3", {}),
    "mllama": ("mllama_text_model", {}),
}
_TIED = {"paligemma", "gemma3", "mistral3", "internvl", "kimi_k25"}
"""Their classes tie the head to the embedding unless the file says otherwise."""
_TIED_BELOW = {"llava", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "glm4v", "glm4v_moe"}
"""Their files once said so in the language model's section only."""


def _part(config: Config, key: str, table: Mapping[str, tuple[str, Mapping[str, Any]]], suffix: str) -> Config:
    """A nested section with its ``model_type``; a section that is missing has the sizes its family falls back on."""
    model_type = config.text("model_type")
    kind, usual = table.get(model_type, (f"{model_type}{suffix}", {}))
    section = config.section(key)
    section = with_defaults(section, **(usual if key not in config else {}))
    if section.text("model_type", kind) in ("", model_type):
        # Early files repeat the name of the whole model here.
        section = section.replaced(model_type=kind)
    return with_defaults(section, model_type=kind)


def _language_model(config: Config) -> Architecture:
    text = _part(config, "text_config", _TEXT, "_text")
    if "text_config" not in config and "hidden_size" in config:
        # Files of Qwen2-VL's time have the language model's keys at the top.
        text = config.replaced(model_type=text.text("model_type"))
    return section_architecture(text)


def _tied(config: Config, text_tied: bool) -> bool:
    """Whether the head is the embedding: as the file says, at its top or, in older files, in the language model's section."""
    model_type = config.text("model_type")
    if "tie_word_embeddings" not in config and model_type in _TIED:
        return config.section("text_config").flag("tie_word_embeddings", True)
    return config.flag("tie_word_embeddings") or (model_type in _TIED_BELOW and text_tied)


def _multimodal(config: Config, arch: Architecture, projector: Tensors) -> Architecture:
    model_type = config.text("model_type")
    tower = build_tower(_part(config, "vision_config", _VISION, "_vision"), projector)
    return replace(arch, name=model_type, family=model_type, vision=tower, tied=_tied(config, arch.tied))


def _vision_width(config: Config, default: int) -> int:
    return _part(config, "vision_config", _VISION, "_vision").count("hidden_size", default=default)


def _n_feature_layer(config: Config) -> int:
    """How many layers' features the projector reads side by side."""
    if isinstance(config.raw("vision_feature_layer"), list):
        return max(1, len(config.items("vision_feature_layer")))
    return 1


@family("llava", "llava_next", "llava_onevision", "mistral3")
def llava(config: Config) -> Architecture:
    """LLaVA 1.5, 1.6 and OneVision: a projector of two matrices; Mistral Small 3.1: patches are merged before it."""
    model_type, arch = config.text("model_type"), _language_model(config)
    d = _vision_width(config, 1024 if model_type == "mistral3" else 768)
    bias = config.flag("multimodal_projector_bias", model_type != "mistral3")
    projector = Tensors()
    if model_type == "mistral3":
        projector.norm("projector.norm", d, bias=False)
        projector.linear("projector.merge", d, d * config.count("spatial_merge_size", default=2) ** 2, bias=False)
    projector.linear("projector.up", arch.d_model, d * _n_feature_layer(config), bias=bias)
    projector.linear("projector.down", arch.d_model, arch.d_model, bias=bias)
    if model_type in ("llava_next", "llava_onevision"):
        projector.add("newline", arch.d_model)
    return _multimodal(config, arch, projector)


@family("gemma3", "paligemma")
def gemma3(config: Config) -> Architecture:
    """Gemma 3 and PaliGemma: SigLIP and one matrix."""
    arch, d, projector = _language_model(config), _vision_width(config, 768), Tensors()
    if config.text("model_type") == "gemma3":
        projector.linear("projector", d, arch.d_model, bias=False)
        projector.norm("projector.norm", d, bias=False)
    else:
        usual = 2048
        projector.linear("projector", config.count("projection_dim", default=usual), d)
    return _multimodal(config, arch, projector)


@family("internvl")
def internvl(config: Config) -> Architecture:
    """InternVL: neighbouring patches side by side, a norm and two matrices."""
    arch, projector = _language_model(config), Tensors()
    ratio = config.ratio("downsample_ratio", 0.5)
    width = _vision_width(config, 1024) * int(1 / ratio) ** 2
    if width < 1:
        raise SpecError("patches can only be merged, not split", where=f"{config.where}: downsample_ratio")
    projector.norm("projector.norm", width)
    projector.linear("projector.up", arch.d_model, width)
    projector.linear("projector.down", arch.d_model, arch.d_model)
    return _multimodal(config, arch, projector)


@family("internvl_chat")
def internvl_chat(config: Config) -> Architecture:
    """InternVL under the names of its own code: the language model in ``llm_config``."""
    names = {"qkv_bias": "attention_bias", "qk_normalization": "use_qk_norm"}
    vision, text = config.section("vision_config").with_defaults({}, names), config.section("llm_config")
    parts = {"vision_config": {**vision.data, "model_type": "internvl_vision"}, "text_config": text.data}
    arch = internvl(config.replaced(model_type="internvl", tie_word_embeddings=text.flag("tie_word_embeddings"), **parts))
    return replace(arch, name="internvl_chat", family="internvl_chat")


@family("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v", "glm4v_moe")
def qwen_vl(config: Config) -> Architecture:
    """Qwen2-VL to Qwen3.5 and GLM-4.1V to 4.5V: the projector is the last part of the encoder."""
    return _multimodal(config, _language_model(config), Tensors())


@family("kimi_k25")
def kimi_k25(config: Config) -> Architecture:
    """Kimi K2.5: neighbouring patches side by side, normalised one by one, then two matrices."""
    arch, projector = _language_model(config), Tensors()
    vision = config.section("vision_config")
    merge = vision.items("merge_kernel_size") or [2, 2]
    d = config.count("projection_hidden_size", default=1152)
    for side in merge:
        d *= Config({"merge_kernel_size": side}, vision.where).count("merge_kernel_size")
    projector.norm("projector.norm", config.count("projection_hidden_size", default=1152))
    projector.linear("projector.up", d, d)
    projector.linear("projector.down", arch.d_model, d)
    return _multimodal(config, arch, projector)


@family("llama4")
def llama4(config: Config) -> Architecture:
    """Llama 4: one matrix behind the encoder's own adapter."""
    arch, projector = _language_model(config), Tensors()
    d = config.section("vision_config").count("vision_output_dim", default=7680)
    projector.linear("projector", arch.d_model, d, bias=False)
    return _multimodal(config, arch, projector)


@family("mllama")
def mllama(config: Config) -> Architecture:
    """Llama 3.2 Vision: some layers attend to the image instead of the text."""
    arch, projector = _language_model(config), Tensors()
    d = config.section("vision_config").count("vision_output_dim", default=7680)
    projector.linear("projector", arch.d_model, d)
    return _multimodal(config, arch, projector)


@family("mllama_text_model")
def mllama_text(config: Config) -> Architecture:
    """The language model of Llama 3.2 Vision; ``cross_attention_layers`` attend to the image, behind gates that start shut."""
    config = with_defaults(config, **sizes(128256, 4096, 14336, 40, 32, 8, 131072))
    n_layer, d_model = config.n_layer(), config.count("hidden_size")
    crossing = layer_numbers(config, "cross_attention_layers", n_layer)
    if config.raw("cross_attention_layers") is None:
        crossing = {3, 8, 13, 18, 23, 28, 33, 38} & set(range(n_layer))
    gates = tuple(Weight(name=f"{part}.branch_gate", shape=(1,), role="attention") for part in ("attention", "mlp"))
    sees: Attention = attention(config, cross=True, causal=False, rotary=False, qk_norm="head")
    norms, ffn = (Norm(), Norm()), mlp(config)
    plain, cross = Layer(mixer=attention(config), ffn=ffn, norms=norms), Layer(mixer=sees, ffn=ffn, norms=norms, extra=gates)
    # The embedding has eight rows more than the head, for the image tokens.
    rows = Weight(name="embedding.image", shape=(8, d_model), role="embedding", shard="vocab")
    return decoder(config, [cross if i in crossing else plain for i in range(n_layer)], extra=(rows,))


_LIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_vl_text": ("qwen2", sizes(152064, 8192, 29568, 80, 64, 8, 32768, max_window_layers=80)),
    "qwen2_5_vl_text": ("qwen2", sizes(152064, 8192, 29568, 80, 64, 8, 32768, max_window_layers=80)),
    "qwen3_vl_text": ("qwen3", sizes(151936, 4096, 22016, 32, 32, 32, 128000, head_dim=128)),
    "glm4v_text": ("glm4", sizes(151552, 4096, 13696, 40, 32, 2, 32768, attention_bias=True, head_dim=None)),
}


@family(*_LIKE)
def like_another(config: Config) -> Architecture:
    """Language models that differ from another family only in what their classes assume."""
    model_type = config.text("model_type")
    kind, usual = _LIKE[model_type]
    config = with_defaults(config, **usual)
    arch = section_architecture(config.replaced(model_type=kind))
    return replace(arch, name=model_type, family=model_type)
