"""Run: what a whole training job takes in days, energy, carbon and money."""

from __future__ import annotations

from typing import Any, NamedTuple

from suanchou.cost.spread import widest
from suanchou.estimate import Estimate, worst_grade
from suanchou.training.defaults import Default, default
from suanchou.training.problem import Problem
from suanchou.training.reliability import Groups, Reliability, goodput_estimate

__all__ = ["run_estimates"]

HOUR_S = 3600.0
YEAR_H = 24.0 * 365.25


def run_estimates(
    problem: Problem,
    step_s: float,
    n_rank: int,
    *,
    goodput: float | Estimate | None = None,
    reliability: Reliability | None = None,
    usd_per_accelerator_h: float | None = None,
    peers: Groups = (),
) -> tuple[Estimate, ...]:
    """Wall time, card-hours, energy, carbon and money of ``problem.work`` at ``step_s`` per step on ``n_rank`` ranks.

    ``time = steps * step / goodput``, where the goodput follows from failures and checkpoints (``reliability``) unless it is
    given, as a share or as an Estimate; energy counts whole nodes; money is rent where a rent is known, else purchase spread
    over the service life, plus electricity. ``peers`` are other machines in the same job, whose failures count. What cannot
    be computed for want of data is left out. Ranges combine the worst, and the best, of every input, among them the interval
    of the step: the widest of all machines in the job.

    Raises
    ------
    Infeasible : failures come so often that the job hardly advances.
    """
    work = problem.work
    share = (
        goodput
        if isinstance(goodput, Estimate)
        else goodput_estimate(problem, step_s, n_rank, given=goodput, reliability=reliability, peers=peers)
    )
    n_step = work.n_step
    time_s = n_step * step_s / share.value
    quick, slow = widest((problem.family, *(peer.family for peer, _n_rank in peers)))
    time = Estimate(
        name="time",
        value=time_s,
        unit="s",
        formula=f"{n_step:.6g} steps * {step_s:.6g} s / goodput {share.value:.6g}",
        grade=share.grade,
        low=n_step * step_s * quick / (share.high or share.value),
        high=n_step * step_s * slow / (share.low or share.value),
        children=(
            Estimate(
                name="steps",
                value=n_step,
                unit="step",
                formula=f"{work.token:.6g} tokens / ({work.global_batch} * {work.seq})",
                grade="exact",
            ),
            share,
        ),
    )
    packages = n_rank / problem.accelerator.dies
    span = _Span.of(time)
    card_h = span.estimate(
        name="card_hours",
        value=packages * time_s / HOUR_S,
        unit="card_h",
        formula=f"{packages:g} accelerators * {time_s:.6g} s / 3600",
        grade=share.grade,
    )
    energy = _energy(problem, n_rank, time)
    return (time, card_h, *energy, *_money(problem, card_h, energy, usd_per_accelerator_h))


class _Span(NamedTuple):
    """How far the ends of a range lie from its middle, as factors; both 1 where there is no range."""

    low: float = 1.0
    high: float = 1.0

    @classmethod
    def of(cls, one: Estimate | Default) -> _Span:
        """The range of a value."""
        return cls((one.low or one.value) / one.value, (one.high or one.value) / one.value)

    def __mul__(self, other: _Span) -> _Span:  # type: ignore[override]  # factors, not repetitions
        """The range of a product."""
        return _Span(self.low * other.low, self.high * other.high)

    def estimate(self, *, value: float, **fields: Any) -> Estimate:
        """An Estimate with this range."""
        if self == _Span():
            return Estimate(value=value, **fields)
        return Estimate(value=value, low=value * self.low, high=value * self.high, **fields)


def _energy(problem: Problem, n_rank: int, time: Estimate) -> tuple[Estimate, ...]:
    node, site, load = problem.node, problem.cluster.site, default("power_frac")
    if node.power_w is not None:
        power_w, how, grade = (
            node.power_w / node.n_accelerator,
            f"{node.power_w:g} W per node / {node.n_accelerator}",
            "datasheet",
        )
    elif problem.accelerator.tdp_w is not None:
        power_w, how, grade = problem.accelerator.tdp_w, "board power; hosts and network left out", "assumed"
    else:
        return ()
    value = power_w * n_rank * load.value * site.pue * time.value
    span = _Span.of(time) * _Span.of(load)
    energy = span.estimate(
        name="energy",
        value=value,
        unit="j",
        formula=f"{power_w:.6g} W ({how}) * {n_rank} * load {load.value:g} * PUE {site.pue:g} * {time.value:.6g} s",
        sources=(*node.sources, *site.sources, load.source),
        grade=worst_grade("assumed", grade),  # type: ignore[arg-type]  # one of the two words above
    )
    kwh = value / 3.6e6
    carbon = span.estimate(
        name="carbon",
        value=kwh * site.gco2_per_kwh / 1000.0,
        unit="kg",
        formula=f"{kwh:.6g} kWh * {site.gco2_per_kwh:g} g/kWh ({site.region}) / 1000",
        sources=site.sources,
        grade="assumed",
    )
    return (energy, carbon)


def _money(
    problem: Problem, card_h: Estimate, energy: tuple[Estimate, ...], usd_per_accelerator_h: float | None
) -> tuple[Estimate, ...]:
    acc = problem.accelerator
    rank_h = card_h.value * acc.dies
    rent = acc.rent_usd_per_h if usd_per_accelerator_h is None else usd_per_accelerator_h / acc.dies
    if rent is not None:
        given = usd_per_accelerator_h is not None
        return (
            _Span.of(card_h).estimate(
                name="money",
                value=rent * rank_h,
                unit="usd",
                formula=f"{rank_h:.6g} accelerator-hours * {rent:g} USD/h (rent, electricity included)",
                sources=("given by --usd-per-hour",) if given else acc.sources,
                grade="exact" if given else "assumed",
            ),
        )
    return () if acc.price_usd is None else (_purchase(problem, acc.price_usd, card_h, energy),)


def _purchase(problem: Problem, price_usd: float, card_h: Estimate, energy: tuple[Estimate, ...]) -> Estimate:
    """A share of the purchase, and electricity; the range is that of wall time, service life and server cost."""
    acc, site = problem.accelerator, problem.cluster.site
    life, server = default("amortisation_year"), default("server_cost_frac")
    rank_h, span = card_h.value * acc.dies, _Span.of(card_h)

    def hourly(years: float, share: float) -> float:
        return price_usd * (1.0 + share) / (years * YEAR_H)

    hardware = hourly(life.value, server.value) * rank_h
    ends = (
        hourly(life.high or life.value, server.low or server.value) * rank_h * span.low,
        hourly(life.low or life.value, server.high or server.value) * rank_h * span.high,
    )
    usd_per_j = site.usd_per_kwh / 3.6e6
    power = [energy[0].value, energy[0].low or energy[0].value, energy[0].high or energy[0].value] if energy else [0.0] * 3
    value = hardware + power[0] * usd_per_j
    return Estimate(
        name="money",
        value=value,
        unit="usd",
        formula=(
            f"{rank_h:.6g} accelerator-hours * {price_usd:g} USD * (1 + {server.value:g}) / ({life.value:g} years) "
            f"+ electricity {power[0] * usd_per_j:.6g} USD"
        ),
        sources=(*acc.sources, life.source, server.source, *site.sources),
        grade="assumed",
        low=ends[0] + power[1] * usd_per_j,
        high=ends[1] + power[2] * usd_per_j,
    )
