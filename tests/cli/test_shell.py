"""The shell around every command: exit codes, errors, languages, formats, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from suanchou import __version__
from suanchou.cli import main as shell
from suanchou.cli._options import OutputOptions, command, output_options
from suanchou.cli._output import command_line, emit, write_atomically
from suanchou.errors import Infeasible, MissingData, SpecError
from suanchou.estimate import Estimate
from suanchou.report.report import Column, Report, Table

SRC = str(Path(shell.__file__).parents[2])


def make_report(**changes):
    fields = {
        "kind": "sample",
        "inputs": {"model": "toy"},
        "result": {"tokens": 1},
        "estimate": Estimate(name="step", value=2.0, unit="s"),
        "headline": "two seconds",
        "tables": (
            Table(title="side", columns=(Column(name="x"),), rows=(("9",),)),
            Table(
                title="times",
                columns=(Column(name="part", align="left"), Column(name="time", unit="s")),
                rows=(("forward", "0.5"), ("backward | all", "1.5")),
                main=True,
            ),
        ),
        "assumptions": ("a1", "a2", "a3", "a4"),
        "warnings": ("mind the gap",),
        "sources": ("a book",),
        "definitions": ("MFU",),
        "scenario": {"model": "toy", "training": {"tp": 2}},
    }
    return Report(**(fields | changes))


def register(monkeypatch, function, name="sample"):
    """Put a command into the registry that calls ``function(output)``."""

    @command(name, help="A sample.")
    @output_options
    def sample(output: OutputOptions) -> None:
        function(output)

    monkeypatch.setattr(shell, "sample_command", sample, raising=False)
    monkeypatch.setitem(shell.COMMANDS, name, shell.LazyCommand("suanchou.cli.main:sample_command", "A sample."))


@pytest.fixture
def sample(monkeypatch):
    register(monkeypatch, lambda output: emit(make_report(), output))


def raising(error):
    def function(output):
        raise error

    return function


def test_version(suanchou):
    result = suanchou("--version")
    assert (result.code, result.out) == (0, f"suanchou {__version__}\n")


def test_help_lists_every_command(suanchou):
    result = suanchou("--help")
    assert result.code == 0
    for name in shell.COMMANDS:
        assert f"\n  {name} " in result.out


def test_help_is_translated_wherever_the_option_stands(suanchou):
    english = suanchou("explain", "--help").out
    for words in (("explain", "--help", "--lang", "zh"), ("--lang=zh", "explain", "--help")):
        chinese = suanchou(*words).out
        assert chinese != english
        assert "结果" in chinese
        assert "用法" in chinese


def test_language_from_environment(suanchou, monkeypatch):
    monkeypatch.setenv("SUANCHOU_LANG", "zh_CN.UTF-8")
    assert "用法" in suanchou("--help").out


def test_unknown_language_is_a_usage_error(suanchou):
    result = suanchou("explain", "--lang", "fr", "x.json")
    assert result.code == 2
    assert "'en', 'zh'" in result.err


def test_unknown_command_suggests(suanchou):
    result = suanchou("explian")
    assert result.code == 2
    assert "Did you mean explain?" in result.err
    assert "There is: " in suanchou("zzzzzz").err


def test_error_is_three_lines(suanchou, monkeypatch):
    register(monkeypatch, raising(SpecError("tp=7 does not divide 64 heads", where="s.yaml: training.tp", hint="try 8")))
    result = suanchou("sample")
    assert result.code == 3
    assert result.out == ""
    assert result.err.splitlines() == ["error: tp=7 does not divide 64 heads", "  where: s.yaml: training.tp", "  hint: try 8"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SpecError("x"), 3),
        (Infeasible("x"), 4),
        (MissingData("x"), 5),
        (KeyboardInterrupt(), 130),
        (SystemExit(130), 130),
        (ZeroDivisionError("x"), 1),
    ],
)
def test_exit_codes(suanchou, monkeypatch, error, code):
    register(monkeypatch, raising(error))
    result = suanchou("sample")
    assert result.code == code
    assert "Traceback" not in result.err


def test_infeasible_prints_its_reasons_largest_first(suanchou, monkeypatch):
    register(monkeypatch, raising(Infeasible("nothing fits", reasons={"tp": 12, "memory": 34_567})))
    lines = suanchou("sample").err.splitlines()
    assert [line.split() for line in lines[-2:]] == [["34,567", "memory"], ["12", "tp"]]


@pytest.mark.parametrize("error", [SpecError("x"), ZeroDivisionError("x")])
def test_traceback_only_when_asked(suanchou, monkeypatch, error):
    register(monkeypatch, raising(error))
    assert "Traceback" not in suanchou("sample", "-v").err
    assert "Traceback" in suanchou("sample", "-vv").err


def test_json_envelope(suanchou, sample):
    result = suanchou("sample", "--json")
    data = json.loads(result.out)
    assert set(data) == {
        *("kind", "schema_version", "suanchou_version", "command", "inputs", "result"),
        *("assumptions", "warnings", "sources", "definitions"),
    }
    assert data["command"] == "suanchou sample"
    assert data["result"] == {"tokens": 1, "estimate": {"name": "step", "value": 2.0, "unit": "s", "grade": "derived"}}
    assert "no recomputation" in data["definitions"]["MFU"]
    assert result.err == ""


def test_json_is_the_same_bytes_in_every_language_and_place(suanchou, sample, tmp_path):
    first = suanchou("sample", "--json").out
    assert suanchou("sample", "--format", "json", "--lang", "zh", "-v").out == first
    assert suanchou("sample", "-o", str(tmp_path / "a.json")).code == 0
    assert (tmp_path / "a.json").read_text() == first


def test_json_refuses_what_is_not_a_number(suanchou, monkeypatch):
    register(monkeypatch, lambda output: emit(make_report(result={"x": float("nan")}), output))
    result = suanchou("sample", "--json")
    assert (result.code, result.out) == (1, "")


def test_csv_is_the_main_table_and_warnings_go_to_stderr(suanchou, sample):
    result = suanchou("sample", "--format", "csv")
    assert result.out == "part,time [s]\nforward,0.5\nbackward | all,1.5\n"
    assert result.err == "warning: mind the gap\n"
    assert suanchou("sample", "--format", "csv", "-q").err == ""


def test_markdown_has_all_tables(suanchou, sample):
    out = suanchou("sample", "--format", "md").out
    assert "**two seconds**" in out
    assert "| part | time [s] |\n|:---|---:|\n| forward | 0.5 |\n| backward \\| all | 1.5 |" in out
    assert "### side" in out
    assert "- mind the gap" in out
    assert "suanchou sample" in out


def test_table_order_and_short_notes(suanchou, sample):
    out = suanchou("sample").out
    places = [out.index(text) for text in ("two seconds", "side", "times", "mind the gap", "a1", "suanchou sample")]
    assert places == sorted(places)
    assert "a4" not in out
    assert "a book" not in out
    verbose = suanchou("sample", "-v").out
    assert "a4" in verbose
    assert "a book" in verbose
    quiet = suanchou("sample", "-q").out
    assert "1.5" in quiet
    assert "mind" not in quiet


def test_output_file_suffix_chooses_the_format(suanchou, sample, tmp_path):
    for suffix, start in ((".json", "{"), (".csv", "part"), (".md", "**two"), (".txt", "two")):
        path = tmp_path / f"r{suffix}"
        result = suanchou("sample", "-o", str(path))
        assert (result.code, result.out) == (0, "")
        assert str(path) in result.err
        assert path.read_text().startswith(start)


def test_output_refusals(suanchou, sample, tmp_path):
    for name in ("r.xlsx", "r", ".", "missing/r.json"):
        result = suanchou("sample", "-o", str(tmp_path / name))
        assert result.code == 2
        assert name.split("/")[0].rstrip(".") in result.err
    assert list(tmp_path.iterdir()) == []
    assert suanchou("sample", "--format", "csv", "-o", str(tmp_path / "r.json")).code == 2


def test_write_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_text("old")

    def fail(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(SpecError, match="disk full"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    for place in (tmp_path, tmp_path / "missing" / "r.json"):
        with pytest.raises(SpecError) as caught:
            write_atomically(place, "new")
        assert caught.value.where == str(place)


def umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def test_dump_scenario(suanchou, sample, tmp_path):
    assert suanchou("sample", "--dump-scenario").out == "model: toy\ntraining:\n  tp: 2\n"
    path = tmp_path / "s.yaml"
    result = suanchou("sample", f"--dump-scenario={path}", "-q")
    assert "two seconds" in result.out
    assert path.read_text() == "model: toy\ntraining:\n  tp: 2\n"


def test_dump_without_scenario_is_refused(suanchou, monkeypatch):
    register(monkeypatch, lambda output: emit(make_report(scenario={}), output))
    assert suanchou("sample", "--dump-scenario").code == 3


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_tables_fit_the_terminal(suanchou, monkeypatch, width, lang):
    from rich.cells import cell_len

    columns = (Column(name="name", align="left"), *(Column(name="memory of everything", unit="GiB") for _ in range(6)))
    rows = tuple((f"component {i} with quite a long name that has to wrap", *("1,234.5",) * 6) for i in range(3))
    tables = (Table(title="wide", columns=columns, rows=rows),)
    register(monkeypatch, lambda output: emit(make_report(tables=tables), output))
    monkeypatch.setenv("COLUMNS", str(width))
    out = suanchou("sample", "--lang", lang).out
    assert max(cell_len(line) for line in out.splitlines()) <= width
    assert out.count("1,234.5") == 18  # no number is broken over lines


def test_no_color(suanchou, sample, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[33m" in suanchou("sample").out
    assert "\x1b[33m" not in suanchou("sample", "--no-color").out
    monkeypatch.setenv("NO_COLOR", "anything")
    assert "\x1b[33m" not in suanchou("sample").out


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["plan", "m", "--on", "a:8", "-o", "x.json"], "suanchou plan m --on a:8"),
        (["plan", "m", "--json", "--lang=zh", "-v", "--output=x.md", "--format", "md"], "suanchou plan m"),
        (
            ["plan", "a b", "--on", "x:1", "--on", "y:2", "-ox.json", "--dump-scenario=s.yaml"],
            "suanchou plan 'a b' --on x:1 --on y:2",
        ),
        (["plan", "m", "-qvv", "--set", "a.b=c"], "suanchou plan m --set a.b=c"),
    ],
)
def test_command_line(words, kept):
    assert command_line(words) == kept


def child(*code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": SRC} | env,
        check=False,
        timeout=120,
    )


HEAVY = ("numpy", "scipy", "torch", "transformers", "cattrs", "yaml", "rich.table")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["explain", "--help"], []])
def test_help_imports_nothing_heavy(words):
    code = f"import sys; from suanchou.cli.main import run; run({words!r}); print([m for m in {HEAVY!r} if m in sys.modules])"
    assert child("-W", "error", "-c", code).stdout.splitlines()[-1] == "[]"


def test_import_is_light():
    code = f"import sys, suanchou; print([m for m in {(*HEAVY, 'click', 'rich')!r} if m in sys.modules])"
    assert child("-c", code).stdout.strip() == "[]"


def test_help_starts_fast():
    """Against click alone on the same machine in the same minute: absolute times mean nothing on a busy machine."""

    def best(*code: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            assert child(*code).returncode == 0
            times.append(time.perf_counter() - start)
        return min(times)

    assert best("-m", "suanchou", "--help") < 2 * best("-c", "import click") + 0.1


def test_broken_pipe_is_quiet(tmp_path):
    data = {"kind": "x", "result": {"estimate": {"name": "a", "value": 1.0, "unit": "s", "formula": "y" * 500_000}}}
    (tmp_path / "r.json").write_text(json.dumps(data))
    line = f"{sys.executable} -m suanchou explain {tmp_path / 'r.json'} a --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": SRC}, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
