"""Write what is generated and kept: the command-line reference, the glossary pages, the output shown in the readmes.

``--check`` changes nothing and fails when a file is behind the program.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from suanchou.cli.main import cli, run
from suanchou.i18n import language, set_language
from suanchou.report.glossary import glossary

ROOT = Path(__file__).parents[1]
WIDTH = 100
READMES = ("README.md", "README.zh-CN.md")
EXAMPLE = re.compile(r"(<!-- output, (\d+) lines -->\n```console\n\$ suanchou ([^\n]+)\n).*?(```\n)", re.DOTALL)
_SHARED = {"output_format", "as_json", "output_path", "dump_scenario", "_lang", "quiet", "verbose", "no_color"}


def commands(group: click.Group | None = None, prefix: str = "suanchou") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    group = group or cli
    context = _context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        elif command is not None:
            yield f"{prefix} {name}", command


def _context(command: click.Command, name: str = "suanchou") -> click.Context:
    """A context with the help options of the program; click keeps the first it sees for good."""
    return click.Context(command, info_name=name, help_option_names=list(cli.context_settings["help_option_names"]))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return ["| option | meaning |", "|:---|:---|", *(f"| `{_cell(left)}` | {_cell(right)} |" for left, right in rows), ""]


def _records(command: click.Command, shared: bool) -> list[tuple[str, str]]:
    context = _context(command)
    chosen = [
        parameter
        for parameter in command.get_params(context)
        if (parameter.name in _SHARED or "--help" in parameter.opts) == shared
    ]
    return [record for parameter in chosen if (record := parameter.get_help_record(context)) is not None]


def cli_reference() -> str:
    """``docs/cli.md``."""
    set_language("en")
    os.environ["LANGUAGE"] = "en"  # click's own words
    found = list(commands())
    lines = [
        "# Command-line reference",
        "",
        "Written by `scripts/rebaseline` from the program itself; `suanchou COMMAND --help` prints the same.",
        "",
        "Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a bug, 2 wrong usage,",
        "3 a wrong input file or name, 4 no answer exists (with the reasons), 5 data or an optional part is missing,",
        "6 a validation gate failed, 130 interrupted.",
        "",
        "## Options of every command",
        "",
        *_table(_records(found[0][1], shared=True)),
    ]
    for name, command in found:
        context = _context(command, name)
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        lines += [f"## {name}", "", command.help or "", "", "```text", usage, "```", ""]
        own = _records(command, shared=False)
        lines += _table(own) if own else []
    return "\n".join(lines).rstrip("\n") + "\n"


def glossary_page(chinese: bool) -> str:
    """``docs/glossary.md`` and ``docs/zh/glossary.md``."""
    if chinese:
        lines = [
            "# 术语表",
            "",
            "各工具定义不一的术语，本项目一律按下表使用；JSON 结果也给出同样的定义。",
            "",
        ]
        lines += ["| 术语 | 中文 | 英文 | 单位 | 定义 |", "|:---|:---|:---|:---|:---|"]
        lines += [f"| {t.term} | {t.zh} | {t.en} | {t.unit} | {_cell(t.definition_zh)} |" for t in glossary().values()]
    else:
        lines = [
            "# Glossary",
            "",
            "Terms that tools define differently have one meaning here. JSON answers repeat it.",
            "",
        ]
        lines += ["| term | name | Chinese | unit | meaning |", "|:---|:---|:---|:---|:---|"]
        lines += [f"| {t.term} | {t.en} | {t.zh} | {t.unit} | {_cell(t.definition)} |" for t in glossary().values()]
    return "\n".join(lines) + "\n"


def output_of(command: str) -> str:
    """What a command prints, without colour, on a terminal of fixed width."""
    buffer = io.StringIO()
    before = language()
    kept = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR", "SUANCHOU_LANG", "LANGUAGE")}
    os.environ.update(COLUMNS=str(WIDTH), NO_COLOR="1", SUANCHOU_LANG="")
    try:
        with contextlib.redirect_stdout(buffer):
            code = run(shlex.split(command))
    finally:
        set_language(before)
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    if code:
        raise SystemExit(f"suanchou {command}: exit code {code}")
    return buffer.getvalue()


def with_output(text: str) -> str:
    """A page whose marked examples show the first lines the program prints today."""

    def fill(match: re.Match[str]) -> str:
        shown = [line.rstrip() for line in output_of(match[3]).splitlines()[: int(match[2])]]
        return match[1] + "\n".join([*shown, "..."]) + "\n" + match[4]

    return EXAMPLE.sub(fill, text)


def pages() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    found = {
        ROOT / "docs" / "cli.md": cli_reference(),
        ROOT / "docs" / "glossary.md": glossary_page(chinese=False),
        ROOT / "docs" / "zh" / "glossary.md": glossary_page(chinese=True),
    }
    for name in READMES:
        path = ROOT / name
        found[path] = with_output(path.read_text(encoding="utf-8"))
    return found


def behind() -> list[str]:
    """Generated files that do not hold what they should."""
    wanted = pages()
    held = {path: path.read_text(encoding="utf-8") if path.exists() else "" for path in wanted}
    return [str(path.relative_to(ROOT)) for path, text in wanted.items() if held[path] != text]


def main() -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    names = behind()
    for name in names:
        print(f"{'behind' if check else 'written'}: {name}")
    if names and not check:
        for path, text in pages().items():
            path.write_text(text, encoding="utf-8")
    return int(bool(names) and check)


if __name__ == "__main__":
    sys.exit(main())
