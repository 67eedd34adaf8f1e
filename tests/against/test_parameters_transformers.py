"""Parameter counts of dense decoders equal those of transformers' own models."""

from __future__ import annotations

import pytest
from parameter_oracle import check, make_config


@pytest.mark.parametrize("model_type", ["llama"])
def test_default_configuration(model_type):
    check(make_config(model_type))
