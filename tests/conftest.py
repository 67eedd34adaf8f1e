"""No test sees the catalogue folder, language or colour settings of whoever runs it; what tests of planning share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from problems import build_problem
from suanchou.training.problem import Problem


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch, tmp_path_factory):
    for name in ("SUANCHOU_CATALOG", "SUANCHOU_LANG", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


@pytest.fixture(scope="session")
def problem() -> Callable[..., Problem]:
    """``problem(model, on, seq=, batch=, token=, software=)`` with the compute type and stack a plan would take."""
    return build_problem
