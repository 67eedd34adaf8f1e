"""Sweep: one training question over a range of machine sizes, sequence lengths, batches or token counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from suanchou.catalog import catalogue
from suanchou.errors import SpecError, SuanchouError
from suanchou.machine import cluster, usual_node
from suanchou.machine.cluster import Cluster
from suanchou.machine.server import part_of
from suanchou.training.plan import Plan
from suanchou.training.scenario import Scenario, plan_on
from suanchou.units import parse

__all__ = ["Axis", "Point", "Scaling", "Sweep", "parse_axis", "sweep"]

AxisName = Literal["nodes", "accelerators", "seq", "batch", "tokens"]
Scaling = Literal["strong", "weak"]
MOST_POINTS = 500
_FORMS = "write nodes=8..4096 (doubling), nodes=8..64:8 (steps of 8) or nodes=8,16,32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What varies, and its values in ascending order."""

    name: AxisName
    values: tuple[int, ...]

    @property
    def of_machines(self) -> bool:
        """Whether the size of the machine varies, so that scaling can be spoken of."""
        return self.name in ("nodes", "accelerators")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of the axis, with the best plan there or the reason why there is none."""

    value: int
    plan: Plan | None = None
    refused: str = ""

    @property
    def token_per_s(self) -> float:
        """Tokens trained on per second, while steps run; zero without a plan."""
        return 0.0 if self.plan is None else self.plan.problem.work.batch_token / self.plan.step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The answer of :func:`sweep`. ``scaling`` is ``None`` where the machine does not vary."""

    axis: Axis
    scaling: Scaling | None
    points: tuple[Point, ...]
    interrupted: bool = False

    @property
    def first(self) -> Plan:
        """The plan that scaling is measured from: that of the smallest value with a plan."""
        return next(point.plan for point in self.points if point.plan is not None)

    def efficiency_frac(self, point: Point) -> float | None:
        """Tokens per second and accelerator over those of the first plan; ``None`` without a plan or a varying machine.

        Above 1 where the first plan must recompute or offload what larger machines can keep.
        """
        if point.plan is None or self.scaling is None:
            return None
        first = self.first
        one = first.problem.work.batch_token / first.step_s / first.n_rank
        return point.token_per_s / point.plan.n_rank / one


def parse_axis(text: str) -> Axis:
    """``nodes=8..4096``, ``seq=4096,8192`` and the like.

    Raises
    ------
    SpecError : an unknown axis, a value that is no count, or too many of them.
    """
    name, _equals, written = (part.strip() for part in text.partition("="))
    known = get_args(AxisName)
    if name not in known or not written:
        raise SpecError(f"{text!r} names nothing to vary", where="--sweep", hint=f"{_FORMS}; also {', '.join(known[1:])}")
    values = sorted(set(_range(written) if ".." in written else map(_count, written.split(","))))
    return Axis(name=name, values=tuple(values))  # type: ignore[arg-type]  # checked above


def _count(text: str) -> int:
    value = parse(text, "1", where="--sweep")
    if value < 1 or value != int(value):
        raise SpecError(f"{text.strip()} is not a whole number", where="--sweep", hint=_FORMS)
    return int(value)


def _range(written: str) -> Iterator[int]:
    first, _dots, rest = written.partition("..")
    end, colon, step = rest.partition(":")
    low, high = _count(first), _count(end)
    if low > high:
        raise SpecError(f"{written} is empty: {low} is above {high}", where="--sweep", hint=_FORMS)
    by = _count(step) if colon else 0
    if by and (high - low) // by >= MOST_POINTS:
        raise SpecError(f"{written} has more than {MOST_POINTS} values", where="--sweep", hint="take larger steps")
    while low <= high:
        yield low
        low += by or low


def _whole(spec: str, axis: Axis, value: int) -> str:
    """A machine as ``--on`` takes it, with a count where it lacks one, or where ``value`` counts what it names."""
    name, colon, _count = spec.rpartition(":")
    bare = name if colon else spec
    if spec.lower().endswith((".yaml", ".yml", ".json")):
        return spec
    if catalogue().resolve("nodes", bare) is None and catalogue().resolve("accelerators", bare) is not None:
        usual = usual_node(bare)
        return f"{bare}:{value if axis.name == 'accelerators' else usual.n_accelerator // usual.accelerator.dies}"
    return spec if colon or catalogue().resolve("clusters", bare) is not None else f"{spec}:1"


def _machines(scenario: Scenario, axis: Axis, value: int) -> Cluster:
    """The machines of the scenario, as many as ``value`` says.

    Raises
    ------
    SpecError : several kinds of machine, or a number of accelerators that fills no equal nodes.
    """
    found = cluster([_whole(spec, axis, value) for spec in scenario.on], region=scenario.region)
    if len(found.groups) != 1:
        raise SpecError("a sweep varies one kind of machine", where="--on", hint="give one --on")
    group = found.groups[0]
    if axis.name == "nodes":
        n_node = value
    else:
        ranks, per_node = value * group.node.accelerator.dies, group.node.n_accelerator
        n_node = next(n for n in range(-(-ranks // per_node), ranks + 1) if ranks % n == 0)
        if n_node > 2 * -(-ranks // per_node):
            raise SpecError(
                f"{value} accelerators do not fill equal nodes of {per_node}", where="--sweep", hint="take multiples of a node"
            )
        group = replace(group, node=part_of(group.node, ranks // n_node))
    return replace(found, name=f"{group.node.id}:{n_node}", groups=(replace(group, n_node=n_node),))


def _case(scenario: Scenario, axis: Axis, value: int, batch_per_rank: float | None) -> tuple[Scenario, Cluster]:
    """The scenario at one point, and its machines."""
    if not axis.of_machines:
        change: dict[str, Any] = {axis.name: str(value) if axis.name == "tokens" else value}
        return replace(scenario, **change), cluster(scenario.on, region=scenario.region)
    machines = _machines(scenario, axis, value)
    if batch_per_rank is not None:
        scenario = replace(scenario, batch=max(1, round(batch_per_rank * machines.n_accelerator)))
    return scenario, machines


def sweep(
    scenario: Scenario, axis: Axis, *, scaling: Scaling = "strong", progress: Callable[[int, int], None] | None = None
) -> Sweep:
    """The best plan at every value of ``axis``; a value without a plan says why, and does not end the sweep.

    Parameters
    ----------
    scaling : where machines vary, ``strong`` keeps the sequences per step, ``weak`` lets them grow with the machine, from
        those of the first point with a plan on.
    progress : called with the points done and all of them.

    Raises
    ------
    SpecError, MissingData, Infeasible : the reason, where no point has a plan.
    """
    points: list[Point] = []
    failed: SuanchouError | None = None
    per_rank: float | None = None
    interrupted = False
    for i, value in enumerate(axis.values):
        try:
            case, machines = _case(scenario, axis, value, per_rank)
            found = plan_on(case, machines)
        except SuanchouError as error:
            failed = failed or error
            points.append(Point(value=value, refused=error.what))
        except KeyboardInterrupt:
            interrupted = True
            break
        else:
            points.append(Point(value=value, plan=found))
            if axis.of_machines and scaling == "weak" and per_rank is None:
                per_rank = found.problem.work.global_batch / machines.n_accelerator
            if found.found.interrupted:
                interrupted = True
                break
        if progress:
            progress(i + 1, len(axis.values))
    if failed is not None and not any(point.plan for point in points):
        raise failed
    if not any(point.plan for point in points):
        raise KeyboardInterrupt
    return Sweep(axis=axis, scaling=scaling if axis.of_machines else None, points=tuple(points), interrupted=interrupted)
