"""``suanchou catalog``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

Run = Callable[..., Any]


def data(result: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(result.out)
    return parsed


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("words", [("show", "昇腾910B2"), ("list", "accelerators"), ("list", "nodes"), ("search", "ascend")])
def test_tables_fit_the_terminal_and_keep_names_whole(
    suanchou: Run, monkeypatch: pytest.MonkeyPatch, width: int, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    result = suanchou("catalog", *words)
    assert result.code == 0
    assert max(cell_len(line) for line in result.out.splitlines()) <= width
    whole = (
        "link_gb_s_total_bidirectional" if words[0] == "show" else "atlas-800t-a2-313t" if "nodes" in words else "ascend-910b2"
    )
    assert whole in result.out


def test_show_prints_every_value_with_unit_source_and_grade(suanchou: Run) -> None:
    result = suanchou("catalog", "show", "昇腾910B2", "--json")
    (entry,) = data(result)["result"]["entries"]
    cell = entry["cells"]["bf16_tflops"]
    assert (cell["value"], cell["unit"], cell["grade"], cell["recalled"]) == (353.9, "TFLOP/s", "datasheet", False)
    assert "msmodeling" in cell["source"]
    assert entry["cells"]["fp8_tflops"]["value"] is None
    assert entry["planned_as"]["peak_flop_per_s"]["fp16"] == 353.9e12
    assert entry["planned_as"]["usual_node"] == "atlas-800t-a2"
    assert "昇腾910B2" in entry["aliases"]
    text = suanchou("catalog", "show", "昇腾910B2").out
    assert "unknown" in text
    assert "No fp8" in text


def test_show_flags_what_is_not_sure(suanchou: Run) -> None:
    result = suanchou("catalog", "show", "kunlun-p800")
    assert "UNVERIFIED" in result.out
    assert "recalled" in result.out
    assert any("UNVERIFIED" in text for text in data(suanchou("catalog", "show", "kunlun-p800", "--json"))["warnings"])


def test_show_finds_any_kind(suanchou: Run) -> None:
    assert data(suanchou("catalog", "show", "太湖之光", "--json"))["result"]["entries"][0]["kind"] == "clusters"
    assert data(suanchou("catalog", "show", "CN-Tianjin", "--json"))["result"]["entries"][0]["kind"] == "regions"
    assert data(suanchou("catalog", "show", "AlexNet", "--json", "--kind", "epoch"))["result"]["entries"][0]["kind"] == "epoch"


def test_show_of_nothing_suggests_something(suanchou: Run) -> None:
    result = suanchou("catalog", "show", "asend-910b")
    assert result.code == 3
    assert "did you mean" in result.err
    assert "ascend-910b" in result.err
    assert result.out == ""


def test_lists_of_every_kind(suanchou: Run) -> None:
    from suanchou.catalog import KINDS

    for kind in KINDS:
        listed = data(suanchou("catalog", "list", kind, "--top", "3", "--json"))["result"]
        assert listed["count"] == min(3, len(listed["entries"]))
        assert suanchou("catalog", "list", kind, "--top", "3").code == 0
    families = data(suanchou("catalog", "list", "families", "--json"))["result"]["entries"]
    assert {"id": "llama"} in families


def test_list_filters(suanchou: Run) -> None:
    entries = data(suanchou("catalog", "list", "accelerators", "--vendor", "huawei", "--kind", "npu", "--json"))["result"][
        "entries"
    ]
    assert {entry["vendor"] for entry in entries} == {"Huawei"}
    assert {entry["kind"] for entry in entries} == {"npu"}
    chinese = data(suanchou("catalog", "list", "accelerators", "--country", "CN", "--json"))["result"]["entries"]
    assert len(chinese) >= 117
    regions = data(suanchou("catalog", "list", "regions", "--country", "CN", "--json"))["result"]["entries"]
    assert len(regions) == 24
    result = suanchou("catalog", "list", "nodes", "--vendor", "x")
    assert (result.code, "nodes have no vendor" in result.err) == (3, True)
    assert suanchou("catalog", "list", "chips").code == 3


def test_list_as_csv(suanchou: Run) -> None:
    rows = list(csv.reader(io.StringIO(suanchou("catalog", "list", "clusters", "--format", "csv").out)))
    assert rows[0][0] == "id"
    assert len(rows) == 54


def test_surveys_print_their_attribution(suanchou: Run) -> None:
    for words in (("list", "epoch", "--top", "1"), ("list", "notable"), ("show", "AlexNet")):
        assert "Data: Epoch AI" in " ".join(suanchou("catalog", *words).out.split())


def test_search(suanchou: Run) -> None:
    found = data(suanchou("catalog", "search", "寒武纪", "--json"))["result"]["entries"]
    assert {"kind": "accelerators", "id": "mlu370-x8", "name": "MLU370-X8 48GB"} in found
    result = suanchou("catalog", "search", "qqqqq")
    assert (result.code, "nothing in the catalogue matches" in result.err) == (3, True)


def test_own_folder(suanchou: Run, tmp_path: Path) -> None:
    (tmp_path / "accelerators.csv").write_text("id,bf16_tflops,source\nhygon-bw1000,410,our bench\n", encoding="utf-8")
    result = suanchou("catalog", "show", "hygon-bw1000", "--catalog", str(tmp_path), "--json")
    cell = data(result)["result"]["entries"][0]["cells"]["bf16_tflops"]
    assert (cell["value"], cell["source"]) == (410, "our bench")
    (tmp_path / "accelerators.csv").write_text("id,bf16\nx,1\n", encoding="utf-8")
    result = suanchou("catalog", "show", "hygon-bw1000", "--catalog", str(tmp_path))
    assert result.code == 3
    assert "accelerators.csv:1" in result.err
    assert "bf16_tflops" in result.err


def test_same_answer_twice(suanchou: Run) -> None:
    assert suanchou("catalog", "show", "h100", "--json").out == suanchou("catalog", "show", "h100", "--json").out
