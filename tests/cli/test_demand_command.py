"""``suanchou demand``."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

SRC = Path(__file__).parents[2] / "src"


def test_prints_compute_time_memory_and_money(suanchou):
    result = suanchou("demand", "llama-3.1-70b", "--tokens", "15T")
    assert result.code == 0
    assert "6.35e24 FLOP = 73,493 PFLOPS-days" in result.out.replace("\n", "")
    for text in ("h100-sxm5-80gb", "ascend-910b2", "hygon-bw1000", "ZeRO-3", "920 GiB", "988 GB", "320 KiB", "LoRA"):
        assert text in result.out
    assert result.err == ""


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_fits_the_terminal(suanchou, monkeypatch, width, lang):
    monkeypatch.setenv("COLUMNS", str(width))
    words = ("--tokens", "15T", "--users", "100万", "--on", "h100-sxm5-80gb:1024", "--on", "ascend-910b2", "--lang", lang)
    result = suanchou("demand", "llama-3.1-70b", *words)
    assert result.code == 0
    lines = result.out.splitlines()
    assert max(cell_len(line.rstrip()) for line in lines) <= width
    assert any(line.startswith("h100-sxm5-80gb ") for line in lines), "the name of an accelerator is never broken"


def test_chinese_has_no_english_headings(suanchou):
    result = suanchou("demand", "llama-3.1-70b", "--tokens", "15万亿", "--users", "100万", "--lang", "zh")
    assert result.code == 0
    assert "15 万亿" in result.out
    for text in ("Compute", "Card time", "Memory", "accelerator", "range", "checkpoint", "from scratch", "parameters"):
        assert text not in result.out


def test_json_is_the_same_in_both_languages_and_explains(suanchou, tmp_path):
    path = tmp_path / "d.json"
    assert suanchou("demand", "llama-3.1-8b", "--tokens", "15T", "-o", str(path)).code == 0
    english = json.loads(path.read_text(encoding="utf-8"))
    chinese = json.loads(suanchou("demand", "llama-3.1-8b", "--tokens", "15T", "--json", "--lang", "zh").out)
    assert english["result"] == chinese["result"]
    assert english["kind"] == "demand"
    assert "MFU" in english["definitions"]
    energy = suanchou("explain", str(path), "demand.card_time.h100-sxm5-80gb.energy")
    assert energy.code == 0
    assert "PUE" in energy.out


def test_csv_is_the_table_of_card_time(suanchou):
    rows = list(csv.reader(io.StringIO(suanchou("demand", "llama-3.1-8b", "--tokens", "15T", "--format", "csv").out)))
    assert rows[0][0] == "accelerator"
    assert [row[0] for row in rows[1:]] == ["h100-sxm5-80gb", "ascend-910b2", "hygon-bw1000", "metax-c500-pcie"]


@pytest.mark.parametrize("purpose", ["pretrain", "continue", "sft", "lora", "qlora", "dpo", "ppo", "grpo"])
def test_every_purpose(suanchou, purpose):
    result = suanchou("demand", "llama-3.1-8b", "--for", purpose)
    assert result.code == 0
    assert "PFLOPS-days" in result.out


def test_serving(suanchou):
    result = suanchou("demand", "llama-3.1-8b", "--for", "serve", "--users", "1M", "--on", "ascend-910b2")
    assert result.code == 0
    assert "first estimate" in result.out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("llama-3.1-8b", "--budget", "3640 PFLOPS a day"), 3, "PFLOPS is already a rate"),
        (("llama-3.1-8b", "--budget", "每天3640 PFLOPS"), 3, "did you mean 3640 PFLOPS-days"),
        (("llama-3.1-8b", "--tokens", "-5T"), 3, "negative"),
        (("llama-3.1-8b", "--tokens", "15T", "--compute-optimal"), 3, "exclude each other"),
        (("llama-3.1-8b", "--on", "mlu290-m5"), 5, "no bf16"),
        (("llama-3.1-8b", "--on", "h100-sxm5-80gb:0"), 3, "1 or more"),
        (("llama-3.1-8b", "--on", "h1000"), 3, "no node, accelerator or cluster"),
        (("lama-3.1-8b",), 3, "did you mean"),
        (("llama-3.1-8b", "--for", "serve", "--users", "1M", "--tpot", "1 us"), 4, "no replica"),
        (("llama-3.1-8b", "--catalog", "nowhere"), 2, "nowhere"),
        (("nowhere/config.json",), 3, "No such file"),
    ],
)
def test_bad_input_has_one_clear_error(suanchou, words, code, says):
    result = suanchou("demand", *words)
    assert result.code == code
    assert says in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_a_model_folder_and_a_file(suanchou, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    source = SRC / "suanchou" / "catalog" / "data" / "models" / "llama-3.1-8b.json"
    (folder / "config.json").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    for path in (folder, folder / "config.json"):
        result = suanchou("demand", str(path), "--tokens", "1T")
        assert result.code == 0
        assert "8.03 B parameters" in result.out


def test_answers_without_numpy_and_in_half_a_second_of_cpu():
    """A fresh process; the time is CPU, so a busy machine does not matter."""
    code = (
        "import resource, sys\n"
        "from suanchou.cli.main import run\n"
        "code = run(['demand', 'llama-3.1-70b', '--tokens', '15T'])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(code, 'numpy' in sys.modules or 'scipy' in sys.modules, used.ru_utime + used.ru_stime, file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", code]
    best = min(
        (
            subprocess.run(words, env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=True).stderr.split()
            for _ in range(3)
        ),
        key=lambda found: float(found[2]),
    )
    assert best[0] == "0"
    assert best[1] == "False"
    assert float(best[2]) < 0.5
