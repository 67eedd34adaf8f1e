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
    "SpecError",
    "SuanchouError",
    "__version__",
    "accelerator",
    "architecture_from_config",
    "catalogue",
    "cluster",
    "demand_for",
    "explain",
    "find_model",
    "node",
    "parameter_count",
    "plan",
    "plan_mixed",
    "site",
    "use_catalog",
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
    "SpecError": "suanchou.errors",
    "SuanchouError": "suanchou.errors",
    "accelerator": "suanchou.machine",
    "architecture_from_config": "suanchou.model.config",
    "catalogue": "suanchou.catalog",
    "cluster": "suanchou.machine",
    "demand_for": "suanchou.demand.request",
    "explain": "suanchou.report.explain",
    "find_model": "suanchou.model.source",
    "node": "suanchou.machine",
    "parameter_count": "suanchou.model.parameters",
    "plan": "suanchou.training.plan",
    "plan_mixed": "suanchou.training.mixed",
    "site": "suanchou.machine",
    "use_catalog": "suanchou.catalog",
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
    from suanchou.report.explain import explain
    from suanchou.report.report import Report
    from suanchou.training.mixed import MixedPlan, plan_mixed
    from suanchou.training.plan import Plan, plan


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'suanchou' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
