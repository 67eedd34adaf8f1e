"""Scenario files (YAML or JSON) to frozen dataclasses and back; every error says where, all errors at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from suanchou.errors import SpecError

if TYPE_CHECKING:
    import yaml
    from cattrs import Converter

__all__ = ["SIZE_CAP_BYTE", "apply_overrides", "dump", "load", "parse", "read", "structure"]

T = TypeVar("T")
SIZE_CAP_BYTE = 4 * 2**20
"""Largest scenario file read."""

_DEPTH_CAP = 32
_INT = re.compile(r"^[-+]?(0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"^[-+]?(?=\.?[0-9])(?=.*[.eE])([0-9][0-9_]*)?(\.[0-9_]*)?([eE][-+]?[0-9]+)?$")


def _yaml_loader() -> type[yaml.SafeLoader]:
    """SafeLoader that refuses duplicate keys, aliases and dates, and reads ``1e12`` as the number it looks like.

    YAML 1.1 takes ``1e12`` (no dot, no sign) for text, ``010`` for 8, ``1:30`` for 90 and ``on`` for true; here ``1e12`` is a
    number, only true and false are flags, and the rest is text.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.constructor.ConstructorError(None, None, "keys must be names", key.start_mark)
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} appears twice", key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    own = {"timestamp", "bool", "merge", "int", "float"}
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag.rpartition(":")[2] not in own]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$", re.IGNORECASE), list("tTfF"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    return Loader


def parse(text: str, where: str, *, suffix: str = ".yaml") -> dict[str, Any]:
    """The mapping in a YAML or JSON text.

    Raises
    ------
    SpecError : not well formed, duplicate keys, not a mapping, or nested too deeply.
    """
    if len(text) > SIZE_CAP_BYTE:
        raise SpecError(f"more than {SIZE_CAP_BYTE // 2**20} MiB", where=where, hint="a scenario is a small file")
    data = _parse_json(text, where) if suffix == ".json" else _parse_yaml(text, where)
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise SpecError(f"expected a mapping, the file is {kind}", where=where, hint="write lines of the form 'key: value'")
    _check_plain(data, where, "$", 0)
    return data


def _parse_json(text: str, where: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            twice = next(key for key, _value in items if sum(key == other for other, _v in items) > 1)
            raise SpecError(f"key {twice!r} appears twice", where=where, hint="keep one of them")
        return found

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"not JSON: {error}", where=where, hint="check the file with an editor that knows JSON") from None


def _parse_yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise SpecError(f"not a scenario: {error.problem or error.context}", where=place, hint="correct that line") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(
            f"not YAML: {str(error).splitlines()[0]}", where=where, hint="a scenario is a plain text file"
        ) from None


def _check_plain(data: Any, where: str, path: str, depth: int) -> None:
    """Refuse what no scenario holds: deep nesting, non-text keys, infinities."""
    if depth > _DEPTH_CAP:
        raise SpecError("nested too deeply", where=f"{where}: {path}")
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                raise SpecError(f"key {key!r} is not a name", where=f"{where}: {path}", hint=f"write {str(key)!r} in quotes")
            _check_plain(value, where, f"{path}.{key}", depth + 1)
    elif isinstance(data, list):
        for i, value in enumerate(data):
            _check_plain(value, where, f"{path}[{i}]", depth + 1)
    elif isinstance(data, float) and not math.isfinite(data):
        raise SpecError(f"{data} is not a usable number", where=f"{where}: {path}", hint="leave the line out for the default")


def _read(path: Path) -> str:
    if path.is_dir():
        raise SpecError("this is a directory", where=str(path), hint="give a YAML or JSON file")
    try:
        if path.stat().st_size > SIZE_CAP_BYTE:
            raise SpecError(f"more than {SIZE_CAP_BYTE // 2**20} MiB", where=str(path), hint="a scenario is a small file")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError("not a text file", where=str(path), hint="give a YAML or JSON file") from None
    except OSError as error:
        raise SpecError(f"cannot read: {error.strerror}", where=str(path), hint="check the name") from None


