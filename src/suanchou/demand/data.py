"""What the demand room takes from data files: counting conventions, optimizer recipes, scaling laws, planning defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

from suanchou.errors import MissingData, SpecError
from suanchou.estimate import Estimate, Grade

T = TypeVar("T")

__all__ = [
    "Constant",
    "Convention",
    "Optimizer",
    "Purpose",
    "ScalingLaw",
    "WeightFormat",
    "chosen",
    "constant",
    "conventions",
    "listed",
    "optimizers",
    "purposes",
    "scaling_laws",
    "utilisation",
    "weight_formats",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A planning value from a data file, with its band, source and evidence grade."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = "frac"
    source: str = ""
    grade: Grade = "assumed"

    @property
    def band(self) -> tuple[float, float]:
        """Lowest and highest value; the value itself where no band is known."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    def estimate(self, name: str | None = None) -> Estimate:
        """The value as a leaf of an estimate tree."""
        return Estimate(
            name=name or self.name,
            value=self.value,
            unit=self.unit,
            sources=(self.source,) if self.source else (),
            grade=self.grade,
            low=self.low,
            high=self.high,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """How training FLOP are counted: ``(per_param * active parameters + per_token_flop) * tokens``.

    ``counts`` is ``model`` (no recomputation: the numerator of MFU) or ``hardware`` (everything executed: that of HFU).
    """

    id: str
    title: str
    per_param: float
    per_token_flop: float = 0.0
    counts: Literal["model", "hardware"] = "model"
    source: str = ""
    grade: Grade = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """Bytes per trained parameter of one optimizer recipe."""

    id: str
    title: str
    weight: float
    gradient: float
    master: float
    moments: float
    source: str

    @property
    def state(self) -> float:
        """Master copy and moments, byte per parameter."""
        return self.master + self.moments

    @property
    def training(self) -> float:
        """All training state, byte per parameter."""
        return self.weight + self.gradient + self.state

    @property
    def checkpoint(self) -> float:
        """What a checkpoint keeps, byte per parameter: everything but the gradient."""
        return self.weight + self.state


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """Bits per parameter of a weight format, scales included."""

    id: str
    bits: float
    note: str = ""
    source: str = ""

    @property
    def byte(self) -> float:
        """Byte per parameter."""
        return self.bits / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What is run for each token, as FLOP per active parameter and token.

    ``tokens`` names the usual token count; ``trained`` models of this size hold training state, and each entry of ``frozen``
    is one more model held as weights in that format.
    """

    id: str
    terms: Mapping[str, float]
    source: str
    per: str = "token"
    tokens: str | None = None
    trained: int = 1
    frozen: tuple[str, ...] = ()

    @property
    def per_param(self) -> float:
        """FLOP per active parameter and token, all terms."""
        return float(sum(self.terms.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingLaw:
    """Loss of a dense model: ``e + a / N**alpha + b / D**beta`` in nats per token."""

    id: str
    e: float
    a: float
    alpha: float
    b: float
    beta: float
    tokens_per_param: float
    source: str


@cache
def _read(name: str) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (files("suanchou.catalog") / "data" / name).read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.load(text, Loader=loader)
    return found


def _source(entry: Mapping[str, Any]) -> str:
    source = str(entry.get("source", ""))
    return f"{source} (recalled)" if entry.get("recalled") else source


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key != "recalled"}
    return {**kept, "source": _source(entry)}


def constant(path: str) -> Constant:
    """The planning value at ``section`` or ``section.name`` of the defaults file."""
    node: Any = _read("demand_defaults.yaml")
    for part in path.split("."):
        node = node[part]
    return Constant(name=path.rpartition(".")[2], **_fields(node))


def utilisation(kind: str, *, where: str | None = None) -> Constant:
    """MFU band of a kind of accelerator.

    Raises
    ------
    MissingData : nobody trains on this kind of device, so no band is known.
    """
    for entry in _read("demand_defaults.yaml")["utilisation"]:
        if kind in entry["kinds"]:
            return Constant(name="mfu", **{key: value for key, value in _fields(entry).items() if key != "kinds"})
    raise MissingData(f"no utilisation is known for training on a {kind}", where=where, hint="give one with --mfu")


def listed(path: str) -> tuple[Any, ...]:
    """A plain list of the defaults file."""
    node: Any = _read("demand_defaults.yaml")
    for part in path.split("."):
        node = node[part]
    return tuple(node)


@cache
def conventions() -> Mapping[str, Convention]:
    """Counting conventions by id."""
    entries = _read("demand_defaults.yaml")["conventions"]
    return {
        key: Convention(
            id=key,
            title=e["title"],
            per_param=float(e["per_param"]),
            per_token_flop=float(e.get("per_token_flop", 0.0)),
            counts=e["counts"],
            source=_source(e),
            grade=e["grade"],
        )
        for key, e in entries.items()
    }


@cache
def optimizers() -> Mapping[str, Optimizer]:
    """Optimizer recipes by id."""
    return {key: Optimizer(id=key, **_fields(entry)) for key, entry in _read("optimizers.yaml").items()}


@cache
def weight_formats() -> Mapping[str, WeightFormat]:
    """Weight formats by id."""
    entries = _read("demand_defaults.yaml")["weights"]
    return {key: WeightFormat(id=key, **_fields(entry)) for key, entry in entries.items()}


@cache
def purposes() -> Mapping[str, Purpose]:
    """Purposes by id."""
    entries = _read("demand_defaults.yaml")["purposes"]
    return {
        key: Purpose(id=key, **{**_fields(entry), "frozen": tuple(entry.get("frozen", ()))}) for key, entry in entries.items()
    }


@cache
def scaling_laws() -> Mapping[str, ScalingLaw]:
    """Scaling laws by id; the first is the one used, the others give the range."""
    return {key: ScalingLaw(id=key, **_fields(entry)) for key, entry in _read("scaling_laws.yaml").items()}


def chosen(table: Mapping[str, T], name: str, what: str, where: str) -> T:
    """The entry called ``name``.

    Raises
    ------
    SpecError : no such entry; the hint lists what there is.
    """
    try:
        return table[name]
    except KeyError:
        raise SpecError(f"no {what} is called {name!r}", where=where, hint=f"there is: {', '.join(table)}") from None
