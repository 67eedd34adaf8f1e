"""A robust fit: constants within bounds that minimise the weighted mean of ``|ln(predicted / measured)|``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

Values = dict[str, float]
Predict = Callable[[Values], np.ndarray]


@dataclass(frozen=True)
class Constant:
    """A constant to fit: where the search starts and how far it may go."""

    start: float
    low: float
    high: float


def _encode(value: float, c: Constant) -> float:
    share = (np.log(value) - np.log(c.low)) / (np.log(c.high) - np.log(c.low))
    share = min(max(share, 1e-3), 1 - 1e-3)
    return float(np.log(share / (1 - share)))


def _decode(x: float, c: Constant) -> float:
    share = 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))
    return float(np.exp(np.log(c.low) + share * (np.log(c.high) - np.log(c.low))))


def fit(constants: Mapping[str, Constant], predict: Predict, measured: np.ndarray, weight: np.ndarray) -> Values:
    """Nelder-Mead on the logits of the constants, started again twice from where it stopped. Deterministic."""
    names = tuple(constants)

    def values(x: np.ndarray) -> Values:
        return {name: _decode(v, constants[name]) for name, v in zip(names, x, strict=True)}

    def loss(x: np.ndarray) -> float:
        return float(np.average(np.abs(np.log(predict(values(x)) / measured)), weights=weight))

    x = np.array([_encode(c.start, c) for c in constants.values()])
    for step in (0.8, 0.5, 0.3):
        simplex = np.vstack([x, x + step * np.eye(len(x))])
        options = {"maxfev": 120 * len(x), "xatol": 1e-3, "fatol": 1e-5, "initial_simplex": simplex}
        x = minimize(loss, x, method="Nelder-Mead", options=options).x
    return values(x)


@dataclass(frozen=True)
class Error:
    """How wrong predictions are: median and 90th percentile of ``|predicted / measured - 1|``, median signed error."""

    n: int
    median: float
    p90: float
    bias: float


def error(predicted: np.ndarray, measured: np.ndarray) -> Error | None:
    """Errors of predictions; ``None`` without any."""
    if not len(measured):
        return None
    e = predicted / measured - 1.0
    return Error(len(e), float(np.median(np.abs(e))), float(np.quantile(np.abs(e), 0.9)), float(np.median(e)))
