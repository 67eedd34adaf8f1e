"""Machines: accelerators, nodes, the wires between them and the place they stand in, from the catalogue."""

from __future__ import annotations

from suanchou.machine.accelerator import Accelerator
from suanchou.machine.cluster import Cluster, Group, Node, Site, Tier
from suanchou.machine.device import accelerator, training_dtype
from suanchou.machine.fleet import cluster, usual_node
from suanchou.machine.place import site
from suanchou.machine.server import node

__all__ = [
    "Accelerator",
    "Cluster",
    "Group",
    "Node",
    "Site",
    "Tier",
    "accelerator",
    "cluster",
    "node",
    "site",
    "training_dtype",
    "usual_node",
]
