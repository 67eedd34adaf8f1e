"""Fleets: cards of one accelerator, and what a piece of work costs on them in card time, days, energy and money."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from suanchou.demand.data import Constant, constant
from suanchou.demand.flop import short
from suanchou.errors import SpecError
from suanchou.estimate import Estimate, worst_grade
from suanchou.machine.accelerator import Accelerator
from suanchou.machine.cluster import Site

__all__ = ["DTYPES", "Fleet", "card_h", "card_time", "choose_dtype"]

DTYPES = ("bf16", "fp16")
"""Training types in the order they are tried where none is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Cards of one accelerator.

    Parameters
    ----------
    n_card : how many there are; ``None`` asks for card time only.
    power_w : per card with its share of the server; ``None``: the card's design power is taken.
    """

    accelerator: Accelerator
    n_card: int | None = None
    power_w: float | None = None

    def __post_init__(self) -> None:
        if self.n_card is not None and self.n_card < 1:
            raise SpecError("a fleet needs at least one card", where=self.accelerator.id, hint="write for example h100:64")


def choose_dtype(accelerator: Accelerator, dtype: str | None = None) -> str:
    """The type asked for, else bf16, else fp16.

    Raises
    ------
    MissingData : no peak is published for it.
    """
    wanted = dtype or next((d for d in DTYPES if d in accelerator.peak_flop_per_s), DTYPES[0])
    accelerator.peak(wanted)
    return wanted


def card_h(flop: float, peak_flop_per_s: float, mfu: float, goodput: float = 1.0) -> float:
    """Card-hours of a piece of work: ``flop / (peak * mfu * goodput) / 3600``."""
    return flop / (peak_flop_per_s * mfu * goodput) / 3600.0


def _power(fleet: Fleet) -> Estimate | None:
    a = fleet.accelerator
    if fleet.power_w is not None:
        return Estimate(name="power", value=fleet.power_w, unit="w", sources=a.sources, assumptions=("with the server",))
    if a.tdp_w is None:
        return None
    note = "design power of the card alone: the server's share is not published"
    return Estimate(name="power", value=a.tdp_w, unit="w", sources=a.sources, assumptions=(note,), grade="datasheet")


def _scaled(time: Estimate, factor: float, cost: Estimate) -> Estimate:
    """``cost`` as ``factor`` times the card time, with the same relative range."""
    return replace(
        cost,
        value=time.value * factor,
        grade=worst_grade(cost.grade, time.grade),
        low=None if time.low is None else time.low * factor,
        high=None if time.high is None else time.high * factor,
    )


def _powered(time: Estimate, power: Estimate, site: Site) -> Iterator[Estimate]:
    """Energy, carbon and the electricity bill."""
    kw = power.value * site.pue / 1e3
    kwh = f"{short(time.value * kw)} kWh"
    new = partial(Estimate, value=0.0, sources=site.sources)
    formula = f"{short(time.value)} h * 3600 s/h * {short(power.value)} W * PUE {site.pue}"
    yield _scaled(time, kw * 3.6e6, new(name="energy", unit="j", formula=formula, grade=power.grade, children=(power,)))
    yield _scaled(
        time, kw * site.gco2_per_kwh / 1e3, new(name="carbon", unit="kg", formula=f"{kwh} * {site.gco2_per_kwh} g / 1000")
    )
    yield _scaled(time, kw * site.usd_per_kwh, new(name="electricity", unit="usd", formula=f"{kwh} * {site.usd_per_kwh} USD"))


def _costs(time: Estimate, fleet: Fleet, site: Site) -> Iterator[Estimate]:
    a, power = fleet.accelerator, _power(fleet)
    hours = f"{short(time.value)} h"
    new = partial(Estimate, value=0.0, unit="usd", sources=a.sources, grade="assumed")
    if power is not None:
        yield from _powered(time, power, site)
    if a.rent_usd_per_h is not None:
        yield _scaled(time, a.rent_usd_per_h, new(name="rent", formula=f"{hours} * {a.rent_usd_per_h} USD/h"))
    if a.price_usd is not None and power is not None:
        life, busy = constant("ownership.life"), constant("ownership.busy")
        life_h, usd_per_h = life.value / 3600.0, power.value * site.pue / 1e3 * site.usd_per_kwh
        own = new(
            name="own",
            formula=f"{hours} * ({short(a.price_usd)} USD / ({short(life_h)} h * {busy.value}) + {short(usd_per_h)} USD/h)",
            assumptions=("cards and electricity only: servers, network and staff are not counted",),
            children=(life.estimate("life"), busy.estimate("busy")),
        )
        yield _scaled(time, a.price_usd / (life_h * busy.value) + usd_per_h, own)


def card_time(
    flop: Estimate, fleet: Fleet, *, site: Site, mfu: Constant, goodput: Constant, dtype: str | None = None
) -> Estimate:
    """Card-hours of ``flop`` on a fleet, with days, energy, carbon and money below it.

    Parameters
    ----------
    flop : model FLOP (recomputation not counted), because MFU is defined on them.
    mfu, goodput : their bands give the range.

    Raises
    ------
    MissingData : the accelerator has no published peak for the type.
    """
    a = fleet.accelerator
    dtype = choose_dtype(a, dtype)
    peak = Estimate(name="peak", value=a.peak(dtype), unit="flop/s", assumptions=(dtype,), sources=a.sources, grade="datasheet")
    (slow_mfu, fast_mfu), (slow, fast) = mfu.band, goodput.band
    time = Estimate(
        name=a.id,
        value=card_h(flop.value, peak.value, mfu.value, goodput.value),
        unit="card_h",
        formula=f"{short(flop.value)} / ({short(peak.value)} * {mfu.value} * {goodput.value}) / 3600",
        assumptions=(f"{dtype} dense peak", "MFU and goodput are planning bands; a plan computes them: suanchou plan"),
        grade=worst_grade(mfu.grade, goodput.grade, peak.grade),
        low=card_h(flop.value, peak.value, fast_mfu, fast),
        high=card_h(flop.value, peak.value, slow_mfu, slow),
    )
    below = [peak, mfu.estimate("mfu"), goodput.estimate("goodput")]
    if fleet.n_card is not None:
        text = f"{short(time.value)} h * 3600 s/h / {fleet.n_card} cards"
        below.append(_scaled(time, 3600.0 / fleet.n_card, Estimate(name="duration", value=0.0, unit="s", formula=text)))
    below += _costs(time, fleet, site)
    return replace(time, children=tuple(below))
