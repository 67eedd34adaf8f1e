"""``suanchou trace`` and the timeline options of ``suanchou plan``."""

from __future__ import annotations

import json

import pytest

PLAN = ("plan", "llama-3.1-8b", "--on", "dgx-h100:1", "--tokens", "1T", "--pin", "pp=4")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, request):
    from suanchou.cli.main import run

    file = tmp_path_factory.mktemp("plan") / "plan.json"
    assert run([*PLAN, "-o", str(file), "-q"]) == 0
    return file


def test_a_saved_plan_is_drawn_as_the_plan_itself(suanchou, saved, tmp_path):
    direct, later = tmp_path / "direct.json", tmp_path / "later.json"
    assert suanchou(*PLAN, "--trace", str(direct), "-q").code == 0
    assert suanchou("trace", str(saved), "--trace", str(later), "-q").code == 0
    one, two = (json.loads(file.read_text(encoding="utf-8")) for file in (direct, later))
    assert one["traceEvents"] == two["traceEvents"]
    assert one["otherData"]["step_s"] == pytest.approx(json.loads(saved.read_text())["result"]["step_s"], rel=0.01)


def test_the_answer_sums_up_each_rank(suanchou, saved):
    data = json.loads(suanchou("trace", str(saved), "--json").out)
    assert data["kind"] == "timeline"
    result = data["result"]
    assert len(result["ranks"]) == 4
    for rank in result["ranks"]:
        assert sum(value for name, value in rank.items() if name.endswith("_s")) == pytest.approx(result["step_s"])


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_chart_follows_the_tables(suanchou, saved, lang):
    for words in (("trace", str(saved)), PLAN):
        out = suanchou(*words, "--gantt", "--lang", lang).out
        assert "█" in out
        assert "┊" in out or "▓" in out


def test_a_chart_goes_to_the_terminal_only(suanchou, saved, tmp_path):
    for words in (("--json",), ("-o", str(tmp_path / "x.txt"))):
        result = suanchou("trace", str(saved), "--gantt", *words)
        assert result.code == 3
        assert "--trace" in result.err


def test_what_is_no_plan_is_refused(suanchou, tmp_path, saved):
    file = tmp_path / "other.json"
    file.write_text('{"kind": "demand", "result": {}}')
    assert suanchou("trace", str(file)).code == 3
    data = json.loads(saved.read_text())
    del data["result"]["strategy"]["tp"]
    file.write_text(json.dumps(data))
    result = suanchou("trace", str(file))
    assert result.code == 3
    assert "tp" in result.err


def test_a_schedule_is_kept_where_the_stack_has_it(suanchou):
    words = (*PLAN, "--pin", "dp=1", "--stack", "primus", "--json")
    assert json.loads(suanchou(*words, "--schedule", "zb-h1").out)["result"]["strategy"]["schedule"] == "zb-h1"
    refused = suanchou(*PLAN, "--schedule", "dualpipe")
    assert refused.code == 3
    assert "1f1b" in refused.err
    assert suanchou(*PLAN, "--schedule", "gpipe").code == 3
