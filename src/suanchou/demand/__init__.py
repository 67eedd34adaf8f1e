"""Demand: how much compute, memory, time, energy and money a model needs, from pre-training to serving."""

from __future__ import annotations

from suanchou.demand.answer import Demand, demand
from suanchou.demand.cards import Cards, cards_from
from suanchou.demand.serving import Load
from suanchou.demand.workload import Tokens

__all__ = ["Cards", "Demand", "Load", "Tokens", "cards_from", "demand"]
