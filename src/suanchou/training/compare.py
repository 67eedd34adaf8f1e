"""Compare: where the difference between two saved plans comes from, cause by cause. The parts of a difference add up to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suanchou.errors import SpecError
from suanchou.estimate import Estimate
from suanchou.training.what_if import run_causes

__all__ = ["TOKENS", "Comparison", "Delta", "Side", "Waterfall", "compare_sides", "side"]

TOKENS = "tokens"
"""The cause that more or fewer tokens to train on are."""
_HOUR_S = 3600.0
_MILLION = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One plan, as a saved answer tells it. Mappings go by cause or component; ``None`` where the plan does not know."""

    name: str
    inputs: Mapping[str, Any]
    label: str
    strategy: Mapping[str, Any]
    stack: str
    n_rank: int
    batch_token: float
    token: float
    mfu: float
    goodput: float
    step_s: Mapping[str, float]
    memory_byte: Mapping[str, float]
    causes_s: Mapping[str, float]
    card_h: float
    money_usd: float | None
    energy_j: float | None

    @property
    def time_s(self) -> float:
        """Wall time of the run."""
        return math.fsum(self.causes_s.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A cause on both sides, and what it adds to the difference; factors have values of their own unit in ``a`` and ``b``."""

    cause: str
    a: float
    b: float
    change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    """A difference in parts, the largest first; ``per_token`` where the sides were put on equal numbers of tokens."""

    name: str
    unit: str
    a: float
    b: float
    deltas: tuple[Delta, ...]
    per_token: bool = False

    @property
    def change(self) -> float:
        """Second side less the first."""
        return self.b - self.a


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two plans and the waterfalls between them; ``money`` and ``energy`` are ``None`` where a side does not know them."""

    a: Side
    b: Side
    step: Waterfall
    memory: Waterfall
    time: Waterfall
    money: Waterfall | None
    energy: Waterfall | None

    @property
    def waterfalls(self) -> tuple[Waterfall, ...]:
        """Those there are."""
        return tuple(one for one in (self.time, self.step, self.memory, self.money, self.energy) if one is not None)


def _value(tree: Estimate, name: str) -> float | None:
    return next((child.value for child in tree.children if child.name == name), None)


def side(data: Mapping[str, Any], name: str) -> Side:
    """A plan from its JSON answer (``suanchou plan -o plan.json``).

    Raises
    ------
    SpecError : another kind of answer, or a broken one.
    """
    hint = "give a file written by: suanchou plan MODEL ... -o plan.json"
    if data.get("kind") == "mixed-training-plan":
        raise SpecError("a mixed fleet cannot be compared", where=name, hint="compare plans on machines of one kind")
    if data.get("kind") != "training-plan":
        raise SpecError(f"this is a {data.get('kind', 'nameless')!r} answer, not a plan", where=name, hint=hint)
    try:
        result = data["result"]
        tree = Estimate.from_dict(result["estimate"])
        step = {child.name: child.value for child in tree["step"].children}
        time, use, n_rank = tree["time"], tree["utilisation"], int(result["n_rank"])
        batch_token = use["token_rate"].value * n_rank * tree["step"].value
        return Side(
            name=name,
            inputs=data["inputs"],
            label=result["label"],
            strategy=result["strategy"],
            stack=result.get("stack", ""),
            n_rank=n_rank,
            batch_token=batch_token,
            token=time["steps"].value * batch_token,
            mfu=use["mfu"].value,
            goodput=time["goodput"].value,
            step_s=step,
            memory_byte={child.name: child.value for child in tree["memory"].children},
            causes_s=run_causes(step, time),
            card_h=tree["card_hours"].value,
            money_usd=_value(tree, "money"),
            energy_j=_value(tree, "energy"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"a broken plan: {type(error).__name__}: {error}", where=name, hint=hint) from None


def _waterfall(name: str, unit: str, deltas: list[Delta], *, a: float, b: float, per_token: bool = False) -> Waterfall:
    ordered = tuple(sorted(deltas, key=lambda delta: (-abs(delta.change), -max(delta.a, delta.b))))
    return Waterfall(name=name, unit=unit, a=a, b=b, deltas=ordered, per_token=per_token)


def _parts(name: str, unit: str, a: Mapping[str, float], b: Mapping[str, float], **fields: bool) -> Waterfall:
    """Two sums, part by part."""
    names = dict.fromkeys((*a, *b))
    deltas = [Delta(cause=n, a=a.get(n, 0.0), b=b.get(n, 0.0), change=b.get(n, 0.0) - a.get(n, 0.0)) for n in names]
    return _waterfall(name, unit, deltas, a=math.fsum(a.values()), b=math.fsum(b.values()), **fields)


def _log_mean(a: float, b: float) -> float:
    """``(b - a) / log(b / a)``, and ``a`` where they are equal."""
    return a if math.isclose(a, b, rel_tol=1e-12) else (b - a) / math.log(b / a)


def _factors(name: str, unit: str, a: Mapping[str, float], b: Mapping[str, float]) -> Waterfall:
    """Two products, factor by factor: each factor's logarithm times the logarithmic mean (Ang 2004, LMDI), which adds up."""
    first, second = math.prod(a.values()), math.prod(b.values())
    weight = _log_mean(first, second)
    equal = {n: math.isclose(a[n], b[n], rel_tol=1e-9) for n in a}
    deltas = [Delta(cause=n, a=a[n], b=b[n], change=0.0 if equal[n] else weight * math.log(b[n] / a[n])) for n in a]
    return _waterfall(name, unit, deltas, a=first, b=second)


def _time(a: Side, b: Side) -> Waterfall:
    """Wall time by cause; more tokens lengthen every cause of the first side alike, which is a cause of its own."""
    ratio = b.token / a.token
    ratio = 1.0 if math.isclose(ratio, 1.0, rel_tol=1e-9) else ratio
    names = dict.fromkeys((*a.causes_s, *b.causes_s))
    pairs = [(n, a.causes_s.get(n, 0.0), b.causes_s.get(n, 0.0)) for n in names]
    deltas = [Delta(cause=n, a=x, b=y, change=y - x * ratio) for n, x, y in pairs]
    if ratio != 1.0:
        deltas.append(Delta(cause=TOKENS, a=a.token, b=b.token, change=a.time_s * (ratio - 1.0)))
    return _waterfall("time", "s", deltas, a=a.time_s, b=b.time_s)


def _step(a: Side, b: Side) -> Waterfall:
    if math.isclose(a.batch_token, b.batch_token, rel_tol=1e-9):
        return _parts("step", "s", a.step_s, b.step_s)

    def per_million(one: Side) -> dict[str, float]:
        return {name: seconds * _MILLION / one.batch_token for name, seconds in one.step_s.items()}

    return _parts("step", "s", per_million(a), per_million(b), per_token=True)


def _bill(name: str, unit: str, a: Side, b: Side, amounts: tuple[float | None, float | None], rate: str) -> Waterfall | None:
    """An amount as accelerators, times wall time, times what an accelerator takes per hour."""
    first, second = amounts
    if first is None or second is None or not (first > 0 and second > 0):
        return None

    def factors(one: Side, amount: float) -> dict[str, float]:
        hours = one.time_s / _HOUR_S
        return {"accelerators": one.card_h / hours, "time": hours, rate: amount / one.card_h}

    return _factors(name, unit, factors(a, first), factors(b, second))


def compare_sides(a: Side, b: Side) -> Comparison:
    """Every difference between two plans, in parts that add up to it."""
    return Comparison(
        a=a,
        b=b,
        step=_step(a, b),
        memory=_parts("memory", "byte", a.memory_byte, b.memory_byte),
        time=_time(a, b),
        money=_bill("money", "usd", a, b, (a.money_usd, b.money_usd), "hourly_price"),
        energy=_bill("energy", "j", a, b, (a.energy_j, b.energy_j), "power"),
    )
