"""Compute-optimal training: how many tokens a model deserves, and the loss a scaling law expects."""

from __future__ import annotations

import math

from suanchou.demand.data import ScalingLaw, scaling_laws
from suanchou.demand.flop import short
from suanchou.estimate import Estimate
from suanchou.model.num import Num

__all__ = ["loss", "loss_estimate", "optimal_model", "optimal_tokens", "over_training"]

_DENSE = "fitted on dense decoders and English web text; for a mixture of experts the active parameters are put in"


def _law(law: ScalingLaw | None) -> ScalingLaw:
    return next(iter(scaling_laws().values())) if law is None else law


def optimal_tokens(n_param: float, law: ScalingLaw | None = None) -> float:
    """Tokens that train ``n_param`` parameters compute-optimally: about 20 each."""
    return _law(law).tokens_per_param * n_param


def optimal_model(flop: float, law: ScalingLaw | None = None) -> float:
    """Parameters of the compute-optimal model for a budget: ``sqrt(C / (6 * 20))``."""
    return math.sqrt(flop / (6 * _law(law).tokens_per_param))


def over_training(n_param: float, n_token: float, law: ScalingLaw | None = None) -> float:
    """Tokens over the compute-optimal number: above one buys a smaller model at the price of more training."""
    return n_token / optimal_tokens(n_param, law)


def loss(n_param: Num, n_token: Num, law: ScalingLaw | None = None) -> Num:
    """Expected loss in nats per token; floats or arrays that broadcast."""
    law = _law(law)
    return law.e + law.a / n_param**law.alpha + law.b / n_token**law.beta


def loss_estimate(n_param: float, n_token: float) -> Estimate:
    """The loss, with the other fits of the same data as its range."""
    law = _law(None)
    values = [float(loss(n_param, n_token, other)) for other in scaling_laws().values()]
    return Estimate(
        name="loss",
        value=float(loss(n_param, n_token, law)),
        unit="nat/token",
        formula=f"{law.e} + {law.a} / {short(n_param)}^{law.alpha} + {law.b} / {short(n_token)}^{law.beta}",
        sources=tuple(other.source for other in scaling_laws().values()),
        assumptions=(_DENSE,),
        grade="fitted",
        low=min(values),
        high=max(values),
        children=(
            Estimate(
                name="over_training",
                value=over_training(n_param, n_token, law),
                unit="1",
                formula=f"{short(n_token)} / ({short(law.tokens_per_param)} * {short(n_param)})",
                sources=(law.source,),
                assumptions=(_DENSE,),
                grade="fitted",
            ),
        ),
    )
