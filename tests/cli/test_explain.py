"""``suanchou explain``."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from suanchou.estimate import Estimate, total

TREE = total(
    "step",
    "s",
    (
        Estimate(
            name="forward", value=1.0, unit="s", formula="2 x 0.5", grade="measured", sources=("a book",), low=0.9, high=1.2
        ),
        total(
            "backward",
            "s",
            (
                Estimate(name="weights", value=1.5, unit="s", grade="assumed", assumptions=("all ranks alike",)),
                Estimate(name="inputs", value=0.5, unit="s", grade="exact"),
            ),
        ),
    ),
)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"kind": "plan", "command": "suanchou plan m", "result": {"estimate": TREE.to_dict()}}))
    return str(path)


def test_tree(suanchou, saved):
    result = suanchou("explain", saved)
    assert result.code == 0
    for _path, node in TREE.walk():
        assert node.name in result.out
    lines = result.out.splitlines()
    assert next(line for line in lines if "forward" in line).split() == ["├─", "forward", "1", "s", "measured"]
    assert next(line for line in lines if "inputs" in line).startswith("   └─ inputs")


@pytest.mark.parametrize("path", ["step.forward", "forward"])
def test_one_number(suanchou, saved, path):
    out = suanchou("explain", saved, path).out
    for text in ("1 s", "900 ms .. 1.2 s", "2 x 0.5", "measured", "a book"):
        assert text in out


def test_children(suanchou, saved):
    out = suanchou("explain", saved, "backward").out
    assert "weights + inputs" in out
    assert "computed from, as a sum" in out
    assert "all ranks alike" in suanchou("explain", saved, "backward.weights").out


def test_values_as_people_and_as_files_write_them(suanchou, tmp_path):
    tree = Estimate(name="weights", value=2.0**31, unit="byte", children=(Estimate(name="rows", value=1234567.0, unit="row"),))
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"kind": "plan", "result": {"estimate": tree.to_dict()}}))
    out = suanchou("explain", str(path), "weights").out
    assert "2.147 GB (2.14748e+09 byte)" in out
    assert "1.23457e+06 row" in out


def test_json(suanchou, saved):
    data = json.loads(suanchou("explain", saved, "backward", "--json").out)
    assert data["result"]["explained"]["value"] == 2.0
    everything = json.loads(suanchou("explain", saved, "--json").out)["result"]["explained"]
    assert everything["step.backward.weights"] == 1.5


def test_standard_input(suanchou, saved, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(Path(saved).read_text()))
    assert "forward" in suanchou("explain", "-").out


def test_unknown_path_says_what_is_there(suanchou, saved):
    result = suanchou("explain", saved, "backward.bubble")
    assert result.code == 3
    assert "weights, inputs" in result.err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"result": 3}',
        b'{"result": {}}',
        b'{"result": {"estimate": {"name": "x"}}}',
        b'{"result": {"estimate": [1]}}',
        b'{"result": {"estimate": {"name": "x", "unit": "s", "value": NaN}}}',
        b'{"result": {"estimate": {"name": "x", "unit": "s", "value": "many"}}}',
        b'{"result": {"estimate": {"name": "x", "unit": "s", "value": 1, "children": 7}}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_bad_files(suanchou, tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    result = suanchou("explain", str(path))
    assert result.code == 3
    assert "bad.json" in result.err
    assert "Traceback" not in result.err


def test_missing_file_and_directory(suanchou, tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        result = suanchou("explain", str(path))
        assert result.code == 3
        assert str(path) in result.err
