"""Parameter counts of encoder-decoder models equal those of transformers' own models."""

from __future__ import annotations

import pytest
from parameter_oracle import check, make_config

from suanchou.errors import SpecError
from suanchou.model.config import architecture_from_config
from suanchou.model.parameters import parameter_count

T5 = {"vocab_size": 97, "d_model": 30, "d_kv": 7, "d_ff": 43, "num_layers": 3, "num_heads": 5}
BART = {
    "vocab_size": 97,
    "d_model": 30,
    "max_position_embeddings": 23,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 31,
    "decoder_ffn_dim": 37,
    "encoder_attention_heads": 5,
    "decoder_attention_heads": 6,
    "pad_token_id": 1,
}

T5_CASES = [{**T5, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 4}, {**T5, "relative_attention_num_buckets": 9}]
CASES = {
    **dict.fromkeys(("t5", "mt5", "umt5"), T5_CASES),
    **{key: [BART] for key in ("bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot")},
}


@pytest.mark.parametrize("model_type", sorted(CASES))
def test_default_configuration(model_type):
    check(make_config(model_type), "AutoModelForSeq2SeqLM")


@pytest.mark.parametrize(("model_type", "values"), [(key, values) for key in CASES for values in CASES[key]])
def test_odd_small_configurations(model_type, values):
    arch = check(make_config(model_type, **values), "AutoModelForSeq2SeqLM")
    assert all(layer.cross is not None and layer.cross.cross for layer in arch.layers)
    assert not any(layer.mixer.causal for layer in arch.encoder.layers)


def test_t5_v1_1_and_mt5_have_a_head_of_their_own():
    """The published counts: 247,577,856 for T5 v1.1 base and 300,176,768 for mT5 small, heads included."""
    base = {"model_type": "t5", "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12, "vocab_size": 32128}
    v1_1 = architecture_from_config({**base, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, name="t5")
    assert parameter_count(v1_1) == 247_577_856
    small = architecture_from_config({"model_type": "mt5", "tie_word_embeddings": False}, name="mt5")
    assert parameter_count(small) == 300_176_768


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model_type": "t5", "feed_forward_proj": "swish-gelu"}, "feed_forward_proj"),
        ({"model_type": "marian", "share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings"),
        ({"model_type": "bart", "decoder_attention_heads": 7}, "decoder_attention_heads"),
        ({"model_type": "marian", "decoder_vocab_size": 5}, "decoder_vocab_size"),
    ],
)
def test_refusals_name_the_key(values, key):
    with pytest.raises(SpecError) as refusal:
        architecture_from_config(values, name="x", where="config.json")
    assert refusal.value.where == f"config.json: {key}"
