"""Question: the problem that a number of ranks poses, from a model, a cluster and what the user said of the job."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

from suanchou.machine import training_dtype
from suanchou.machine.cluster import Cluster
from suanchou.model.architecture import Architecture
from suanchou.model.parameters import parameter_count
from suanchou.training.problem import Problem
from suanchou.training.stack import default_stack
from suanchou.training.stack import stack as stack_named
from suanchou.training.workload import Workload, workload

__all__ = ["on_ranks", "problem_on", "workloads"]


def on_ranks(problem: Problem, n_rank: int, work: Workload) -> Problem:
    """A workload on as many nodes as ``n_rank`` ranks need."""
    group = problem.cluster.groups[0]
    n_node = max(1, math.ceil(n_rank / group.node.n_accelerator))
    return replace(problem, cluster=replace(problem.cluster, groups=(replace(group, n_node=n_node),)), work=work)


def workloads(
    arch: Architecture, cluster: Cluster, *, token: float, dtype: str | None, seq: int | None, global_batch: int | None
) -> Callable[..., Workload]:
    """The workload for a number of ranks, ``n_rank``."""
    return functools.partial(
        workload,
        arch,
        token=token,
        dtype=dtype or training_dtype(cluster.groups[0].node.accelerator),
        parameters=float(parameter_count(arch)),
        seq=seq,
        global_batch=global_batch,
    )


def problem_on(
    arch: Architecture,
    cluster: Cluster,
    n_rank: int,
    *,
    token: float,
    seq: int | None = None,
    global_batch: int | None = None,
    dtype: str | None = None,
    stack: str | None = None,
) -> Problem:
    """What :func:`suanchou.training.plan.plan` prices strategies of ``n_rank`` ranks for; its arguments, too."""
    work = workloads(arch, cluster, token=token, dtype=dtype, seq=seq, global_batch=global_batch)(n_rank=n_rank)
    software = stack_named(stack) if stack else default_stack(cluster.groups[0].node.accelerator.vendor)
    return on_ranks(Problem(work, cluster, software), n_rank, work)
