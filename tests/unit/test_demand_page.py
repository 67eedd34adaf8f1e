"""The page on demand: its Python examples print what it says, its commands run."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest

from suanchou.cli.main import run
from suanchou.i18n import set_language

PAGE = Path(__file__).parents[2] / "docs" / "demand.md"
COMMANDS = re.findall(r"^\$ suanchou (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def test_python_examples() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.failed == 0
    assert found.attempted > 5


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert run(shlex.split(line)) == 0
    finally:
        set_language("en")
    assert capsys.readouterr().err == ""