def read(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file, unchecked beyond its form.

    Raises
    ------
    SpecError : no such file, a directory, too large, or not well formed.
    """
    path = Path(path)
    return parse(_read(path), str(path), suffix=path.suffix.lower())


def load(path: str | Path, into: type[T], *, overrides: Iterable[str] = ()) -> T:
    """A scenario file as a frozen dataclass.

    ``overrides`` are texts ``a.b=c``, applied before the file is checked.

    Raises
    ------
    SpecError : anything wrong with the file or an override; all wrong fields are listed with their paths.
    """
    return structure(apply_overrides(read(path), overrides), into, str(path))


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of the data with values changed by texts ``a.b=c``; the value is read as YAML (``8``, ``1e12``, ``[a, b]``).

    Raises
    ------
    SpecError : not of that form, or the path runs through something that has no fields.
    """
    changed: dict[str, Any] = json.loads(json.dumps(data))
    for text in overrides:
        path, equals, value = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise SpecError(f"{text!r} changes nothing", where="--set", hint="write it as a.b=c, for example training.tp=8")
        node = changed
        for i, key in enumerate(keys[:-1]):
            inner = node.setdefault(key, {})
            if not isinstance(inner, dict):
                raise SpecError(f"{'.'.join(keys[: i + 1])} has no fields", where=f"--set {text}", hint="check the path")
            node = inner
        parsed = _parse_yaml(value, f"--set {text}") if value.strip() else ""
        _check_plain(parsed, f"--set {text}", "$", 0)
        node[keys[-1]] = parsed
    return changed


def structure(data: Mapping[str, Any], into: type[T], where: str) -> T:
    """Plain data as a frozen dataclass; nothing is converted silently.

    Raises
    ------
    SpecError : unknown keys (with a suggestion), missing keys, wrong types, broken invariants: one line each, with paths.
    """
    from cattrs.errors import BaseValidationError

    try:
        return _converter().structure(data, into)
    except BaseValidationError as error:
        problems = list(_problems(error, "$"))
    except SpecError as error:
        problems = [(error.where or "$", error.what, error.hint)]
    first_path, first, hint = problems[0]
    more = "".join(f"\n  {where}: {path}: {what}" for path, what, _hint in problems[1:])
    raise SpecError(first + more, where=f"{where}: {first_path}", hint=hint)


def dump(data: Any) -> str:
    """YAML text that :func:`load` reads back; keys in the order of the fields."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes text that the loader above would take for a number."""

    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    plain = data if isinstance(data, Mapping) else _converter().unstructure(data)
    text: str = yaml.dump(_yaml_plain(plain), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _yaml_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _yaml_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_yaml_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _converter() -> Converter:
    """Strict: unknown keys are errors, an int is an int, a flag is a flag; an int may stand where a float is expected."""
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(int, lambda value, _t: _exact(value, int))
    converter.register_structure_hook(bool, lambda value, _t: _exact(value, bool))
    converter.register_structure_hook(str, lambda value, _t: _exact(value, str))
    converter.register_structure_hook(float, lambda value, _t: _number(value))
    converter.register_structure_hook_func(_is_scalar_union, _scalar_union)
    return converter


class _WrongTypeError(ValueError):
    """A value of the wrong type, with what to do."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


def _exact(value: Any, kind: type) -> Any:
    if type(value) is kind:
        return value
    names = {int: "int", bool: "true or false", str: "text"}
    whole = kind is int and isinstance(value, float) and value.is_integer()
    hint = f"write {int(value)} without a dot" if whole and abs(value) < 1e15 else None
    if whole and hint is None:
        hint = "write the number out"
    raise _WrongTypeError(f"expected {names[kind]}, found {value!r}", hint or ("put it in quotes" if kind is str else None))


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise _WrongTypeError(f"expected a number, found {value!r}")


_SCALARS = (int, float, str, bool, type(None))


def _is_scalar_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) and all(arg in _SCALARS for arg in typing.get_args(kind))


def _scalar_union(value: Any, kind: Any) -> Any:
    accepted = typing.get_args(kind)
    if type(value) in accepted:
        return value
    if float in accepted and type(value) is int:
        return float(value)
    names = " or ".join("nothing" if arg is type(None) else arg.__name__ for arg in accepted)
    raise _WrongTypeError(f"expected {names}, found {value!r}")


def _problems(error: BaseException, path: str) -> Iterable[tuple[str, str, str | None]]:
    """Path, message and hint of every leaf of a cattrs exception group."""
    from cattrs.errors import ForbiddenExtraKeysError

    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _problems(inner, path + _step(inner))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl)] if dataclasses.is_dataclass(error.cl) else []
        for key in sorted(error.extra_fields):
            close = difflib.get_close_matches(key, known, n=1)
            yield f"{path}.{key}", "unknown key", f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
    elif isinstance(error, SpecError):
        yield error.where or path, error.what, error.hint
    elif isinstance(error, KeyError):
        yield path, "missing", f"add a line {error.args[0]}: ..."
    else:
        yield path, str(error) or type(error).__name__, getattr(error, "hint", None)


def _step(error: BaseException) -> str:
    """The part of the path that cattrs notes on an inner error."""
    from cattrs.errors import AttributeValidationNote, IterableValidationNote

    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f".{note.name}"
        if isinstance(note, IterableValidationNote):
            return f"[{note.index}]" if isinstance(note.index, int) else f".{note.index}"
    return ""
