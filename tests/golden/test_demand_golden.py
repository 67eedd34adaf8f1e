"""Golden answers of ``suanchou demand``: every number of a few scenarios, so that a change shows in review.

Run this file as a script to write the answers anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from suanchou.demand.request import Request, demand_for

FOLDER = Path(__file__).parent / "demand"
SCENARIOS = {
    "gpt-3": Request(model="gpt-3-175b", tokens="300B", machines=("a100-sxm4-80gb:1024", "ascend-910b2", "500P")),
    "llama-70b-served": Request(model="llama-3.1-70b", tokens="15T", users="1M", machines=("h100-sxm5-80gb", "ascend-910b2")),
    "mixtral-ppo": Request(model="mixtral-8x7b", purpose="ppo", machines=("ascend-910b2",), optimizer="adam-8bit"),
    "llama-8b-qlora": Request(model="llama-3.1-8b", purpose="qlora", machines=("hygon-bw1000",), lora_rank=64),
}


def numbers(request: Request) -> dict[str, float]:
    return {path: float(f"{node.value:.9g}") for path, node in demand_for(request).estimate.walk()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_numbers_are_as_before(name: str) -> None:
    expected = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert numbers(SCENARIOS[name]) == pytest.approx(expected, rel=1e-8)


if __name__ == "__main__":
    for name, request in SCENARIOS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(numbers(request), indent=1) + "\n", encoding="utf-8")
