"""What holds for every command, whatever it answers."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import suanchou as package
from suanchou.estimate import Estimate

SRC = str(Path(package.__file__).parents[1])
ANSWERS = {
    "demand": ("demand", "llama-3.1-8b", "--tokens", "1T"),
    "demand-serve": ("demand", "llama-3.1-8b", "--for", "serve", "--users", "1M"),
    "plan": ("plan", "llama-3.1-8b", "--on", "dgx-h100:2", "--tokens", "1T"),
    "plan-domestic": ("plan", "llama-3.1-8b", "--on", "atlas-800t-a2:2", "--tokens", "1T"),
    "catalog-list": ("catalog", "list", "accelerators"),
    "catalog-show": ("catalog", "show", "ascend-910b2"),
    "catalog-search": ("catalog", "search", "ascend"),
}
HEAVY = ("numpy", "scipy", "torch", "transformers")
every_answer = pytest.mark.parametrize("words", ANSWERS.values(), ids=ANSWERS)


def numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


@every_answer
def test_json_is_finite_untranslated_and_the_same_every_time(suanchou, words):
    first = suanchou(*words, "--json")
    assert first.code == 0
    assert suanchou(*words, "--json", "--lang", "zh").out == first.out
    data = json.loads(first.out)
    assert all(math.isfinite(number) for number in numbers(data))
    assert data["command"].startswith(f"suanchou {words[0]}")
    assert list(data) == sorted(data)


@every_answer
def test_every_format_answers(suanchou, words):
    rows = list(csv.reader(io.StringIO(suanchou(*words, "--format", "csv").out)))
    assert len(rows) > 1
    assert len({len(row) for row in rows}) == 1
    assert suanchou(*words, "--format", "md").out.count("|:---") >= 1


@every_answer
@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("width", [80, 120])
def test_answers_fit_the_terminal(suanchou, monkeypatch, words, lang, width):
    from rich.cells import cell_len

    monkeypatch.setenv("COLUMNS", str(width))
    out = suanchou(*words, "--lang", lang).out
    assert [line for line in out.splitlines() if cell_len(line) > width] == []


@pytest.mark.parametrize("words", [ANSWERS["demand"], ANSWERS["plan"]], ids=["demand", "plan"])
def test_every_number_has_a_path_that_explain_finds(suanchou, tmp_path, words):
    file = tmp_path / "r.json"
    assert suanchou(*words, "-o", str(file), "-q").code == 0
    tree = Estimate.from_dict(json.loads(file.read_text())["result"]["estimate"])
    paths = [path for path, _node in tree.walk()]
    assert len(paths) == len(set(paths)), "two numbers of one name: one of them cannot be reached"
    for path, node in tree.walk():
        assert path == tree.name or tree.find(path.partition(".")[2]) is node
        assert node.unit
        assert node.formula or node.sources or node.assumptions or node.children or node.grade == "exact", (
            f"{path} explains nothing"
        )
        if node.summed:
            assert node.value == pytest.approx(math.fsum(child.value for child in node.children), rel=1e-12)
    deepest = max(paths, key=lambda path: path.count("."))
    assert suanchou("explain", str(file), deepest).code == 0


@pytest.mark.parametrize(
    "words", [["demand"], ["plan"], ["catalog"], ["catalog", "list"], ["catalog", "show"], ["catalog", "search"]]
)
def test_help_of_a_command_imports_nothing_heavy(words):
    run_it = f"from suanchou.cli.main import run; run({[*words, '--help']!r})"
    code = f"import sys; {run_it}; print([name for name in {HEAVY!r} if name in sys.modules])"
    env = os.environ | {"PYTHONPATH": SRC}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("demand", "no-such-model"), 3),
        (("demand", "llama-3.1-8b", "--tokens", "400 GB"), 3),
        (("demand", "llama-3.1-8b", "--budget", "3640 PFLOPS"), 3),
        (("plan", "llama-3.1-8b", "--on", "dgx-h100:0", "--tokens", "1T"), 3),
        (("plan", "llama-3.1-8b", "--on", "no-such-node:8", "--tokens", "1T"), 3),
        (("plan", "llama-3.1-8b", "--tokens", "1T"), 3),
        (("plan", "llama-3.1-405b", "--on", "h100-sxm5-80gb:1", "--tokens", "1T"), 4),
        (("catalog", "list", "chips"), 3),
        (("catalog", "show", "no-such-chip"), 3),
    ],
)
def test_refusals_are_short_and_say_what_to_do(suanchou, words, code):
    result = suanchou(*words)
    assert (result.code, result.out) == (code, ""), result.err
    lines = result.err.splitlines()
    assert lines[0].startswith("error: ")
    assert any(line.startswith("  hint: ") for line in lines)
    assert "Traceback" not in result.err
