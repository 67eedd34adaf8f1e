"""Errors a user can act on: what went wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Infeasible", "MissingData", "MissingExtra", "SpecError", "SuanchouError"]


class SuanchouError(Exception):
    """Base of every error raised on purpose.

    Parameters
    ----------
    what : one line saying what is wrong.
    where : the place, as ``file: path.to.field``, an option or an argument.
    hint : one line saying what to do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.what}{hint}"


class SpecError(SuanchouError):
    """An input file, argument or catalogue entry is wrong. Exit code 3."""

    exit_code = 3


class Infeasible(SuanchouError):
    """The question is well posed and has no answer. Exit code 4.

    ``reasons`` counts the refused candidates by reason.
    """

    exit_code = 4

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        reasons: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.reasons: dict[str, int] = dict(reasons or {})


class MissingData(SuanchouError):
    """A value that nobody has published is needed. Exit code 5."""

    exit_code = 5


class MissingExtra(SuanchouError):
    """An optional dependency is needed. Exit code 5."""

    exit_code = 5
