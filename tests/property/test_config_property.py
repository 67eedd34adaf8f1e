"""Whatever a config.json holds: an Architecture with a finite size, or one clear refusal."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from suanchou.errors import SpecError
from suanchou.model.config import (
    MAX_PARAMETER,
    Config,
    architecture_from_config,
    load_config,
    supported_model_types,
)
from suanchou.model.parameters import active_parameter_count, parameter_count, weights


@cache
def keys_read(model_type: str) -> tuple[str, ...]:
    """Every key that the builder of this family asks for (in its smallest file)."""
    seen: set[str] = set()
    contains, raw = Config.__contains__, Config.raw

    def record_contains(self: Config, key: str) -> bool:
        seen.add(key)
        return contains(self, key)

    def record_raw(self: Config, key: str, default: Any = None) -> Any:
        seen.add(key)
        return raw(self, key, default)

    Config.__contains__, Config.raw = record_contains, record_raw  # type: ignore[method-assign]
    try:
        architecture_from_config({"model_type": model_type}, name="probe")
    except SpecError:
        pass
    finally:
        Config.__contains__, Config.raw = contains, raw  # type: ignore[method-assign]
    return tuple(sorted(seen - {"model_type"}))


def refusal(data: dict[str, Any]) -> SpecError | None:
    """The refusal of this configuration, if it is refused; any other exception passes through and fails the test."""
    try:
        architecture_from_config(data, name="mutant", where="config.json")
    except SpecError as error:
        return error
    return None


COUNTS = st.sampled_from([1, 2, 3, 4, 6, 8, 16, 64, 129, 1024])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    COUNTS,
    st.sampled_from([0, -1, 2**31, 10**9, 10**12, 10**400]),
    st.sampled_from([0.5, 2.0, -3.0, float("nan"), float("inf"), 1e308]),
    st.sampled_from(["", "x", "sliding_attention", "full_attention", "silu", "llama", "LLG", "128"]),
)


def values(keys: tuple[str, ...]) -> st.SearchStrategy[Any]:
    """Anything JSON can say, with the family's own keys inside mappings."""
    return st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.sampled_from((*keys, "model_type")), inner, max_size=4)
        ),
        max_leaves=6,
    )


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """A family's configuration with some keys made small and some mutated."""
    model_type = draw(st.sampled_from(supported_model_types()))
    keys = keys_read(model_type)
    chosen = st.sampled_from(keys)
    return {
        "model_type": model_type,
        **draw(st.dictionaries(chosen, COUNTS, max_size=6)),
        **draw(st.dictionaries(chosen, values(keys), max_size=4)),
    }


@settings(max_examples=600, deadline=None)
@given(configurations())
def test_a_mutated_configuration_is_read_or_refused(data):
    refused = refusal(data)
    if refused is not None:
        assert str(refused.where).startswith("config.json")
        assert refused.hint
        return
    arch = architecture_from_config(data, name="mutant")
    total = parameter_count(arch)
    assert 0 < total <= MAX_PARAMETER
    assert 0 < active_parameter_count(arch) <= total
    assert 0 <= parameter_count(arch, embedding=False) < total
    if arch.n_layer < 200:
        assert sum(weight.size for weight in weights(arch)) == total


BUNDLED = sorted(files("suanchou.catalog").joinpath("data", "models").iterdir(), key=str)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A published configuration with keys deleted, and others swapped for anything, at any depth of nesting."""
    data = json.loads(draw(st.sampled_from(BUNDLED)).read_text(encoding="utf-8"))
    for _ in range(draw(st.integers(1, 4))):
        part = data
        nested = [key for key, value in part.items() if isinstance(value, dict) and value]
        if nested and draw(st.booleans()):
            part = part[draw(st.sampled_from(nested))]
        key = draw(st.sampled_from(sorted(part) or ["hidden_size"]))
        if draw(st.booleans()):
            part.pop(key, None)
        else:
            part[key] = draw(values(tuple(sorted(data) or ("hidden_size",))))
    return data


@settings(max_examples=300, deadline=None)
@given(damaged())
def test_a_damaged_published_configuration_is_read_or_refused(data):
    refused = refusal(data)
    if refused is None:
        assert 0 < parameter_count(architecture_from_config(data, name="damaged")) <= MAX_PARAMETER
    else:
        assert str(refused.where).startswith("config.json")
        assert refused.hint


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=8), values(("a", "b")), max_size=5))
def test_a_foreign_mapping_is_refused(data):
    data.pop("model_type", None)
    refused = refusal(data)
    assert refused is not None
    assert refused.hint


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode), st.integers(0, 120)))
def test_any_file_is_a_mapping_or_refused(content):
    if isinstance(content, int):
        content = json.dumps({"model_type": "llama", "hidden_size": 64, "layer_types": ["full_attention"]}).encode()[:content]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_bytes(content)
        try:
            data = load_config(path)
        except SpecError as error:
            refused, data = error, {}
        else:
            refused = None
    assert isinstance(data, dict)
    assert refused is None or (refused.where and refused.hint)
