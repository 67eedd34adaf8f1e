"""suanchou 算筹: plan compute for large models."""

from __future__ import annotations

__version__ = "0.1.0"
