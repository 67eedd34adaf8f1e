"""The bundled configurations: read by our reader, and in agreement with what was published about each model."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import pytest

import suanchou
from suanchou.model.architecture import Architecture, Attention
from suanchou.model.config import architecture_from_config, load_config
from suanchou.model.parameters import active_parameter_count, parameter_count

DATA = Path(suanchou.__file__).parent / "catalog" / "data"
FILES = {file.stem: file for file in sorted((DATA / "models").glob("*.json"))}
with (DATA / "models.csv").open(encoding="utf-8", newline="") as handle:
    TABLE = list(csv.DictReader(handle))
ROWS = {row["name"]: row for row in TABLE}

COUNTED_IN_FULL = 100_000
"""A published total that is not a multiple of this was counted tensor by tensor, not rounded for a headline."""

POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")


def read(name: str) -> Architecture:
    return architecture_from_config(load_config(FILES[name]), name=name, where=str(FILES[name]))


def half_unit(text: str) -> float:
    """Half a unit of the last digit that is written: 7.5e9 means 7.45e9 to 7.55e9."""
    digits, _, exponent = text.lower().partition("e")
    decimals = len(digits.partition(".")[2])
    return 0.5 * 10.0 ** (int(exponent or 0) - decimals)


def published_range(text: str, relative: float) -> tuple[float, float]:
    """What a published figure allows: its own rounding or ``relative`` of it, whichever is wider."""
    slack = max(half_unit(text), relative * float(text))
    return float(text) - slack, float(text) + slack


def test_every_row_has_its_file_and_every_file_its_row():
    assert len(TABLE) == len(ROWS), "a name stands twice"
    assert set(ROWS) == set(FILES)
    assert len(FILES) >= 100


def test_names_and_aliases_mean_one_model_each():
    owner: dict[str, str] = {}
    for name, row in ROWS.items():
        assert name == name.lower()
        for alias in {name, *filter(None, row["aliases"].split("|"))}:
            assert owner.setdefault(alias.casefold(), name) == name, f"{alias} means {owner[alias.casefold()]} and {name}"


@pytest.mark.parametrize("name", ROWS)
def test_row_says_where_it_comes_from(name):
    row = ROWS[name]
    assert re.match(r"(paper|model card|release notes)[: ]", row["source"]), row["source"]
    assert row["recalled"] in {"0", "1"}
    assert row["title"]
    assert row["organization"]
    assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])|", row["date"])
    assert row["family"] == json.loads(FILES[name].read_text(encoding="utf-8"))["model_type"]


@pytest.mark.parametrize("name", ROWS)
def test_parameters_agree_with_the_published_total(name):
    published = ROWS[name]["params_published"]
    count = parameter_count(read(name))
    if float(published) % COUNTED_IN_FULL:
        # 1e-6: the published totals of DeepSeek-V3 and Kimi K2 count the routers' correction scores, a few thousand values.
        assert count == pytest.approx(float(published), rel=1e-6)
    else:
        low, high = published_range(published, 0.01)
        assert low <= count <= high


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row["active_published"]])
def test_active_parameters_agree_with_the_published_figure(name):
    """Publishers count embeddings or leave them out, so the figure lies between both counts (3 % for what else they skip)."""
    low, high = published_range(ROWS[name]["active_published"], 0.03)
    arch = read(name)
    assert active_parameter_count(arch, embedding=False) <= high
    assert active_parameter_count(arch) >= low


@pytest.mark.parametrize("name", ROWS)
def test_context_is_what_the_configuration_claims(name):
    arch, data = read(name), json.loads(FILES[name].read_text(encoding="utf-8"))
    if any(key in data.get("text_config", data) for key in POSITION_KEYS):
        assert float(ROWS[name]["context"]) == arch.max_position


WINDOWED = {
    "command-a": (48, 4096),
    "exaone-4-32b": (48, 4096),
    "gemma-2-9b": (21, 4096),
    "gemma-3-1b": (22, 512),
    "gemma-3-27b": (52, 1024),
    "gpt-oss-120b": (18, 128),
    "llama-3.1-70b": (0, None),
    "llama-4-scout": (36, 8192),
    "mistral-7b": (32, 4096),
    "mistral-7b-v0.3": (0, None),
    "mixtral-8x7b": (0, None),
    "olmo-3-7b": (24, 4096),
    "qwen2.5-7b": (0, None),
    "qwen3-8b": (0, None),
    "smollm3-3b": (0, None),
    "starcoder2-15b": (40, 4096),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_layers_with_a_window(name):
    """Number of layers that see only a window, and its length; from the papers' ratios of local to global layers."""
    mixers = [layer.mixer for layer in read(name).layers]
    windows = [mixer.window for mixer in mixers if isinstance(mixer, Attention) and mixer.window is not None]
    number, length = WINDOWED[name]
    assert len(windows) == number
    assert set(windows) <= {length}


