"""Dense decoders with norms, projections or window layouts of their own: Gemma, OLMo, Command R, EXAONE and others."""

from __future__ import annotations

from dataclasses import replace

from suanchou.errors import SpecError
from suanchou.model.architecture import Architecture, LatentAttention, Layer, Norm, Weight
from suanchou.model.config import Config, family
from suanchou.model.families.blocks import (
    attention,
    decoder,
    head_width,
    mlp,
    one_per_layer,
    sizes,
    sliding_or_full,
    windowed,
    with_defaults,
)

__all__ = ["gemma"]

TWO_NORMS = (Norm(), Norm())
ACTIVATION = {"hidden_activation": "hidden_act"}


def _all_but_every(config: Config, period: int) -> list[int | None]:
    """Windows in all layers but the last of every ``period``."""
    n_layer = config.n_layer()
    return sliding_or_full(config, n_layer, [bool((i + 1) % period) for i in range(n_layer)])


@family("gemma", "gemma2", "gemma3_text", "vaultgemma")
def gemma(config: Config) -> Architecture:
    """Gemma 1 to 3: wide heads, tied embeddings; windows in alternate layers (2) or five of six (3), four norms (2, 3)."""
    model_type = config.text("model_type")
    small = {"head_dim": 256, "sliding_window": 4096, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"}
    usual = {
        "gemma": sizes(256000, 3072, 24576, 28, 16, 16, 8192, **small),
        "gemma2": sizes(256000, 2304, 9216, 26, 8, 4, 8192, **small),
        "vaultgemma": sizes(256000, 2304, 9216, 26, 8, 4, 8192, **small),
        "gemma3_text": sizes(262208, 2304, 9216, 26, 8, 4, 131072, **small),
    }[model_type]
    config = config.with_defaults(usual, ACTIVATION)
    third = model_type == "gemma3_text"
    mixer = attention(config, bias=config.flag("attention_bias"), qk_norm="head" if third else "none")
    norms = TWO_NORMS if model_type in ("gemma", "vaultgemma") else TWO_NORMS * 2
    layer = Layer(mixer=mixer, ffn=mlp(config), norms=norms)
    if model_type == "gemma":
        return decoder(config, (layer,) * config.n_layer())
    period = config.count("sliding_window_pattern", "_sliding_window_pattern", default=6) if third else 2
    return decoder(config, windowed(layer, _all_but_every(config, period)))


@family("gemma3n_text")
def gemma3n(config: Config) -> Architecture:
    """Gemma 3n's text model: AltUp, LAuReL, embeddings per layer, upper layers that reuse keys and values."""
    usual = sizes(262400, 2048, 16384, 35, 8, 2, 32768, head_dim=256, sliding_window=512, hidden_size_per_layer_input=256)
    usual |= {"vocab_size_per_layer_input": 262144, "altup_num_inputs": 4, "num_kv_shared_layers": 15, "laurel_rank": 64}
    usual |= {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"}
    config = config.with_defaults(usual, ACTIVATION)
    n_layer, d = config.n_layer(), config.count("hidden_size")
    d_layer, n_alt = config.count("hidden_size_per_layer_input"), config.count("altup_num_inputs", most=1000)
    rank, n_shared = config.count("laurel_rank"), config.count("num_kv_shared_layers", zero=True)
    if n_shared >= n_layer:
        raise config.wrong("num_kv_shared_layers", f"fewer than the {n_layer} layers")
    extra = [
        Weight(name="laurel.left", shape=(rank, d), role="mlp"),
        Weight(name="laurel.right", shape=(d, rank), role="mlp"),
        Weight(name="laurel.norm", shape=(d,), role="norm"),
        Weight(name="altup.scale", shape=(d,), role="norm"),
        Weight(name="altup.correct", shape=(n_alt, n_alt), role="mlp"),
        Weight(name="altup.predict", shape=(n_alt**2, n_alt), role="mlp"),
        Weight(name="altup.router", shape=(n_alt, d), role="mlp"),
        Weight(name="altup.router_norm", shape=(d,), role="norm"),
        Weight(name="per_layer.gate", shape=(d_layer, d), role="mlp"),
        Weight(name="per_layer.projection", shape=(d, d_layer), role="mlp"),
        Weight(name="per_layer.norm", shape=(d,), role="norm"),
    ]
    widths = one_per_layer(config, "intermediate_size", n_layer) if isinstance(config.raw("intermediate_size"), list) else ()
    mixer = attention(config, bias=config.flag("attention_bias"), qk_norm="head")
    layers = [
        Layer(
            mixer=replace(mixer, window=window, shares_kv=i >= n_layer - n_shared),
            ffn=mlp(config.replaced(intermediate_size=widths[i]) if widths else config),
            norms=TWO_NORMS * 2,
            extra=tuple(extra),
        )
        for i, window in enumerate(_all_but_every(config, 5))
    ]
    outer = [
        Weight(
            name="per_layer.embedding",
            shape=(config.count("vocab_size_per_layer_input"), n_layer * d_layer),
            role="embedding",
            shard="vocab",
        ),
        Weight(name="per_layer.model_projection", shape=(n_layer * d_layer, d), role="embedding"),
        Weight(name="per_layer.model_norm", shape=(d_layer,), role="norm"),
    ]
    for side in ("in", "out"):
        outer += [Weight(name=f"altup.{side}.{i}", shape=(d, d), role="mlp") for i in range(n_alt - 1)]
    return decoder(config, layers, extra=tuple(outer))


@family("olmo", "olmo2", "olmo3")
def olmo(config: Config) -> Architecture:
    """OLMo: norms without weights (1), after the blocks and over whole projections (2), windows in three of four (3)."""
    model_type = config.text("model_type")
    config = with_defaults(config, **sizes(50304, 4096, 11008, 32, 32, None, 2048, sliding_window=4096))
    bias = config.flag("attention_bias")
    if model_type == "olmo":
        bare = Norm(kind="layer", weight=False)
        layer = Layer(mixer=attention(config, bias=bias), ffn=mlp(config), norms=(bare, bare))
        return decoder(config, (layer,) * config.n_layer(), final_norm=bare)
    layer = Layer(mixer=attention(config, bias=bias, qk_norm="full"), ffn=mlp(config), norms=TWO_NORMS)
    return decoder(config, windowed(layer, _all_but_every(config, 4 if model_type == "olmo3" else 1)))


@family("cohere", "cohere2")
def cohere(config: Config) -> Architecture:
    """Command R, R+ and R7B: attention beside the MLP under one norm; R7B has windows, and positions only with them."""
    model_type = config.text("model_type")
    usual = sizes(256000, 8192, 22528, 40, 64, None, 8192, sliding_window=4096, tie_word_embeddings=True)
    config = with_defaults(config, **usual)
    norm = Norm(kind="layer")
    bias = config.flag("attention_bias")
    if model_type == "cohere":
        qk_norm = "per_head" if config.flag("use_qk_norm") else "none"
        layer = Layer(mixer=attention(config, bias=bias, qk_norm=qk_norm), ffn=mlp(config), norms=(norm,), parallel=True)
        return decoder(config, (layer,) * config.n_layer(), final_norm=norm)
    # The class computes the width of a head and disregards what the file says.
    config = config.replaced(head_dim=None)
    layer = Layer(mixer=attention(config, bias=bias), ffn=mlp(config), norms=(norm,), parallel=True)
    window = _all_but_every(config, config.count("sliding_window_pattern", default=4))
    return decoder(config, windowed(layer, window, [width is not None for width in window]), final_norm=norm)


@family("exaone4")
def exaone4(config: Config) -> Architecture:
    """EXAONE 4: norms after the blocks; with windows, only their layers have rotary positions."""
    config = with_defaults(config, **sizes(102400, 4096, 16384, 32, 32, 32, 2048, sliding_window=4096))
    n_layer = config.n_layer()
    pattern = config.raw("sliding_window_pattern", 4)
    if "sliding_window" not in config:
        sliding = [False] * n_layer
    elif isinstance(pattern, str):
        if not pattern or set(pattern) - {"L", "G"}:
            raise config.wrong("sliding_window_pattern", "letters L and G")
        sliding = [pattern[i % len(pattern)] == "L" for i in range(n_layer)]
    else:
        period = config.count("sliding_window_pattern", default=4)
        sliding = [bool((i + 1) % period) for i in range(n_layer)]
    layer = Layer(mixer=attention(config, qk_norm="head"), ffn=mlp(config), norms=TWO_NORMS)
    window = sliding_or_full(config, n_layer, sliding)
    everywhere = "sliding_window" not in config
    return decoder(config, windowed(layer, window, [everywhere or width is not None for width in window]))


@family("apertus")
def apertus(config: Config) -> Architecture:
    """Apertus: xIELU, an activation with two parameters of its own, in an MLP of two matrices."""
    config = with_defaults(config, **sizes(131072, 4096, 14336, 32, 32, None, 65536, hidden_act="xielu"))
    learned = config.text("hidden_act") == "xielu"
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias"), qk_norm="head"),
        ffn=mlp(config, gated=False),
        norms=TWO_NORMS,
        extra=tuple(Weight(name=f"mlp.{part}", shape=(1,), role="mlp") for part in ("alpha_p", "alpha_n")) if learned else (),
    )
    return decoder(config, (layer,) * config.n_layer())


@family("bitnet")
def bitnet(config: Config) -> Architecture:
    """BitNet b1.58: a norm before each output projection."""
    config = with_defaults(config, **sizes(128256, 2560, 6912, 30, 20, 5, 2048, hidden_act="relu2"))
    ffn = mlp(config)
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias")),
        ffn=ffn,
        norms=TWO_NORMS,
        extra=(
            Weight(name="attention.out_norm", shape=(config.count("hidden_size"),), role="norm", shard="column"),
            Weight(name="mlp.down_norm", shape=(ffn.d_ff,), role="norm", shard="column"),
        ),
    )
    return decoder(config, (layer,) * config.n_layer())


