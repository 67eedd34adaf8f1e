"""``suanchou plan`` from the shell: the answer, what reproduces it, every refusal."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import suanchou as package
from suanchou.estimate import Estimate

LLAMA = ("plan", "llama-3.1-8b", "--on", "dgx-h100:2", "--tokens", "1T", "--seq", "4096", "--batch", "64")


@pytest.fixture(scope="module")
def config_json(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    source = resources.files("suanchou.catalog").joinpath("data/models/llama-3.1-8b.json")
    shutil.copy(str(source), folder / "config.json")
    return str(folder / "config.json")


def data(result) -> dict:
    assert result.code == 0, result.err
    return json.loads(result.out)


def tree(answer: dict) -> Estimate:
    return Estimate.from_dict(answer["result"]["estimate"])


def refused(result, code: int, *words: str) -> None:
    """Exit code, one error with place and hint, no traceback, nothing on standard output."""
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.err.count("error:") == 1
    for word in words:
        assert word in result.err


def test_the_first_command(suanchou):
    result = suanchou("plan", "llama-3.1-70b", "--on", "dgx-h100:128", "--tokens", "15T")
    assert result.code == 0
    for text in (
        "Best plan",
        "Memory per accelerator",
        "Step time",
        "Plans compared",
        "MFU / HFU",
        "Limited by",
        "energy",
        "money",
    ):
        assert text in result.out
    assert "reproduce: suanchou plan llama-3.1-70b --on dgx-h100:128 --tokens 15T" in result.out


def test_the_second_command(suanchou, config_json):
    result = suanchou("plan", config_json, "--on", "atlas-800t-a2:64", "--tokens", "2T", "--seq", "8192")
    assert result.code == 0
    assert "Best plan" in result.out
    folder = suanchou(
        "plan", str(Path(config_json).parent), "--on", "atlas-800t-a2:64", "--tokens", "2T", "--seq", "8192", "--json"
    )
    assert data(folder)["result"]["estimate"]["name"] == "training"


def test_json_is_the_same_bytes_twice_and_in_chinese(suanchou):
    first = suanchou(*LLAMA, "--json")
    assert first.out == suanchou(*LLAMA, "--json").out
    assert first.out == suanchou(*LLAMA, "--json", "--lang", "zh").out
    assert data(first)["kind"]


def test_json_explains_itself(suanchou):
    answer = tree(data(suanchou(*LLAMA, "--json")))
    step, memory = answer["step"], answer["memory"]
    for node in (step, memory):
        assert sum(child.value for child in node.children) == pytest.approx(node.value, rel=1e-9)
        assert all(child.formula for child in node.children)


def test_explain_finds_the_bubble(suanchou, tmp_path):
    path = tmp_path / "r.json"
    assert suanchou(*LLAMA, "--pin", "pp=2", "-o", str(path)).code == 0
    result = suanchou("explain", str(path), "training.step.pipeline_bubble")
    assert result.code == 0
    assert "pipeline_bubble" in result.out


def test_a_dumped_scenario_gives_the_same_answer(suanchou, tmp_path):
    path = tmp_path / "s.yaml"
    words = ("--objective", "time", "--pin", "tp=2", "--no-offload", "--rivals", "2")
    first = data(suanchou(*LLAMA, *words, "--json"))
    assert suanchou(*LLAMA, *words, f"--dump-scenario={path}", "-q").code == 0
    again = data(suanchou("plan", str(path), "--json"))
    for name in ("strategy", "rivals", "search"):
        assert again["result"][name] == first["result"][name]
    values = [{path: node.value for path, node in tree(x).walk()} for x in (first, again)]
    assert values[0] == values[1]
    # Dumping what was read changes nothing.
    second = tmp_path / "t.yaml"
    assert suanchou("plan", str(path), f"--dump-scenario={second}", "-q").code == 0
    assert second.read_text() == path.read_text()


def test_options_win_over_the_file(suanchou, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("model: llama-3.1-8b\non: [dgx-h100:1]\ntokens: 1T\nbatch: 64\n")
    by_option = data(suanchou("plan", str(path), "--seq", "2048", "--json"))
    by_set = data(suanchou("plan", str(path), "--set", "seq=2048", "--json"))
    assert by_option["result"] == by_set["result"]
    assert by_option["result"] != data(suanchou("plan", str(path), "--json"))["result"]


def test_chinese(suanchou):
    out = suanchou(*LLAMA, "--lang", "zh").out
    for text in ("最", "微批", "流水"):
        assert text in out


def test_chinese_numbers(suanchou):
    words = list(LLAMA)
    words[words.index("1T")] = "1万亿"
    assert data(suanchou(*words, "--json"))["result"] == data(suanchou(*LLAMA, "--json"))["result"]


def test_csv_is_the_table_of_plans(suanchou):
    lines = suanchou(*LLAMA, "--format", "csv", "-q").out.splitlines()
    assert lines[0].startswith("#,plan,step")
    assert lines[1].startswith("1,TP")


def test_pins(suanchou):
    result = suanchou(*LLAMA, "--pin", "tp=4", "--pin", "pp=2", "--json")
    assert data(result)["result"]["strategy"]["tp"] == 4


@pytest.mark.parametrize(
    ("words", "code", "texts"),
    [
        (("plan", "llama-3.1-8b", "--on", "dgx-h100:0", "--tokens", "1T"), 3, ("--on", "0")),
        (("plan", "llama-3.1-8b", "--on", "dgx-h100:-4", "--tokens", "1T"), 3, ("--on",)),
        (("plan", "llama-3.1-8b", "--on", "dgx-h100:1.5", "--tokens", "1T"), 3, ("--on", "whole number")),
        (("plan", "llama-3.1-8b", "--on", "dgx-h100:99999999999", "--tokens", "1T"), 3, ("--on",)),
        (("plan", "llama-3.1-8b", "--on", "dgx-h100", "--tokens", "1T"), 3, ("how many",)),
        (("plan", "llama-3.1-8b", "--on", "dgx-h999:8", "--tokens", "1T"), 3, ("dgx-h999", "--on")),
        (("plan", "llama-9-8b", "--on", "dgx-h100:8", "--tokens", "1T"), 3, ("llama-9-8b",)),
        (("plan", "llama-3.1-8b", "--on", "dgx-h100:2"), 3, ("--tokens is missing", "15T")),
        (("plan", "llama-3.1-8b", "--tokens", "1T"), 3, ("--on is missing", "dgx-h100")),
        ((*LLAMA, "--tokens", "3640 PFLOPS"), 3, ("--tokens", "PFLOPS")),
        ((*LLAMA, "--tokens", "-5T"), 3, ("--tokens",)),
        ((*LLAMA, "--tokens", "0"), 3, ("--tokens",)),
        ((*LLAMA, "--tokens", "nan"), 3, ("--tokens",)),
        ((*LLAMA, "--seq", "0"), 3, ("--seq",)),
        ((*LLAMA, "--seq", "-1"), 3, ("--seq",)),
        ((*LLAMA, "--seq", "10000000000000"), 3, ("--seq",)),
        ((*LLAMA, "--batch", "0"), 3, ("--batch",)),
        ((*LLAMA, "--goodput", "1.5"), 3, ("--goodput",)),
        ((*LLAMA, "--node-mtbf", "250"), 3, ("--node-mtbf", "250 what?")),
        ((*LLAMA, "--checkpoint-interval", "0 min"), 3, ("--checkpoint-interval",)),
        ((*LLAMA, "--checkpoint-bandwidth", "40 GB"), 3, ("--checkpoint-bandwidth", "40 GB/s?")),
        ((*LLAMA, "--restart", "1 GB"), 3, ("--restart",)),
        ((*LLAMA, "--checkpoint", "never"), 3, ("--checkpoint", "async")),
        ((*LLAMA, "--node-mtbf", "1 min"), 4, ("--node-mtbf", "more reliable nodes")),
        ((*LLAMA, "--usd-per-hour", "-1"), 3, ("--usd-per-hour",)),
        ((*LLAMA, "--rivals", "-1"), 3, ("--rivals",)),
        ((*LLAMA, "--objective", "speed"), 3, ("--objective", "accelerators")),
        ((*LLAMA, "--dtype", "int3"), 3, ("--dtype", "bf16")),
        ((*LLAMA, "--stack", "megatrn"), 3, ("megatrn",)),
        ((*LLAMA, "--region", "atlantis"), 3, ("atlantis",)),
        ((*LLAMA, "--deadline", "30 GB"), 3, ("--deadline",)),
        ((*LLAMA, "--pin", "tp"), 3, ("--pin", "tp=8")),
        ((*LLAMA, "--pin", "tp=x"), 3, ("--pin",)),
        ((*LLAMA, "--pin", "sharding=3"), 3, ("--pin", "sharding")),
        ((*LLAMA, "--set", "sequence=3"), 3, ("sequence",)),
        ((*LLAMA, "--pin", "tp=7"), 4, ("pinned degrees do not divide", "pin")),
        ((*LLAMA, "--pin", "tp=3"), 4, ("pinned degrees do not divide",)),
        ((*LLAMA, "--deadline", "1 hour"), 4, ("--deadline", "days")),
        (("plan", "gpt2-xl", "--on", "dgx-h100:1", "--tokens", "1B", "--seq", "4096"), 3, ("1024 learned positions",)),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, tuple) and value and value[0] == "plan" else None,
)
def test_refusals(suanchou, words, code, texts):
    refused(suanchou(*words), code, "where:", "hint:", *texts) if code == 3 else refused(
        suanchou(*words), code, "hint:", *texts
    )


def test_heads_that_tp_does_not_divide(suanchou):
    result = suanchou("plan", "llama-3.1-8b", "--on", "h100-sxm5-80gb:7", "--tokens", "1T", "--pin", "tp=7")
    refused(result, 4, "TP does not divide the attention heads")


def test_a_model_too_large_for_one_accelerator(suanchou):
    result = suanchou("plan", "gpt-3-175b", "--on", "h100-sxm5-80gb:1", "--tokens", "300B", "--no-offload")
    refused(result, 4, "needs more memory than the accelerator has", "more accelerators")


def test_a_sequence_beyond_all_memory(suanchou):
    refused(suanchou(*LLAMA[:-4], "--seq", "900000000", "--batch", "1"), 4, "memory")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("model: llama-3.1-8b\nmodel: llama-3.1-70b\non: [dgx-h100:1]\ntokens: 1T\n", "model"),
        ("model: llama-3.1-8b\non: [dgx-h100:1]\ntokens: 1T\nsequence: 4096\n", "sequence"),
        ("model: llama-3.1-8b\non: [dgx-h100:1]\ntokens: 1T\nseq: many\n", "seq"),
        ("model: llama-3.1-8b\non: {a: b}\ntokens: 1T\n", "on"),
        ("model: llama-3.1-8b\non: [dgx-h100:1]\ntokens: 1T\npin: {tp: two}\n", "pin"),
        ("model: llama-3.1-8b\non: [dgx-h100:1]\ntokens: 1T\nkind: serving-plan\n", "kind"),
        ("model: llama-3.1-8b\non: [dgx-h100:1]\ntokens: 1T\nversion: 2\n", "version"),
        ("- 1\n- 2\n", "s.yaml"),
        ("model: [unclosed\n", "s.yaml"),
        ("", "s.yaml"),
        ("\x00\x01", "s.yaml"),
    ],
)
def test_scenario_files_that_are_wrong(suanchou, tmp_path, text, word):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    refused(suanchou("plan", str(path)), 3, word)


def test_scenario_files_that_are_none(suanchou, tmp_path):
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    refused(suanchou("plan", str(folder)), 3, "folder.yaml")
    refused(suanchou("plan", str(tmp_path / "missing.yaml")), 3, "missing.yaml")


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", '{"model_type": "nobody"}', '{"model_type": "llama", "hidden_size": -1}', '"llama"']
)
def test_model_files_that_are_wrong(suanchou, tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    refused(suanchou("plan", str(path), "--on", "dgx-h100:1", "--tokens", "1T"), 3, "config.json")


def test_an_interrupt_prints_the_best_so_far(suanchou, monkeypatch):
    from suanchou.training import search as search_module

    monkeypatch.setattr(search_module, "CHUNK", 5_600)
    price, calls = search_module._price, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return price(*args)

    monkeypatch.setattr(search_module, "_price", interrupted)
    result = suanchou(*LLAMA)
    assert result.code == 130
    assert "Best plan" in result.out
    assert "interrupted" in result.out + result.err


def test_the_main_job_takes_less_than_two_seconds_of_cpu():
    """Measured around 0.7 s; a loaded machine is given three times the two seconds. ``bench`` has the exact figure."""
    env = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ("plan", "llama-3.1-70b", "--on", "dgx-h100:128", "--tokens", "15T")
    subprocess.run([sys.executable, "-m", "suanchou", *words], check=True, capture_output=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 6.0
