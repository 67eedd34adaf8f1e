"""Goodput: the share of wall time that advances a job, from failures and checkpoints. Formulas only; floats or arrays.

A job works in intervals. Each ends with a checkpoint that costs ``cost_s`` of wall time and is durable ``lag_s`` later (zero
when the job waits for it). Failures come at random, independent of each other, once per ``mtbf_s``; one throws the job back to
the newest durable checkpoint after ``recovery_s``, which may fail itself. The formulas are exact for that process.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from suanchou.model.operators import Num

__all__ = ["best_interval_s", "daly_interval_s", "goodput_frac", "wall_shares", "young_interval_s"]


def goodput_frac(interval_s: Num, *, cost_s: Num, mtbf_s: Num, recovery_s: Num = 0.0, lag_s: Num = 0.0) -> Num:
    """Share of wall time that advances a job.

    With ``M = mtbf``, ``L = interval + cost``: ``interval exp(-(recovery + lag) / M) / (M (exp(L / M) - 1))``. A span between
    two failures makes a checkpoint durable at ``L + lag`` and every ``L`` after it, and costs ``M exp(recovery / M)`` with its
    recovery. For ``lag = 0`` this is Daly's (2006) model.
    """
    cycle = (interval_s + cost_s) / mtbf_s
    share: Num = interval_s / mtbf_s * np.exp(-(recovery_s + lag_s) / mtbf_s - cycle) / -np.expm1(-cycle)
    return share


def wall_shares(interval_s: Num, *, cost_s: Num, mtbf_s: Num, recovery_s: Num = 0.0, lag_s: Num = 0.0) -> Mapping[str, Num]:
    """Where the wall time goes, as shares that add up to one: ``useful``, ``checkpoint``, ``recovery`` and ``lost_work``.

    ``checkpoint`` is the cost of checkpoints that count; those of a span that failed are ``lost_work`` with its steps.
    """
    useful = goodput_frac(interval_s, cost_s=cost_s, mtbf_s=mtbf_s, recovery_s=recovery_s, lag_s=lag_s)
    checkpoint = useful * cost_s / interval_s
    recovery = -np.expm1(-recovery_s / mtbf_s)
    lost = np.maximum(0.0, 1.0 - useful - checkpoint - recovery)
    return {"useful": useful, "checkpoint": checkpoint, "recovery": recovery, "lost_work": lost}


def young_interval_s(cost_s: Num, mtbf_s: Num) -> Num:
    """First-order best interval, ``sqrt(2 cost M)`` (Young 1974)."""
    interval: Num = np.sqrt(2.0 * cost_s * mtbf_s)
    return interval


def daly_interval_s(cost_s: Num, mtbf_s: Num) -> Num:
    """Higher-order best interval (Daly 2006, equation 37): a series in ``x = sqrt(cost / 2 M)``; ``M`` where ``x >= 1``."""
    x = np.sqrt(cost_s / (2.0 * mtbf_s))
    interval: Num = np.where(x < 1.0, 2.0 * mtbf_s * x * (1.0 + x / 3.0 + x * x / 9.0) - cost_s, mtbf_s)
    return interval


def best_interval_s(cost_s: Num, mtbf_s: Num) -> Num:
    """The interval of the highest goodput: ``M (1 + W(-exp(-cost / M - 1)))`` with Lambert's W, whatever recovery and lag are.

    With ``interval = M (1 - exp(-y))`` that is ``y + exp(-y) - 1 = cost / M``, which keeps the digits that W loses where the
    cost is small. Newton's steps come from the right and never overshoot, for the left side is convex.
    """
    x = np.asarray(cost_s / mtbf_s, dtype=float)
    y = 1.0 + x
    for _step in range(60):
        y = y + (y + np.expm1(-y) - x) / np.expm1(-y)
    interval: Num = -np.expm1(-y) * mtbf_s
    return interval
