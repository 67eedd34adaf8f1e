"""Parameter counts of dense decoders equal those of transformers' own models."""

from __future__ import annotations

import pytest
from parameter_oracle import check, make_config

DEFAULTS = [
    "llama",
    "granite",
    "helium",
    "iquestcoder",
    "internlm3",
    "mistral",
    "ministral3",
    "qwen2",
    "qwen3",
    "smollm3",
    "granite_swa",
    "cwm",
    "hyperclovax",
    "seed_oss",
    "ernie4_5",
    "glm",
    "glm4",
    "arcee",
    "nanochat",
    "jais2",
]


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_default_configuration(model_type):
    check(make_config(model_type))
