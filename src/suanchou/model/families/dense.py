"""Dense decoders with softmax attention."""

from __future__ import annotations

from suanchou.model.architecture import MLP, Architecture, Attention, Layer, Norm
from suanchou.model.config import Config, family

__all__: list[str] = []


@family("llama")
def llama(config: Config) -> Architecture:
    """LLaMA 1 to 3.3 and the many models of its shape."""
    d_model = config.count("hidden_size")
    n_head = config.count("num_attention_heads")
    bias = config.flag("attention_bias")
    mlp_bias = config.flag("mlp_bias")
    layer = Layer(
        mixer=Attention(
            n_head=n_head,
            n_kv_head=config.count("num_key_value_heads", default=n_head),
            d_head=config.count("head_dim", default=d_model // n_head),
            q_bias=bias,
            kv_bias=bias,
            out_bias=bias,
        ),
        ffn=MLP(d_ff=config.count("intermediate_size"), up_bias=mlp_bias, down_bias=mlp_bias),
        norms=(Norm(), Norm()),
    )
    return Architecture(
        name="llama",
        family="llama",
        d_model=d_model,
        vocab=config.count("vocab_size"),
        layers=(layer,) * config.n_layer(),
        max_position=config.count("max_position_embeddings", default=2048),
        tied=config.flag("tie_word_embeddings"),
    )
