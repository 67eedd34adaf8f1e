"""What a sequence keeps between tokens: keys and values, latent caches, recurrent states."""

from __future__ import annotations

from suanchou.model.architecture import Architecture, Attention, LatentAttention, Layer, LinearAttention, Mixer
from suanchou.model.attention import kv_head_per_rank, visible_keys
from suanchou.model.operators import Num
from suanchou.model.parameters import distinct_layers

__all__ = ["cross_kv_byte", "kv_byte", "kv_byte_per_token", "mixer_kv_element", "mixer_state_byte", "state_byte"]


def mixer_kv_element(mixer: Mixer, tp: Num = 1.0) -> Num:
    """Elements that one token adds to one layer's cache on one of ``tp`` ranks.

    Keys and values of every KV head (replicated once TP exceeds them); latent attention keeps ``kv_rank + d_rope`` on every
    rank, and ``d_head`` more where it has an indexer of its own. Layers that reuse another's keys and values keep none.
    """
    if isinstance(mixer, Attention):
        if mixer.shares_kv or mixer.cross:
            return 0.0 * tp
        return kv_head_per_rank(mixer.n_kv_head, tp) * (mixer.d_head + mixer.d_v)
    if isinstance(mixer, LatentAttention):
        own_indexer = mixer.indexer is not None and not mixer.indexer.reuses
        return mixer.kv_rank + mixer.d_rope + (mixer.indexer.d_head if mixer.indexer and own_indexer else 0) + 0.0 * tp
    return 0.0 * tp


def mixer_state_byte(mixer: Mixer, *, element_byte: float = 2.0, state_element_byte: float = 4.0, tp: Num = 1.0) -> Num:
    """Bytes of one layer's recurrent state per sequence: the state itself and the convolution's last inputs.

    A convolution of ``conv_kernel`` taps needs the ``conv_kernel - 1`` inputs before the next one. Linear attention keeps
    ``n_value_head x d_key x d_value``, a state-space mixer ``d_inner x d_state``, both in ``state_element_byte``.
    """
    if isinstance(mixer, LinearAttention):
        state = mixer.n_value_head * mixer.d_key * mixer.d_value / tp
        channel = (2 * mixer.n_key_head * mixer.d_key + mixer.n_value_head * mixer.d_value) / tp
    elif isinstance(mixer, Attention | LatentAttention):
        return 0.0 * tp
    else:
        state = mixer.d_inner * mixer.d_state / tp
        channel = mixer.d_inner / tp
        if mixer.kind == "mamba2":
            channel = channel + 2.0 * kv_head_per_rank(mixer.n_group, tp) * mixer.d_state
    return state * state_element_byte + max(mixer.conv_kernel - 1, 0) * channel * element_byte


def _mixers(layer: Layer) -> tuple[Mixer, ...]:
    return tuple(mixer for mixer in (layer.mixer, layer.hybrid) if mixer is not None)


def kv_byte_per_token(arch: Architecture, element_byte: float = 2.0, *, tp: Num = 1.0) -> Num:
    """Bytes that one more token adds to a sequence's cache, all layers, before any window is full; per rank of ``tp``."""
    return element_byte * sum(
        (n * mixer_kv_element(mixer, tp) for layer, n in distinct_layers(arch.layers) for mixer in _mixers(layer)), 0.0 * tp
    )


def kv_byte(arch: Architecture, context: Num, element_byte: float = 2.0, *, tp: Num = 1.0) -> Num:
    """Bytes of a sequence's cache at ``context`` positions; windowed layers keep at most their window."""
    total: Num = 0.0 * tp * context
    for layer, n in distinct_layers(arch.layers):
        for mixer in _mixers(layer):
            window = mixer.window if isinstance(mixer, Attention) else None
            total = total + n * element_byte * mixer_kv_element(mixer, tp) * visible_keys(context, window)
    return total


def cross_kv_byte(arch: Architecture, encoder_seq: Num, element_byte: float = 2.0, *, tp: Num = 1.0) -> Num:
    """Bytes of the encoder's keys and values that every decoder layer keeps for a sequence of ``encoder_seq`` tokens."""
    total: Num = 0.0 * tp * encoder_seq
    for layer, n in distinct_layers(arch.layers):
        for mixer in (layer.mixer, layer.cross):
            if isinstance(mixer, Attention) and mixer.cross:
                heads = kv_head_per_rank(mixer.n_kv_head, tp)
                total = total + n * element_byte * heads * (mixer.d_head + mixer.d_v) * encoder_seq
    return total


def state_byte(arch: Architecture, *, element_byte: float = 2.0, state_element_byte: float = 4.0, tp: Num = 1.0) -> Num:
    """Bytes of recurrent state per sequence, all layers; it does not grow with the context."""
    return sum(
        (
            n * mixer_state_byte(mixer, element_byte=element_byte, state_element_byte=state_element_byte, tp=tp)
            for layer, n in distinct_layers(arch.layers)
            for mixer in _mixers(layer)
        ),
        0.0 * tp,
    )
