"""Reading config.json: files, keys, defaults, window layouts, and what is refused."""

from __future__ import annotations

import json

import pytest

from suanchou.errors import SpecError
from suanchou.model.config import (
    MAX_LAYER,
    Config,
    architecture_from_config,
    load_config,
    supported_model_types,
)
from suanchou.model.parameters import parameter_count

SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "vocab_size": 100,
}


def read(**values):
    return architecture_from_config(SMALL | values, name="small", where="config.json")


def refused(**values):
    with pytest.raises(SpecError) as caught:
        read(**values)
    assert caught.value.where
    assert caught.value.hint
    return caught.value


# Files


def test_a_folder_stands_for_its_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
    assert load_config(tmp_path) == load_config(tmp_path / "config.json") == SMALL


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"model_type": "llama", "hidden_', "line 1"),
        (b"[1, 2]", "not a JSON object"),
        (b"\x89PNG\r\n\x1a\n\xff", "not a text file"),
        (b"", "not valid JSON"),
        (b'{"a":' * 100_000, "not a text file"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "not a text file"),
    ],
    ids=["truncated", "list", "binary", "empty", "nested", "digits"],
)
def test_a_file_that_is_no_configuration(tmp_path, content, said):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=said) as caught:
        load_config(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_a_file_of_200_megabytes_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(SpecError, match="too large"):
        load_config(path)


def test_missing_file_and_folder_without_one(tmp_path):
    with pytest.raises(SpecError, match="a folder without"):
        load_config(tmp_path)
    with pytest.raises(SpecError, match="No such file") as caught:
        load_config(tmp_path / "none.json")
    assert caught.value.hint


# Which family


def test_unknown_family_names_the_nearest():
    assert "qwen3" in str(refused(model_type="qwen33").hint)
    assert "config.json" in str(refused(model_type=None).hint)
    assert "unknown model_type" in refused(model_type="bert").what


def test_families_are_listed_once_and_sorted():
    types = supported_model_types()
    assert list(types) == sorted(set(types))
    assert len(types) >= 60


# Keys


IMPOSSIBLE = {
    "zero": 0,
    "negative": -1,
    "half": 1.5,
    "text": "64",
    "boolean": True,
    "list": [64],
    "mapping": {},
    "nan": float("nan"),
    "infinite": float("inf"),
    "large": 10**12,
    "unprintable": 10**5000,
}


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_impossible_sizes_name_their_key(value):
    assert refused(hidden_size=IMPOSSIBLE[value]).where == "config.json: hidden_size"


def test_a_whole_number_may_be_written_as_a_float():
    assert read(hidden_size=64.0) == read()


def test_the_refusal_names_the_key_of_the_file():
    with pytest.raises(SpecError) as caught:
        architecture_from_config({"model_type": "gpt2", "n_embd": -3}, name="x", where="config.json")
    assert caught.value.where == "config.json: n_embd"


def test_null_says_none_and_absence_says_the_default():
    data = {"model_type": "mistral", "num_hidden_layers": 1}
    default = architecture_from_config(data, name="x").layers[0].mixer
    none = architecture_from_config(data | {"sliding_window": None}, name="x").layers[0].mixer
    assert (default.window, none.window) == (4096, None)


def test_aliases_win_over_the_usual_name_unless_null():
    config = Config({"n_embd": 8, "hidden_size": 4, "n_head": None, "num_attention_heads": 2}, "x")
    renamed = config.with_defaults({"vocab_size": 7}, {"n_embd": "hidden_size", "n_head": "num_attention_heads"})
    assert [renamed.count(key) for key in ("hidden_size", "num_attention_heads", "vocab_size")] == [8, 2, 7]


def test_heads_must_divide():
    assert "evenly" in refused(num_attention_heads=4, num_key_value_heads=3).what
    assert refused(num_attention_heads=65, head_dim=None)


def test_absurd_products_are_refused_at_once():
    assert "layers" in str(refused(num_hidden_layers=10**9).where)
    huge = {"hidden_size": 10**8, "intermediate_size": 10**9, "vocab_size": 10**9}
    assert "no model" in refused(num_hidden_layers=MAX_LAYER, **huge).what


def test_dtype_is_read_from_either_key_and_from_the_text_part():
    assert read().dtype == "bf16"
    assert read(torch_dtype="float16").dtype == "fp16"
    assert read(dtype="torch.float32").dtype == "fp32"
    assert "unknown dtype" in refused(torch_dtype="int3").what


# Window layouts


def layout(**values):
    return [layer.mixer.window for layer in read(**values).layers]


def test_qwen_windows_only_where_switched_on():
    qwen = {"model_type": "qwen2", "sliding_window": 16, "max_window_layers": 3, "num_key_value_heads": 2}
    assert layout(**qwen) == [None] * 4
    assert layout(**qwen, use_sliding_window=True) == [None, None, None, 16]


def test_gemma_patterns():
    assert layout(model_type="gemma2", num_key_value_heads=2, sliding_window=8) == [8, None, 8, None]
    six = {"model_type": "gemma3_text", "num_key_value_heads": 2, "num_hidden_layers": 7, "sliding_window": 8}
    assert layout(**six) == [8] * 5 + [None, 8]
    assert layout(**six, sliding_window_pattern=2) == [8, None, 8, None, 8, None, 8]


def test_layer_types_overrule_the_pattern():
    kinds = ["full_attention", "full_attention", "sliding_attention", "full_attention"]
    gemma = {"model_type": "gemma2", "num_key_value_heads": 2, "sliding_window": 8}
    assert layout(**gemma, layer_types=kinds) == [None, None, 8, None]
    assert refused(**gemma, layer_types=kinds[:3]).where == "config.json: layer_types"
    assert refused(**gemma, layer_types=["full_attention", "x", "x", "x"]).where == "config.json: layer_types"


def test_exaone_pattern_of_letters_and_its_positions():
    layers = read(model_type="exaone4", num_key_value_heads=2, sliding_window=8, sliding_window_pattern="LLG").layers
    assert [layer.mixer.window for layer in layers] == [8, 8, None, 8]
    assert [layer.mixer.rotary for layer in layers] == [True, True, False, True]
    whole = read(model_type="exaone4", num_key_value_heads=2, sliding_window=None).layers
    assert all(layer.mixer.window is None and layer.mixer.rotary for layer in whole)


def test_smollm_leaves_positions_out_of_every_fourth_layer():
    layers = read(model_type="smollm3", num_key_value_heads=2).layers
    assert [layer.mixer.rotary for layer in layers] == [True, True, True, False]


def test_gpt_neo_alternates():
    data = {"model_type": "gpt_neo", "num_layers": 4, "hidden_size": 32, "num_heads": 2, "window_size": 6}
    kinds = [[["global", "local"], 2]]
    layers = architecture_from_config(data | {"attention_types": kinds}, name="x").layers
    assert [layer.mixer.window for layer in layers] == [None, 6, None, 6]
    for wrong in (kinds * 2, [[["global"], 3]], [[["nowhere"], 4]], [["global", 4]], "global"):
        with pytest.raises(SpecError, match=r"attention.type"):
            architecture_from_config(data | {"attention_types": wrong}, name="x")


def test_equal_layers_are_one_object():
    layers = read(num_hidden_layers=50).layers
    assert len({id(layer) for layer in layers}) == 1
    assert parameter_count(read(num_hidden_layers=50)) - parameter_count(read(num_hidden_layers=49)) > 0
