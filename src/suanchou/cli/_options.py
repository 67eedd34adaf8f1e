"""What every command shares: translated help, output options, and the decorators that add them.

A command file reads::

    @command("demand", help=N_("How much compute does this model need?"))
    @argument("model")
    @option("--tokens", help=N_("training tokens"))
    @output_options
    def demand(model: str, tokens: str | None, output: OutputOptions) -> None:
        emit(demand_report(model, tokens), output)
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from suanchou.i18n import LANGUAGES, N_, _, set_language, use_language

__all__ = [
    "FORMATS",
    "Command",
    "Group",
    "Option",
    "OutputOptions",
    "argument",
    "catalog_option",
    "command",
    "group",
    "option",
    "output_options",
    "overrides_option",
    "seed_option",
]

F = TypeVar("F", bound=Callable[..., Any])
Format = Literal["table", "json", "csv", "md"]
FORMATS: tuple[Format, ...] = ("table", "json", "csv", "md")
_SUFFIXES: dict[str, Format] = {".json": "json", ".csv": "csv", ".md": "md", ".txt": "table"}


class Option(click.Option):
    """An option whose help is translated when it is shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and its help in the language in use."""
        stored, self.help = self.help, _(self.help or "")
        try:
            return super().get_help_record(ctx)
        finally:
            self.help = stored


class Command(click.Command):
    """A command whose help is translated when it is shown."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help text in the language in use."""
        stored, self.help = self.help, _(self.help or "")
        try:
            super().format_help_text(ctx, formatter)
        finally:
            self.help = stored

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The help option; its text is click's, so it is replaced by one that is translated."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.help = _("Show this message and exit.")
        return found


class Group(Command, click.Group):
    """A group of sub-commands whose help and overview are translated when they are shown."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview: the first sentence of each sub-command's help."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section(_("Commands")):
            formatter.write_dl([(name, _(sub.help or "")) for name, sub in found if sub is not None])


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Where the result goes and how it looks.

    ``dump_scenario`` is ``None``, ``-`` (standard output, instead of the result) or a file.
    """

    format: Format = "table"
    path: Path | None = None
    quiet: bool = False
    verbose: int = 0
    color: bool = True
    dump_scenario: str | None = None


def command(name: str, *, help: str, **attrs: Any) -> Callable[[Callable[..., Any]], Command]:
    """Like ``click.command``; mark the help with ``N_``."""
    return click.command(name, cls=Command, help=help, **attrs)


def group(name: str, *, help: str, **attrs: Any) -> Callable[[Callable[..., Any]], Group]:
    """Like ``click.group``; mark the help with ``N_``."""
    return click.group(name, cls=Group, help=help, **attrs)


def option(*declarations: str, help: str, **attrs: Any) -> Callable[[F], F]:
    """Like ``click.option``; mark the help with ``N_``."""
    return click.option(*declarations, cls=Option, help=help, **attrs)


argument = click.argument

seed_option = option("--seed", type=click.IntRange(0), default=0, show_default=True, help=N_("Seed of everything random."))
overrides_option = option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=C",
    help=N_("Change one value of the scenario, for example --set training.tp=8; may be repeated."),
)
catalog_option = option(
    "--catalog",
    "catalog_dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help=N_("Folder of your own catalogue files; they shadow the built-in ones."),
)


def _choose_language(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        set_language(value)


def _output_path(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | None:
    if value is None:
        return None
    path = Path(value)
    if path.is_dir():
        raise click.BadParameter(_("{path} is a directory; give a file name").format(path=value), ctx, param)
    if path.suffix.lower() not in _SUFFIXES:
        known = " ".join(_SUFFIXES)
        raise click.BadParameter(
            _("cannot tell a format from {path}; end it in one of: {known}").format(path=value, known=known)
        )
    if not path.parent.is_dir():
        raise click.BadParameter(_("folder {path} does not exist").format(path=path.parent), ctx, param)
    return path


def _format(chosen: str | None, as_json: bool, path: Path | None) -> Format:
    """The one format that ``--format``, ``--json`` and the suffix of ``-o`` agree on."""
    asked: list[str | None] = [chosen, "json" if as_json else None, _SUFFIXES[path.suffix.lower()] if path else None]
    wanted = {name for name in asked if name}
    if len(wanted) > 1:
        raise click.UsageError(_("--format, --json and the suffix of --output ask for different formats"))
    return next((name for name in FORMATS if name in wanted), "table")


def output_options(function: F) -> F:
    """Add the options every command has; the function gets them as ``output: OutputOptions``."""

    @functools.wraps(function)
    def wrapper(
        *args: Any,
        output_format: str | None,
        as_json: bool,
        output_path: Path | None,
        quiet: bool,
        verbose: int,
        no_color: bool,
        dump_scenario: str | None,
        **kwargs: Any,
    ) -> Any:
        output = OutputOptions(
            format=_format(output_format, as_json, output_path),
            path=output_path,
            quiet=quiet,
            verbose=verbose,
            color=not (no_color or os.environ.get("NO_COLOR")),
            dump_scenario=dump_scenario,
        )
        if output.format != "json":
            return function(*args, output=output, **kwargs)
        # Reports carry sentences; those of a JSON answer stay English whatever the user reads.
        with use_language("en"):
            return function(*args, output=output, **kwargs)

    decorated: Any = wrapper
    for add in reversed(_OUTPUT):
        decorated = add(decorated)
    return decorated  # type: ignore[no-any-return]


_OUTPUT: tuple[Callable[[Any], Any], ...] = (
    option("--format", "output_format", type=click.Choice(FORMATS), help=N_("How to print the result; table by default.")),
    option("--json", "as_json", is_flag=True, help=N_("Short for --format json.")),
    option(
        "-o",
        "--output",
        "output_path",
        metavar="FILE",
        callback=_output_path,
        help=N_("Write the result to FILE; its suffix (.json .csv .md .txt) chooses the format."),
    ),
    option(
        "--dump-scenario",
        "dump_scenario",
        is_flag=False,
        flag_value="-",
        metavar="[FILE]",
        help=N_("Write every input with its resolved value as YAML to FILE, or print it instead of the result."),
    ),
    option(
        "--lang",
        "_lang",
        type=click.Choice(tuple(LANGUAGES)),
        callback=_choose_language,
        expose_value=False,
        is_eager=True,
        help=N_("Language of help, tables and messages; also SUANCHOU_LANG."),
    ),
    option("-q", "--quiet", is_flag=True, help=N_("Only the result: no assumptions, no warnings, no notes.")),
    option("-v", "--verbose", count=True, help=N_("All assumptions and sources; -vv also shows tracebacks.")),
    option("--no-color", "no_color", is_flag=True, help=N_("No colour; also NO_COLOR.")),
)
