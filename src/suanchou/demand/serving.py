"""A first estimate of how many cards serve a load: bandwidth- and compute-bound decode, prefill by FLOP.

No queueing, no scheduling, no communication: the deployment planner simulates those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from suanchou.demand.cards import Cards, choose_dtype
from suanchou.demand.data import Constant, constant
from suanchou.demand.flop import short
from suanchou.errors import Infeasible, MissingData, SpecError
from suanchou.estimate import Estimate
from suanchou.machine.accelerator import Accelerator
from suanchou.machine.cluster import Site

__all__ = ["Load", "Served", "critical_batch", "replica", "serving", "step_s"]

_MAX_CARD = 1024
_PREFERRED_CARD = 8
_LARGER = 4
"""Replicas up to this many times the smallest possible are tried: more memory for caches may save cards in all."""
FIRST = "first estimate: no queueing, scheduling or communication; perfect scaling inside a replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model as a serving card sees it, already in one weight format.

    Parameters
    ----------
    weight_byte : all weights.
    expert_byte : the routed experts' part of them.
    expert_share : share of the experts that one token visits (0 without experts).
    prefill_flop : forward FLOP per input token, its attention over the input so far.
    decode_flop : forward FLOP per output token at the mean context.
    kv_byte : cache and states of one sequence at its mean length.
    """

    weight_byte: float
    expert_byte: float = 0.0
    expert_share: float = 0.0
    prefill_flop: float
    decode_flop: float
    kv_byte: float

    def read_byte(self, batch: float) -> float:
        """Weights that a decode step of ``batch`` tokens reads: an expert is read if any token chose it.

        With independent uniform routing an expert stays unread with probability ``(1 - share)**batch``.
        """
        touched = 1.0 - math.pow(1.0 - self.expert_share, batch)
        return self.weight_byte - self.expert_byte + self.expert_byte * touched


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Who asks what: the mean day and its busiest hour."""

    users: float
    requests_per_user_day: Constant
    input_token: float
    output_token: float
    peak_factor: Constant
    tpot_s: float

    def __post_init__(self) -> None:
        for name, value in (("users", self.users), ("input tokens", self.input_token), ("output tokens", self.output_token)):
            if value < 1:
                raise SpecError(f"{name}: {value:g} is less than one", where="serving load", hint="give at least one")
        if self.tpot_s <= 0 or self.peak_factor.value < 1 or self.requests_per_user_day.value <= 0:
            raise SpecError("the load needs a positive TPOT and request rate, and a peak factor of one or more")

    @property
    def request_per_s(self) -> float:
        """Mean over the day."""
        return self.users * self.requests_per_user_day.value / 86_400.0

    @property
    def context(self) -> float:
        """Mean positions in view while decoding."""
        return self.input_token + self.output_token / 2


def step_s(model: Served, batch: float, *, bandwidth_byte_per_s: float, flop_per_s: float) -> float:
    """Time of one decode step: the slower of reading (weights once, every sequence's cache) and computing."""
    read = (model.read_byte(batch) + batch * model.kv_byte) / bandwidth_byte_per_s
    return max(read, batch * model.decode_flop / flop_per_s)


def critical_batch(accelerator: Accelerator, *, dtype: str, weight_byte: float = 2.0) -> float:
    """Batch at which reading a dense model's weights takes as long as computing: ``peak * byte / (2 * bandwidth)``.

    Raises
    ------
    MissingData : peak or bandwidth is not published.
    """
    return accelerator.peak(dtype) * weight_byte / (2 * _known(accelerator, "memory_bandwidth_byte_per_s"))


def _known(a: Accelerator, field: str) -> float:
    value: float | None = getattr(a, field)
    if value is None:
        name = {"memory_byte": "memory size", "memory_bandwidth_byte_per_s": "memory bandwidth"}[field]
        raise MissingData(f"no {name} is published for {a.name}", where=f"accelerators/{a.id}", hint="serving needs it")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replica:
    n_card: int
    batch: int
    step_s: float
    prefill_s: float
    request_s: float


def replica(
    model: Served, load: Load, a: Accelerator, n_card: int, *, dtype: str, bandwidth: float, compute: float, memory: float
) -> _Replica | None:
    """One replica of ``n_card`` cards at its largest batch that fits memory and TPOT; ``None`` if there is none."""
    free = memory * n_card * _known(a, "memory_byte") - model.weight_byte
    fits = math.floor(free / model.kv_byte) if model.kv_byte else math.floor(load.users)
    speeds = {
        "bandwidth_byte_per_s": n_card * bandwidth * _known(a, "memory_bandwidth_byte_per_s"),
        "flop_per_s": n_card * compute * a.peak(dtype),
    }
    if free < 0 or fits < 1 or step_s(model, 1, **speeds) > load.tpot_s:
        return None
    low, high = 1, fits
    while low < high:  # step time grows with the batch, so bisect
        middle = (low + high + 1) // 2
        if step_s(model, middle, **speeds) <= load.tpot_s:
            low = middle
        else:
            high = middle - 1
    step = step_s(model, low, **speeds)
    prefill = load.input_token * model.prefill_flop / speeds["flop_per_s"]
    return _Replica(
        n_card=n_card, batch=low, step_s=step, prefill_s=prefill, request_s=prefill + load.output_token * step / low
    )


def _best(model: Served, load: Load, a: Accelerator, dtype: str, side: int, rate: float) -> tuple[int, _Replica]:
    """Fewest cards over replica sizes; ``side`` is -1, 0 or 1 for the worst, expected or best efficiencies."""
    bandwidth, compute, memory = (constant(f"serving.{name}") for name in ("bandwidth", "prefill", "memory"))

    def pick(c: Constant) -> float:
        return c.value if side == 0 else c.band[side > 0]

    found: list[tuple[int, _Replica]] = []
    n_card = 1
    while n_card <= _MAX_CARD and (n_card <= _PREFERRED_CARD or not found or n_card <= _LARGER * found[0][1].n_card):
        one = replica(
            model, load, a, n_card, dtype=dtype, bandwidth=pick(bandwidth), compute=pick(compute), memory=memory.value
        )
        if one is not None:
            found.append((math.ceil(rate * one.request_s) * n_card, one))
        n_card *= 2
    if not found:
        raise Infeasible(
            f"no replica of up to {_MAX_CARD} {a.name} meets {load.tpot_s * 1e3:g} ms per token",
            where=f"accelerators/{a.id}",
            hint="allow a longer --tpot, or a smaller weight format with --weights",
        )
    return min(found, key=lambda pair: pair[0])


def _per_million(cards: Cards, n_card: int, million_per_day: float, site: Site) -> list[Estimate]:
    """Rent and energy of a million output tokens, where they are known."""
    found = []
    rent = cards.accelerator.rent_usd_per_h
    if rent is not None:
        text = f"{n_card} * 24 h * {rent} USD / {short(million_per_day)} million tokens"
        value = n_card * 24 * rent / million_per_day
        found.append(Estimate(name="usd_per_million", value=value, unit="usd", formula=text, grade="assumed"))
    power = cards.power_w if cards.power_w is not None else cards.accelerator.tdp_w
    if power is not None:
        text = f"{n_card} * 86400 s * {short(power)} W * PUE {site.pue} / {short(million_per_day)} million tokens"
        value = n_card * 86_400.0 * power * site.pue / million_per_day
        found.append(Estimate(name="energy_per_million", value=value, unit="j", formula=text, grade="assumed"))
    return found


def serving(model: Served, load: Load, cards: Cards, *, site: Site, dtype: str | None = None) -> Estimate:
    """Cards that serve the busiest hour, with the replica, its batch, and the cost per million output tokens below.

    Raises
    ------
    Infeasible : the weights do not fit, or no batch meets the TPOT.
    MissingData : peak, memory size or bandwidth is not published.
    """
    a = cards.accelerator
    dtype = choose_dtype(a, dtype)
    peak = load.request_per_s * load.peak_factor.value
    n_card, one = _best(model, load, a, dtype, 0, peak)
    quiet, busy = load.requests_per_user_day.band, load.peak_factor.band
    fewest, _ = _best(model, load, a, dtype, 1, load.users * quiet[0] / 86_400.0 * busy[0])
    most, _ = _best(model, load, a, dtype, -1, load.users * quiet[1] / 86_400.0 * busy[1])
    per_day = load.request_per_s * 86_400.0 * load.output_token / 1e6
    children = [
        Estimate(
            name="peak_requests",
            value=peak,
            unit="1/s",
            formula=f"{short(load.users)} * {load.requests_per_user_day.value} / 86400 * {load.peak_factor.value}",
            grade="assumed",
            children=(load.requests_per_user_day.estimate("requests_per_user_day"), load.peak_factor.estimate("peak_factor")),
        ),
        Estimate(
            name="peak_tokens",
            value=peak * load.output_token,
            unit="token/s",
            formula=f"{short(peak)} * {short(load.output_token)}",
            grade="assumed",
        ),
        Estimate(name="cards_per_replica", value=one.n_card, unit="1", formula="fewest cards in all, powers of two"),
        Estimate(
            name="batch",
            value=one.batch,
            unit="1",
            formula="largest that fits memory and TPOT",
            assumptions=(f"{short(model.kv_byte)} byte of cache a sequence",),
        ),
        Estimate(
            name="decode_step", value=one.step_s, unit="s", formula="max(bytes read / bandwidth, FLOP / rate)", grade="assumed"
        ),
        Estimate(
            name="prefill", value=one.prefill_s, unit="s", formula="input tokens * FLOP per token / rate", grade="assumed"
        ),
    ]
    children += _per_million(cards, n_card, per_day, site)
    return Estimate(
        name=a.id,
        value=float(n_card),
        unit="card",
        formula=f"{one.n_card} * ceil({short(peak)}/s * {short(one.request_s)} s a request)",
        sources=(constant("serving.bandwidth").source, constant("serving.prefill").source),
        assumptions=(FIRST, f"{dtype} arithmetic"),
        grade="assumed",
        low=float(min(fewest, n_card)),
        high=float(max(most, n_card)),
        children=tuple(children),
    )
