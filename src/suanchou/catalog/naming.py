"""Matching names as people write them: case, spaces, dashes and underscores do not count."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["did_you_mean", "fold"]

_IGNORED = str.maketrans("", "", " \t-_‐‑–—·・()（）")


@lru_cache(maxsize=16384)
def fold(name: str) -> str:
    """The form in which two spellings of one name are equal."""
    return unicodedata.normalize("NFKC", name).casefold().translate(_IGNORED)


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """A hint with the nearest known names, or ``otherwise``."""
    import difflib

    spellings = {fold(candidate): candidate for candidate in known}
    wanted = fold(name)
    close = difflib.get_close_matches(wanted, spellings, n=4, cutoff=0.6)
    if len(wanted) >= 2:
        close += [key for key in spellings if wanted in key and key not in close][: 4 - len(close)]
    if not close:
        return otherwise
    return "did you mean " + ", ".join(dict.fromkeys(spellings[key] for key in close)) + "?"
