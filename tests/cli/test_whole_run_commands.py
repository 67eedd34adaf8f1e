"""``--sweep``, ``--what-if`` and ``compare`` from the shell."""

from __future__ import annotations

import csv
import io
import json

import pytest
from rich.cells import cell_len

LLAMA = ("plan", "llama-3.1-8b", "--on", "dgx-h100:2", "--tokens", "1T", "--seq", "4096", "--batch", "64")


def data(result):
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.fixture
def saved(suanchou, tmp_path):
    """Two plans in files."""
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    assert suanchou(*LLAMA, "-o", str(first), "-q").code == 0
    assert suanchou(*LLAMA, "--pin", "tp=8", "-o", str(second), "-q").code == 0
    return str(first), str(second)


def test_a_sweep_in_json_and_csv(suanchou):
    answer = data(suanchou(*LLAMA, "--sweep", "nodes=1..4", "--json"))
    points = answer["result"]["points"]
    assert answer["kind"] == "training-sweep"
    assert [point["value"] for point in points] == [1, 2, 4]
    assert answer["result"]["scaling"] == "strong"
    alone = data(suanchou(*LLAMA, "--json"))["result"]
    for name in ("step_s", "days", "mfu", "label", "memory_byte", "n_rank"):
        assert points[1][name] == alone[name]
    rows = list(csv.DictReader(io.StringIO(suanchou(*LLAMA, "--sweep", "nodes=1..4", "--format", "csv", "-q").out)))
    assert [float(row["step_s"]) for row in rows] == [point["step_s"] for point in points]
    assert [float(row["money_usd"]) for row in rows] == [point["money_usd"] for point in points]


def test_a_sweep_with_a_row_that_fails(suanchou):
    words = ("plan", "gpt2-xl", "--on", "dgx-h100:1", "--tokens", "10B", "--sweep", "seq=512,4096")
    out = suanchou(*words).out
    assert "no plan: the model has 1024" in " ".join(out.split())
    rows = list(csv.DictReader(io.StringIO(suanchou(*words, "--format", "csv", "-q").out)))
    assert [row["status"] for row in rows] == ["planned", "refused"]
    assert rows[1]["step_s"] == ""


def test_numbers_of_a_sweep_and_a_what_if_explain_themselves(suanchou, tmp_path):
    path = tmp_path / "r.json"
    assert suanchou(*LLAMA, "--sweep", "nodes=1,2", "-o", str(path), "-q").code == 0
    assert "tokens /" in suanchou("explain", str(path), "nodes_2").out
    assert suanchou("explain", str(path), "nodes_2.time").code == 0
    assert suanchou(*LLAMA, "--what-if", "-o", str(path), "-q").code == 0
    assert suanchou("explain", str(path), "memory").code == 0


def test_what_if(suanchou):
    answer = data(suanchou(*LLAMA, "--what-if", "--json"))
    result = answer["result"]
    assert answer["kind"] == "training-what-if"
    assert result["base"]["days"] == pytest.approx(data(suanchou(*LLAMA, "--json"))["result"]["days"])
    for change in result["changes"]:
        assert change["days_saved"] == pytest.approx(result["base"]["days"] - change["days"])
    assert [c["days_saved"] for c in result["changes"]] == sorted((c["days_saved"] for c in result["changes"]), reverse=True)
    assert "would help: twice the accelerators" in " ".join(suanchou(*LLAMA, "--what-if").out.split())


def test_compare(suanchou, saved):
    answer = data(suanchou("compare", *saved, "--json"))
    assert answer["kind"] == "training-comparison"
    result = answer["result"]
    for name in ("time", "step", "memory", "money", "energy"):
        part = result[name]
        assert sum(cause["change"] for cause in part["causes"]) == pytest.approx(part["change"], abs=1e-6 * part["a"])
    out = suanchou("compare", *saved).out
    for text in ("Plans side by side", "Wall time", "Step time", "Memory per accelerator", "Money", "≠"):
        assert text in out
    same = suanchou("compare", saved[0], saved[0])
    assert "Both plans take" in same.out
    assert "≠" not in same.out


def test_compare_plans_scenario_files(suanchou, saved, tmp_path):
    path = tmp_path / "s.yaml"
    assert suanchou(*LLAMA, f"--dump-scenario={path}", "-q").code == 0
    result = data(suanchou("compare", saved[0], str(path), "--json"))["result"]
    assert [cause["change"] for cause in result["step"]["causes"] if cause["change"]] == []


def test_compare_refuses_other_files(suanchou, saved, tmp_path):
    demand = tmp_path / "d.json"
    assert suanchou("demand", "llama-3.1-8b", "-o", str(demand), "-q").code == 0
    for path, words in ((str(demand), "not a plan"), (str(tmp_path / "no.json"), "cannot read")):
        result = suanchou("compare", saved[0], path)
        assert (result.code, result.out) == (3, "")
        assert words in result.err
        assert "hint:" in result.err


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("width", [80, 120])
def test_answers_fit_the_terminal(suanchou, monkeypatch, saved, lang, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for words in ((*LLAMA, "--sweep", "nodes=1..4"), (*LLAMA, "--what-if"), ("compare", *saved)):
        out = suanchou(*words, "--lang", lang).out
        assert [line for line in out.splitlines() if cell_len(line) > width] == []
        if lang == "zh":
            assert any(word in out for word in ("强扩展", "怎样改变有帮助", "方案并列"))


@pytest.mark.parametrize("words", [("--sweep", "nodes=1,2"), ("--what-if",)])
def test_json_is_the_same_bytes_in_every_language(suanchou, words):
    assert suanchou(*LLAMA, *words, "--json").out == suanchou(*LLAMA, *words, "--json", "--lang", "zh").out


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("--sweep", "nodes=1..4", "--what-if"), "--what-if"),
        (("--sweep", "layers=1..4"), "--sweep"),
        (("--sweep", "nodes=4..1"), "--sweep"),
        (("--sweep", "seq=1024", "--scaling", "weak"), "--scaling"),
        (("--scaling", "weak"), "--scaling"),
        (("--sweep", "nodes=1..4", "--scaling", "big"), "--scaling"),
    ],
)
def test_refusals(suanchou, words, where):
    result = suanchou(*LLAMA, *words)
    assert (result.code, result.out) == (3, "")
    assert f"where: {where}" in result.err
    assert "hint:" in result.err


def test_the_scenario_of_a_sweep_can_be_kept(suanchou, tmp_path):
    path = tmp_path / "s.yaml"
    assert suanchou(*LLAMA, "--sweep", "nodes=1,2", f"--dump-scenario={path}", "-q").code == 0
    again = suanchou("plan", str(path), "--sweep", "nodes=1,2", "--json")
    assert data(again)["result"] == data(suanchou(*LLAMA, "--sweep", "nodes=1,2", "--json"))["result"]
