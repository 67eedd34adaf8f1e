"""Dense decoders whose code was published beside their weights and not in transformers."""

from __future__ import annotations

from suanchou.errors import SpecError
from suanchou.model.architecture import Architecture, Layer, Norm
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import attention, decoder, mlp, one_per_layer, sizes, with_defaults

__all__: list[str] = []

TWO_NORMS = (Norm(), Norm())
LAYER_NORM = Norm(kind="layer", bias=True)


@family("internlm", "internlm2", "xverse", "aquila", "minicpm", "orion", "PanguEmbedded")
def llama_like(config: Config) -> Architecture:
    """InternLM 1 and 2, XVERSE, Aquila 1 and 2, MiniCPM 1 and 2, Orion, openPangu Embedded: LLaMA with small differences.

    InternLM and openPangu put biases on all four attention projections under ``bias``; Orion's norms are LayerNorm.
    """
    model_type = config.text("model_type")
    usual = {
        "internlm": sizes(103168, 4096, 11008, 32, 32, None, 2048, bias=True),
        "internlm2": sizes(103168, 4096, 11008, 32, 32, None, 2048, bias=True),
        "xverse": sizes(100278, 5120, 13824, 40, 40, None, 8192),
        "aquila": sizes(100008, 4096, 11008, 32, 32, None, 2048),
        "minicpm": sizes(32000, 4096, 11008, 32, 32, None, 2048, tie_word_embeddings=True),
        "orion": sizes(84608, 4096, 15360, 40, 40, 40, 4096),
        "PanguEmbedded": sizes(153376, 4096, 12800, 34, 32, 8, 32768, bias=True),
    }[model_type]
    config = with_defaults(config, **usual)
    bias = config.flag("bias") if "bias" in usual else config.flag("attention_bias")
    norm = LAYER_NORM if model_type == "orion" else Norm()
    layer = Layer(mixer=attention(config, bias=bias), ffn=mlp(config), norms=(norm, norm))
    return decoder(config, (layer,) * config.n_layer(), final_norm=norm)


@family("baichuan")
def baichuan(config: Config) -> Architecture:
    """Baichuan 1 and 2: no biases; the 7B with rotary positions, the 13B (no ``max_position_embeddings``) with ALiBi."""
    rotary = "max_position_embeddings" in config
    usual = sizes(64000, 4096, 11008, 32, 32, None, 4096) if rotary else sizes(64000, 5120, 13696, 40, 40, None, 4096)
    if not rotary:
        config = config.replaced(max_position_embeddings=config.count("model_max_length", default=4096))
    config = with_defaults(config, **usual)
    layer = Layer(mixer=attention(config, rotary=rotary), ffn=mlp(config), norms=TWO_NORMS)
    return decoder(config, (layer,) * config.n_layer())


@family("chatglm")
def chatglm(config: Config) -> Architecture:
    """ChatGLM 2 and 3, and GLM-4 9B as first published: few KV heads, biases on queries, keys and values."""
    if "position_encoding_2d" in config or "inner_hidden_size" in config:
        raise SpecError(
            "the first ChatGLM-6B (two-dimensional positions) is not described",
            where=config.where,
            hint="ChatGLM 2, ChatGLM 3 and GLM-4 are",
        )
    names = {
        "padded_vocab_size": "vocab_size",
        "num_layers": "num_hidden_layers",
        "ffn_hidden_size": "intermediate_size",
        "kv_channels": "head_dim",
        "seq_length": "max_position_embeddings",
    }
    config = config.with_defaults(sizes(65024, 4096, 13696, 28, 32, None, 2048, head_dim=128), names)
    grouped = config.flag("multi_query_attention")
    bias = config.flag("add_bias_linear")
    qkv_bias = bias or config.flag("add_qkv_bias")
    n_kv_head = config.count("multi_query_group_num", default=1) if grouped else config.count("num_attention_heads")
    norm = Norm() if config.flag("rmsnorm", True) else LAYER_NORM
    mixer = attention(config, q_bias=qkv_bias, kv_bias=qkv_bias, out_bias=bias, n_kv_head=n_kv_head)
    layer = Layer(mixer=mixer, ffn=mlp(config, bias=bias), norms=(norm, norm))
    return decoder(config, (layer,) * config.n_layer(), final_norm=norm if config.flag("post_layer_norm", True) else None)


@family("qwen")
def qwen_first(config: Config) -> Architecture:
    """The first Qwen: ``intermediate_size`` is twice the MLP's width; ``no_bias`` spares all but queries, keys and values."""
    config = with_defaults(config, **sizes(151936, 4096, 22016, 32, 32, None, 8192, kv_channels=128))
    if config.count("intermediate_size") < 2:
        raise config.wrong("intermediate_size", "twice the MLP's width")
    config = config.replaced(
        max_position_embeddings=config.raw("seq_length", config.raw("max_position_embeddings")),
        intermediate_size=config.count("intermediate_size") // 2,
        num_key_value_heads=None,
    )
    bias = not config.flag("no_bias", True)
    layer = Layer(
        mixer=attention(config, bias=True, out_bias=bias, d_head=config.count("kv_channels")),
        ffn=mlp(config, bias=bias),
        norms=TWO_NORMS,
    )
    return decoder(config, (layer,) * config.n_layer())


@family("exaone")
def exaone3(config: Config) -> Architecture:
    """EXAONE 3 and 3.5: LLaMA under GPT-2's names."""
    names = {"num_layers": "num_hidden_layers", "activation_function": "hidden_act"}
    config = config.with_defaults(sizes(102400, 4096, None, 32, 32, None, 2048, tie_word_embeddings=True), names)
    if "intermediate_size" not in config:
        config = config.replaced(intermediate_size=4 * config.count("hidden_size"))
    layer = Layer(mixer=attention(config), ffn=mlp(config), norms=TWO_NORMS)
    return decoder(config, (layer,) * config.n_layer())


@family("openelm")
def openelm(config: Config) -> Architecture:
    """OpenELM: heads and MLP widths that grow with depth, listed by layer; embedding and head are one."""
    names = {
        "model_dim": "hidden_size",
        "num_transformer_layers": "num_hidden_layers",
        "max_context_length": "max_position_embeddings",
    }
    config = config.with_defaults({"max_position_embeddings": 2048, "share_input_output_layers": True}, names)
    n_layer, d_model = config.n_layer(), config.count("hidden_size")
    divisor = config.count("ffn_dim_divisor", default=256)
    lists = {key: one_per_layer(config, key, n_layer) for key in ("num_query_heads", "num_kv_heads", "ffn_multipliers")}
    for key, values in lists.items():
        if not values:
            raise config.wrong(key, "one entry per layer")
    layers = []
    for i in range(n_layer):
        one = config.replaced(**{key: values[i] for key, values in lists.items()})
        # The code rounds the width to a multiple of the divisor, and never lets it fall more than a tenth below.
        asked = one.ratio("ffn_multipliers", 1.0) * d_model
        width = max(divisor, int(asked + divisor / 2) // divisor * divisor)
        one = one.replaced(
            num_attention_heads=one.count("num_query_heads"),
            num_key_value_heads=one.count("num_kv_heads"),
            intermediate_size=width + divisor if width < 0.9 * asked else width,
        )
        normed = "head" if config.flag("normalize_qk_projections", True) else "none"
        ffn = mlp(one, gated=config.flag("ffn_with_glu", True))
        layers.append(Layer(mixer=attention(one, qk_norm=normed), ffn=ffn, norms=TWO_NORMS))
    return decoder(config, layers, tied=config.flag("share_input_output_layers", True))
