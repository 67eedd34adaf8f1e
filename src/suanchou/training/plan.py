"""Plan: the best way to train a model on a cluster, the plans that lose and why. `plan` is the function behind the command."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from suanchou.cost.spread import outside
from suanchou.errors import Infeasible, SpecError
from suanchou.estimate import Estimate
from suanchou.i18n import N_, _
from suanchou.machine import training_dtype
from suanchou.machine.cluster import Cluster
from suanchou.model.architecture import Architecture
from suanchou.model.parameters import parameter_count
from suanchou.training.explain import step_parts, verdict
from suanchou.training.price import price, tables_of
from suanchou.training.problem import Problem
from suanchou.training.question import on_ranks, workloads
from suanchou.training.reliability import Reliability
from suanchou.training.run import run_estimates
from suanchou.training.schedule import SCHEDULES
from suanchou.training.search import Candidate, Found, search
from suanchou.training.stack import Stack, default_stack
from suanchou.training.stack import stack as stack_named
from suanchou.training.strategy import Options, Strategy, divisors
from suanchou.training.time import step_time
from suanchou.training.workload import Objective, Workload

__all__ = ["Plan", "Rival", "outside_published", "plan"]


FLEET_SIZES = 32
"""Numbers of nodes tried, evenly spread, besides divisors and powers of two; every number up to this many nodes."""


class Rival(NamedTuple):
    """A plan that lost: its price and what it loses by."""

    candidate: Candidate
    slower_frac: float
    why: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer of :func:`plan`.

    ``estimate`` is the tree ``training`` with ``step``, ``memory``, ``utilisation`` and the run; ``rivals`` the next best plans
    with the causes of their extra time as shares of the best step; ``found`` the census of the search.
    """

    problem: Problem
    objective: Objective
    strategy: Strategy
    estimate: Estimate
    verdict: str
    fullest_stage: str
    limit: tuple[tuple[str, float], ...]
    rivals: tuple[Rival, ...]
    found: Found
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    offload: bool

    @property
    def n_rank(self) -> int:
        """Ranks the plan uses."""
        return int(np.asarray(self.strategy.n_rank))

    @property
    def step_s(self) -> float:
        """Seconds per step."""
        return self.estimate["step"].value

    @property
    def days(self) -> float:
        """Days of the whole run."""
        return self.estimate["time"].value / 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What the search must answer, besides the problem. ``work_on(n_rank=...)`` is the workload for so many ranks."""

    work_on: Callable[..., Workload]
    objective: Objective
    deadline_s: float | None
    goodput: float | None
    reliability: Reliability | None
    usd_per_accelerator_h: float | None
    fixed: Mapping[str, int]
    options: Options
    fp8: bool
    keep: int
    exhaustive: bool
    progress: Callable[[int, int], None] | None


def _run(problem: Problem, step_s: float, n_rank: int, q: _Question) -> tuple[Estimate, ...]:
    return run_estimates(
        problem,
        step_s,
        n_rank,
        goodput=q.goodput,
        reliability=q.reliability,
        usd_per_accelerator_h=q.usd_per_accelerator_h,
    )


def _sizes(problem: Problem) -> list[int]:
    """Numbers of ranks worth trying when not all must be used: parts of a node, then whole nodes."""
    per_node, nodes = problem.node.n_accelerator, problem.cluster.groups[0].n_node
    even = range(1, nodes + 1, max(1, nodes // FLEET_SIZES))
    whole = {*even, *divisors(nodes), *(2**i for i in range(nodes.bit_length()) if 2**i <= nodes)}
    return sorted({*divisors(per_node), *(n * per_node for n in whole)})


def _part(problem: Problem, n_rank: int, q: _Question) -> Problem:
    """The same problem on the first ``n_rank`` ranks, with a batch that they can share out where it was left open."""
    return on_ranks(problem, n_rank, q.work_on(n_rank=n_rank))


def _search(problem: Problem, n_rank: int, q: _Question) -> Found:
    return search(
        problem,
        n_rank=n_rank,
        fixed=dict(q.fixed),
        options=q.options,
        fp8=q.fp8,
        keep=q.keep + 1,
        exhaustive=q.exhaustive,
        progress=q.progress,
    )


def _cost(problem: Problem, found: Found, n_rank: int, q: _Question) -> float:
    """What the objective minimises, infinite where nothing fits or the deadline passes."""
    if not found.best:
        return math.inf
    run = {part.name: part for part in _run(problem, found.best[0].step_s, n_rank, q)}
    if q.deadline_s is not None and run["time"].value > q.deadline_s:
        return math.inf
    name = {"time": "time", "money": "money", "energy": "energy", "accelerators": ""}[q.objective]
    if not name:
        return float(n_rank)
    if name not in run:
        raise Infeasible(
            f"the {name} of {problem.accelerator.name} is unknown",
            where=f"--objective {q.objective}",
            hint="give --usd-per-hour, or choose another objective",
        )
    return run[name].value


def _choose(problem: Problem, q: _Question) -> tuple[Problem, int, Found]:
    """The number of ranks that serves the objective, and the search on it."""
    everything = problem.cluster.n_accelerator
    if q.objective == "time":
        found = _search(problem, everything, q)
        if q.deadline_s is not None and found.best and math.isinf(_cost(problem, found, everything, q)):
            days = _run(problem, found.best[0].step_s, everything, q)[0].value / 86400.0
            raise Infeasible(
                f"the quickest plan takes {days:.4g} days", where="--deadline", hint="add accelerators or give it more time"
            )
        return problem, everything, found
    best: tuple[float, Problem, int, Found] | None = None
    last = None
    for n_rank in _sizes(problem):
        part = _part(problem, n_rank, q)
        last = found = _search(part, n_rank, q)
        cost = _cost(part, found, n_rank, q)
        if math.isfinite(cost) and (best is None or cost < best[0]):
            best = (cost, part, n_rank, found)
            if q.objective == "accelerators":
                break
    if best is None:
        assert last is not None
        if last.best:
            raise Infeasible("no number of accelerators meets the deadline", where="--deadline", hint="give it more time")
        return problem, everything, last
    return best[1:]


def _refuse(problem: Problem, found: Found, q: _Question) -> Infeasible:
    most = found.refused.most_common(1)[0][0] if found.refused else ""
    if "memory" in most:
        hint = "more accelerators, a shorter sequence or a smaller model"
    elif q.fixed:
        hint = "pin other degrees, or fewer"
    else:
        hint = "another --batch or --seq"
    return Infeasible(
        f"no strategy trains {problem.work.arch.name} on {problem.cluster.name}", hint=hint, reasons=dict(found.refused)
    )


def _why(best: dict[str, float], other: dict[str, float], most: int = 3) -> tuple[tuple[str, float], ...]:
    """The causes by which the other plan loses most, as shares of the best step."""
    step = sum(best.values())
    extra = sorted(((name, (other[name] - best[name]) / step) for name in best), key=lambda item: -item[1])
    return tuple((name, share) for name, share in extra[:most] if share > 0.001)


def plan(
    arch: Architecture,
    cluster: Cluster,
    *,
    token: float,
    seq: int | None = None,
    global_batch: int | None = None,
    dtype: str | None = None,
    fp8: bool = False,
    stack: str | Stack | None = None,
    objective: Objective = "time",
    deadline_s: float | None = None,
    goodput: float | None = None,
    reliability: Reliability | None = None,
    usd_per_accelerator_h: float | None = None,
    fixed: Mapping[str, int] | None = None,
    schedule: str | None = None,
    offload: bool | None = None,
    keep: int = 5,
    exhaustive: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """The best training plan.

    Parameters
    ----------
    token : training tokens. ``seq`` and ``global_batch`` default to what models of this size are trained with.
    dtype : ``bf16`` or ``fp16``; what the accelerator trains in unless given. ``fp8`` also tries fp8 linear layers.
    stack : a software stack, or its name; the one most used with the accelerator by default.
    objective : ``time`` uses every rank; ``money``, ``energy`` and ``accelerators`` also try fewer of them.
    deadline_s : longest wall time allowed.
    goodput : share of wall time that advances the model; by default it follows from ``reliability``: failures, checkpoints and
        restarts.
    fixed : layout fields to pin, for example ``{"tp": 8}``. ``schedule``: pipeline schedule
        to keep. ``offload``: whether host memory may hold
        states; by default only where nothing fits otherwise.
    keep : rivals to show. ``exhaustive`` prices every strategy, for the frontier.

    Raises
    ------
    Infeasible : nothing fits, or the deadline cannot be met; with the refusals by reason.
    MissingData : the accelerator lacks a peak, memory or network figure.
    SpecError : impossible inputs.
    """
    chosen_dtype = dtype or training_dtype(cluster.groups[0].node.accelerator)
    work_on = workloads(arch, cluster, token=token, dtype=dtype, seq=seq, global_batch=global_batch)
    vendor = cluster.groups[0].node.accelerator.vendor
    software = stack_named(stack) if isinstance(stack, str) else stack or default_stack(vendor)
    question = _Question(
        work_on=work_on,
        objective=objective,
        deadline_s=deadline_s,
        goodput=goodput,
        reliability=reliability,
        usd_per_accelerator_h=usd_per_accelerator_h,
        fixed=dict(fixed or {}) | _pinned_schedule(software, schedule),
        options=Options.build(software.zero_stages, offload=bool(offload)),
        fp8=fp8,
        keep=keep,
        exhaustive=exhaustive,
        progress=progress,
    )
    whole = Problem(work_on(n_rank=cluster.n_accelerator), cluster, software)
    whole.accelerator.peak(chosen_dtype)
    problem, n_rank, found = _choose(whole, question)
    if not found.best and offload is None:
        question = replace(question, options=Options.build(software.zero_stages))
        problem, n_rank, found = _choose(whole, question)
    if not found.best:
        raise _refuse(problem, found, question)
    return _answer(problem, n_rank, found, question, software)


def _pinned_schedule(software: Stack, name: str | None) -> dict[str, int]:
    if name is None:
        return {}
    if name not in software.schedules:
        raise SpecError(
            f"stack {software.name} has no pipeline schedule {name!r}",
            where="--schedule",
            hint=f"it has {', '.join(software.schedules)}; --stack names another",
        )
    return {"schedule": SCHEDULES[name].code}


def _answer(problem: Problem, n_rank: int, found: Found, q: _Question, software: Stack) -> Plan:
    best = found.best[0].strategy
    priced = price(problem, best)
    step, memory = priced.step, priced.memory
    run = _run(problem, step.value, n_rank, q)
    estimate = Estimate(
        name="training",
        value=run[0].value,
        unit="s",
        formula="wall time of the whole run",
        children=(step, memory, priced.utilisation, *run),
    )
    parts = {child.name: child.value for child in step.children}
    rivals = tuple(_rival(problem, parts, rival) for rival in found.best[1 : q.keep + 1])
    limit = sorted(((name, value / step.value) for name, value in parts.items()), key=lambda item: -item[1])
    return Plan(
        problem=problem,
        objective=q.objective,
        strategy=best,
        estimate=estimate,
        verdict=verdict(problem, memory),
        fullest_stage=priced.fullest_stage,
        limit=tuple(item for item in limit if item[1] > 0.01)[:4],
        rivals=rivals,
        found=found,
        assumptions=_assumptions(problem, run, q),
        warnings=_warnings(problem, found),
        offload=bool(q.options.offload_weight.any()),
    )


def _rival(problem: Problem, best: dict[str, float], rival: Candidate) -> Rival:
    table = tables_of(problem, rival.strategy)
    other = step_parts(step_time(problem, rival.strategy, table.time, table.activation))
    return Rival(rival, rival.step_s / sum(best.values()) - 1.0, _why(best, other))


def _assumptions(problem: Problem, run: Iterable[Estimate], q: _Question) -> tuple[str, ...]:
    work, stack, site = problem.work, problem.stack, problem.cluster.site
    out = [
        *work.assumptions,
        _("compute type {dtype}; software stack {name} ({title})").format(dtype=work.dtype, name=stack.name, title=stack.title),
    ]
    if not q.options.offload_weight.any():
        out.append(_("all states stay on the accelerators (--offload also tries host memory)"))
    if any(kind.parameters.expert for kind in problem.kinds):
        out.append(_("experts are evenly loaded"))
    if q.goodput is None:
        shares = [part["goodput"].value for part in run if part.name == "time"]
        out += [
            _("goodput {share:.1%}: failures, checkpoints and restarts (--goodput)").format(share=share) for share in shares
        ]
    out.append(_("electricity of {region}, PUE {pue:g}").format(region=site.region, pue=site.pue))
    return tuple(out)


_OUTSIDE = {
    "family": N_("no published run is on this family of accelerators: the interval is that of other such families"),
    "n_rank": N_("{value:,.0f} ranks are more than any published run has ({largest:,.0f}): the interval may be too narrow"),
    "seq": N_("{value:,.0f} tokens are longer than any published run ({largest:,.0f}): the interval may be too narrow"),
    "parameter": N_(
        "the model is larger than that of any published run ({largest:.3g} parameters): the interval may be too narrow"
    ),
}


def outside_published(problem: Problem, n_rank: int) -> list[str]:
    """Where a plan on ``n_rank`` ranks leaves what published runs cover."""
    work = problem.work
    found = outside(problem.family, n_rank, work.seq, float(parameter_count(work.arch)))
    return [_(_OUTSIDE[name]).format(value=value, largest=largest) for name, value, largest in found]


def _warnings(problem: Problem, found: Found) -> tuple[str, ...]:
    out = [
        *problem.cluster.warnings,
    ]
    if problem.work.arch.vision is not None:
        out.append(_("the vision tower counts in memory; its compute does not, as if all tokens were text"))
    missing = problem.eff.assumed
    if missing:
        out.append(
            _("efficiency of {family} is partly assumed: {names}").format(
                family=problem.accelerator.family, names=", ".join(missing)
            )
        )
    out += outside_published(problem, problem.cluster.n_accelerator)
    if found.interrupted:
        out.append(_("the search was interrupted: this is the best plan so far"))
    return tuple(dict.fromkeys(out))
