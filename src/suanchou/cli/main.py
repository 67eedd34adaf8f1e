"""The ``suanchou`` command: finds the command asked for, and turns every error into three lines and an exit code."""

from __future__ import annotations

import difflib
import gettext
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import click

from suanchou import __version__
from suanchou.cli._options import Group, Option
from suanchou.errors import Infeasible, SuanchouError
from suanchou.i18n import DOMAIN, LANGUAGES, LOCALE_DIR, N_, _, language, language_from_environment, set_language

__all__ = ["COMMANDS", "LazyCommand", "cli", "main", "run"]


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command that is imported only when it is used: its place as ``module:attribute``, and its line in the overview."""

    target: str
    help: str


COMMANDS: dict[str, LazyCommand] = {
    "demand": LazyCommand(
        "suanchou.cli.demand:demand", N_("How much compute a model needs: FLOP, memory, card-days, energy, money.")
    ),
    "plan": LazyCommand("suanchou.cli.plan:plan", N_("The best way to train a model on the accelerators you have.")),
    "compare": LazyCommand("suanchou.cli.compare:compare", N_("Where the difference between two plans comes from.")),
    "trace": LazyCommand(
        "suanchou.cli.trace:trace", N_("One step of a saved plan, operation by operation, as a trace or a chart.")
    ),
    "catalog": LazyCommand(
        "suanchou.cli.catalog:catalog", N_("What is known of accelerators, nodes, clusters, models and regions.")
    ),
    "validate": LazyCommand("suanchou.cli.validate:validate", N_("How wrong the predictions are, on published runs.")),
    "explain": LazyCommand("suanchou.cli.explain:explain", N_("Where a number of a saved result comes from.")),
}


class LazyGroup(Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order of a user's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, or ``None`` for an unknown name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, attribute = entry.target.split(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with a suggestion when the name is unknown."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = (
                _("Did you mean {name}?").format(name=close[0])
                if close
                else _("There is: {names}.").format(names=", ".join(COMMANDS))
            )
            ctx.fail(_("No such command {name!r}.").format(name=name) + " " + hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview from the registry, without importing any command."""
        with formatter.section(_("Commands")):
            formatter.write_dl([(name, _(entry.help)) for name, entry in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    name="suanchou",
    help=N_(
        "Plan compute for large models: how much they need, the best way to train them, on any accelerator, and where every"
        " number comes from."
    ),
    epilog="suanchou plan llama-3.1-70b --on dgx-h100:128 --tokens 15T",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--lang", cls=Option, type=click.Choice(tuple(LANGUAGES)), help=N_("Language of help, tables and messages."))
@click.version_option(
    __version__, prog_name="suanchou", message="%(prog)s %(version)s", cls=Option, help=N_("Show the version and exit.")
)
def cli(lang: str | None) -> None:
    """Carry the options all commands share; the language itself is set before click starts, so that help is translated too."""


def _language_of(argv: Sequence[str]) -> str:
    """The language asked for anywhere on the command line, or by the environment."""
    for i, token in enumerate(argv):
        if token.startswith("--lang="):
            return token.removeprefix("--lang=")
        if token == "--lang" and i + 1 < len(argv):
            return argv[i + 1]
    return language_from_environment()


def _wants_traceback(argv: Sequence[str]) -> bool:
    count = argv.count("--verbose") + sum(len(t) - 1 for t in argv if t.startswith("-v") and set(t[1:]) == {"v"})
    return count >= 2


def _use_language(argv: Sequence[str]) -> None:
    """Translate our messages and click's own; click calls the standard gettext functions, which read ``LANGUAGE``."""
    try:
        set_language(_language_of(argv))
    except SuanchouError:
        set_language("en")  # click refuses the option with its choices; a wrong SUANCHOU_LANG must not stop the work
    os.environ["LANGUAGE"] = LANGUAGES[language()]
    gettext.bindtextdomain(DOMAIN, str(LOCALE_DIR))
    gettext.textdomain(DOMAIN)


def _print_error(error: SuanchouError) -> None:
    """What, where, what to do: one line each."""
    lines = [f"{_('error')}: {error.what}"]
    if error.where:
        lines.append(f"  {_('where')}: {error.where}")
    if error.hint:
        lines.append(f"  {_('hint')}: {error.hint}")
    if isinstance(error, Infeasible) and error.reasons:
        width = max(len(f"{count:,}") for count in error.reasons.values())
        lines.append(f"  {_('refused candidates, by reason')}:")
        ordered = sorted(error.reasons.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"    {count:>{width},}  {_(reason)}" for reason, count in ordered]
    click.echo("\n".join(lines), err=True)


def run(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    _use_language(argv)
    try:
        code = cli.main(list(argv), prog_name="suanchou", standalone_mode=False, obj=tuple(argv))
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SuanchouError as error:
        _print_error(error)
        if _wants_traceback(argv):
            traceback.print_exc()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(_("interrupted"), err=True)
        return 130
    except SystemExit as error:
        # The reader (head, less) went away: click has silenced the stream and asks to leave with 1, our code for a bug.
        return 0 if error.code == 1 else int(error.code or 0)
    except BrokenPipeError:
        # The same, noticed by our own flush; keep the interpreter from failing again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        click.echo(f"{_('bug')}: {type(error).__name__}: {error}", err=True)
        if _wants_traceback(argv):
            traceback.print_exc()
        else:
            click.echo("  " + _("please report it; -vv shows the traceback"), err=True)
        return 1


def main() -> None:
    """Entry point of the ``suanchou`` script."""
    sys.exit(run(sys.argv[1:]))
