"""Golden answers of ``suanchou plan``: the best plan of a few scenarios, so that a change shows in review.

``python tests/golden/test_plan_golden.py`` prints what changed and writes the answers anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from suanchou.training.scenario import Scenario, plan_for

FOLDER = Path(__file__).parent / "plan"
SCENARIOS = {
    "llama-70b-h100": Scenario(model="llama-3.1-70b", on=("dgx-h100:128",), tokens="15T"),
    "llama-8b-ascend": Scenario(model="llama-3.1-8b", on=("atlas-800t-a2:64",), tokens="2T", seq=8192),
    "llama-8b-one-node": Scenario(model="llama-3.1-8b", on=("dgx-h100:1",), tokens="10B", batch=64),
    "llama-8b-fp8-fewest": Scenario(
        model="llama-3.1-8b", on=("dgx-h100:16",), tokens="1T", dtype="fp8", objective="accelerators", deadline="60 days"
    ),
    "gpt-3-a100": Scenario(model="gpt-3-175b", on=("dgx-a100-80gb:64",), tokens="300B", seq=2048, batch=512),
    "gpt-3-megatron-2021": Scenario(
        model="gpt-3-175b", on=("dgx-a100-80gb:128",), tokens="300B", seq=2048, batch=1536, stack="megatron-2021"
    ),
    "mixtral-h100": Scenario(model="mixtral-8x7b", on=("dgx-h100:16",), tokens="2T", seq=4096, batch=1024),
    "deepseek-v3-h100": Scenario(model="deepseek-v3", on=("dgx-h100:256",), tokens="14.8T", seq=4096, batch=4096),
}


def snapshot(scenario: Scenario) -> dict[str, Any]:
    answer = plan_for(scenario)
    return {
        "label": answer.strategy.label,
        "n_rank": answer.n_rank,
        "n_candidate": answer.found.n_candidate,
        "verdict": answer.verdict,
        "step_s": answer.step_s,
        "memory_byte": answer.estimate["memory"].value,
        "mfu": answer.estimate["utilisation"]["mfu"].value,
        "hfu": answer.estimate["utilisation"]["hfu"].value,
        "step": {part.name: part.value for part in answer.estimate["step"].children},
    }


def kept(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.9g}") if isinstance(value, float) else value


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_best_plan_is_as_before(name):
    found, expected = snapshot(SCENARIOS[name]), kept(name)
    assert found["label"] == expected["label"]
    assert found.pop("step") == pytest.approx(expected.pop("step"), rel=1e-6, abs=1e-12)
    assert {key: value for key, value in found.items() if not isinstance(value, float)} == {
        key: value for key, value in expected.items() if not isinstance(value, float)
    }
    for key, value in expected.items():
        if isinstance(value, float):
            assert found[key] == pytest.approx(value, rel=1e-6), key


def test_every_kept_answer_has_a_scenario():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(SCENARIOS)


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Field, old value and new value of everything that differs."""
    rows = []
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict):
            rows += [(f"{key}.{name}", a, b) for name, a, b in changes(old or {}, value)]
        elif isinstance(value, float) and isinstance(old, float):
            if value != pytest.approx(old, rel=1e-6, abs=1e-12):
                share = f"{100 * (value / old - 1):+.2f} %" if old else "new"
                rows.append((key, f"{old:.6g}", f"{value:.6g} ({share})"))
        elif value != old:
            rows.append((key, str(old), str(value)))
    return rows


def rebaseline() -> None:
    """Write every answer anew and print what changed."""
    FOLDER.mkdir(exist_ok=True)
    for name, scenario in SCENARIOS.items():
        before, after = kept(name), rounded(snapshot(scenario))
        rows = changes(before, after) if before else []
        print(f"{name}: {len(rows)} changes" if before else f"{name}: new, {after['label']}")
        for field, old, new in rows:
            print(f"  {field:<24} {old:>32} -> {new}")
        (FOLDER / f"{name}.json").write_text(json.dumps(after, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    rebaseline()
