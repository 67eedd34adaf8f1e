"""CPU time of commands in fresh processes, as ratios to a bare interpreter where that says more than seconds."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import suanchou

SRC = str(Path(suanchou.__file__).parents[1])


def cpu_s(*words: str) -> float:
    """CPU seconds of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=os.environ | {"PYTHONPATH": SRC})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def median_cpu_s(*words: str, rounds: int = 5) -> float:
    return statistics.median(cpu_s(*words) for _ in range(rounds))


def measured(benchmark, capsys, name: str, *words: str) -> float:
    benchmark.pedantic(cpu_s, args=words, rounds=3)
    seconds, bare = median_cpu_s(*words), median_cpu_s("-c", "pass")
    benchmark.extra_info.update({"cpu_s": seconds, "times_bare_interpreter": seconds / bare})
    with capsys.disabled():
        print(f"\n{name}: {seconds:.3f} s of CPU, {seconds / bare:.1f} times a bare interpreter")
    return seconds


def test_plan(benchmark, capsys):
    words = ("-m", "suanchou", "plan", "llama-3.1-70b", "--on", "dgx-h100:128", "--tokens", "15T")
    assert measured(benchmark, capsys, "plan", *words) < 2.0


def test_demand(benchmark, capsys):
    assert measured(benchmark, capsys, "demand", "-m", "suanchou", "demand", "llama-3.1-70b", "--tokens", "15T") < 0.5


def test_import(benchmark, capsys):
    seconds = measured(benchmark, capsys, "import suanchou", "-c", "import suanchou")
    assert seconds < 6 * median_cpu_s("-c", "pass")


def test_help(benchmark, capsys):
    seconds = measured(benchmark, capsys, "suanchou --help", "-m", "suanchou", "--help")
    assert seconds < 15 * median_cpu_s("-c", "pass")
