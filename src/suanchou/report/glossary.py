"""The glossary: one definition per term, in English and Chinese, for JSON answers and the manual."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from suanchou.errors import SpecError

__all__ = ["Term", "definition", "glossary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A term of the field: its names, its unit (empty where it has none) and its meaning."""

    term: str
    en: str
    zh: str
    unit: str
    definition: str
    definition_zh: str


@cache
def glossary() -> dict[str, Term]:
    """All terms by their short name, in file order."""
    text = files("suanchou.report").joinpath("glossary.csv").read_text(encoding="utf-8")
    return {row["term"]: Term(**row) for row in csv.DictReader(text.splitlines())}


def definition(term: str) -> str:
    """The English meaning of a term.

    Raises
    ------
    SpecError : the glossary does not know the term.
    """
    try:
        return glossary()[term].definition
    except KeyError:
        raise SpecError(f"the glossary has no term {term!r}", where="report/glossary.csv", hint="add it there") from None
