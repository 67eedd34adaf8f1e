"""Catalogue: the built-in files with a user's files on top; look-up by name, alias or near miss."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from suanchou.catalog.naming import did_you_mean, fold
from suanchou.catalog.records import Record
from suanchou.catalog.rows import build_record
from suanchou.catalog.schema import DATA_DIR, KINDS, columns, kind_spec
from suanchou.catalog.stacks import read_stacks
from suanchou.catalog.tables import Row, read_models, read_rows, read_table
from suanchou.errors import SpecError
from suanchou.i18n import _

__all__ = [
    "Catalogue",
    "catalogue",
    "find",
    "get",
    "model_file",
    "names",
    "records",
    "search",
    "set_user_catalog",
    "use_catalog",
]

SIDE_TABLES = (
    "aliases",
    "families",
    "family_tree",
    "dies",
    "gemm_peaks",
    "dtype_support",
    "default_nodes",
    "host_links",
    "memory_units",
    "pcie",
    "networks",
    "country_regions",
    "cluster_regions",
    "node_templates",
)
"""Tables beside the kinds; a user folder may add rows to them, and its rows come first."""


def default_user_folder() -> Path | None:
    """The user's own catalogue folder: ``SUANCHOU_CATALOG``, else the one in the configuration folder if it exists.

    Raises
    ------
    SpecError : ``SUANCHOU_CATALOG`` names something that is not a folder.
    """
    named = os.environ.get("SUANCHOU_CATALOG")
    if named:
        return _checked_folder(Path(named), where="SUANCHOU_CATALOG")
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    folder = Path(home) / "suanchou" / "catalog"
    return folder if folder.is_dir() else None


def _checked_folder(folder: Path, *, where: str) -> Path:
    if not folder.is_dir():
        what = f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}"
        raise SpecError(what, where=where, hint="name a folder with accelerators.csv, nodes.csv, models/*.json ...")
    known = {spec.file for spec in KINDS.values()} | {f"{name}.csv" for name in SIDE_TABLES}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in (".csv", ".yaml", ".yml", ".json"):
            continue
        if path.name not in known:
            hint = did_you_mean(path.name, known, otherwise=f"known files: {', '.join(sorted(known))}")
            raise SpecError(f"unknown catalogue file {path.name!r}", where=str(path), hint=hint)
    return folder


class Catalogue:
    """The files of one or more folders, later folders on top of earlier ones; every file is read when first needed.

    Parameters
    ----------
    layers : user folders, weakest first. A cell written there replaces the built-in cell of the same entry; an empty cell
        leaves it as it is.
    """

    def __init__(self, layers: tuple[Path, ...] = ()) -> None:
        self.layers = layers
        self._tables: dict[str, dict[str, tuple[Row, ...]]] = {}
        self._sides: dict[str, list[dict[str, str]]] = {}
        self._spellings: dict[str, dict[str, tuple[str, str]]] = {}

    # -- files -------------------------------------------------------------------------------------------------------

    def _table(self, kind: str) -> Mapping[str, tuple[Row, ...]]:
        """Rows by id, the built-in row first and those that lie on top after it."""
        kind = kind_spec(kind).name
        if kind not in self._tables:
            merged: dict[str, tuple[Row, ...]] = {}
            canonical: dict[str, str] = {}
            for folder in (DATA_DIR, *self.layers):
                for name, row in self._read(kind, folder).items():
                    target = canonical.setdefault(fold(name), name)
                    merged[target] = (*merged.get(target, ()), row)
            self._tables[kind] = merged
            self._check_references(kind)
        return self._tables[kind]

    def _check_references(self, kind: str) -> None:
        """Every entry that a user's row names must exist; the built-in rows are checked by the tests."""
        for spec in columns(kind).values():
            target = spec.type.removeprefix("ref:")
            if target == spec.type:
                continue
            for rows in self._tables[kind].values():
                for row in rows:
                    named = row.cells.get(spec.name, "")
                    if named and not row.path.is_relative_to(DATA_DIR) and self.resolve(target, named) is None:
                        raise SpecError(
                            f"no {KINDS[target].title} {named!r} in the catalogue",
                            where=f"{row.path}:{row.line}, column {spec.name}",
                            hint=self.nearest(named, kinds=(target,)) or f"list them with: suanchou catalog list {target}",
                        )

    def _read(self, kind: str, folder: Path) -> Mapping[str, Row]:
        own = folder != DATA_DIR
        if kind == "models":
            return read_models(folder, check=own)
        path = folder / KINDS[kind].file
        if not path.exists():
            return {}
        if kind == "stacks":
            return read_stacks(path)
        return read_table(kind, path, check=own)

    def side_table(self, name: str) -> list[dict[str, str]]:
        """Rows of a table beside the kinds, a user's rows first.

        Raises
        ------
        SpecError : a user's table has a column the built-in one lacks.
        """
        if name not in self._sides:
            built_in = [cells for _line, cells in read_rows(DATA_DIR / f"{name}.csv")]
            rows: list[dict[str, str]] = []
            for folder in reversed(self.layers):
                path = folder / f"{name}.csv"
                if path.exists():
                    for line, cells in read_rows(path):
                        unknown = next((column for column in cells if column not in built_in[0]), None)
                        if unknown is not None:
                            hint = did_you_mean(unknown, built_in[0], otherwise=f"known columns: {', '.join(built_in[0])}")
                            raise SpecError(f"unknown column {unknown!r}", where=f"{path}:{line}", hint=hint)
                        rows.append(dict.fromkeys(built_in[0], "") | cells)
            self._sides[name] = rows + built_in
        return self._sides[name]

    # -- look-up -----------------------------------------------------------------------------------------------------

    def names(self, kind: str) -> tuple[str, ...]:
        """Ids of a kind, in file order."""
        return tuple(self._table(kind))

    def _names_of(self, kind: str) -> Mapping[str, tuple[str, str]]:
        """Every folded spelling of a kind: (id, what to mind)."""
        if kind not in self._spellings:
            spellings = {fold(name): (name, "") for name in self._table(kind)}
            for alias, name, note in self._aliases_of(kind):
                spellings.setdefault(fold(alias), (name, note))
            self._spellings[kind] = spellings
        return self._spellings[kind]

    def _aliases_of(self, kind: str) -> Iterator[tuple[str, str, str]]:
        """(alias, id, what to mind) of a kind."""
        table = self._table(kind)
        for row in self.side_table("aliases"):
            if row["kind"] == kind and row["id"] in table:
                yield row["alias"], row["id"], row["note"]
        if kind == "models":
            for name, rows in table.items():
                for alias in filter(None, rows[-1].cells.get("aliases", "").split("|")):
                    yield alias, name, ""

    def resolve(self, kind: str, name: str) -> tuple[str, str] | None:
        """The id meant by a name and what to mind about that reading; ``None`` when there is no such entry."""
        kind = kind_spec(kind).name
        if name in self._table(kind):
            return name, ""
        return self._names_of(kind).get(fold(name))

    def get(self, kind: str, name: str) -> Record:
        """One entry by id or alias.

        Raises
        ------
        SpecError : there is none; the hint names the nearest ones.
        """
        kind = kind_spec(kind).name
        found = self.resolve(kind, name)
        if found is None:
            raise SpecError(
                f"no {KINDS[kind].title} {name!r} in the catalogue",
                where=f"catalog/{kind}",
                hint=self.nearest(name, kinds=(kind,)) or f"list them with: suanchou catalog list {kind}",
            )
        return self._record(
            kind,
            found[0],
            note=_("{name!r} is read as {id}: {note}").format(name=name, id=found[0], note=found[1]) if found[1] else "",
        )

    def _record(self, kind: str, name: str, *, note: str = "") -> Record:
        return build_record(kind, name, self._table(kind)[name], note=note)

    def find(self, name: str) -> tuple[Record, ...]:
        """The entries of that name in every kind; the survey of models is only read when nothing else matches."""
        found = tuple(self.get(kind, name) for kind in KINDS if kind != "epoch" and self.resolve(kind, name))
        if not found and self.resolve("epoch", name):
            return (self.get("epoch", name),)
        return found

    def nearest(self, name: str, *, kinds: tuple[str, ...]) -> str:
        """A did-you-mean hint over some kinds; empty when nothing is near."""
        return did_you_mean(name, (spelling for kind in kinds for spelling in self._shown_names(kind)))

    def _shown_names(self, kind: str) -> Iterator[str]:
        yield from self._table(kind)
        yield from (alias for alias, _name, _note in self._aliases_of(kind))

    def records(self, kind: str) -> tuple[Record, ...]:
        """Every entry of a kind, in file order."""
        kind = kind_spec(kind).name
        return tuple(self._record(kind, name) for name in self._table(kind))

    def matching(self, kind: str, column: str, text: str) -> tuple[str, ...]:
        """Ids of the entries that have ``text`` written in a column, in file order; no record is built."""
        found = []
        for name, rows in self._table(kind).items():
            written = next((row.cells[column] for row in reversed(rows) if row.cells.get(column)), "")
            if written == text:
                found.append(name)
        return tuple(found)

    def aliases(self, kind: str, name: str) -> tuple[str, ...]:
        """Other names of an entry."""
        return tuple(alias for alias, target, _ in self._aliases_of(kind) if target == name)

    def model_file(self, name: str) -> Path:
        """The ``config.json`` of a model of the catalogue.

        Raises
        ------
        SpecError : no such model.
        """
        return self._table("models")[self.get("models", name).id][-1].path

    def search(self, text: str, *, kinds: tuple[str, ...] = ()) -> tuple[Record, ...]:
        """Entries in which every word of ``text`` occurs, in any column or alias.

        Raises
        ------
        SpecError : no text, or no such kind.
        """
        words = [fold(word) for word in text.split()]
        if not any(words):
            raise SpecError("nothing to search for", where="catalog search", hint="give a word, for example: ascend")
        found: list[Record] = []
        for kind in tuple(kind_spec(kind).name for kind in kinds) or tuple(KINDS):
            for name, rows in self._table(kind).items():
                written = [name, *self.aliases(kind, name), *(cell for row in rows for cell in row.cells.values())]
                haystack = "\n".join(fold(cell) for cell in written)
                if all(word in haystack for word in words):
                    found.append(self._record(kind, name))
        return tuple(found)


