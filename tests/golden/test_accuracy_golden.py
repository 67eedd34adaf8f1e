"""The gate on accuracy: no figure of the scoreboard may get worse by more than a point.

``python tests/golden/test_accuracy_golden.py`` measures again and writes ``accuracy.json``; it refuses to write a figure
that is worse by more than a point unless called with ``--accept``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from suanchou.validation.board import RunSet, memory_error, validate
from suanchou.validation.score import spearman

FILE = Path(__file__).parent / "accuracy.json"
POINT = 0.01

GOALS = {
    "full_median": 0.05,
    "full_p90": 0.15,
    "full_held_out_median": 0.07,
    "full_held_out_p90": 0.20,
    "refused": 0.03,
    "narayanan_mean": 0.05,
    "narayanan_max": 0.10,
    "sweep_mean": 0.12,
    "sweep_disorder": 0.05,
    "memory_median": 0.03,
    "memory_b200_median": 0.02,
}
"""What the model is held to whatever was measured before; ``disorder`` is 1 - Spearman. Lower is better throughout."""


def measure() -> dict[str, float]:
    """The figures of the scoreboard, all of them better when lower."""
    runs, sweep = validate().sets
    full = runs.part("complete")
    seen, out = runs.score(full), runs.score(runs.held_out_rows(full))
    wide, wide_out = runs.score(runs.part("trusted")), runs.score(runs.held_out_rows(runs.part("trusted")))
    small = sweep.score(sweep.part("trusted"))
    small_out = sweep.score(sweep.held_out_rows(sweep.part("trusted")))
    narayanan = np.abs([p.time_frac for p in runs.rows if "Narayanan" in p.run.source])
    pairs = [(p.step_s, p.measured_step_s) for p in sweep.part("trusted") if p.step_s and p.measured_step_s]
    order = spearman([a for a, _ in pairs], [b for _, b in pairs])
    assert order is not None
    return {
        "full_median": seen.median_abs_frac,
        "full_p90": seen.p90_abs_frac,
        "full_held_out_median": out.median_abs_frac,
        "full_held_out_p90": out.p90_abs_frac,
        "runs_median": wide.median_abs_frac,
        "runs_p90": wide.p90_abs_frac,
        "runs_held_out_median": wide_out.median_abs_frac,
        "runs_held_out_p90": wide_out.p90_abs_frac,
        "refused": 1.0 - wide.predicted / wide.n,
        "uncovered": 1.0 - wide.coverage_frac,
        "narayanan_mean": float(narayanan.mean()),
        "narayanan_max": float(narayanan.max()),
        "sweep_mean": small.mean_abs_frac,
        "sweep_held_out_mean": small_out.mean_abs_frac,
        "sweep_disorder": 1.0 - order,
        "memory_median": _memory(runs, ""),
        "memory_b200_median": _memory(runs, "SimuMax"),
        **{f"vendor_{name}_median": found.median_abs_frac for name, found in runs.by("vendor").items() if name},
    }


def _memory(runs: RunSet, source: str) -> float:
    errors = [memory_error(p) for p in runs.rows if source in p.run.source]
    return float(np.median(np.abs([error for error in errors if error is not None])))


@pytest.fixture(scope="module")
def measured():
    return measure()


@pytest.fixture(scope="module")
def recorded():
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_no_figure_is_worse_than_recorded_by_more_than_a_point(measured, recorded):
    assert set(recorded) <= set(measured), "a figure is missing"
    worse = {name: (old, measured[name]) for name, old in recorded.items() if measured[name] > old + POINT}
    assert not worse


@pytest.mark.parametrize("name", GOALS)
def test_the_goals_hold(measured, name):
    assert measured[name] <= GOALS[name]


def main() -> None:
    """Measure and write, unless a figure got worse."""
    found = measure()
    old = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    worse = [name for name, value in found.items() if value > old.get(name, np.inf) + POINT]
    for name, value in found.items():
        print(f"{name:28} {old.get(name, float('nan')):.4f} -> {value:.4f}  goal {GOALS.get(name, '')}")
    if worse and "--accept" not in sys.argv:
        raise SystemExit(f"worse by more than a point: {', '.join(worse)}")
    FILE.write_text(json.dumps({name: round(value, 4) for name, value in found.items()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
