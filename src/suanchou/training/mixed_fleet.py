"""Mixed fleet: several groups of machines that train one model together, each with a Problem of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from suanchou.errors import Infeasible
from suanchou.machine import training_dtype
from suanchou.machine.cluster import Cluster
from suanchou.model.architecture import Architecture
from suanchou.model.parameters import parameter_count
from suanchou.training.mixed_link import CrossLink, cross_link
from suanchou.training.problem import Problem
from suanchou.training.search import Found, search
from suanchou.training.stack import default_stack
from suanchou.training.stack import stack as stack_named
from suanchou.training.strategy import Options, Strategy
from suanchou.training.workload import Workload, workload

__all__ = ["MOST_GROUPS", "Fleet", "Member", "Mix", "Part", "Space", "Variant", "drift_frac", "fleet"]

MOST_GROUPS = 6
LETTERS = "ABCDEF"

Variant = Literal["pipeline", "data", "alone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What plans may choose: pinned layout fields, whether fp8 is tried where the hardware has it, and offload."""

    fixed: Mapping[str, int]
    fp8: bool = False
    offload: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One group of a fleet.

    ``problem`` is the whole workload in the fleet's common data type on this group; ``alone`` the same in the type the group
    would train in by itself.
    """

    index: int
    problem: Problem
    alone: Problem

    @property
    def letter(self) -> str:
        """Its short name: A, B, ... in the order given."""
        return LETTERS[self.index]

    @property
    def n_rank(self) -> int:
        """Ranks of the group."""
        return self.problem.cluster.n_accelerator

    @property
    def name(self) -> str:
        """Ranks and accelerator."""
        return f"{self.n_rank:,} x {self.problem.accelerator.name}"

    def search(self, space: Space, batch: int | None = None, *, keep: int = 1) -> Found:
        """The best strategies of this group for ``batch`` sequences per step; by itself, for the whole batch, if None.

        Raises
        ------
        KeyboardInterrupt : the search was interrupted.
        """
        problem = self.alone if batch is None else self.with_batch(batch)
        fp8 = space.fp8 and problem.work.low_dtype in problem.accelerator.peak_flop_per_s
        options = Options.build(problem.stack.zero_stages, offload=space.offload)
        found = search(problem, fixed=dict(space.fixed), options=options, fp8=fp8, keep=keep)
        if found.interrupted:
            raise KeyboardInterrupt
        return found

    @property
    def paced(self) -> float:
        """Parts of the group that keep their own pace, as :meth:`Problem.paced` counts them."""
        return float(np.asarray(self.problem.paced(Strategy(dp=self.n_rank))))

    def drift_frac(self, members: Sequence[Member]) -> float:
        """Share of a step that it waits for the slowest rank of all ``members``, itself among them: Problem.drift_frac."""
        return float(np.asarray(self.beside(members).drift_frac(Strategy(dp=self.n_rank))))

    def beside(self, members: Sequence[Member]) -> Problem:
        """The problem in a step that it shares with ``members``, itself among them."""
        return replace(self.problem, beside=sum(member.paced for member in members) - self.paced)

    def with_batch(self, batch: int, members: Sequence[Member] = ()) -> Problem:
        """The problem of ``batch`` sequences per step, which it may share with ``members``, itself among them."""
        problem = self.beside(members) if members else self.problem
        return replace(problem, work=replace(problem.work, global_batch=batch))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The groups, the link between them and the batch they share."""

    members: tuple[Member, ...]
    cluster: Cluster
    link: CrossLink
    batch: int

    @property
    def reduced_byte(self) -> float:
        """Bytes of all gradients, in the widest type that a group's stack reduces in."""
        problem = self.members[0].problem
        counted = float(parameter_count(problem.work.arch))
        return counted * problem.trained_frac * max(member.problem.stack.gradient_reduce_byte for member in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one group does in a plan.

    ``problem`` carries the sequences it works on. ``layers`` and ``stage_s`` are the layers of each of its pipeline stages and
    the seconds one micro-batch takes on them. Its fullest stage is expected to take ``memory_byte``; ``needed_byte`` of them
    must fit, and where there is room it may come to hold ``high_byte``. ``busy_s`` is the part of a step in which it does not
    wait for other groups.
    """

    member: Member
    problem: Problem
    strategy: Strategy
    layers: tuple[int, ...]
    stage_s: tuple[float, ...]
    memory_byte: float
    needed_byte: float
    high_byte: float
    busy_s: float

    @property
    def sequences(self) -> int:
        """Sequences of a step that this group sees."""
        return self.problem.work.global_batch

    @property
    def micro_batches(self) -> int:
        """Micro-batches per replica and step."""
        return round(float(np.asarray(self.strategy.micro_batches(self.problem.work))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """One way to train on a fleet, or on a part of it. ``causes`` are the seconds of a step by cause."""

    variant: Variant
    parts: tuple[Part, ...]
    step_s: float
    causes: Mapping[str, float]

    @property
    def letters(self) -> tuple[str, ...]:
        """The groups it uses, in pipeline order."""
        return tuple(part.member.letter for part in self.parts)

    @property
    def n_rank(self) -> int:
        """Ranks it uses."""
        return sum(part.member.n_rank for part in self.parts)

    @property
    def memory_frac(self) -> float:
        """The fullest accelerator's share of its memory."""
        return max(part.memory_byte / part.problem.memory_byte for part in self.parts)


def drift_frac(members: Sequence[Member]) -> float:
    """Share of a step that all ranks of ``members`` wait for the slowest of them, where they drift apart as the worst do."""
    return max(member.drift_frac(members) for member in members)


def _common_dtype(cluster: Cluster) -> str:
    """The 16-bit type that all groups train in.

    Raises
    ------
    Infeasible : they have none in common.
    """
    devices = [group.node.accelerator for group in cluster.groups]
    for dtype in ("bf16", "fp16", "fp32"):
        if all(dtype in device.peak_flop_per_s for device in devices):
            return dtype
    raise Infeasible(
        f"{' and '.join(dict.fromkeys(device.name for device in devices))} have no training type in common",
        where="--on",
        hint="plan each group alone, or give a measured rate in a catalogue file of your own",
    )


def fleet(
    arch: Architecture,
    cluster: Cluster,
    *,
    token: float,
    seq: int | None = None,
    global_batch: int | None = None,
    dtype: str | None = None,
    stack: str | None = None,
    link: str | None = None,
) -> Fleet:
    """The groups of ``cluster`` with a Problem each. A default batch is one that every group can share out.

    Raises
    ------
    Infeasible : more groups than can be planned for, or no data type in common.
    MissingData : a group lacks the data type asked for, its memory or its network ports.
    SpecError : impossible inputs.
    """
    groups = cluster.groups
    if len(groups) > MOST_GROUPS:
        raise Infeasible(
            f"{len(groups)} groups are more than the {MOST_GROUPS} this plans for", where="--on", hint="join equal ones"
        )
    common = dtype or _common_dtype(cluster)
    work_on: Callable[..., Workload] = functools.partial(
        workload,
        arch,
        token=token,
        parameters=float(parameter_count(arch)),
        seq=seq,
        global_batch=global_batch,
        n_rank=math.lcm(*(group.n_accelerator for group in groups)),
    )
    members = []
    for index, group in enumerate(groups):
        device = group.node.accelerator
        part = replace(cluster, name=f"{group.node.id}:{group.n_node}", groups=(group,), warnings=())
        software = stack_named(stack) if stack else default_stack(device.vendor)
        device.peak(common)  # refuses a type this group lacks
        own = dtype or training_dtype(device)
        problem = Problem(work_on(dtype=common), part, software)
        alone = problem if own == common else replace(problem, work=replace(problem.work, dtype=own))
        members.append(Member(index=index, problem=problem, alone=alone))
    return Fleet(
        members=tuple(members),
        cluster=cluster,
        link=cross_link(cluster, link),
        batch=members[0].problem.work.global_batch,
    )
