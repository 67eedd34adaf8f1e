from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from suanchou import catalog
from suanchou.catalog.naming import did_you_mean, fold
from suanchou.errors import MissingData, SpecError


@pytest.fixture(autouse=True)
def no_user_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SUANCHOU_CATALOG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_cell_carries_value_unit_source_and_grade() -> None:
    record = catalog.get("accelerators", "h100-sxm5-80gb")
    cell = record.cells["memory_gb"]
    assert (cell.value, cell.unit, cell.grade, cell.recalled) == (80.0, "GB", "datasheet", False)
    assert "NVIDIA datasheet" in cell.source
    assert record.cells["price_usd_approx"].grade == "assumed"


def test_empty_cell_is_unknown_not_zero() -> None:
    record = catalog.get("accelerators", "mlu590-m9")
    assert record.value("bf16_tflops") is None
    assert record.number("bf16_tflops") is None
    with pytest.raises(MissingData, match="bf16_tflops of mlu590-m9 is unknown"):
        record.require("bf16_tflops")


def test_flags_and_warnings() -> None:
    record = catalog.get("accelerators", "kunlun-p800")
    cell = record.cells["fp16_tflops"]
    assert cell.recalled
    assert cell.unverified
    assert cell.grade == "assumed"
    assert any("UNVERIFIED" in text for text in record.warnings)
    assert any("recalled" in text for text in record.warnings)
    assert any("not published" in text for text in record.warnings)
    assert catalog.get("accelerators", "h100-sxm5-80gb").warnings == ()


@pytest.mark.parametrize("name", ["昇腾910B2", "昇腾 910B2", "Ascend-910B2", "ASCEND 910b2", "ascend_910b2", "910b2"])
def test_spelling_does_not_matter(name: str) -> None:
    assert catalog.get("accelerators", name).id == "ascend-910b2"


def test_ambiguous_name_says_how_it_was_read() -> None:
    record = catalog.get("accelerators", "h100")
    assert record.id == "h100-sxm5-80gb"
    assert any("h100-pcie-80gb" in text for text in record.warnings)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        catalog.get("accelerators", "asend-910b3")
    assert "ascend-910b3" in (caught.value.hint or "")
    with pytest.raises(SpecError, match="no kind 'gpu'"):
        catalog.get("gpu", "h100")


def test_near_misses() -> None:
    assert did_you_mean("dgxh10", ["dgx-h100", "mac-mini"]) == "did you mean dgx-h100?"
    assert did_you_mean("zzzz", ["dgx-h100"], otherwise="nothing near") == "nothing near"
    assert fold("Atlas 800T A2（8卡）") == fold("atlas-800t_a2 8卡")


def test_find_looks_in_every_kind() -> None:
    assert [(r.kind, r.id) for r in catalog.find("太湖之光")] == [("clusters", "taihulight")]
    assert [r.kind for r in catalog.find("AlexNet")] == ["notable"]
    assert catalog.find("no such thing") == ()


def test_search_needs_every_word() -> None:
    found = {record.id for record in catalog.search("ascend 910b kunpeng", kinds=("nodes",))}
    assert "atlas-800t-a2" in found
    assert "dgx-h100" not in found
    with pytest.raises(SpecError, match="nothing to search for"):
        catalog.search("  ")


def test_regions_are_known_by_their_short_name() -> None:
    assert catalog.get("regions", "CN-Hebei").number("gco2_per_kwh") == 725.2
    assert catalog.get("regions", "天津").id == "CN-Tianjin"


def test_user_row_replaces_single_values(tmp_path: Path) -> None:
    write(tmp_path, "accelerators.csv", "id,bf16_tflops,notes\nhygon-bw1000,410,measured here\n")
    with catalog.use_catalog(tmp_path):
        record = catalog.get("accelerators", "hygon-bw1000")
        assert record.number("bf16_tflops") == 410
        assert record.number("memory_gb") == 64
        assert record.cells["bf16_tflops"].source == str(tmp_path / "accelerators.csv")
        assert "ai.gitee.com" in record.cells["memory_gb"].source
        assert len(record.origin) == 2
    assert catalog.get("accelerators", "hygon-bw1000").value("bf16_tflops") is None


