"""Price: one strategy in full, as trees of Estimates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from suanchou.cost.spread import spread
from suanchou.estimate import Estimate
from suanchou.model.flop import executed_flop_per_token, flop_per_token
from suanchou.training.explain import explain_memory, explain_step, fullest_stage
from suanchou.training.problem import Problem
from suanchou.training.search import Tables, tables
from suanchou.training.strategy import LAYOUT_FIELDS, Strategy

__all__ = ["Priced", "price", "tables_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What one strategy takes: a step in seconds, memory in bytes, and the use it makes of the machine."""

    strategy: Strategy
    step: Estimate
    memory: Estimate
    utilisation: Estimate
    fullest_stage: str


def price(problem: Problem, s: Strategy) -> Priced:
    """Step time, memory and utilisation of one strategy, whether it fits or not.

    ``low`` and ``high`` of the step hold nine in ten runs of sources that the cost model has not seen.

    Raises
    ------
    MissingData : the accelerator lacks a peak, memory or network figure.
    """
    table = tables_of(problem, s)
    step = explain_step(problem, s, table.time, table.activation)
    low, high = spread(problem.family)
    step = replace(step, low=step.value * low, high=step.value * high)
    return Priced(
        strategy=s,
        step=step,
        memory=explain_memory(problem, s, table.activation),
        utilisation=_utilisation(problem, s, step.value),
        fullest_stage=fullest_stage(problem, s, table.activation),
    )


def tables_of(problem: Problem, s: Strategy) -> Tables:
    """Layer prices of one strategy."""
    return tables(
        problem, Strategy(**{name: np.atleast_1d(np.asarray(getattr(s, name), dtype=float)) for name in LAYOUT_FIELDS})
    )


def _utilisation(problem: Problem, s: Strategy, step_s: float) -> Estimate:
    work, n_rank = problem.work, int(np.asarray(s.n_rank))
    peak = problem.accelerator.peak(work.low_dtype if s.fp8 else work.dtype) * n_rank
    has_mtp = bool(work.arch.mtp)
    model = flop_per_token(work.arch, work.seq, mtp=has_mtp)
    kind = "full" if s.full_frac else "selective" if s.selective else "none"
    attention = "flash" if problem.stack.attention == "flash" else "eager"
    executed = executed_flop_per_token(work.arch, work.seq, recompute=kind, attention=attention, mtp=has_mtp)  # type: ignore[arg-type]
    again = float(s.full_frac) * executed["recompute"].value if s.full_frac else executed["recompute"].value
    hardware = executed.value - executed["recompute"].value + again
    token_per_s = work.batch_token / step_s

    def share(name: str, flop: float, what: str) -> Estimate:
        return Estimate(
            name=name,
            value=flop * token_per_s / peak,
            unit="frac",
            formula=f"{flop:.6g} {what} FLOP per token * {token_per_s:.6g} tokens/s / ({n_rank} * {peak / n_rank:.6g} FLOP/s)",
            sources=problem.accelerator.sources,
        )

    mfu = share("mfu", model.value, "model (causal)")
    return Estimate(
        name="utilisation",
        value=mfu.value,
        unit="frac",
        formula="model FLOP utilisation, causal attention counted once",
        children=(
            mfu,
            share("hfu", hardware, "executed (recomputation and flash backward counted)"),
            Estimate(
                name="token_rate",
                value=token_per_s / n_rank,
                unit="token/s",
                formula=f"{work.batch_token} tokens / {step_s:.6g} s / {n_rank} ranks",
            ),
            replace(model, name="model_flop_per_token"),
        ),
    )
