"""``suanchou plan`` on several groups, from the shell."""

from __future__ import annotations

import json

import pytest

from suanchou.estimate import Estimate

FLEET = ("--on", "dgx-h100:2", "--on", "atlas-800t-a2:2")
ASK = ("plan", "llama-3.1-8b", *FLEET, "--tokens", "1T", "--seq", "4096", "--batch", "128")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved answer, made once."""
    from suanchou.cli.main import run

    path = tmp_path_factory.mktemp("mixed") / "mixed.json"
    assert run([*ASK, "-o", str(path), "-q"]) == 0
    return path


def data(result) -> dict:
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_the_tables(suanchou):
    result = suanchou(*ASK, "-v")
    assert result.code == 0, result.err
    for text in (
        "What each group does",
        "Best plan",
        " ... ",
        "Step time",
        "Plans compared",
        "H100 SXM5 80GB",
        "Ascend 910B2",
        "A alone",
        "Limited by",
        "link between groups",
        "compute type bf16",
        "reproduce: suanchou plan llama-3.1-8b --on dgx-h100:2 --on atlas-800t-a2:2",
    ):
        assert text in result.out


def test_the_json_contract(saved):
    answer = json.loads(saved.read_text())
    assert answer["kind"] == "mixed-training-plan"
    result = answer["result"]
    assert {
        "variant", "groups", "n_rank", "step_s", "parts", "fleet", "link", "days", "mfu", "memory_frac", "verdict",
        "limited_by", "left_out", "rivals", "refused", "interrupted", "estimate",
    } <= set(result)  # fmt: skip
    assert [group["group"] for group in result["fleet"]] == ["A", "B"]
    assert [group["accelerator"] for group in result["fleet"]] == ["h100-sxm5-80gb", "ascend-910b2"]
    assert result["link"]["assumed"] is True
    for part in result["parts"]:
        assert part["memory_needed_byte"] <= part["memory_byte"] <= part["memory_high_byte"]
        assert part["memory_needed_byte"] <= part["memory_capacity_byte"]
        assert len(part["layers"]) == part["strategy"]["pp"] == len(part["stage_s"])
        assert 0 < part["busy_frac"] <= 1 + 1e-9
    for rival in result["rivals"]:
        assert rival["slower_frac"] == pytest.approx(rival["step_s"] / result["step_s"] - 1)
    tree = Estimate.from_dict(result["estimate"])
    assert tree["step"].value == pytest.approx(result["step_s"])
    assert tree.find("groups.group_a").value <= result["step_s"] * (1 + 1e-9)


def test_the_same_question_gives_the_same_answer(suanchou, saved):
    assert data(suanchou(*ASK, "--json"))["result"] == json.loads(saved.read_text())["result"]


def test_any_number_explains_itself(suanchou, saved):
    for path in ("step", "memory", "groups.group_b", "utilisation.mfu", "time"):
        result = suanchou("explain", str(saved), path)
        assert result.code == 0, result.err
        assert "formula" in result.out


def test_a_dumped_scenario_gives_the_same_plan(suanchou, tmp_path):
    path = tmp_path / "fleet.yaml"
    assert suanchou(*ASK, "--link", "100Gb/s:20us", f"--dump-scenario={path}", "-q").code == 0
    text = path.read_text()
    assert "link: 100Gb/s:20us" in text
    again = data(suanchou("plan", str(path), "--json"))["result"]
    direct = data(suanchou(*ASK, "--link", "100Gb/s:20us", "--json"))["result"]
    assert again["step_s"] == pytest.approx(direct["step_s"])
    assert again["parts"] == direct["parts"]


def test_a_fleet_file_with_two_groups(suanchou, tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("groups:\n  - on: dgx-h100:2\n  - on: atlas-800t-a2:2\n")
    words = ("plan", "llama-3.1-8b", "--on", str(path), "--tokens", "1T", "--seq", "4096", "--batch", "128", "--json")
    assert data(suanchou(*words))["result"]["n_rank"] == data(suanchou(*ASK, "--json"))["result"]["n_rank"]


def test_a_useless_group_is_left_out_in_the_first_line(suanchou):
    result = suanchou(
        "plan", "llama-3.1-8b", "--on", "dgx-h100:4", "--on", "dgx-a100-80gb:1", "--tokens", "1T", "--link", "100Mb/s", "-q"
    )
    assert result.code == 0, result.err
    assert "Leave out B (8 x A100 SXM4 80GB)" in " ".join(result.out.split())
    assert "left out" in result.out


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(suanchou, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    result = suanchou(*ASK)
    assert result.code == 0
    assert max(len(line) for line in result.out.splitlines()) <= width


def test_in_chinese(suanchou):
    result = suanchou(*ASK, "--lang", "zh", "-v")
    assert result.code == 0
    for text in ("各组的分工", "方案对比", "组间链路", "仅 A"):
        assert text in result.out


def test_csv_is_the_comparison(suanchou):
    result = suanchou(*ASK, "--format", "csv")
    assert result.code == 0
    assert result.out.splitlines()[0].startswith("#,plan,leaves out")


@pytest.mark.parametrize(
    ("words", "code", "texts"),
    [
        ((*ASK, "--link", "fast"), 3, ("--link",)),
        ((*ASK, "--link", "200Gb/s:"), 3, ("--link", "colon")),
        ((*ASK, "--exhaustive"), 3, ("--exhaustive",)),
        (("plan", "llama-3.1-8b", "--on", "dgx-h100:1", "--tokens", "1T", "--link", "200Gb/s"), 3, ("--link", "one group")),
        ((*ASK, "--deadline", "1 hour"), 4, ("--deadline",)),
        ((*ASK, "--dtype", "fp16", "--stack", "nosuch"), 3, ("nosuch",)),
        (("plan", "llama-3.1-8b", *(("--on", "dgx-h100:1") * 7), "--tokens", "1T"), 4, ("7 groups",)),
        (
            (
                "plan", "gpt-3-175b", "--on", "h100-sxm5-80gb:1", "--on", "a100-sxm4-80gb:1",
                "--tokens", "1B", "--seq", "2048", "--no-offload",
            ),
            4,
            ("no strategy", "needs more memory than the accelerator has"),
        ),
    ],
)  # fmt: skip
def test_refusals(suanchou, words, code, texts):
    result = suanchou(*words)
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    for text in texts:
        assert text in result.err


def test_an_interrupt_prints_the_best_so_far(suanchou, monkeypatch):
    from suanchou.training import mixed

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(mixed._Search, "_data", interrupted)
    result = suanchou(*ASK, "--json")
    assert result.code == 130
    assert json.loads(result.out)["result"]["interrupted"] is True


@pytest.mark.parametrize("more", [("--sweep", "seq=2048,4096"), ("--sweep", "nodes=1..2"), ("--what-if",)])
def test_sweeps_and_changes_of_several_groups_are_refused_in_one_line(suanchou, more):
    result = suanchou(*ASK, *more, "-q")
    assert (result.code, result.out) == (3, "")
    assert "one kind of machine" in result.err.splitlines()[0]
    assert "where: --on" in result.err


def test_a_saved_plan_of_several_groups_is_not_compared(suanchou, saved):
    result = suanchou("compare", str(saved), str(saved))
    assert result.code == 3
    assert "a mixed fleet cannot be compared" in result.err
