"""Operators: what a layer executes, with FLOP and bytes, sharded by TP, SP, CP and EP.

Every number in :class:`Shape` and :class:`Operator` is a float or a NumPy array; arrays broadcast, so the same code prices
one strategy and millions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Num", "Operator", "Shape"]

Num = float | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one rank sees of a micro-batch.

    Parameters
    ----------
    batch : sequences in the micro-batch.
    seq : tokens per sequence, before context parallelism.
    tp, cp, ep : tensor, context and expert parallel degrees.
    sp : 1 where sequence parallelism splits norms and residuals over TP, else 0.
    element_byte : bytes of an activation element.
    attention : ``flash`` and ``sdpa`` keep no score matrix; ``eager`` does.
    imbalance : load of the busiest expert rank over the mean.
    """

    batch: Num
    seq: Num
    tp: Num = 1.0
    cp: Num = 1.0
    ep: Num = 1.0
    sp: Num = 0.0
    element_byte: Num = 2.0
    attention: Literal["flash", "sdpa", "eager"] = "flash"
    imbalance: Num = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One kind of kernel and how often a layer runs it.

    ``gemm``: ``m x k`` by ``k x n``, ``count`` times. ``grouped_gemm``: ``count`` experts with ``m`` rows each. ``attention``:
    ``m`` queries against ``n`` keys of ``k`` channels, ``count`` = sequences x heads. ``scan`` and ``memory``: element-wise
    or recurrent kernels, bound by ``byte``.

    Parameters
    ----------
    flop : work of all ``count`` calls, 2 per multiply-add.
    byte : traffic to device memory of all calls.
    """

    name: str
    kind: Literal["gemm", "grouped_gemm", "attention", "scan", "memory"]
    flop: Num
    byte: Num
    m: Num = 0.0
    n: Num = 0.0
    k: Num = 0.0
    count: Num = 1.0
