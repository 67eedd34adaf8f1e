"""Start-up and single answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import suanchou
from suanchou.catalog import Catalogue
from suanchou.demand.request import Request, demand_for

SRC = str(Path(suanchou.__file__).parents[1])


def suanchou_process(*words: str) -> None:
    env = os.environ | {"PYTHONPATH": SRC}
    subprocess.run([sys.executable, "-m", "suanchou", *words], check=True, capture_output=True, env=env)


def test_help(benchmark):
    benchmark.pedantic(suanchou_process, args=("--help",), rounds=10)


def test_demand_from_the_shell(benchmark):
    benchmark.pedantic(suanchou_process, args=("demand", "llama-3.1-70b", "--tokens", "15T"), rounds=5)


def test_plan_from_the_shell(benchmark):
    benchmark.pedantic(suanchou_process, args=("plan", "llama-3.1-70b", "--on", "dgx-h100:128", "--tokens", "15T"), rounds=3)


def test_load_the_catalogue(benchmark):
    assert len(benchmark(lambda: Catalogue().names("accelerators"))) > 100


def test_demand_from_python(benchmark):
    answer = benchmark(demand_for, Request(model="llama-3.1-70b", tokens="15T"))
    assert answer is not None
