"""Reports as text: what each format promises, whatever is in the cells."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from suanchou.errors import SpecError
from suanchou.estimate import Estimate
from suanchou.i18n import use_language
from suanchou.report.render import to_csv, to_html, to_json, to_markdown, to_rich
from suanchou.report.report import Column, Report, Table

cells = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=20)
number_cells = st.from_regex(r"[0-9]{1,3}(,[0-9]{3})?\.[0-9]", fullmatch=True)


def report(*tables: Table, **fields) -> Report:
    return Report(kind="t", inputs={}, result=fields.pop("result", {}), tables=tables, **fields)


def text_of(item: Report, width: int = 100, **how) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=width, emoji=False, markup=False, highlight=False).print(to_rich(item, **how))
    return buffer.getvalue()


@st.composite
def tables(draw):
    n = draw(st.integers(1, 4))
    columns = tuple(
        Column(name=f"col {i}", unit=draw(st.sampled_from(["", "s"])), align="left" if i == 0 else "right") for i in range(n)
    )
    rows = draw(st.lists(st.tuples(cells, *[number_cells] * (n - 1)), max_size=4))
    return Table(title="t", columns=columns, rows=tuple(rows))


@given(tables())
def test_csv_gives_back_the_cells(table):
    rows = list(csv.reader(io.StringIO(to_csv(report(table)), newline="")))
    assert [tuple(row) for row in rows[1:]] == list(table.rows)


@given(tables())
def test_markdown_rows_have_as_many_cells_as_the_heading(table):
    lines = [line for line in to_markdown(report(table)).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.rows)
    bars = {line.replace("\\|", "").count("|") for line in lines}
    assert bars == {len(table.columns) + 1}


@given(tables(), st.sampled_from([80, 120]))
def test_text_fits_and_breaks_no_number(table, width):
    text = text_of(report(table), width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    for row in table.rows:
        for cell in row[1:]:
            assert cell in text


def test_cells_are_not_markup():
    table = Table(title="[b]t[/b]", columns=(Column(name="a", align="left"),), rows=(("[red]x[/red] :smile:",),))
    text = text_of(report(table, headline="[i]h[/i]", warnings=("[u]w[/u]",)))
    for part in ("[b]t[/b]", "[red]x[/red] :smile:", "[i]h[/i]", "[u]w[/u]"):
        assert part in text


def test_numbers_align_right():
    table = Table(title="", columns=(Column(name="a"),), rows=(("1",), ("1,000",)))
    lines = [line.rstrip() for line in text_of(report(table)).splitlines()]
    assert lines[-2:] == ["    1", "1,000"]


def test_chinese_headings_keep_columns_straight():
    table = Table(title="", columns=(Column(name="value"), Column(name="value")), rows=(("1.5", "22.5"),))
    with use_language("zh"):
        lines = text_of(report(table)).splitlines()
    assert "数值" in lines[0]
    assert cell_len(lines[0].rstrip()) == cell_len(lines[2].rstrip())


@dataclass(frozen=True)
class Point:
    x: float
    where: PurePosixPath


def test_json_of_everything_a_result_may_hold():
    result = {
        "array": np.arange(3),
        "scalar": np.float64(1.5),
        "whole": np.int64(7),
        "point": Point(1.0, PurePosixPath("a/b")),
        "pair": (1, None),
        "names": frozenset({"b", "a"}),
        "万": True,
        3: "three",
        "tree": Estimate(name="x", value=1.0, unit="s"),
    }
    data = json.loads(to_json(report(result=result)))["result"]
    assert data == {
        "array": [0, 1, 2],
        "scalar": 1.5,
        "whole": 7,
        "point": {"x": 1.0, "where": "a/b"},
        "pair": [1, None],
        "names": ["a", "b"],
        "万": True,
        "3": "three",
        "tree": {"name": "x", "value": 1.0, "unit": "s", "grade": "derived"},
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("-inf")])
def test_json_holds_only_finite_numbers(value):
    with pytest.raises(ValueError, match="JSON"):
        to_json(report(result={"x": value}))


def test_json_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="object"):
        to_json(report(result={"x": object()}))


def test_json_is_sorted_and_ends_with_a_line_break():
    text = to_json(report(result={"b": 1, "a": 2}))
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")


def test_unknown_definition_is_refused():
    with pytest.raises(SpecError, match="no term"):
        to_json(report(definitions=("nonsense",)))


def test_no_table_no_csv():
    assert to_csv(report()) == ""


def test_csv_prefers_plain_numbers():
    shown = Table(title="", columns=(Column(name="step"),), rows=(("32.2 s",),), main=True)
    plain = Table(title="", columns=(Column(name="step_s"),), rows=(("32.1868",),))
    assert to_csv(report(shown, data=plain)) == "step_s\n32.1868\n"
    assert "32.2 s" in to_markdown(report(shown, data=plain))


def test_html_is_escaped():
    table = Table(title="<t>", columns=(Column(name="a"),), rows=(("<script>",),))
    item = report(table, headline="a < b", warnings=("<w>",))
    html = item._repr_html_()
    assert html == to_html(item)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_a_report_draws_itself():
    item = report(headline="hello")
    buffer = io.StringIO()
    Console(file=buffer).print(item)
    assert buffer.getvalue().strip() == "hello"
    assert item.to_dict()["kind"] == "t"
