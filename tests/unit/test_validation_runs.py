"""Reading published runs: types, refusals, and the open data itself."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from suanchou.catalog.catalogue import DATA_DIR
from suanchou.errors import SpecError
from suanchou.validation.policy import framework, policy, precision, recompute, zero
from suanchou.validation.runs import OPEN_SETS, open_runs, read_runs

HEADER = "run_id,source,accelerator_id,metric_kind,metric_value,layers,hidden,heads,vocab,notes,tp\n"


def written(folder: Path, row: str, header: str = HEADER) -> Path:
    path = folder / "runs.csv"
    path.write_text(header + row + "\n", encoding="utf-8")
    return path


def test_the_open_sets_are_whole():
    runs, sweep = (open_runs(name) for name in OPEN_SETS)
    assert (len(runs), len(sweep)) == (621, 1440)
    assert {trust: sum(run.trust == trust for run in runs) for trust in "ABC"} == {"A": 354, "B": 221, "C": 46}
    assert sum(run.memory_gb is not None for run in runs) == 124
    with open(Path(DATA_DIR) / "training_runs.csv", encoding="utf-8") as file:
        assert len(next(csv.reader(file))) == 48


def test_a_cell_becomes_its_type(tmp_path):
    (run,) = read_runs([written(tmp_path, "a,s,h100-sxm5-80gb,step_time_s,2.5,4,64,4,100,trust=A; k=3 x; mfu=0.4,8")])
    assert (run.published, run.layers, run.trust, run.tp, run.pp) == (2.5, 4, "A", 8, None)
    assert (run.note("mfu"), run.note("k"), run.note("absent")) == ("0.4", "3 x", "")
    assert not run.complete


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,s,x,step_time_s,two,4,64,4,100,,", "not a number"),
        ("a,s,x,step_time_s,1,4.5,64,4,100,,", "whole number"),
        ("a,s,x,step_time_s,1,,64,4,100,,", "empty or zero"),
        ("a,s,x,step_time_s,0,4,64,4,100,,", "cannot be compared"),
        ("a,s,x,step_time_s,nan,4,64,4,100,,", "out of range"),
        ("a,s,x,furlongs,1,4,64,4,100,,", "unknown metric"),
        ("a,s,x,step_time_s,1,4,64,4,100,,\na,s,x,step_time_s,1,4,64,4,100,,", "twice"),
        ("", "holds no run"),
    ],
)
def test_wrong_files_are_refused(tmp_path, row, words):
    with pytest.raises(SpecError, match=words):
        read_runs([written(tmp_path, row)])


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(SpecError, match="metric_value"):
        read_runs([written(tmp_path, "a,s", "run_id,source,accelerator_id,metric_kind,layers,hidden,heads,vocab\n")])


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        read_runs([path])


def test_policy_reads_what_rows_say():
    run = open_runs("training_runs")[0]
    assert recompute(replace(run, recompute="partial (21/80 layers full)")) == (21 / 80, 0)
    assert recompute(replace(run, recompute="selective (RMSNorm)")) == (0.0, 1)
    assert recompute(replace(run, recompute="")) is None
    words = {
        "zero-1 (hybrid, zero1=8)": (1, 1),
        "zero-1 (hybrid, zero1=-1)": (1, 0),
        "fsdp-shard_grad_op": (2, 0),
        "fsdp 8 (intra-node) x data parallel": (3, 1),
        "distributed-optimizer": (1, 0),
        "megatron-fsdp": (3, 0),
        "none": (0, 0),
        "": (2, 0),
    }
    assert {text: zero(replace(run, zero=text), 2) for text in words} == words
    assert precision(replace(run, precision="mxfp8")).linear == "fp8"
    assert precision(replace(run, precision="mixed fp16")).dtype == "fp16"
    with pytest.raises(SpecError, match="ternary"):
        precision(replace(run, precision="ternary"))


def test_every_framework_of_the_open_data_has_a_stack():
    from suanchou.training.stack import stack

    assert {stack(entry["stack"]).name for entry in policy()["frameworks"]}
    assert framework("Megatron-DeepSpeed", "zero-1 (DeepSpeed BF16 optimizer)").stack == "deepspeed-megatron-bf16"
    assert framework("Megatron-DeepSpeed 3D", "zero-1").stack == "deepspeed-megatron"
    assert framework("Megatron-DeepSpeed 3D", "zero-1", "bf16").stack == "deepspeed-megatron-bf16"
    assert framework("Megatron-LM", "").stack == "megatron-2021"
    assert framework("Megatron-LM 0.14 / TE 2.11", "").stack == "megatron-core"


def test_recomputation_that_a_source_does_not_state_is_unknown():
    """The column may hold an assumption; the notes say so."""
    stated, assumed = open_runs("training_runs"), open_runs("training_sweep_single_node")
    assert {run.recompute for run in assumed} == {"full"}
    assert all(recompute(run) is None for run in assumed)
    full = [run for run in stated if run.recompute == "full"]
    assert len(full) > 100
    assert all(recompute(run) == (1.0, 0) for run in full)
