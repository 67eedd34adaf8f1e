"""suanchou 算筹: plan compute for large models.

The public names live in their rooms and are imported on first use, so that ``import suanchou`` loads no numerical library::

    import suanchou

    model = suanchou.find_model("llama-3.1-70b")
    best = suanchou.plan(model.architecture, suanchou.cluster(["dgx-h100:128"]), token=15e12)
    print(best.estimate.find("step").value)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Catalogue",
    "Cluster",
    "Demand",
    "Estimate",
    "FoundModel",
    "Infeasible",
    "MissingData",
    "MissingExtra",
    "MixedPlan",
    "Plan",
    "Report",
    "Request",
    "Scenario",
    "SpecError",
    "SuanchouError",
    "Sweep",
    "WhatIf",
    "__version__",
    "accelerator",
    "architecture_from_config",
    "catalogue",
    "cluster",
    "compare",
    "demand_for",
    "explain",
    "find_model",
    "node",
    "parameter_count",
    "parse_axis",
    "plan",
    "plan_for",
    "plan_mixed",
    "site",
    "sweep",
    "use_catalog",
    "what_if",
]

_PUBLIC = {
    "Architecture": "suanchou.model.architecture",
    "Catalogue": "suanchou.catalog",
    "Cluster": "suanchou.machine",
    "Demand": "suanchou.demand",
    "Estimate": "suanchou.estimate",
    "FoundModel": "suanchou.model.source",
    "Infeasible": "suanchou.errors",
    "MissingData": "suanchou.errors",
    "MissingExtra": "suanchou.errors",
    "MixedPlan": "suanchou.training.mixed",
    "Plan": "suanchou.training.plan",
    "Report": "suanchou.report.report",
    "Request": "suanchou.demand.request",
    "Scenario": "suanchou.training.scenario",
    "SpecError": "suanchou.errors",
    "SuanchouError": "suanchou.errors",
    "Sweep": "suanchou.training.sweep",
    "WhatIf": "suanchou.training.what_if",
    "accelerator": "suanchou.machine",
    "architecture_from_config": "suanchou.model.config",
    "catalogue": "suanchou.catalog",
    "cluster": "suanchou.machine",
    "compare": "suanchou.report.compare",
    "demand_for": "suanchou.demand.request",
    "explain": "suanchou.report.explain",
    "find_model": "suanchou.model.source",
    "node": "suanchou.machine",
    "parameter_count": "suanchou.model.parameters",
    "parse_axis": "suanchou.training.sweep",
    "plan": "suanchou.training.plan",
    "plan_for": "suanchou.training.scenario",
    "plan_mixed": "suanchou.training.mixed",
    "site": "suanchou.machine",
    "sweep": "suanchou.training.sweep",
    "use_catalog": "suanchou.catalog",
    "what_if": "suanchou.training.what_if",
}


if TYPE_CHECKING:
    from suanchou.catalog import Catalogue, catalogue, use_catalog
    from suanchou.demand import Demand
    from suanchou.demand.request import Request, demand_for
    from suanchou.errors import Infeasible, MissingData, MissingExtra, SpecError, SuanchouError
    from suanchou.estimate import Estimate
    from suanchou.machine import Cluster, accelerator, cluster, node, site
    from suanchou.model.architecture import Architecture
    from suanchou.model.config import architecture_from_config
    from suanchou.model.parameters import parameter_count
    from suanchou.model.source import FoundModel, find_model
    from suanchou.report.compare import compare
    from suanchou.report.explain import explain
    from suanchou.report.report import Report
    from suanchou.training.mixed import MixedPlan, plan_mixed
    from suanchou.training.plan import Plan, plan
    from suanchou.training.scenario import Scenario, plan_for
    from suanchou.training.sweep import Sweep, parse_axis, sweep
    from suanchou.training.what_if import WhatIf, what_if


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'suanchou' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
