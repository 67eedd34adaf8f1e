"""Run: what a whole training job takes in days, energy, carbon and money."""

from __future__ import annotations

from suanchou.estimate import Estimate, worst_grade
from suanchou.training.defaults import Default, default
from suanchou.training.problem import Problem

__all__ = ["run_estimates"]

HOUR_S = 3600.0
YEAR_H = 24.0 * 365.25


def _goodput(value: float | None) -> Default:
    if value is None:
        return default("goodput")
    return Default(name="goodput", value=value, source="given by --goodput", grade="exact")


def run_estimates(
    problem: Problem, step_s: float, n_rank: int, *, goodput: float | None = None, usd_per_accelerator_h: float | None = None
) -> tuple[Estimate, ...]:
    """Wall time, card-hours, energy, carbon and money of ``problem.work`` at ``step_s`` per step on ``n_rank`` ranks.

    ``time = steps * step / goodput``; energy counts whole nodes; money is rent where a rent is known, else purchase spread over
    the service life, plus electricity. What cannot be computed for want of data is left out.
    """
    work, share = problem.work, _goodput(goodput)
    n_step = work.n_step
    time_s = n_step * step_s / share.value
    time = Estimate(
        name="time",
        value=time_s,
        unit="s",
        formula=f"{n_step:.6g} steps * {step_s:.6g} s / goodput {share.value:g}",
        grade=share.grade,
        low=n_step * step_s / share.high if share.high else None,
        high=n_step * step_s / share.low if share.low else None,
        children=(
            Estimate(
                name="steps",
                value=n_step,
                unit="step",
                formula=f"{work.token:.6g} tokens / ({work.global_batch} * {work.seq})",
                grade="exact",
            ),
            share.estimate("frac"),
        ),
    )
    packages = n_rank / problem.accelerator.dies
    card_h = Estimate(
        name="card_hours",
        value=packages * time_s / HOUR_S,
        unit="card_h",
        formula=f"{packages:g} accelerators * {time_s:.6g} s / 3600",
        grade=share.grade,
    )
    energy = _energy(problem, n_rank, time_s)
    return (time, card_h, *energy, *_money(problem, card_h, energy, n_rank, usd_per_accelerator_h))


def _energy(problem: Problem, n_rank: int, time_s: float) -> tuple[Estimate, ...]:
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
    value = power_w * n_rank * load.value * site.pue * time_s
    energy = Estimate(
        name="energy",
        value=value,
        unit="j",
        formula=f"{power_w:.6g} W ({how}) * {n_rank} * load {load.value:g} * PUE {site.pue:g} * {time_s:.6g} s",
        sources=(*node.sources, *site.sources, load.source),
        grade=worst_grade("assumed", grade),  # type: ignore[arg-type]  # one of the two words above
        low=value * (load.low or load.value) / load.value,
        high=value * (load.high or load.value) / load.value,
    )
    kwh = value / 3.6e6
    carbon = Estimate(
        name="carbon",
        value=kwh * site.gco2_per_kwh / 1000.0,
        unit="kg",
        formula=f"{kwh:.6g} kWh * {site.gco2_per_kwh:g} g/kWh ({site.region}) / 1000",
        sources=site.sources,
        grade="assumed",
    )
    return (energy, carbon)


def _money(
    problem: Problem, card_h: Estimate, energy: tuple[Estimate, ...], n_rank: int, usd_per_accelerator_h: float | None
) -> tuple[Estimate, ...]:
    acc, site = problem.accelerator, problem.cluster.site
    electricity_usd = energy[0].value / 3.6e6 * site.usd_per_kwh if energy else 0.0
    rank_h = card_h.value * acc.dies
    rent = acc.rent_usd_per_h if usd_per_accelerator_h is None else usd_per_accelerator_h / acc.dies
    if rent is not None:
        given = usd_per_accelerator_h is not None
        return (
            Estimate(
                name="money",
                value=rent * rank_h,
                unit="usd",
                formula=f"{rank_h:.6g} accelerator-hours * {rent:g} USD/h (rent, electricity included)",
                sources=("given by --usd-per-hour",) if given else acc.sources,
                grade="exact" if given else "assumed",
            ),
        )
    if acc.price_usd is None:
        return ()
    life, server = default("amortisation_year"), default("server_cost_frac")
    hourly = acc.price_usd * (1.0 + server.value) / (life.value * YEAR_H)
    return (
        Estimate(
            name="money",
            value=hourly * rank_h + electricity_usd,
            unit="usd",
            formula=(
                f"{rank_h:.6g} accelerator-hours * {acc.price_usd:g} USD * (1 + {server.value:g}) / ({life.value:g} years) "
                f"+ electricity {electricity_usd:.6g} USD"
            ),
            sources=(*acc.sources, life.source, server.source, *site.sources),
            grade="assumed",
        ),
    )
