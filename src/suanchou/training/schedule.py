"""Schedules: in which order the ranks of a pipeline run forwards and backwards."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCHEDULES", "Schedule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule.

    Parameters
    ----------
    code : its number in :class:`suanchou.training.strategy.Strategy`.
    label : how people write it.
    splits_backward : whether weight gradients are computed later than the gradients of the input.
    folded : whether a rank holds a stage from either end of the model.
    copies : how many ranks hold each parameter.
    source : where it was published.
    """

    code: int
    label: str
    splits_backward: bool
    folded: bool
    copies: int
    source: str


SCHEDULES = {
    "1f1b": Schedule(
        code=0,
        label="1F1B",
        splits_backward=False,
        folded=False,
        copies=1,
        source="Narayanan et al. 2021, arXiv 2104.04473, with one or more chunks per stage",
    ),
}
