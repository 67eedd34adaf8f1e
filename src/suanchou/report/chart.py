"""Bars of text, for a column of a table."""

from __future__ import annotations

__all__ = ["bar"]

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(value: float, most: float, width: int = 16) -> str:
    """A bar of ``value`` on a scale that ends at ``most``, to an eighth of a cell; empty for values of zero and less."""
    if not (most > 0 and value > 0):
        return ""
    eighths = max(1, round(8 * width * min(value / most, 1.0)))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