@family("diffllama")
def diffllama(config: Config) -> Architecture:
    """DiffLlama: the difference of two attention maps, weighed by four learned vectors."""
    config = with_defaults(config, **sizes(32000, 2048, 8192, 16, 32, None, 2048))
    width = head_width(config)
    layer = Layer(
        mixer=attention(config, bias=config.flag("attention_bias")),
        ffn=mlp(config),
        norms=TWO_NORMS,
        extra=tuple(
            Weight(name=f"attention.lambda_{part}", shape=(width,), role="attention") for part in ("q1", "k1", "q2", "k2")
        ),
    )
    return decoder(config, (layer,) * config.n_layer())


@family("minicpm3")
def minicpm3(config: Config) -> Architecture:
    """MiniCPM 3: latent attention in a dense model."""
    usual = sizes(73448, 2560, 6400, 62, 40, 40, 32768, kv_lora_rank=256, q_lora_rank=768, qk_nope_head_dim=64)
    config = with_defaults(config, **usual, qk_rope_head_dim=32, tie_word_embeddings=True)
    n_head, d_model = config.count("num_attention_heads"), config.count("hidden_size")
    if d_model < n_head:
        raise SpecError(f"a width of {d_model} leaves no channel for each of {n_head} heads", where=config.where)
    mixer = LatentAttention(
        n_head=n_head,
        kv_rank=config.count("kv_lora_rank"),
        d_nope=config.count("qk_nope_head_dim"),
        d_rope=config.count("qk_rope_head_dim"),
        d_value=config.count("v_head_dim", default=d_model // n_head),
        q_rank=config.count("q_lora_rank") if "q_lora_rank" in config else None,
        bias=config.flag("attention_bias"),
    )
    layer = Layer(mixer=mixer, ffn=mlp(config, bias=config.flag("mlp_bias")), norms=TWO_NORMS)
    return decoder(config, (layer,) * config.n_layer())


@family("doge")
def doge(config: Config) -> Architecture:
    """Doge without experts: a learned mask over values, and weights on the residuals."""
    config = with_defaults(config, **sizes(32768, 1024, 2048, 32, 8, None, 2048))
    if config.flag("is_moe"):
        raise SpecError("Doge's mixture of experts is not described here", where=config.where, hint="is_moe must be false")
    d, bias = config.count("hidden_size"), config.flag("attention_bias")
    mixer = attention(config, bias=bias, qk_norm="head")
    n_kv, d_value = mixer.n_kv_head, mixer.n_kv_head * mixer.d_head
    extra = [
        Weight(name="attention.mask", shape=(n_kv,), role="attention"),
        Weight(name="attention.dt", shape=(n_kv, d_value), role="attention", shard="row"),
        Weight(name="residual.attention", shape=(d,), role="norm"),
        Weight(name="residual.mlp", shape=(d,), role="norm"),
    ]
    if bias:
        extra.append(Weight(name="attention.dt.bias", shape=(n_kv,), role="attention"))
    layer = Layer(mixer=mixer, ffn=mlp(config, bias=config.flag("mlp_bias")), norms=TWO_NORMS, extra=tuple(extra))
    return decoder(config, (layer,) * config.n_layer())