CONVENTIONS = {
    "model_type",
    "architectures",
    "torch_dtype",
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "rotary_pct",
}
"""Keys of every published file of their time; transformers now keeps them elsewhere."""

PUBLISHED_TOO = {
    "bloom": {"seq_length"},
    "cohere": {"head_dim"},
    "cohere2": {"sliding_window_pattern"},
    "deepseek_v2": {"moe_layer_freq", "scoring_func"},
    "deepseek_v3": {"moe_layer_freq", "scoring_func", "topk_method"},
    "deepseek_v32": {"moe_layer_freq", "num_nextn_predict_layers", "scoring_func", "topk_method"},
    "dots1": {"head_dim", "scoring_func"},
    "exaone4": {"head_dim"},
    "falcon_h1": {"head_dim"},
    "gemma3_text": {"rope_local_base_freq", "sliding_window_pattern"},
    "glm4_moe": {"head_dim"},
    "hunyuan_v1_dense": {"attention_head_dim", "mlp_bias", "use_qk_norm"},
    "hunyuan_v1_moe": {
        "attention_head_dim",
        "mlp_bias",
        "moe_intermediate_size",
        "num_shared_expert",
        "use_mixed_mlp_moe",
        "use_qk_norm",
    },
    "jamba": {"sliding_window"},
    "minimax_m2": {"qk_norm_type", "rotary_dim", "scoring_func", "use_qk_norm", "use_routing_bias"},
    "nemotron_h": {"attention_head_dim", "hybrid_override_pattern", "num_hidden_layers"},
    "phi3": {"attention_bias"},
    "qwen3_5_moe_text": {"attn_output_gate", "full_attention_interval"},
    "qwen3_5_text": {"attn_output_gate", "full_attention_interval"},
    "qwen3_moe": {"head_dim"},
    "qwen3_next": {"full_attention_interval"},
    "t5": {"n_positions"},
}
"""Keys of published files that the class in transformers does not declare."""


@pytest.mark.parametrize("name", ROWS)
def test_keys_are_those_of_the_published_family(name):
    transformers = pytest.importorskip("transformers", reason="transformers knows the keys of each family")
    stack = [json.loads(FILES[name].read_text(encoding="utf-8"))]
    while stack:
        section = stack.pop()
        model_type = section.get("model_type")
        if model_type not in transformers.CONFIG_MAPPING:
            continue
        made = transformers.CONFIG_MAPPING[model_type]
        known = set(made().to_dict()) | set(made.attribute_map) | CONVENTIONS | PUBLISHED_TOO.get(model_type, set())
        assert set(section) <= known, model_type
        stack.extend(value for value in section.values() if isinstance(value, dict))


@pytest.mark.parametrize("name", ROWS)
def test_transformers_reads_the_file_and_counts_the_same(name):
    """The model that transformers builds from the file itself on the meta device has our count."""
    torch = pytest.importorskip("torch", reason="torch builds the model that is counted")
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle of parameter counts")
    data = json.loads(FILES[name].read_text(encoding="utf-8"))
    model_type = {"kimi_k2": "deepseek_v3"}.get(data.pop("model_type"), ROWS[name]["family"])
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}: its code came with the weights")
    auto = transformers.AutoModelForCausalLM
    if model_type == "t5":
        auto = transformers.AutoModelForSeq2SeqLM
    elif "vision_config" in data:
        auto = transformers.AutoModelForImageTextToText
    with torch.device("meta"):
        model = auto.from_config(transformers.CONFIG_MAPPING[model_type].from_dict(data))
    count = sum(parameter.numel() for parameter in model.parameters())
    if model_type == "t5" and not data["tie_word_embeddings"]:
        # Recent transformers ties T5's head whatever the file says; the published weights have one of their own.
        count += data["vocab_size"] * data["d_model"]
    assert parameter_count(read(name)) == count


def test_rounding_of_published_figures_is_read_from_their_digits():
    assert half_unit("7.5e9") == pytest.approx(0.05e9)
    assert half_unit("530e9") == pytest.approx(0.5e9)
    assert half_unit("8030261248") == 0.5
    assert math.isclose(published_range("2.7e9", 0.01)[0], 2.65e9)