# -- the catalogue in use ----------------------------------------------------------------------------------------------

_in_use: ContextVar[Catalogue | None] = ContextVar("suanchou_catalogue", default=None)
_defaults: dict[Path | None, Catalogue] = {}


def catalogue() -> Catalogue:
    """The catalogue in use: the one of :func:`use_catalog`, else built-in plus the user's own folder."""
    chosen = _in_use.get()
    if chosen is not None:
        return chosen
    folder = default_user_folder()
    if folder not in _defaults:
        _defaults[folder] = Catalogue(() if folder is None else (folder,))
    return _defaults[folder]


def _with_folder(folder: str | Path | None) -> Catalogue:
    own = default_user_folder()
    layers = () if own is None else (own,)
    if folder is not None:
        layers = (*layers, _checked_folder(Path(folder), where="--catalog"))
    return Catalogue(layers)


def set_user_catalog(folder: str | Path | None) -> None:
    """Put a folder on top of the catalogue from here on (in this context); ``None`` takes it off.

    Raises
    ------
    SpecError : not a folder, or it holds a file the catalogue does not know.
    """
    _in_use.set(None if folder is None else _with_folder(folder))


@contextmanager
def use_catalog(folder: str | Path | None) -> Iterator[Catalogue]:
    """Put a folder on top of the catalogue inside a ``with`` block."""
    chosen = _with_folder(folder)
    token = _in_use.set(chosen)
    try:
        yield chosen
    finally:
        _in_use.reset(token)


def get(kind: str, name: str) -> Record:
    """:meth:`Catalogue.get` of the catalogue in use."""
    return catalogue().get(kind, name)


def model_file(name: str) -> Path:
    """:meth:`Catalogue.model_file` of the catalogue in use."""
    return catalogue().model_file(name)


def names(kind: str) -> tuple[str, ...]:
    """:meth:`Catalogue.names` of the catalogue in use."""
    return catalogue().names(kind)


def records(kind: str) -> tuple[Record, ...]:
    """:meth:`Catalogue.records` of the catalogue in use."""
    return catalogue().records(kind)


def find(name: str) -> tuple[Record, ...]:
    """:meth:`Catalogue.find` of the catalogue in use."""
    return catalogue().find(name)


def search(text: str, *, kinds: tuple[str, ...] = ()) -> tuple[Record, ...]:
    """:meth:`Catalogue.search` of the catalogue in use."""
    return catalogue().search(text, kinds=kinds)
