"""From a Report to the terminal or a file. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suanchou.cli._options import OutputOptions
from suanchou.errors import SpecError
from suanchou.i18n import _
from suanchou.report.render import to_csv, to_json, to_markdown, to_rich
from suanchou.report.report import Report

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["command_line", "emit", "write_atomically"]

_FILE_WIDTH = 120
_FLAGS = {"--json", "--quiet", "--verbose", "--no-color", "--dump-scenario"}
_SHORT_FLAGS = re.compile(r"-[qv]+|-o.+")
_WITH_VALUE = {"--format", "-o", "--output", "--lang"}


def command_line(argv: Sequence[str]) -> str:
    """The command that gives the same answer: the words given, without those that only say how to print it."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif word.partition("=")[0] not in _WITH_VALUE | _FLAGS and not _SHORT_FLAGS.fullmatch(word):
            kept.append(word)
    return shlex.join(["suanchou", *kept])


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new one, never half of it.

    Raises
    ------
    SpecError : a directory, or a place that cannot be written to.
    """
    if path.is_dir():
        raise SpecError("this is a directory", where=str(path), hint="give a file name")
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            why = error.strerror or str(error)
            raise SpecError(f"cannot write: {why}", where=str(path), hint="choose another place") from None
        raise


def _console(output: OutputOptions, file: Any = None, width: int | None = None) -> Console:
    from rich.console import Console

    return Console(
        file=file, width=width, no_color=not output.color, highlight=False, emoji=False, markup=False, soft_wrap=False
    )


def _text(report: Report, output: OutputOptions) -> str:
    """The report as plain text, as wide as a wide terminal."""
    import io

    buffer = io.StringIO()
    _console(dataclasses.replace(output, color=False), buffer, _FILE_WIDTH).print(
        to_rich(report, quiet=output.quiet, verbose=output.verbose > 0)
    )
    return buffer.getvalue()


def _plain_yaml(scenario: Mapping[str, Any]) -> str:
    from suanchou.spec import dump

    return dump(scenario)


def _notes_to_stderr(report: Report, output: OutputOptions) -> None:
    """Warnings of a CSV answer, which has no place for them."""
    if not output.quiet:
        for text in report.warnings:
            click.echo(f"{_('warning')}: {text}", err=True)


def emit(report: Report, output: OutputOptions) -> None:
    """Print a report, or write it to a file, in the format asked for.

    Raises
    ------
    SpecError : the file cannot be written, or there is no scenario to dump.
    """
    if not report.command:
        context = click.get_current_context(silent=True)
        if context and context.obj:
            report = dataclasses.replace(report, command=command_line(context.obj))
    if output.dump_scenario is not None:
        if not report.scenario:
            raise SpecError("this command has no scenario", where="--dump-scenario", hint="leave the option out")
        text = _plain_yaml(report.scenario)
        if output.dump_scenario == "-":
            click.echo(text, nl=False)
            return
        write_atomically(Path(output.dump_scenario), text)
    writers = {"json": to_json, "csv": to_csv, "md": to_markdown}
    text = writers[output.format](report) if output.format in writers else ""
    if output.format == "csv":
        _notes_to_stderr(report, output)
    if output.path is not None:
        write_atomically(output.path, text or _text(report, output))
        if not output.quiet:
            click.echo(_("wrote {path}").format(path=output.path), err=True)
    elif text:
        click.echo(text, nl=False)
    else:
        _console(output, sys.stdout).print(to_rich(report, quiet=output.quiet, verbose=output.verbose > 0))
