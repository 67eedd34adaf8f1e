"""Mixtures of experts that transformers does not have: their own code came with the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from suanchou.model.architecture import Architecture, Layer, Norm, Weight
from suanchou.model.config import Config, family, section_architecture
from suanchou.model.families.blocks import (
    EXPERT_KEYS,
    attention,
    decoder,
    dense_first,
    experts,
    layer_numbers,
    mlp,
    sizes,
    with_defaults,
)

__all__: list[str] = []

TWO_NORMS = (Norm(), Norm())


@family("deepseek")
def deepseek_moe(config: Config) -> Architecture:
    """DeepSeekMoE 16B: fine-grained experts and shared ones behind ordinary attention; without a count of experts, dense."""
    config = with_defaults(config, **sizes(102400, 4096, 11008, 30, 32, 32, 2048, moe_intermediate_size=1407))
    n_layer, n_shared = config.n_layer(), config.count("n_shared_experts", default=0, zero=True)
    mixer = attention(config, bias=config.flag("attention_bias"))
    dense = Layer(mixer=mixer, ffn=mlp(config), norms=TWO_NORMS)
    if not any(key in config for key in EXPERT_KEYS):
        return decoder(config, (dense,) * n_layer)
    shared = mlp(config, "moe_intermediate_size", times=n_shared) if n_shared else None
    sparse = replace(dense, ffn=experts(config, mlp(config, "moe_intermediate_size"), shared=shared))
    return decoder(config, [sparse if has else dense for has in dense_first(config, n_layer)])


@family("PanguProMoE")
def pangu_pro_moe(config: Config) -> Architecture:
    """openPangu Pro MoE 72B: experts in eight groups, a token visits one of each; biases on all of attention."""
    usual = sizes(153376, 5120, None, 48, 40, 8, 131072, moe_intermediate_size=1344, num_experts_per_tok=8)
    config = with_defaults(config, shared_expert_intermediate_size=5376, **usual)
    n_layer = config.n_layer()
    moe = experts(
        config,
        mlp(config, "moe_intermediate_size"),
        default=64,
        shared=mlp(config, "shared_expert_intermediate_size"),
    )
    moe = replace(moe, n_group=moe.top_k, top_group=moe.top_k)
    scale = Weight(name="moe.router.scale", shape=(moe.n_expert,), role="router")
    dense = layer_numbers(config, "mlp_only_layers", n_layer)
    sparse_layer = Layer(mixer=attention(config, bias=True), ffn=moe, norms=TWO_NORMS, extra=(scale,))
    layers = [replace(sparse_layer, ffn=mlp(config), extra=()) if i in dense else sparse_layer for i in range(n_layer)]
    return decoder(config, layers)


PANGU_NAMES = {
    "attention_kv_lora_dim": "kv_lora_rank",
    "attention_q_lora_dim": "q_lora_rank",
    "attention_qk_dim": "qk_nope_head_dim",
    "attention_qk_rope_dim": "qk_rope_head_dim",
    "attention_v_dim": "v_head_dim",
    "num_routed_experts": "n_routed_experts",
    "num_shared_experts": "n_shared_experts",
    "num_dense_layers": "first_k_dense_replace",
    "num_mtp_layers": "num_nextn_predict_layers",
}
"""openPangu's names, and DeepSeek's."""


@family("pangu_ultra_moe")
def pangu_ultra_moe(config: Config) -> Architecture:
    """openPangu Ultra MoE 718B: DeepSeek-V3's shape under other names, with two more norms in a layer (``sandwich_norm``)."""
    usual: dict[str, Any] = {"vocab_size": 153600, "hidden_size": 7680, "max_position_embeddings": 131072}
    config = config.with_defaults(usual, PANGU_NAMES).with_defaults({"n_group": 1, "topk_group": 1})
    arch = section_architecture(config.replaced(model_type="deepseek_v3"))
    norms = TWO_NORMS * (2 if config.flag("sandwich_norm") else 1)
    made = {id(layer): replace(layer, norms=norms) for layer in (*arch.layers, *arch.mtp)}
    layers, ahead = tuple(made[id(layer)] for layer in arch.layers), tuple(made[id(layer)] for layer in arch.mtp)
    name = "pangu_ultra_moe"
    return replace(arch, name=name, family=name, layers=layers, mtp=ahead)
