"""Demand: how much compute, memory, time, energy and money a model needs, from pre-training to serving."""

from __future__ import annotations

from suanchou.demand.answer import Demand, demand
from suanchou.demand.fleet import Fleet
from suanchou.demand.serving import Load

__all__ = ["Demand", "Fleet", "Load", "demand"]
