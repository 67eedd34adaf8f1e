"""No test sees the catalogue folder, language or colour settings of whoever runs it; what tests of planning share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from suanchou.machine import cluster, training_dtype
from suanchou.model.parameters import parameter_count
from suanchou.model.source import find_model
from suanchou.training.problem import Problem
from suanchou.training.stack import default_stack, stack
from suanchou.training.workload import workload


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch, tmp_path_factory):
    for name in ("SUANCHOU_CATALOG", "SUANCHOU_LANG", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


@cache
def build_problem(
    model: str, on: str, *, seq: int = 4096, batch: int = 64, token: float = 1e12, software: str | None = None
) -> Problem:
    machines = cluster([on])
    device = machines.groups[0].node.accelerator
    arch = find_model(model).architecture
    work = workload(
        arch,
        token=token,
        dtype=training_dtype(device),
        parameters=float(parameter_count(arch)),
        seq=seq,
        global_batch=batch,
    )
    return Problem(work, machines, stack(software) if software else default_stack(device.vendor))


@pytest.fixture(scope="session")
def problem() -> Callable[..., Problem]:
    """``problem(model, on, seq=, batch=, token=, software=)`` with the compute type and stack a plan would take."""
    return build_problem
