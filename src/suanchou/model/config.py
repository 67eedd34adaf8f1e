"""config.json -> Architecture: read a Hugging Face configuration and refuse what it cannot mean."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from suanchou.errors import SpecError
from suanchou.model.architecture import Architecture
from suanchou.model.parameters import parameter_count

__all__ = ["Config", "architecture_from_config", "family", "load_config", "section_architecture", "supported_model_types"]

MAX_CONFIG_BYTE = 4_000_000
"""No published configuration comes near this; a larger file is not one."""

MAX_COUNT = 10**9
"""No extent of a model (width, experts, vocabulary) comes near this."""

MAX_LAYER = 10_000
"""No model is a tenth as deep; a layer costs memory here too."""

MAX_PARAMETER = 10**17
"""Each extent may be plausible and their product not: no model comes near this either."""

DTYPES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
    "auto": "bf16",
}

_FAMILY_MODULES = (
    "dense",
    "dense_early",
    "dense_recent",
    "dense_remote",
    "moe",
    "moe_windowed",
    "moe_remote",
    "latent",
    "hybrid",
    "state_space",
    "zamba",
    "seq2seq",
    "vision",
)
_BUILDERS: dict[str, Callable[[Config], Architecture]] = {}


def family(*model_types: str) -> Callable[[Callable[[Config], Architecture]], Callable[[Config], Architecture]]:
    """Register a builder for these values of ``model_type``."""

    def register(builder: Callable[[Config], Architecture]) -> Callable[[Config], Architecture]:
        for model_type in model_types:
            if model_type in _BUILDERS:
                raise ValueError(f"{model_type} is built twice")
            _BUILDERS[model_type] = builder
        return builder

    return register


def _builders() -> dict[str, Callable[[Config], Architecture]]:
    for name in _FAMILY_MODULES:
        importlib.import_module(f"suanchou.model.families.{name}")
    return _BUILDERS


def supported_model_types() -> tuple[str, ...]:
    """Every ``model_type`` that can be read, sorted."""
    return tuple(sorted(_builders()))


def short(value: object) -> str:
    """A foreign value as one short piece of text, whatever its size or depth."""
    if isinstance(value, Mapping | list | tuple):
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return f"a number of {value.bit_length()} bits"  # Python refuses to print the largest ones.
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class Config:
    """A mapping read with checks: every refusal names the file and the key."""

    def __init__(self, data: Mapping[str, Any], where: str, given: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.where = where
        self._given = given or {}

    def with_defaults(self, defaults: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> Config:
        """The same keys under one set of names, with a family's defaults where the file leaves a key out.

        ``aliases`` leads from the names that the family uses to the names read here; refusals name what the file says. A
        ``null`` in the file stands: it says "none", not "the default".
        """
        data, given = dict(defaults), dict(self._given)
        renamed = {key: name for key, name in (aliases or {}).items() if key in self}
        for key in self.data.keys() - renamed.keys():
            data[key], given[key] = self.data[key], self._given.get(key, key)
        for key, name in renamed.items():
            data[name], given[name] = self.data[key], key
        return Config(data, self.where, given)

    def replaced(self, **values: Any) -> Config:
        """The same with some values overruled (``None``: as if absent)."""
        return Config({**self.data, **values}, self.where, self._given)

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def _at(self, key: str) -> str:
        return f"{self.where}: {self._given.get(key, key)}"

    def raw(self, key: str, default: Any = None) -> Any:
        """The value as it stands; ``null`` counts as absent."""
        value = self.data.get(key)
        return default if value is None else value

    def wrong(self, key: str, expected: str) -> SpecError:
        """The refusal of the value under ``key``."""
        return SpecError(f"expected {expected}, found {short(self.data.get(key))}", where=self._at(key))

    def count(self, *keys: str, default: int | None = None, zero: bool = False, most: int = MAX_COUNT) -> int:
        """A positive whole number under the first of ``keys`` that is present (``zero``: 0 is allowed)."""
        for key in keys:
            if key not in self:
                continue
            value = self.data[key]
            if isinstance(value, float) and math.isfinite(value) and value == int(value):
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, int):
                raise self.wrong(key, "a whole number")
            if value < (0 if zero else 1) or value > most:
                raise SpecError(
                    f"{short(value)} is not a possible size", where=self._at(key), hint=f"from {0 if zero else 1} to {most}"
                )
            return value
        if default is None:
            raise SpecError("missing", where=self._at(keys[0]), hint="is this a language model's config.json?")
        return default

    def n_layer(self, *keys: str, default: int | None = None) -> int:
        """A number of layers (by default under ``num_hidden_layers``)."""
        return self.count(*(keys or ("num_hidden_layers",)), default=default, most=MAX_LAYER)

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean."""
        value = self.raw(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        value = self.raw(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "text")
        return value

    def ratio(self, key: str, default: float) -> float:
        """A finite number above zero."""
        value = self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.wrong(key, "a positive number")
        if value > MAX_COUNT:
            raise self.wrong(key, f"at most {MAX_COUNT}")
        return float(value)

    def items(self, key: str) -> list[Any]:
        """A list (empty where absent)."""
        value = self.raw(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        return value

    def section(self, key: str) -> Config:
        """A nested mapping."""
        value = self.raw(key, {})
        if not isinstance(value, Mapping):
            raise self.wrong(key, "a mapping")
        return Config(value, self._at(key))


def load_config(path: Path) -> Mapping[str, Any]:
    """Read a ``config.json`` or the one in a model folder.

    Raises
    ------
    SpecError : no such file, a folder without one, too large, not JSON, or not a JSON object.
    """
    if path.is_dir():
        inner = path / "config.json"
        if not inner.is_file():
            raise SpecError("a folder without config.json", where=str(path), hint="give the file itself or a model folder")
        path = inner
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTE + 1)  # Never the whole of a file that may be anything.
        if len(content) > MAX_CONFIG_BYTE:
            raise SpecError("too large for a config.json", where=str(path), hint="did you pass the weights?")
        data = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise SpecError(
            error.strerror or "cannot be read", where=str(path), hint="give a config.json or a model folder"
        ) from error
    except json.JSONDecodeError as error:
        raise SpecError(
            f"not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}",
            where=str(path),
            hint="is the file complete?",
        ) from error
    except (ValueError, RecursionError) as error:
        # Bytes that are not UTF-8, a number of thousands of digits, or nesting without end.
        raise SpecError("not a text file in JSON", where=str(path), hint="did you pass the weights?") from error
    if not isinstance(data, dict):
        raise SpecError("not a JSON object", where=str(path), hint="a config.json begins with {")
    return data


def architecture_from_config(data: Mapping[str, Any], *, name: str, where: str | None = None) -> Architecture:
    """Build the Architecture that a ``config.json`` describes.

    Raises
    ------
    SpecError : unknown ``model_type``, or a key that is missing or cannot be meant.
    """
    config = Config(data, where or name)
    with _explained(config):
        arch = replace(section_architecture(config), name=name, dtype=_dtype(config))
        total = parameter_count(arch)
        if total > MAX_PARAMETER:
            raise SpecError(f"{total:.1e} parameters is no model", hint="one of the sizes has too many digits")
    return arch


def section_architecture(section: Config) -> Architecture:
    """The language model that a section of a larger configuration describes, by its ``model_type``.

    Raises
    ------
    SpecError : unknown ``model_type``, or a key that is missing or cannot be meant.
    """
    model_type, builders = section.text("model_type"), _builders()
    if not model_type:
        raise SpecError("no model_type", where=section.where, hint="is this a language model's config.json?")
    if model_type not in builders:
        import difflib

        close = difflib.get_close_matches(model_type, builders, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "`suanchou catalog list families` names what is known"
        raise SpecError(f"unknown model_type {short(model_type)}", where=section.where, hint=hint)
    with _explained(section):
        return builders[model_type](section)


@contextmanager
def _explained(config: Config) -> Iterator[None]:
    """Every refusal says where it comes from and what to do."""
    try:
        yield
    except SpecError as error:
        if error.where and error.hint:
            raise
        hint = error.hint or "compare it with the model's published config.json"
        raise SpecError(error.what, where=error.where or config.where, hint=hint) from error


def _dtype(config: Config) -> str:
    """The precision that the weights are stored in; bf16 where the file does not say."""
    for key in ("dtype", "torch_dtype"):
        for part in (config, config.section("text_config")):
            if key in part:
                name = part.text(key).removeprefix("torch.")
                if name not in DTYPES:
                    raise SpecError(f"unknown dtype {short(name)}", where=part._at(key), hint=f"known: {', '.join(DTYPES)}")
                return DTYPES[name]
    return "bf16"
