"""From the name a user gives to an Architecture: a catalogue model, a ``config.json`` or a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from suanchou.catalog import Record, catalogue
from suanchou.errors import SpecError
from suanchou.model.architecture import Architecture
from suanchou.model.config import architecture_from_config, load_config

__all__ = ["FoundModel", "find_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """A model and, where the catalogue knows it, its entry."""

    architecture: Architecture
    record: Record | None = None


def find_model(name: str) -> FoundModel:
    """The model that ``name`` means; a file or folder of that name wins over the catalogue only when it looks like a path.

    Raises
    ------
    SpecError : no such model, or a configuration that cannot be read; the hint says what is near.
    """
    path = Path(name)
    looks_like_path = path.suffix == ".json" or len(path.parts) > 1 or name.startswith((".", "~"))
    source = catalogue()
    if source.resolve("models", name):
        record = source.get("models", name)
        file = Path(record.origin[-1])
        config = load_config(file)
        return FoundModel(architecture=architecture_from_config(config, name=record.id, where=str(file)), record=record)
    path = path.expanduser()
    if looks_like_path or path.exists():
        title = path.name if path.is_dir() else path.parent.name if path.name == "config.json" else path.stem
        return FoundModel(architecture=architecture_from_config(load_config(path), name=title or name, where=str(path)))
    raise SpecError(
        f"no model {name!r} in the catalogue, and no such file",
        where="MODEL",
        hint=source.nearest(name, kinds=("models",)) or "list them with: suanchou catalog list models",
    )
