"""Training compute: FLOP under each counting convention and for each purpose."""

from __future__ import annotations

from suanchou.demand.data import Convention, Purpose
from suanchou.estimate import Estimate
from suanchou.model.num import Num

__all__ = ["convention_estimate", "purpose_estimate", "purpose_flop", "short", "training_flop"]


def short(value: float) -> str:
    """A number as it stands in a formula."""
    return f"{value:.6g}"


def training_flop(n_active: Num, n_token: Num, convention: Convention) -> Num:
    """FLOP of training ``n_active`` parameters per token on ``n_token`` tokens, as ``convention`` counts them."""
    return (convention.per_param * n_active + convention.per_token_flop) * n_token


def convention_estimate(n_active: float, n_token: float, convention: Convention) -> Estimate:
    """:func:`training_flop` with its formula and source."""
    per_token = f"{short(convention.per_param)} * {short(n_active)}"
    if convention.per_token_flop:
        per_token = f"({per_token} + {short(convention.per_token_flop)})"
    return Estimate(
        name=convention.id,
        value=float(training_flop(n_active, n_token, convention)),
        unit="flop",
        formula=f"{per_token} * {short(n_token)}",
        sources=(convention.source,),
        assumptions=(convention.title,),
        grade=convention.grade,
    )


def purpose_flop(n_active: Num, n_token: Num, purpose: Purpose) -> Num:
    """FLOP of running ``purpose`` on ``n_token`` tokens with models of ``n_active`` parameters each."""
    return purpose.per_param * n_active * n_token


def purpose_estimate(n_active: float, n_token: float, purpose: Purpose, *, name: str | None = None) -> Estimate:
    """:func:`purpose_flop` as the sum of its terms."""
    terms = tuple(
        Estimate(
            name=term,
            value=factor * n_active * n_token,
            unit="flop",
            formula=f"{short(factor)} * {short(n_active)} * {short(n_token)}",
            grade="exact",
        )
        for term, factor in purpose.terms.items()
    )
    return Estimate(
        name=name or purpose.id,
        value=float(purpose_flop(n_active, n_token, purpose)),
        unit="flop",
        formula=f"({' + '.join(short(f) for f in purpose.terms.values())}) * {short(n_active)} * {short(n_token)}",
        sources=(purpose.source,),
        assumptions=(f"tokens: {purpose.per}",) if purpose.per != "token" else (),
        grade="derived",
        summed=True,
        children=terms,
    )
