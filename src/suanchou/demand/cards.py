"""Cards of one accelerator, and what a piece of work costs on them in card time, days, energy and money."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from suanchou.catalog import catalogue
from suanchou.demand.data import Constant, constant
from suanchou.demand.flop import short
from suanchou.errors import SpecError
from suanchou.estimate import Estimate, worst_grade
from suanchou.i18n import _
from suanchou.machine import Accelerator, Site, accelerator, cluster, training_dtype, usual_node
from suanchou.model.num import Num
from suanchou.units import fmt, parse

__all__ = ["Cards", "card_h", "card_time", "cards_from", "choose_dtype"]

_RATE = re.compile(r"\d[\d,.]*\s*([TPE]|[TPEZ]?FLOPS|[TPEZ]?FLOP/s)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
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
            raise SpecError("this needs at least one card", where=self.accelerator.id, hint="write for example h100:64")


def choose_dtype(device: Accelerator, dtype: str | None = None) -> str:
    """The type asked for, else the 16-bit one training uses.

    Raises
    ------
    MissingData : no peak is published for it.
    """
    if dtype is None:
        return training_dtype(device)
    device.peak(dtype)
    return dtype


def cards_from(text: str, *, where: str = "--on") -> tuple[Cards, ...]:
    """The cards an argument names.

    ``h100-sxm5-80gb`` (card time only), ``h100-sxm5-80gb:64``, ``dgx-h100:8`` or a cluster's name (also the time they take
    together), or a bare rate as Chinese centres state theirs: ``500P``.

    Raises
    ------
    SpecError : no such machine.
    """
    if _RATE.fullmatch(text.strip()):
        return (Cards(accelerator=_centre(text.strip(), where), n_card=1),)
    source = catalogue()
    if source.resolve("accelerators", text) and not source.resolve("clusters", text):
        device = accelerator(text)
        node = usual_node(text)
        known = node.power_w is not None and node.accelerator.id == device.id
        return (Cards(accelerator=device, power_w=node.power_w / node.n_accelerator if known and node.power_w else None),)
    groups = cluster([text], where=where).groups
    return tuple(
        Cards(
            accelerator=group.node.accelerator,
            n_card=group.n_accelerator,
            power_w=None if group.node.power_w is None else group.node.power_w / group.node.n_accelerator,
        )
        for group in groups
    )


def _centre(text: str, where: str) -> Accelerator:
    """A whole computing centre known only by its 16-bit peak."""
    rate = parse(text, "flop/s", where=where)
    return Accelerator(
        id=text.replace(" ", ""),
        name=_("a centre of {rate}").format(rate=fmt(rate, "flop/s")),
        vendor="",
        country="",
        kind="gpu",
        family="",
        peak_flop_per_s={"bf16": rate, "fp16": rate},
        memory_byte=None,
        memory_bandwidth_byte_per_s=None,
        warnings=(_("a bare rate: its precision is taken to be dense 16-bit; card-days are days of the whole centre"),),
    )


def card_h(flop: Num, peak_flop_per_s: Num, mfu: Num, goodput: Num = 1.0) -> Num:
    """Card-hours of a piece of work: ``flop / (peak * mfu * goodput) / 3600``."""
    return flop / (peak_flop_per_s * mfu * goodput) / 3600.0


def _power(cards: Cards) -> Estimate | None:
    a = cards.accelerator
    if cards.power_w is not None:
        return Estimate(
            name="power",
            value=cards.power_w,
            unit="w",
            sources=a.sources,
            assumptions=("design power of the server over its cards",),
            grade="datasheet",
        )
    if a.tdp_w is None:
        return None
    note = "design power of the card alone: that of its server is not known"
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


def _costs(time: Estimate, cards: Cards, site: Site) -> Iterator[Estimate]:
    a, power = cards.accelerator, _power(cards)
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
    flop: Estimate, cards: Cards, *, site: Site, mfu: Constant, goodput: Constant, dtype: str | None = None
) -> Estimate:
    """Card-hours of ``flop`` on a cards, with days, energy, carbon and money below it.

    Parameters
    ----------
    flop : model FLOP (recomputation not counted), because MFU is defined on them.
    mfu, goodput : their bands give the range.

    Raises
    ------
    MissingData : the accelerator has no published peak for the type.
    """
    a = cards.accelerator
    dtype = choose_dtype(a, dtype)
    peak = Estimate(name="peak", value=a.peak(dtype), unit="flop/s", assumptions=(dtype,), sources=a.sources, grade="datasheet")
    (slow_mfu, fast_mfu), (slow, fast) = mfu.band, goodput.band
    time = Estimate(
        name=a.id,
        value=float(card_h(flop.value, peak.value, mfu.value, goodput.value)),
        unit="card_h",
        formula=f"{short(flop.value)} / ({short(peak.value)} * {mfu.value} * {goodput.value}) / 3600",
        assumptions=(f"{dtype} dense peak", "MFU and goodput are planning bands; a plan computes them: suanchou plan"),
        grade=worst_grade(mfu.grade, goodput.grade, peak.grade),
        low=float(card_h(flop.value, peak.value, fast_mfu, fast)),
        high=float(card_h(flop.value, peak.value, slow_mfu, slow)),
    )
    below = [peak, mfu.estimate("mfu"), goodput.estimate("goodput")]
    if cards.n_card is not None:
        text = f"{short(time.value)} h * 3600 s/h / {cards.n_card} cards"
        below.append(_scaled(time, 3600.0 / cards.n_card, Estimate(name="duration", value=0.0, unit="s", formula=text)))
    below += _costs(time, cards, site)
    return replace(time, children=tuple(below))
