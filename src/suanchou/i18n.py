"""Translations: English in the source, gettext catalogues beside it.

Code marks a message with ``_("...")`` where it is used, or with ``N_("...")`` where it is only stored and drawn later. JSON
is never translated.
"""

from __future__ import annotations

import gettext
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from suanchou.errors import SpecError

__all__ = [
    "DOMAIN",
    "LANGUAGES",
    "LOCALE_DIR",
    "N_",
    "_",
    "language",
    "language_from_environment",
    "set_language",
    "use_language",
]

DOMAIN = "suanchou"
LOCALE_DIR = Path(__file__).with_name("locale")
LANGUAGES = {"en": "en", "zh": "zh_CN"}
"""Language names users may give, and the catalogue of each."""

_language: ContextVar[str] = ContextVar("suanchou_language", default="en")


def _canonical(name: str) -> str:
    """``zh``, ``zh-CN``, ``zh_CN.UTF-8`` -> ``zh``; raises SpecError for a language without a catalogue."""
    short = name.replace("_", "-").split(".")[0].split("-")[0].lower()
    if short not in LANGUAGES:
        raise SpecError(f"no translation into {name!r}", where="--lang", hint=f"choose one of: {', '.join(LANGUAGES)}")
    return short


def language() -> str:
    """The language in use, ``en`` or ``zh``."""
    return _language.get()


def set_language(name: str) -> None:
    """Use a language from here on (in this context).

    Raises
    ------
    SpecError : there is no catalogue for it.
    """
    _language.set(_canonical(name))


@contextmanager
def use_language(name: str) -> Iterator[None]:
    """Use a language inside a ``with`` block."""
    token = _language.set(_canonical(name))
    try:
        yield
    finally:
        _language.reset(token)


def language_from_environment() -> str:
    """The value of ``SUANCHOU_LANG``, or English."""
    return os.environ.get("SUANCHOU_LANG") or "en"


@cache
def _catalogue(name: str) -> gettext.NullTranslations:
    if name == "en":
        return gettext.NullTranslations()
    return gettext.translation(DOMAIN, LOCALE_DIR, languages=[LANGUAGES[name]])


def _(message: str) -> str:
    """The message in the language in use; the message itself where no translation exists."""
    return _catalogue(_language.get()).gettext(message) if message else ""


def N_(message: str) -> str:
    """Mark a message for translation without translating it yet."""
    return message
