"""The manual and the readmes say what the program does: every command in them runs, every option is in them."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest

import suanchou
from suanchou.catalog import model_file
from suanchou.cli.main import COMMANDS, run
from suanchou.i18n import set_language

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands_of(page: Path) -> list[str]:
    """Every ``$ suanchou ...`` of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [line[2:] for block in CONSOLE.findall(text) for line in block.splitlines() if line.startswith("$ suanchou ")]


WITH_COMMANDS = [page for page in PAGES if commands_of(page)]


@pytest.fixture(scope="module")
def generated():
    spec = importlib.util.spec_from_file_location("generated", ROOT / "scripts" / "generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_up_to_date(generated):
    """After a change of options, terms or numbers: scripts/rebaseline, then look at the difference."""
    assert generated.behind() == []


def test_pages_with_examples_were_found():
    assert {"README.md", "README.zh-CN.md", "docs/quickstart.md"} <= {page_id(page) for page in WITH_COMMANDS}


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=page_id)
def test_every_command_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "path" / "to"
    folder.mkdir(parents=True)
    shutil.copy(model_file("llama-3.1-8b"), folder / "config.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGUAGE", "en")
    try:
        for command in commands_of(page):
            code = run(shlex.split(command)[1:])
            captured = capsys.readouterr()
            assert code == 0, f"{command}\n{captured.err}"
    finally:
        set_language("en")


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md"])
def test_scripts_that_are_named_exist(name):
    words = set(re.findall(r"(?:scripts|\.ci)/[a-z-]+", (ROOT / name).read_text(encoding="utf-8")))
    assert words
    for word in words:
        assert (ROOT / word).is_file(), word
        assert (ROOT / word).stat().st_mode & 0o111, f"{word} cannot be executed"


def test_links_between_files_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page_id(page)}: {target}")
    assert broken == []


def test_readmes_show_the_same_commands():
    def words(name: str) -> list[list[str]]:
        return [command.replace(" --lang zh", "").split()[:3] for command in commands_of(ROOT / name)]

    english, chinese = words("README.md"), words("README.zh-CN.md")
    assert [line[:2] for line in english] == [line[:2] for line in chinese]


def test_every_command_is_in_the_readmes_and_has_help(generated):
    found = dict(generated.commands())
    assert {name.split()[1] for name in found} == set(COMMANDS)
    for name in COMMANDS:
        for readme in ("README.md", "README.zh-CN.md"):
            assert f"suanchou {name}" in (ROOT / readme).read_text(encoding="utf-8")
    for name, command in found.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.help, f"{name}: {parameter.opts}"


def test_every_public_name_is_in_the_manual():
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in suanchou.__all__ if name != "__version__" and f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "python.md"], ids=page_id)
def test_python_examples_run(page, capsys):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})
    assert capsys.readouterr().out.strip()


def test_every_page_is_in_a_table_of_contents():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name == "index" or f"\n{name}\n" in index, name