def test_user_row_may_state_its_grade(tmp_path: Path) -> None:
    write(tmp_path, "accelerators.csv", "id,bf16_tflops,grade\nhygon-bw1000,410,measured\n")
    with catalog.use_catalog(tmp_path):
        assert catalog.get("accelerators", "hygon-bw1000").cells["bf16_tflops"].grade == "measured"


def test_user_adds_entries_aliases_and_models(tmp_path: Path) -> None:
    write(tmp_path, "accelerators.csv", "id,name,kind,fp16_tflops\nmy-chip,My chip,npu,100\n")
    write(tmp_path, "aliases.csv", "alias,kind,id\n我的芯片,accelerators,my-chip\n")
    write(tmp_path, "models/my-model.json", json.dumps({"model_type": "llama"}))
    catalog.set_user_catalog(tmp_path)
    try:
        assert catalog.get("accelerators", "我的芯片").number("fp16_tflops") == 100
        assert catalog.model_file("my-model") == tmp_path / "models" / "my-model.json"
        assert "my-model" in catalog.names("models")
    finally:
        catalog.set_user_catalog(None)


def test_folder_named_by_the_environment_lies_below_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    write(low, "accelerators.csv", "id,tdp_w,memory_gb\nt4,71,17\n")
    write(high, "accelerators.csv", "id,tdp_w\nt4,72\n")
    monkeypatch.setenv("SUANCHOU_CATALOG", str(low))
    assert catalog.get("accelerators", "t4").number("tdp_w") == 71
    with catalog.use_catalog(high):
        assert catalog.get("accelerators", "t4").number("tdp_w") == 72
        assert catalog.get("accelerators", "t4").number("memory_gb") == 17
    monkeypatch.setenv("SUANCHOU_CATALOG", str(tmp_path / "absent"))
    with pytest.raises(SpecError, match="there is no folder"):
        catalog.get("accelerators", "t4")


def test_folder_in_the_configuration_directory(tmp_path: Path) -> None:
    write(tmp_path / "config" / "suanchou" / "catalog", "accelerators.csv", "id,tdp_w\nt4,73\n")
    assert catalog.get("accelerators", "t4").number("tdp_w") == 73


@pytest.mark.parametrize(
    ("text", "what", "where", "hint"),
    [
        ("id,memory_gb\nx,80\nX,81\n", "stands twice", ":3, column id", ""),
        ("id,memry_gb\nx,80\n", "unknown column 'memry_gb'", ":1", "memory_gb"),
        ("id,memory_gb\nx,80 GB\n", "'80 GB' is not a number", ":2, column memory_gb", "without the unit"),
        ("id,memory_gb\nx,-1\n", "not a possible value", ":2, column memory_gb", ""),
        ("id,memory_gb\nx,inf\n", "not a possible value", ":2, column memory_gb", ""),
        ("id,kind\nx,gpuu\n", "'gpuu' is not allowed", ":2, column kind", "gpu"),
        ("id,pcie\nx,5x16\n", "not a PCIe width", ":2, column pcie", "5.0x16"),
        ("id,grade\nx,sure\n", "'sure' is not allowed", ":2, column grade", "measured"),
        ("id,year\nx,2020.5\n", "not allowed", ":2, column year", "whole number"),
        ("id,recalled\nx,2\n", "not allowed", ":2, column recalled", "0 or 1"),
        ("name\nx\n", "'id' is missing", ":1", ""),
        ("id,name\n,x\n", "without a name", ":2, column id", ""),
        ("id,name\nx,a,b\n", "3 cells under 2 columns", ":2", "quotes"),
        ("id,id\nx,y\n", "twice in the header", ":1", ""),
        ("", "no header", "accelerators.csv", ""),
    ],
)
def test_bad_file_is_refused_with_its_place(tmp_path: Path, text: str, what: str, where: str, hint: str) -> None:
    write(tmp_path, "accelerators.csv", text)
    with catalog.use_catalog(tmp_path), pytest.raises(SpecError) as caught:
        catalog.get("accelerators", "h100")
    assert what in caught.value.what
    assert where in (caught.value.where or "")
    assert hint in (caught.value.hint or "")


