"""Mixed plan: the best way to train on a fleet of several groups, or on the part of it that is worth it.

`plan_mixed` is the function behind `suanchou plan` with more than one group.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from suanchou.errors import Infeasible, SpecError
from suanchou.estimate import Estimate
from suanchou.i18n import N_, _
from suanchou.machine.cluster import Cluster
from suanchou.model.architecture import Architecture
from suanchou.training.mixed_data import DataSearch, group_part
from suanchou.training.mixed_explain import mixed_estimate, run_of
from suanchou.training.mixed_fleet import Fleet, Member, Mix, Space, fleet
from suanchou.training.mixed_pipeline import PipelineSearch
from suanchou.training.plan import outside_published
from suanchou.training.reliability import Reliability
from suanchou.training.search import TIE_FRAC
from suanchou.training.workload import Objective

__all__ = ["LeftOut", "MixedPlan", "MixedRival", "plan_mixed"]

MOST_PIPELINE_GROUPS = 4
WORTH_SHOWING = 1.5
"""Pipelines slower than the best plan known by this factor are not looked for."""


class MixedRival(NamedTuple):
    """A plan that lost: what it loses by, and the causes of its extra time as shares of the best step."""

    mix: Mix
    slower_frac: float
    why: tuple[tuple[str, float], ...]


class LeftOut(NamedTuple):
    """A group that the best plan leaves out, and the best plan with it, if any fits."""

    member: Member
    rival: MixedRival | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPlan:
    """The answer of :func:`plan_mixed`.

    ``estimate`` is the tree ``training`` with ``step``, ``memory`` and ``groups``, each with a child per group, ``utilisation``
    and the run; ``refused`` says which kinds of plan do not exist, and why.
    """

    fleet: Fleet
    objective: Objective
    best: Mix
    estimate: Estimate
    rivals: tuple[MixedRival, ...]
    left_out: tuple[LeftOut, ...]
    refused: Mapping[str, str]
    limit: tuple[tuple[str, float], ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    interrupted: bool

    @property
    def step_s(self) -> float:
        """Seconds per step."""
        return self.best.step_s

    @property
    def days(self) -> float:
        """Days of the whole run."""
        return self.estimate["time"].value / 86400.0


@dataclass(slots=True)
class _Search:
    """The plans found so far, one per kind and set of groups."""

    fleet: Fleet
    space: Space
    progress: Callable[[int, int], None] | None
    mixes: list[Mix] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def run(self) -> None:
        """Look for plans of every kind; an interrupt keeps what was found.

        Raises
        ------
        KeyboardInterrupt : before anything was found.
        """
        tasks: tuple[Callable[[], None], ...] = (self._alone, self._data, self._pipelines)
        try:
            for done, task in enumerate(tasks):
                if self.progress:
                    self.progress(done, len(tasks))
                task()
        except KeyboardInterrupt:
            if not self.mixes:
                raise
            self.interrupted = True

    def _alone(self) -> None:
        for member in self.fleet.members:
            found = member.search(self.space)
            if found.best:
                part, causes = group_part(member, member.alone, found.best[0].strategy)
                self.mixes.append(Mix(variant="alone", parts=(part,), step_s=part.busy_s, causes=causes))
            else:
                self.refused[f"{member.letter}"] = _most(found.refused)

    def _data(self) -> None:
        """Whole groups as replicas: all that can hold the model, then without one of them for as long as that is quicker."""
        searcher = DataSearch(fleet=self.fleet, space=self.space)
        speed = self._speeds()
        best: Mix | None = None
        members = [member for member in self.fleet.members if speed[member.index] > 0]
        while len(members) > 1:
            sets = [members] if best is None else [[m for m in members if m is not out] for out in members if len(members) > 2]
            found = [searcher.best(some, [speed[m.index] for m in some]) for some in sets]
            quickest = min((mix for mix in found if mix is not None), key=lambda mix: mix.step_s, default=None)
            if quickest is None or (best is not None and quickest.step_s >= best.step_s):
                break
            self.mixes.append(quickest)
            best, members = quickest, [part.member for part in quickest.parts]
        if best is None:
            self.refused["data"] = N_("fewer than two groups can hold the whole model, or no shares add up to the batch")

    def _speeds(self) -> list[float]:
        """Sequences per second of every group by itself; 0 where it cannot hold the model whatever its share."""
        known = {mix.parts[0].member.index: self.fleet.batch / mix.step_s for mix in self.mixes if mix.variant == "alone"}
        out, work = [], self.fleet.members[0].problem.work
        peaks = [member.problem.accelerator.peak(work.dtype) * member.n_rank for member in self.fleet.members]
        for member, peak in zip(self.fleet.members, peaks, strict=True):
            if member.index not in known:
                batch = max(1, round(self.fleet.batch * peak / math.fsum(peaks)))
                found = member.search(self.space, batch).best
                known[member.index] = batch / found[0].step_s if found else 0.0
            out.append(known[member.index])
        return out

    def _pipelines(self) -> None:
        """Every order of all groups, and of any two of three."""
        members = self.fleet.members
        if len(members) > MOST_PIPELINE_GROUPS:
            self.refused["pipeline"] = N_("pipelines are searched through up to four groups")
            return
        searcher = PipelineSearch(fleet=self.fleet, space=self.space)
        sizes = range(2, 4) if len(members) == 3 else (len(members),)
        sets = [some for size in sizes for some in itertools.combinations(members, size)]
        found_any = False
        for some in sets:
            limit = WORTH_SHOWING * min((mix.step_s for mix in self.mixes), default=math.inf)
            best: Mix | None = None
            for order in itertools.permutations(some):
                mix = searcher.best(order, limit)
                if mix is not None:
                    best, limit = mix, mix.step_s
            if best is not None:
                self.mixes.append(best)
                found_any = True
        if not found_any:
            self.refused["pipeline"] = N_(
                "none through the groups fits, or none comes within one and a half times the best step"
            )


def _most(refused: Counter[str]) -> str:
    return refused.most_common(1)[0][0] if refused else ""


def _rival(best: Mix, mix: Mix) -> MixedRival:
    """What ``mix`` loses by."""
    names = dict.fromkeys((*best.causes, *mix.causes))
    extra = {name: (mix.causes.get(name, 0.0) - best.causes.get(name, 0.0)) / best.step_s for name in names}
    worst = sorted(extra.items(), key=lambda item: -item[1])[:3]
    return MixedRival(mix, mix.step_s / best.step_s - 1.0, tuple(item for item in worst if item[1] > 0.001))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    objective: Objective
    deadline_s: float | None
    goodput: float | None
    reliability: Reliability | None
    usd_per_accelerator_h: float | None


def _cost(mix: Mix, ask: _Ask) -> float:
    """What the objective minimises; infinite where the deadline passes.

    Raises
    ------
    Infeasible : the money or energy of a group is unknown.
    """
    run = {part.name: part for part in run_of(mix, ask.goodput, ask.reliability, ask.usd_per_accelerator_h)}
    if ask.deadline_s is not None and run["time"].value > ask.deadline_s:
        return math.inf
    if ask.objective == "accelerators":
        return float(mix.n_rank)
    if ask.objective not in run:
        names = ", ".join(part.member.problem.accelerator.name for part in mix.parts)
        raise Infeasible(
            f"the {ask.objective} of {names} is unknown",
            where=f"--objective {ask.objective}",
            hint="give --usd-per-hour, or choose another objective",
        )
    return run[ask.objective].value


def _choose(mixes: Sequence[Mix], ask: _Ask) -> Mix:
    """The plan that serves the objective; of those that tie in time, the one with the fewest groups.

    Raises
    ------
    Infeasible : none meets the deadline.
    """
    cost = [_cost(mix, ask) for mix in mixes]
    least = min(cost)
    if math.isinf(least):
        raise Infeasible(
            "no plan on this fleet meets the deadline", where="--deadline", hint="add accelerators or give it more time"
        )
    tie = TIE_FRAC if ask.objective == "time" else 0.0
    equal = [
        (len(mix.parts), own, i) for i, (mix, own) in enumerate(zip(mixes, cost, strict=True)) if own <= least * (1.0 + tie)
    ]
    return mixes[min(equal)[2]]


def _left_out(given: Fleet, best: Mix, mixes: Iterable[Mix]) -> tuple[LeftOut, ...]:
    out = []
    for member in given.members:
        if member.letter in best.letters:
            continue
        joined = [mix for mix in mixes if member.letter in mix.letters and set(mix.letters) >= set(best.letters)]
        nearest = min(joined, key=lambda mix: mix.step_s, default=None)
        out.append(LeftOut(member, None if nearest is None else _rival(best, nearest)))
    return tuple(out)


def plan_mixed(
    arch: Architecture,
    cluster: Cluster,
    *,
    token: float,
    link: str | None = None,
    seq: int | None = None,
    global_batch: int | None = None,
    dtype: str | None = None,
    fp8: bool = False,
    stack: str | None = None,
    objective: Objective = "time",
    deadline_s: float | None = None,
    goodput: float | None = None,
    reliability: Reliability | None = None,
    usd_per_accelerator_h: float | None = None,
    fixed: Mapping[str, int] | None = None,
    offload: bool | None = None,
    keep: int = 5,
    progress: Callable[[int, int], None] | None = None,
) -> MixedPlan:
    """The best training plan for a cluster of several groups.

    Compared are a pipeline through the groups, in any order, with uneven layers; groups as data-parallel replicas with uneven
    numbers of sequences; and every group alone. Groups are used whole or left out.

    Parameters
    ----------
    link : what joins the groups, as ``--link`` takes it; by default the narrowest network ports.
    dtype : one type for all groups; by default the 16-bit type that all of them train in.
    stack : one software stack for all groups; by default each vendor's usual one.
    fixed : layout fields to pin in every group.
    Others : as :func:`suanchou.training.plan.plan`.

    Raises
    ------
    Infeasible : nothing fits, the deadline cannot be met, or the groups have no data type in common.
    MissingData : a group lacks a peak, memory or network figure.
    SpecError : impossible inputs, or a cluster of one group.
    """
    if len(cluster.groups) < 2:
        raise SpecError("a mixed plan needs two groups or more", where="--on", hint="use plan for one group")
    given = fleet(arch, cluster, token=token, seq=seq, global_batch=global_batch, dtype=dtype, stack=stack, link=link)
    ask = _Ask(
        objective=objective,
        deadline_s=deadline_s,
        goodput=goodput,
        reliability=reliability,
        usd_per_accelerator_h=usd_per_accelerator_h,
    )
    space = Space(fixed=fixed or {}, fp8=fp8, offload=bool(offload))
    search = _Search(given, space, progress)
    search.run()
    if not search.mixes and offload is None:
        space = replace(space, offload=True)
        search = _Search(given, space, progress)
        search.run()
    if not search.mixes:
        raise Infeasible(
            f"no strategy trains {arch.name} on {cluster.name}",
            hint="more accelerators, a shorter sequence, a smaller model or another --batch",
            reasons={reason: 1 for reason in search.refused.values() if reason},
        )
    best = _choose(search.mixes, ask)
    others = sorted((mix for mix in search.mixes if mix is not best), key=lambda mix: mix.step_s)
    estimate = mixed_estimate(
        given, best, goodput=goodput, reliability=reliability, usd_per_accelerator_h=usd_per_accelerator_h
    )
    limit = sorted(((name, value / best.step_s) for name, value in best.causes.items()), key=lambda item: -item[1])
    return MixedPlan(
        fleet=given,
        objective=objective,
        best=best,
        estimate=estimate,
        rivals=tuple(_rival(best, mix) for mix in others[:keep]),
        left_out=_left_out(given, best, search.mixes),
        refused=search.refused,
        limit=tuple(item for item in limit if item[1] > 0.01)[:4],
        assumptions=_assumptions(given, best, estimate, space, goodput),
        warnings=_warnings(given, best, interrupted=search.interrupted),
        interrupted=search.interrupted,
    )


def _assumptions(given: Fleet, best: Mix, estimate: Estimate, space: Space, goodput: float | None) -> tuple[str, ...]:
    work, site = given.members[0].problem.work, given.cluster.site
    out = [*work.assumptions, given.link.note]
    out += [
        _("{letter}: compute type {dtype}; software stack {name} ({title})").format(
            letter=part.member.letter,
            dtype=part.problem.work.dtype,
            name=part.problem.stack.name,
            title=part.problem.stack.title,
        )
        for part in best.parts
    ]
    if best.variant == "pipeline":
        out.append(_("stages run 1F1B without interleaving; all groups share DP and the micro-batch"))
    if not space.offload:
        out.append(_("all states stay on the accelerators (--offload also tries host memory)"))
    if any(kind.parameters.expert for kind in given.members[0].problem.kinds):
        out.append(_("experts are evenly loaded"))
    if goodput is None:
        share = estimate["time"]["goodput"].value
        out.append(_("goodput {share:.1%}: failures, checkpoints and restarts (--goodput)").format(share=share))
    out.append(_("electricity of {region}, PUE {pue:g}").format(region=site.region, pue=site.pue))
    return tuple(out)


def _warnings(given: Fleet, best: Mix, *, interrupted: bool) -> tuple[str, ...]:
    out = [
        *given.cluster.warnings,
    ]
    types = dict.fromkeys(member.alone.work.dtype for member in given.members)
    if len(best.parts) > 1 and len(types) > 1:
        out.append(
            _("groups that train in {own} by themselves share {dtype} here").format(
                own=" and ".join(types), dtype=given.members[0].problem.work.dtype
            )
        )
    for member in given.members:
        missing = member.problem.eff.assumed
        if missing:
            out.append(
                _("efficiency of {family} is partly assumed: {names}").format(
                    family=member.problem.accelerator.family, names=", ".join(missing)
                )
            )
    outside = [outside_published(part.problem, best.n_rank) for part in best.parts]
    for part, texts in zip(best.parts, outside, strict=True):
        out += [text if all(text in other for other in outside) else f"{part.member.letter}: {text}" for text in texts]
    if interrupted:
        out.append(_("the search was interrupted: this is the best plan so far"))
    return tuple(dict.fromkeys(out))
