"""Scenario files: what is read, what is refused and where the error points."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suanchou.errors import SpecError
from suanchou.spec import SIZE_CAP_BYTE, apply_overrides, dump, load, parse, structure


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    tp: int
    lr: float = 1e-4
    recompute: Literal["none", "full"] = "none"
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.tp < 1:
            raise SpecError("tp must be at least 1", hint="try 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    model: str
    training: Training
    on: tuple[str, ...] = ()
    options: dict[str, float] = field(default_factory=dict)
    quick: bool = False


@pytest.fixture
def write(tmp_path):
    def to_file(text: str, name: str = "s.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def refusal(call, *words, **named) -> str:
    with pytest.raises(SpecError) as caught:
        call(*words, **named)
    return str(caught.value)


def test_yaml_and_json_give_the_same(write):
    yaml = write("model: m\ntraining:\n  tp: 8\n  lr: 1e-3\non: [a:8, b:2]\n")
    json = write('{"model": "m", "training": {"tp": 8, "lr": 1e-3}, "on": ["a:8", "b:2"]}', "s.json")
    assert load(yaml, Scenario) == load(json, Scenario)
    assert load(yaml, Scenario) == Scenario(model="m", training=Training(tp=8, lr=1e-3), on=("a:8", "b:2"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e12", 1e12),
        ("1E+12", 1e12),
        ("-2.5e3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("7", 7),
    ],
)
def test_numbers_are_what_they_look_like(text, value):
    found = parse(f"x: {text}", "t")["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["on", "yes", "1:30", "010", "2026-01-01", "0x10", ".inf", ".nan", "1e", "e3"])
def test_what_only_looks_like_a_number_or_flag_stays_text(text):
    assert parse(f"x: {text}", "t") == {"x": text}


def test_all_problems_are_listed_with_paths(write):
    path = write("model: 3\ntraining:\n  tp: many\n  lrr: 1\nquick: 1\n")
    message = refusal(load, path, Scenario)
    for expected in (
        "$.model: expected text",
        "$.training.tp: expected int",
        "$.training.lrr: unknown key",
        "$.quick: expected true",
    ):
        assert f"{path}: {expected}" in message


def test_unknown_key_suggests():
    assert "did you mean training?" in refusal(structure, {"model": "m", "training": {"tp": 1}, "trainig": 1}, Scenario, "t")
    assert "known: tp, lr" in refusal(structure, {"model": "m", "training": {"tp": 1, "zzz": 1}}, Scenario, "t")


def test_missing_key():
    message = refusal(structure, {"training": {"tp": 1}}, Scenario, "t")
    assert message == "t: $.model: missing (add a line model: ...)"


def test_broken_invariant_keeps_its_path_and_hint():
    message = refusal(structure, {"model": "m", "training": {"tp": 0}}, Scenario, "t")
    assert message == "t: $.training: tp must be at least 1 (try 1)"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("tp", 2.0, "write 2 without a dot"),
        ("tp", True, "expected int"),
        ("tp", "8", "expected int"),
        ("lr", "fast", "expected a number"),
        ("lr", True, "expected a number"),
        ("recompute", "some", "some"),
        ("deadline_s", "soon", "expected float or nothing"),
    ],
)
def test_nothing_is_converted_silently(field, value, expected):
    message = refusal(structure, {"model": "m", "training": {"tp": 1} | {field: value}}, Scenario, "t")
    assert f"$.training.{field}" in message
    assert expected in message


def test_an_int_may_stand_for_a_float():
    assert structure({"tp": 1, "lr": 1, "deadline_s": 60}, Training, "t") == Training(tp=1, lr=1.0, deadline_s=60.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "appears twice"),
        ("a:\n  b: 1\n  b: 2\n", "s.yaml:3"),
        ("", "the file is empty"),
        ("- 1\n", "a list"),
        ("a: [1\n", "not a scenario"),
        ("a: &x 1\nb: *x\n", "aliases are not allowed"),
        ("a: !!python/object:os.system {}\n", "not a scenario"),
        ("? [1, 2]\n: 3\n", "keys must be names"),
        ("1: 2\n", "is not a name"),
        ("a: 1e999\n", "not a usable number"),
        ("a: \x01\n", "not YAML"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a: " + "[" * 5000, ""),
    ],
)
def test_malformed_yaml(write, text, expected):
    message = refusal(load, write(text), Scenario)
    assert "s.yaml" in message
    assert expected in message


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', "{", "[1]", '{"a": NaN}', '{"a": Infinity}', "[" * 100_000])
def test_malformed_json(write, text):
    assert "s.json" in refusal(load, write(text, "s.json"), Scenario)


def test_files_that_are_none(tmp_path, write):
    assert "directory" in refusal(load, tmp_path, Scenario)
    assert "cannot read" in refusal(load, tmp_path / "none.yaml", Scenario)
    big = write("a: " + "x" * SIZE_CAP_BYTE)
    assert "4 MiB" in refusal(load, big, Scenario)
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not a text file" in refusal(load, binary, Scenario)


def test_overrides(write):
    path = write("model: m\ntraining:\n  tp: 8\n")
    found = load(path, Scenario, overrides=["training.tp=2", "training.lr=1e12", "on=[x, y]", "quick=true", "options.a=1"])
    assert found == Scenario(model="m", training=Training(tp=2, lr=1e12), on=("x", "y"), quick=True, options={"a": 1.0})


def test_overrides_leave_the_data_alone():
    data = {"a": {"b": 1}}
    assert apply_overrides(data, ["a.b=2", "c="]) == {"a": {"b": 2}, "c": ""}
    assert data == {"a": {"b": 1}}


@pytest.mark.parametrize("text", ["a.b", "=3", "a..b=1", "model.x=1", "a=[1"])
def test_bad_overrides(text):
    assert "--set" in refusal(apply_overrides, {"model": "m"}, [text])


words = st.text("ab1e9.:#-'\"[ \n万", max_size=6)
names = st.text("abcé万_", min_size=1, max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(names, scalars, max_size=3)


@given(st.dictionaries(names, values, max_size=4))
def test_dump_and_parse_are_inverse(data):
    assert parse(dump(data), "t") == data


def test_text_that_looks_like_a_number_is_quoted():
    data = {"a": ["1e12", "1e3", "yes", "1:30", "010", "8", "1.5", "null"]}
    assert parse(dump(data), "t") == data


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(SpecError):
        assert isinstance(parse(text, "t"), dict)


def test_dataclass_round_trip():
    scenario = Scenario(model="m", training=Training(tp=4, deadline_s=3.0), on=("a",))
    assert structure(parse(dump(scenario), "t"), Scenario, "t") == scenario
