"""Num: a float or a NumPy array, and the few functions on both that operators cannot do.

NumPy is imported only when an array comes along, so that a question about one model starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Num", "maximum", "minimum"]

Num: TypeAlias = "float | NDArray[np.float64]"


def minimum(a: Num, b: Num) -> Num:
    """The smaller of two numbers, element by element for arrays."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return min(a, b)
    import numpy as np

    return np.minimum(a, b)


def maximum(a: Num, b: Num) -> Num:
    """The larger of two numbers, element by element for arrays."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return max(a, b)
    import numpy as np

    return np.maximum(a, b)
