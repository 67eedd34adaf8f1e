"""Problems for tests of planning: a model on machines, with what a plan would take for granted."""

from __future__ import annotations

from functools import cache

from suanchou.machine import cluster, training_dtype
from suanchou.model.parameters import parameter_count
from suanchou.model.source import find_model
from suanchou.training.problem import Problem
from suanchou.training.stack import default_stack, stack
from suanchou.training.workload import workload


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
