"""Vision encoders, tensor by tensor: CLIP, SigLIP, Pixtral, InternViT, the Qwen-VL and GLM-V encoders, Llama 4's and 3.2's.

Tensors that every layer of a tower repeats stand once, with the number of layers as their first extent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import VisionTower, Weight
from suanchou.model.config import MAX_LAYER, Config
from suanchou.model.families.blocks import with_defaults

__all__ = ["Tensors", "build_tower"]


class Tensors:
    """Collects named tensors; ``repeat`` many alike where it is above 0."""

    def __init__(self) -> None:
        self.found: list[Weight] = []

    def add(self, name: str, *shape: int, repeat: int = 0) -> None:
        """A bare tensor."""
        extents = (repeat, *shape) if repeat else shape
        self.found.append(Weight(name=f"vision.{name}", shape=extents, role="vision"))

    def linear(self, name: str, d_out: int, d_in: int, *, bias: bool = True, repeat: int = 0) -> None:
        """A matrix and its bias."""
        self.add(name, d_out, d_in, repeat=repeat)
        if bias:
            self.add(f"{name}.bias", d_out, repeat=repeat)

    def norm(self, name: str, width: int, *, bias: bool = True, repeat: int = 0) -> None:
        """A LayerNorm, or an RMS norm where it has no ``bias``."""
        self.add(f"{name}.weight", width, repeat=repeat)
        if bias:
            self.add(f"{name}.bias", width, repeat=repeat)

    def layers(
        self,
        n: int,
        d: int,
        d_ff: int,
        *,
        qkv_bias: bool = True,
        out_bias: bool = True,
        mlp_bias: bool = True,
        gated: bool = False,
        norm_bias: bool = True,
        prefix: str = "layers",
    ) -> None:
        """``n`` pre-norm encoder layers."""
        for part in ("q", "k", "v"):
            self.linear(f"{prefix}.attention.{part}", d, d, bias=qkv_bias, repeat=n)
        self.linear(f"{prefix}.attention.out", d, d, bias=out_bias, repeat=n)
        for part in ("up", "gate") if gated else ("up",):
            self.linear(f"{prefix}.mlp.{part}", d_ff, d, bias=mlp_bias, repeat=n)
        self.linear(f"{prefix}.mlp.down", d, d_ff, bias=mlp_bias, repeat=n)
        for i in range(2):
            self.norm(f"{prefix}.norm{i}", d, bias=norm_bias, repeat=n)


def _pair(config: Config, key: str, default: int) -> tuple[int, int]:
    """A height and a width; one number stands for both."""
    value = config.raw(key, default)
    if isinstance(value, list):
        if len(value) != 2:
            raise SpecError("expected a height and a width", where=f"{config.where}: {key}")
        parts = [Config({key: part}, config.where).count(key) for part in value]
        return parts[0], parts[1]
    side = config.count(key, default=default)
    return side, side


def _grid(config: Config, image: int, patch: int) -> int:
    """Number of patches of an image."""
    (height, width), (down, right) = _pair(config, "image_size", image), _pair(config, "patch_size", patch)
    if not (height // down and width // right):
        raise SpecError("a patch is larger than the image", where=f"{config.where}: patch_size")
    return (height // down) * (width // right)


def _patch(
    t: Tensors, config: Config, d: int, patch: int, *, bias: bool, channels: str = "num_channels", frames: int = 1
) -> None:
    down, right = _pair(config, "patch_size", patch)
    t.linear("patch", d, config.count(channels, default=3) * frames * down * right, bias=bias)


def _require_whole_heads(config: Config, key: str, d: int) -> None:
    n_head = config.count(key, default=16)
    if d % n_head:
        raise SpecError(f"{n_head} heads do not divide {d} channels", where=f"{config.where}: {key}")


def _clip(t: Tensors, config: Config) -> tuple[int, int]:
    config = with_defaults(config, hidden_size=768, intermediate_size=3072, num_hidden_layers=12)
    d, n = config.count("hidden_size"), config.n_layer()
    _patch(t, config, d, 32, bias=False)
    t.add("class", d)
    t.add("position", _grid(config, 224, 32) + 1, d)
    t.norm("norm_before", d)
    t.layers(n, d, config.count("intermediate_size"))
    t.norm("norm_after", d)
    return n, d


def _siglip(t: Tensors, config: Config) -> tuple[int, int]:
    config = with_defaults(config, hidden_size=768, intermediate_size=3072, num_hidden_layers=12)
    d, d_ff, n = config.count("hidden_size"), config.count("intermediate_size"), config.n_layer()
    _patch(t, config, d, 16, bias=True)
    t.add("position", _grid(config, 224, 16), d)
    t.layers(n, d, d_ff)
    t.norm("norm_after", d)
    if config.flag("vision_use_head", True):
        t.add("head.probe", d)
        t.linear("head.qkv", 3 * d, d)
        t.linear("head.out", d, d)
        t.norm("head.norm", d)
        t.linear("head.mlp.up", d_ff, d)
        t.linear("head.mlp.down", d, d_ff)
    return n, d


def _pixtral(t: Tensors, config: Config) -> tuple[int, int]:
    config = with_defaults(config, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
    d, n = config.count("hidden_size"), config.n_layer()
    _patch(t, config, d, 16, bias=False)
    t.norm("norm_before", d, bias=False)
    plain: dict[str, Any] = {"qkv_bias": False, "out_bias": False, "mlp_bias": False, "norm_bias": False}
    t.layers(n, d, config.count("intermediate_size"), gated=True, **plain)
    return n, d


def _internvl(t: Tensors, config: Config) -> tuple[int, int]:
    config = with_defaults(config, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
    d, n = config.count("hidden_size"), config.n_layer()
    kind = config.text("norm_type", "layer_norm")
    if kind not in ("layer_norm", "rms_norm"):
        raise SpecError(f"unknown norm {kind!r}", where=f"{config.where}: norm_type", hint="layer_norm or rms_norm")
    _patch(t, config, d, 14, bias=True)
    t.add("class", d)
    if config.flag("use_mask_token"):
        t.add("mask", d)
    if config.flag("use_absolute_position_embeddings", True):
        t.add("position", _grid(config, 448, 14) + 1, d)
    bias = config.flag("attention_bias")
    t.layers(n, d, config.count("intermediate_size"), qkv_bias=bias, norm_bias=kind == "layer_norm")
    for i in range(2):
        t.add(f"layers.scale{i}", d, repeat=n)
    if config.flag("use_qk_norm"):
        for part in ("q", "k"):
            t.norm(f"layers.attention.{part}_norm", d, bias=False, repeat=n)
    if not config.flag("use_mean_pooling", True):
        t.norm("norm_after", d)
    return n, d


def _qwen2_vl(t: Tensors, config: Config) -> tuple[int, int]:
    d, n = config.count("embed_dim", default=1280), config.n_layer("depth", default=32)
    frames, merged = config.count("temporal_patch_size", default=2), _merged(config, d)
    _patch(t, config, d, 14, bias=False, channels=_channels(config), frames=frames)
    t.layers(n, d, math.floor(d * config.ratio("mlp_ratio", 4.0)))
    t.norm("merger.norm", d)
    t.linear("merger.up", merged, merged)
    t.linear("merger.down", config.count("hidden_size", default=3584), merged)
    return n, d


def _qwen2_5_vl(t: Tensors, config: Config) -> tuple[int, int]:
    d, n = config.count("hidden_size", default=3584), config.n_layer("depth", default=32)
    frames, merged = config.count("temporal_patch_size", default=2), _merged(config, d)
    _patch(t, config, d, 14, bias=False, channels=_channels(config), frames=frames)
    t.layers(n, d, config.count("intermediate_size", default=3420), gated=True, norm_bias=False)
    t.norm("merger.norm", d, bias=False)
    t.linear("merger.up", merged, merged)
    t.linear("merger.down", config.count("out_hidden_size", default=3584), merged)
    return n, d


def _qwen3_vl(t: Tensors, config: Config) -> tuple[int, int]:
    d, n = config.count("hidden_size", default=1152), config.n_layer("depth", default=27)
    frames, merged = config.count("temporal_patch_size", default=2), _merged(config, d)
    d_out = config.count("out_hidden_size", default=3584)
    _patch(t, config, d, 16, bias=True, channels=_channels(config), frames=frames)
    t.add("position", config.count("num_position_embeddings", default=2304), d)
    t.layers(n, d, config.count("intermediate_size", default=4304))
    # Qwen3-VL also hands the features of some inner layers to the language model, each through a merger of its own.
    deep = 0
    if config.text("model_type").startswith("qwen3_vl"):
        deep = 3 if config.raw("deepstack_visual_indexes") is None else len(config.items("deepstack_visual_indexes"))
    for name, width, times in (("merger", d, 1), ("deep_merger", merged, deep)):
        if times:
            t.norm(f"{name}.norm", width, repeat=times)
            t.linear(f"{name}.up", merged, merged, repeat=times)
            t.linear(f"{name}.down", d_out, merged, repeat=times)
    return n, d


def _merged(config: Config, d: int) -> int:
    """Width of a square of neighbouring patches side by side."""
    return d * config.count("spatial_merge_size", default=2) ** 2


def _channels(config: Config) -> str:
    return "in_channels" if "in_channels" in config else "in_chans"


def _glm4v(t: Tensors, config: Config) -> tuple[int, int]:
    usual = {"hidden_size": 1536, "out_hidden_size": 4096, "intermediate_size": 13696, "depth": 24}
    config = with_defaults(config, **usual)
    d, d_out, d_ff = config.count("hidden_size"), config.count("out_hidden_size"), config.count("intermediate_size")
    n, merge = config.n_layer("depth"), config.count("spatial_merge_size", default=2)
    frames = config.count("temporal_patch_size", default=2)
    _patch(t, config, d, 14, bias=True, channels="in_channels", frames=frames)
    t.add("position", _grid(config, 336, 14), d)
    plain: dict[str, Any] = {"out_bias": False, "mlp_bias": False, "norm_bias": False}
    t.layers(n, d, d_out, gated=True, qkv_bias=config.flag("attention_bias"), **plain)
    t.norm("norm_before", d, bias=False)
    t.norm("norm_after", d, bias=False)
    t.linear("downsample", d_out, d * merge * merge)
    t.linear("merger.in", d_out, d_out, bias=False)
    t.norm("merger.norm", d_out)
    for part, shape in (("up", (d_ff, d_out)), ("gate", (d_ff, d_out)), ("down", (d_out, d_ff))):
        t.linear(f"merger.{part}", *shape, bias=False)
    return n, d


def _llama4(t: Tensors, config: Config) -> tuple[int, int]:
    config = with_defaults(config, hidden_size=768, intermediate_size=5632, num_hidden_layers=34)
    d, d_ff, n = config.count("hidden_size"), config.count("intermediate_size"), config.n_layer()
    _require_whole_heads(config, "num_attention_heads", d)
    _patch(t, config, d, 14, bias=False)
    t.add("class", d)
    t.add("position", _grid(config, 448, 14) + 1, d)
    t.norm("norm_before", d)
    t.layers(n, d, d_ff)
    t.norm("norm_after", d)
    d_out = config.count("projector_output_dim", default=4096)
    t.linear("adapter.up", config.count("projector_input_dim", default=4096), d_ff, bias=False)
    t.linear("adapter.down", d_out, d_out, bias=False)
    return n, d


def _mllama(t: Tensors, config: Config) -> tuple[int, int]:
    config = with_defaults(config, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_global_layers=8)
    d, d_ff, n = config.count("hidden_size"), config.count("intermediate_size"), config.n_layer()
    n_global, n_tile = config.n_layer("num_global_layers"), config.count("max_num_tiles", default=4)
    # One table row for each arrangement of tiles, and one for none.
    n_ratio = 8 if config.raw("supported_aspect_ratios") is None else len(config.items("supported_aspect_ratios"))
    n_position = _grid(config, 448, 14) + 1
    _require_whole_heads(config, "attention_heads", d)
    _patch(t, config, d, 14, bias=False)
    t.add("class", d)
    t.add("position", n_position, d)
    t.add("position.tile", n_ratio + 1, n_tile * n_position * d)
    t.add("position.gate", 1)
    for side in ("before", "after"):
        t.add(f"tile_{side}", n_ratio + 1, n_tile * d)
        t.add(f"tile_{side}.gate", 1)
        t.norm(f"norm_{side}", d)
    t.layers(n, d, d_ff, qkv_bias=False, out_bias=False)
    t.layers(n_global, d, d_ff, qkv_bias=False, out_bias=False, prefix="global")
    for part in ("attention", "mlp"):
        t.add(f"global.{part}.branch_gate", 1, repeat=n_global)
    return n + n_global, d


def _kimi(t: Tensors, config: Config) -> tuple[int, int]:
    config = with_defaults(config, hidden_size=1152, intermediate_size=4304, num_hidden_layers=27)
    d, n = config.count("hidden_size"), config.n_layer()
    _patch(t, config, d, 14, bias=True)
    t.add("position", config.count("pos_emb_height", default=64), config.count("pos_emb_width", default=64), d)
    t.layers(n, d, config.count("intermediate_size"))
    t.norm("norm_after", d)
    return n, d


_TOWERS: dict[str, Callable[[Tensors, Config], tuple[int, int]]] = {
    "clip_vision_model": _clip,
    "siglip_vision_model": _siglip,
    "pixtral": _pixtral,
    "internvl_vision": _internvl,
    "qwen2_vl_vision": _qwen2_vl,
    "qwen2_5_vl_vision": _qwen2_5_vl,
    "qwen3_vl_vision": _qwen3_vl,
    "qwen3_vl_moe_vision": _qwen3_vl,
    "qwen3_5_vision": _qwen3_vl,
    "qwen3_5_moe_vision": _qwen3_vl,
    "glm4v_vision": _glm4v,
    "glm4v_moe_vision": _glm4v,
    "llama4_vision_model": _llama4,
    "mllama_vision_model": _mllama,
    "kimi_k25_vision": _kimi,
}


def build_tower(config: Config, projector: Tensors) -> VisionTower:
    """The encoder that ``config`` (with its ``model_type``) describes, and the ``projector`` behind it.

    Raises
    ------
    SpecError : an encoder that is not known here, or sizes it cannot have.
    """
    kind = config.text("model_type")
    if kind not in _TOWERS:
        raise SpecError(
            f"unknown vision encoder {kind!r}", where=f"{config.where}: model_type", hint=f"known: {', '.join(sorted(_TOWERS))}"
        )
    tensors = Tensors()
    n_layer, d_model = _TOWERS[kind](tensors, config)
    return VisionTower(weights=(*tensors.found, *projector.found), n_layer=min(n_layer, 2 * MAX_LAYER), d_model=d_model)