def test_file_that_is_no_text_or_no_file(tmp_path: Path) -> None:
    path = tmp_path / "accelerators.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with catalog.use_catalog(tmp_path), pytest.raises(SpecError, match="not UTF-8"):
        catalog.get("accelerators", "h100")
    path.unlink()
    path.mkdir()
    with catalog.use_catalog(tmp_path), pytest.raises(SpecError, match="is a folder"):
        catalog.get("accelerators", "h100")


def test_reference_to_nothing_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "nodes.csv", "id,accelerator_id,accelerators_per_node\nmine,h1000-sxm5-80gb,8\n")
    with catalog.use_catalog(tmp_path), pytest.raises(SpecError) as caught:
        catalog.get("nodes", "mine")
    assert "column accelerator_id" in (caught.value.where or "")
    assert "h100-sxm5-80gb" in (caught.value.hint or "")


def test_unknown_file_in_a_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "accelerator.csv", "id\nx\n")
    with pytest.raises(SpecError) as caught, catalog.use_catalog(tmp_path):
        pass
    assert "accelerators.csv" in (caught.value.hint or "")
    with pytest.raises(SpecError, match="is not a folder"), catalog.use_catalog(tmp_path / "accelerator.csv"):
        pass


def test_model_without_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "models.csv", "name\nghost\n")
    with catalog.use_catalog(tmp_path), pytest.raises(SpecError, match=r"no file models/ghost\.json"):
        catalog.names("models")


def test_stack_cells_have_their_own_source_and_grade(tmp_path: Path) -> None:
    write(
        tmp_path,
        "stacks.yaml",
        "mine:\n  title: My stack\n  overlap: {value: 0.5, grade: measured, source: bench}\n  zero: [1, 2]\n  source: notes\n",
    )
    with catalog.use_catalog(tmp_path):
        record = catalog.get("stacks", "mine")
    assert record.title == "My stack"
    assert (record.cells["overlap"].value, record.cells["overlap"].grade, record.cells["overlap"].source) == (
        0.5,
        "measured",
        "bench",
    )
    assert record.value("zero") == "[1, 2]"


def test_bad_stacks_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "stacks.yaml", "mine:\n  title: a\n  title: b\n")
    with catalog.use_catalog(tmp_path), pytest.raises(SpecError, match="twice") as caught:
        catalog.names("stacks")
    assert str(path) in (caught.value.where or "")
    write(tmp_path, "stacks.yaml", "mine:\n  overlap: {value: 1, grade: sure}\n")
    with catalog.use_catalog(tmp_path), pytest.raises(SpecError, match="no evidence grade 'sure'"):
        catalog.get("stacks", "mine")
    write(tmp_path, "stacks.yaml", "mine: 3\n")
    with catalog.use_catalog(tmp_path), pytest.raises(SpecError, match="not a mapping"):
        catalog.names("stacks")


def test_looking_up_a_chip_is_light() -> None:
    """One entry in a few milliseconds of CPU, without numpy, YAML or the large survey."""
    code = (
        "import sys, time\n"
        "from suanchou import catalog\n"
        "start = time.process_time()\n"
        "catalog.get('accelerators', '昇腾910B2')\n"
        "spent = time.process_time() - start\n"
        "assert not {'numpy', 'scipy', 'yaml', 'cattrs'} & set(sys.modules), sys.modules\n"
        "assert catalog.catalogue()._tables.keys() == {'accelerators'}\n"
        "print(spent)\n"
    )
    source = str(Path(catalog.__file__).parents[2])
    spent = []
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
        )
        spent.append(float(run.stdout))
    assert min(spent) < 0.1  # 9 ms where it was written; the bound only catches a new heavy import


def test_epoch_survey_is_read_in_reasonable_time() -> None:
    start = time.process_time()
    assert len(catalog.records("epoch")) == 976
    assert time.process_time() - start < 5
