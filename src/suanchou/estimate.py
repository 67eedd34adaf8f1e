"""Estimate: a number that explains itself.

Every number suanchou prints is a node of a tree: it has a unit, the formula it came from with the numbers put in, the
sources and assumptions behind it, and the nodes it was computed from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from suanchou.errors import SpecError

__all__ = ["Estimate", "Grade", "total", "worst_grade"]

Grade = Literal["exact", "measured", "fitted", "datasheet", "derived", "assumed"]
"""How well a value is known, best first. ``exact``: it follows from a definition, so it has no error of its own."""

_GRADES: tuple[str, ...] = get_args(Grade)


def worst_grade(*grades: Grade) -> Grade:
    """The grade of a value computed from others: that of the least certain one."""
    return max(grades, key=_GRADES.index, default="exact")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One number and why.

    Parameters
    ----------
    name : path component, lower-case with underscores, for example ``pipeline_bubble``.
    value : in SI units.
    unit : ``s``, ``byte``, ``flop``, ``flop/s``, ``byte/s``, ``w``, ``j``, ``usd``, ``frac`` or a counted thing (``token``).
    formula : the formula with the numbers put in, one line.
    sources : where the formula or its constants come from.
    assumptions : what was taken for granted.
    grade : evidence grade of the least certain input.
    low, high : range, where one is known.
    children : the nodes this value was computed from; when ``summed`` they add up to ``value``.
    """

    name: str
    value: float
    unit: str
    formula: str = ""
    sources: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    grade: Grade = "derived"
    low: float | None = None
    high: float | None = None
    summed: bool = False
    children: tuple[Estimate, ...] = ()

    def __post_init__(self) -> None:
        if math.isnan(self.value):
            raise ValueError(f"estimate {self.name!r} is not a number")

    def __getitem__(self, name: str) -> Estimate:
        for child in self.children:
            if child.name == name:
                return child
        raise KeyError(name)

    def find(self, path: str) -> Estimate:
        """The node at a dotted path below this one.

        Raises
        ------
        SpecError : no such node; the hint lists what is there.
        """
        node = self
        for part in path.split("."):
            try:
                node = node[part]
            except KeyError:
                names = ", ".join(child.name for child in node.children) or "nothing"
                raise SpecError(f"no estimate {part!r} under {node.name!r}", where=path, hint=f"there is: {names}") from None
        return node

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Estimate]]:
        """Every node with its dotted path, parents first."""
        path = f"{prefix}.{self.name}" if prefix else self.name
        yield path, self
        for child in self.children:
            yield from child.walk(path)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; empty fields are left out."""
        out: dict[str, Any] = {"name": self.name, "value": self.value, "unit": self.unit}
        if self.formula:
            out["formula"] = self.formula
        if self.sources:
            out["sources"] = list(self.sources)
        if self.assumptions:
            out["assumptions"] = list(self.assumptions)
        out["grade"] = self.grade
        if self.low is not None:
            out["low"] = self.low
        if self.high is not None:
            out["high"] = self.high
        if self.summed:
            out["summed"] = True
        if self.children:
            out["children"] = [child.to_dict() for child in self.children]
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Estimate:
        """Inverse of :meth:`to_dict`."""
        return cls(
            name=data["name"],
            value=data["value"],
            unit=data["unit"],
            formula=data.get("formula", ""),
            sources=tuple(data.get("sources", ())),
            assumptions=tuple(data.get("assumptions", ())),
            grade=data.get("grade", "derived"),
            low=data.get("low"),
            high=data.get("high"),
            summed=data.get("summed", False),
            children=tuple(cls.from_dict(child) for child in data.get("children", ())),
        )


def total(name: str, unit: str, children: tuple[Estimate, ...], *, formula: str = "", **fields: Any) -> Estimate:
    """An Estimate that is the sum of its children."""
    fields.setdefault("grade", worst_grade(*(child.grade for child in children)))
    return Estimate(
        name=name,
        value=math.fsum(child.value for child in children),
        unit=unit,
        formula=formula or " + ".join(child.name for child in children),
        summed=True,
        children=children,
        **fields,
    )
