"""Single answers from Python, without the start of a process."""

from __future__ import annotations

from suanchou.catalog import Catalogue
from suanchou.demand.request import Request, demand_for


def test_load_the_catalogue(benchmark):
    assert len(benchmark(lambda: Catalogue().names("accelerators"))) > 100


def test_demand_from_python(benchmark):
    answer = benchmark(demand_for, Request(model="llama-3.1-70b", tokens="15T"))
    assert answer is not None
