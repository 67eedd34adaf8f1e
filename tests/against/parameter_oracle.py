"""The oracle of parameter counts: a model built by transformers on the meta device, tied weights once."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is the oracle of parameter counts")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle of parameter counts")

from suanchou.model.architecture import Architecture  # noqa: E402
from suanchou.model.config import architecture_from_config  # noqa: E402
from suanchou.model.parameters import parameter_count, weights  # noqa: E402


def make_config(model_type: str, **values: Any) -> Any:
    """A transformers configuration; skips loudly where the installed transformers lacks the family."""
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    return transformers.CONFIG_MAPPING[model_type](**values)


def counted_by_transformers(config: Any, auto: str = "AutoModelForCausalLM") -> int:
    """Number of parameters of the model that transformers builds from ``config``."""
    with torch.device("meta"):
        model = getattr(transformers, auto).from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def ours(config: Any) -> Architecture:
    """Our reading of the same configuration, by way of the text of its config.json.

    Read twice: with every key written out, and with the keys left out that stand at the family's defaults, as published
    files leave them out. Both must mean the same.
    """
    full = architecture_from_config(json.loads(json.dumps(config.to_dict(), default=str)), name=config.model_type)
    short = architecture_from_config(json.loads(config.to_json_string(use_diff=True)), name=config.model_type)
    assert short == full
    return full


def check(config: Any, auto: str = "AutoModelForCausalLM") -> Architecture:
    """Both counts are equal, and so is the sum over our named tensors."""
    arch = ours(config)
    assert parameter_count(arch) == counted_by_transformers(config, auto)
    named = list(weights(arch))
    assert sum(weight.size for weight in named) == parameter_count(arch)
    assert len({weight.name for weight in named}) == len(named)
    return arch


def odd(seed: object, low: int = 3, high: int = 40) -> int:
    """A reproducible size that is unlikely to agree with another by chance."""
    return random.Random(repr(seed)).randrange(low, high) * 2 + 1


def with_tensor_parallel_plan(model_types: Iterable[str]) -> list[str]:
    """Those of the families for which transformers has a tensor-parallel plan."""
    known = [name for name in model_types if name in transformers.CONFIG_MAPPING]
    return [name for name in known if transformers.CONFIG_MAPPING[name].base_model_tp_plan]


def split_by_transformers(config: Any) -> dict[str, int]:
    """Elements that transformers' own tensor-parallel plan splits by output (``column``) and by input (``row``).

    Biases after a product split by input stay whole, so they count as neither.
    """
    plan = {
        re.compile(key.replace(".", r"\.").replace("*", r"\d+") + "$"): how for key, how in config.base_model_tp_plan.items()
    }
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config).base_model
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        for pattern, how in plan.items():
            if pattern.match(module) and ("colwise" in how or ("rowwise" in how and kind == "weight")):
                side = "column" if "colwise" in how else "row"
                found[side] = found.get(side, 0) + parameter.numel()
    return found
