"""YAML files read strictly: no repeated keys, every complaint with file and line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suanchou.catalog.naming import did_you_mean
from suanchou.catalog.tables import read_text
from suanchou.errors import SpecError

__all__ = ["check_keys", "read_yaml"]


def read_yaml(path: Path) -> Any:
    """The content of a YAML (or JSON) file.

    Raises
    ------
    SpecError : unreadable, not YAML, or a key that stands twice in one mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that refuses a repeated key."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            """A mapping whose keys are checked first."""
            seen: set[str] = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise SpecError(
                        f"the key {key.value!r} stands twice",
                        where=f"{path}:{key.start_mark.line + 1}",
                        hint="keep one of them",
                    )
                if isinstance(key, yaml.ScalarNode):
                    seen.add(key.value)
            return super().construct_mapping(node, deep=deep)

    # YAML 1.1 reads on, off, yes and no as booleans; only true and false are (YAML 1.2).
    Loader.yaml_implicit_resolvers = {
        letter: [rule for rule in rules if letter in "tTfF" or not rule[0].endswith(":bool")]
        for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    text = read_text(path)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise SpecError("is not valid YAML", where=where, hint="check indentation, colons and quotes") from None


def check_keys(found: Any, known: set[str], *, where: str) -> Mapping[str, Any]:
    """``found`` as a mapping whose keys are all known.

    Raises
    ------
    SpecError : not a mapping, or an unknown key.
    """
    if not isinstance(found, dict):
        raise SpecError("is not a mapping", where=where, hint=f"write keys such as: {', '.join(sorted(known))}")
    for key in found:
        if key not in known:
            hint = did_you_mean(str(key), known, otherwise=f"known keys: {', '.join(sorted(known))}")
            raise SpecError(f"unknown key {key!r}", where=where, hint=hint)
    return found
