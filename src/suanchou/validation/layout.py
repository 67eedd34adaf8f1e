"""Layout: the strategy of a published run; what its row leaves open is filled after the default policy."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from suanchou.cost.fitted import Factors
from suanchou.errors import SpecError
from suanchou.model.operators import Num
from suanchou.model.parameters import parameter_count
from suanchou.training.defaults import batch_token
from suanchou.training.memory import STAGES, ActivationTable, stage_memory
from suanchou.training.problem import Problem
from suanchou.training.search import needed_memory, tables
from suanchou.training.stack import Stack
from suanchou.training.stack import stack as stack_named
from suanchou.training.strategy import LAYOUT_FIELDS, Strategy, layouts, virtual_stages
from suanchou.training.time import StepTime, step_time
from suanchou.training.workload import Workload, divisible_batch
from suanchou.validation.policy import Framework, framework, policy, precision, recompute, switches, zero
from suanchou.validation.runs import Run
from suanchou.validation.setup import architecture_of, machine_of, ranks_per_unit

__all__ = ["Laid", "Priced", "lay_out"]

_MOST_MICRO_BATCH = 16
_EIGHTHS = tuple((i / 8, 0, 0) for i in range(1, 9))
_LADDER = ((0.0, 0, 0), (0.0, 1, 0), *_EIGHTHS)
_OFFLOADED = (0.0, 0, 1)
"""What may be computed again: share of the layers, attention cores; and whether activations go to the host."""


class Priced(NamedTuple):
    """Step time by cause, and bytes on the fullest rank.

    ``memory_byte`` is all that is taken, as expected; at least ``needed_byte``, at worst ``high_byte``. Tensors are
    ``tensor_byte`` of it.
    """

    step: StepTime
    memory_byte: float
    tensor_byte: float
    needed_byte: float
    high_byte: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """A run as the cost model sees it. ``unit`` is the ranks in what the row counts; ``assumed`` names what was filled in."""

    problem: Problem
    strategy: Strategy
    priced: Priced
    units: int
    unit: int
    assumed: tuple[str, ...]


def lay_out(run: Run, factors: Factors | None = None) -> Laid:
    """Model, machine, stack and strategy of a run, priced with the fitted ``factors`` (those of all runs unless given).

    Raises
    ------
    SpecError, MissingData, Infeasible : the row cannot be read, or the catalogue lacks what it needs.
    """
    assumed: list[str] = []
    defaults = policy()["defaults"]

    def known(value: int | None, name: str, otherwise: int) -> int:
        if value is None:
            assumed.append(name)
            return otherwise
        return value

    units = known(run.accelerators, "accelerators", int(defaults["accelerators"]["value"]))
    seq = known(run.seq_len, "sequence", int(defaults["sequence"]["value"]))
    usual = framework(run.framework, run.zero, precision=run.precision, source=run.source, notes=run.notes)
    types = precision(run)
    arch = architecture_of(run)
    machine = machine_of(run, units)
    batch = run.global_batch
    if batch is None:
        assumed.append("global_batch")
        batch = _batch(run, seq, units, parameter_count(arch), usual)
    work = Workload(
        arch=arch,
        token=1e12,
        seq=seq,
        global_batch=batch,
        dtype=types.dtype,
        low_dtype=types.linear or "fp8",
        adapter_rank=_adapter_rank(run, int(defaults["adapter_rank"]["value"])),
        expert_capacity=_capacity(run),
    )
    problem = Problem(work=work, cluster=machine, stack=_stack(run, usual, factors), factors=factors)
    candidates = _candidates(problem, run, usual, fp8=types.linear is not None, assumed=assumed)
    strategy, priced = _quickest(problem, candidates)
    return Laid(
        problem=problem, strategy=strategy, priced=priced, units=units, unit=ranks_per_unit(run), assumed=tuple(assumed)
    )


def _stack(run: Run, usual: Framework, factors: Factors | None) -> Stack:
    """The framework's stack with the attention kernel that the row states."""
    found = replace(stack_named(usual.stack, factors), **switches(run))  # type: ignore[arg-type]  # numbers, by the policy's words
    if not run.attention_kernel:
        return found
    words = run.attention_kernel.casefold()
    kernel = next((e["kernel"] for e in policy()["attention"] if fnmatchcase(words, e["pattern"])), found.attention_kernel)
    return replace(found, attention="eager" if "unfused" in words else "flash", attention_kernel=kernel)


def _adapter_rank(run: Run, usual: int) -> int:
    """Rank of the adapters of a LoRA run, 0 of any other."""
    text = f"{run.model_name} {run.flop_convention}"
    if "lora" not in text.casefold():
        return 0
    stated = re.search(r"\br(?:ank )?(\d+)", text)
    return int(stated.group(1)) if stated else usual


def _capacity(run: Run) -> float:
    """Rows of every expert over the mean, where the notes state a capacity factor."""
    stated = re.search(r"capacity factor (\d+(?:\.\d+)?)", run.notes)
    return float(stated.group(1)) if stated else 1.0


def _batch(run: Run, seq: int, units: int, parameters: float, usual: Framework) -> int:
    """Sequences per step, where the row is silent.

    Tokens per device and step where the notes state them; a sequence per device where the framework does not cut its batch in
    micro-batches; else what is usual for the size, shared out by all devices.
    """
    stated = re.search(r"(\d+) tokens per device per step", run.notes)
    if stated is None and not usual.accumulates:
        return units
    token = int(stated.group(1)) * units if stated else batch_token(parameters)[0]
    if run.dp is None and run.micro_batch is None:
        return divisible_batch(token / seq, units)
    multiple = (run.dp or 1) * (run.micro_batch or 1)
    return max(1, round(token / seq / multiple)) * multiple


def _candidates(problem: Problem, run: Run, usual: Framework, *, fp8: bool, assumed: list[str]) -> Strategy:
    """Every strategy the row allows, in 1-D arrays: one where it says everything."""
    n_rank = problem.cluster.n_accelerator
    ulysses = int(bool(re.search(r"cp uses a2a|ulysses", run.notes, re.IGNORECASE)))
    pinned: dict[str, int | None] = {"tp": run.tp, "pp": run.pp, "cp": run.cp, "dp": run.dp, "ep": run.ep}
    if ranks_per_unit(run) > 1 or run.tp is None or run.pp is None:
        pinned["dp"] = None
    if run.tp is not None and run.pp is not None:
        layout = _stated(problem, n_rank, run, pinned, usual)
    else:
        layout = _searched(problem, n_rank, run, pinned, usual)
        assumed.append("layout")
    if run.micro_batch is None:
        assumed.append("micro_batch")
    if run.vpp is None and bool((np.asarray(layout.pp) > 1).any()):
        assumed.append("virtual")
    sp = usual.sp if run.sp is None else run.sp
    if run.sp is None and bool((np.asarray(layout.tp) > 1).any()):
        assumed.append("sp")
    stage, within = zero(run, usual.zero)
    if not run.zero:
        assumed.append("zero")
    layout = replace(
        layout,
        sp=np.where(np.asarray(layout.tp) > 1, sp, 0),
        ulysses=np.where(np.asarray(layout.cp) > 1, ulysses, 0),
        fp8=np.full(np.asarray(layout.tp).shape, int(fp8)),
    )
    stated = recompute(run)
    again = None if stated is None else (*stated, 0)
    if again is None:
        assumed.append("recompute")
    rungs = (again,) if again is not None else (*_LADDER, _OFFLOADED) if usual.offload and stage >= 3 else _LADDER
    return _crossed(layout, rungs, zero_stage=stage, shard_domain=within)


def _stated(problem: Problem, n_rank: int, run: Run, pinned: dict[str, int | None], usual: Framework) -> Strategy:
    """The layouts of a row that states TP and PP; CP is what DP leaves over, else one; DP is the rest."""
    work = problem.work
    tp, pp, dp = pinned["tp"] or 1, pinned["pp"] or 1, pinned["dp"]
    cp = pinned["cp"] or (n_rank // (tp * pp * dp) if dp else 1)
    if tp * pp * cp > n_rank or n_rank % (tp * pp * cp) or (dp and tp * pp * cp * dp != n_rank):
        degrees = f"TP{tp} CP{cp} PP{pp}" + (f" DP{dp}" if dp else "")
        raise SpecError(f"{degrees} do not make {n_rank} ranks", where=run.run_id)
    if pp * (run.vpp or 1) > work.arch.n_layer + 2:
        raise SpecError(f"{work.arch.n_layer} layers do not fill {pp} x {run.vpp or 1} stages", where=run.run_id)
    dp = n_rank // (tp * pp * cp)
    ep = pinned["ep"] or 1
    spread = dp * cp * (1 if problem.stack.expert_tensor else tp)
    if spread % ep:
        raise SpecError(f"EP{ep} is not made of the {spread} ranks it may span", where=run.run_id)
    per_replica = work.global_batch / dp
    if not usual.accumulates:
        micro = np.array([per_replica])
    elif run.micro_batch is None:
        divides = [float(b) for b in range(1, _MOST_MICRO_BATCH + 1) if per_replica % b == 0]
        micro = np.array(divides or [per_replica])
    else:
        micro = np.array([per_replica / np.ceil(per_replica / run.micro_batch)])
    chunks = virtual_stages(work.arch.n_layer, pp) if run.vpp is None and usual.interleaved else [run.vpp or 1]
    micro, virtual = (axis.ravel() for axis in np.meshgrid(micro, np.array(chunks, dtype=float), indexing="ij"))
    even = (virtual == 1) | (run.vpp is not None) | (per_replica / micro % pp == 0)
    micro, virtual = micro[even], virtual[even]
    ones = np.ones_like(micro)
    return Strategy(tp=tp * ones, cp=cp * ones, pp=pp * ones, dp=dp * ones, ep=ep * ones, virtual=virtual, micro_batch=micro)


def _searched(problem: Problem, n_rank: int, run: Run, pinned: dict[str, int | None], usual: Framework) -> Strategy:
    """Layouts that hold what the row states; a node bounds TP."""
    fixed = {name: value for name, value in pinned.items() if value is not None}
    fixed |= {"fp8": 0, "ulysses": 0}
    if run.vpp is not None or not usual.interleaved:
        fixed["virtual"] = run.vpp or 1
    if run.pp is None and not usual.stages:
        fixed["pp"] = 1
    if run.cp is None and problem.work.seq <= 32768:
        fixed["cp"] = 1
    if run.micro_batch is not None and usual.accumulates:
        fixed["micro_batch"] = run.micro_batch
    found, refused = layouts(
        problem.work,
        n_rank,
        fp8=False,
        most_micro_batch=_MOST_MICRO_BATCH,
        fixed=fixed,
        expert_tensor=problem.stack.expert_tensor,
    )
    keep = np.asarray(found.sp) == 0
    if not usual.accumulates:
        keep = keep & (np.asarray(found.micro_batch) * np.asarray(found.dp) == problem.work.global_batch)
    if run.tp is None:
        keep = keep & (np.asarray(found.tp) <= problem.node.n_accelerator)
    if not keep.any():
        raise SpecError("no layout holds what the row states", where=run.run_id, hint="; ".join(refused))
    return Strategy(**{name: np.asarray(getattr(found, name))[keep] for name in LAYOUT_FIELDS})


def _crossed(layout: Strategy, again: tuple[tuple[float, int, int], ...], *, zero_stage: int, shard_domain: int) -> Strategy:
    """Layouts crossed with what may be recomputed or offloaded."""
    n, k = np.asarray(layout.tp).shape[0], len(again)
    columns: dict[str, Any] = {
        name: np.repeat(np.broadcast_to(np.asarray(getattr(layout, name), dtype=float), (n,)), k) for name in LAYOUT_FIELDS
    }
    return Strategy(
        **columns,
        zero=np.full(n * k, zero_stage),
        shard_domain=np.full(n * k, shard_domain if zero_stage else 0),
        full_frac=np.tile(np.array([full for full, _, _ in again]), n),
        selective=np.tile(np.array([selective for _, selective, _ in again]), n),
        offload_weight=np.zeros(n * k),
        offload_optimizer=np.zeros(n * k),
        offload_activation=np.tile(np.array([away for _, _, away in again]), n),
    )


def _memory(problem: Problem, s: Strategy, acts: ActivationTable) -> tuple[NDArray[np.float64], ...]:
    """Bytes on the fullest rank: all that is taken, tensors alone, what must fit, and with the allocator at its worst."""
    stages = [stage_memory(problem, s, acts, stage) for stage in STAGES]
    each = (
        [m.total for m in stages],
        [m.allocated for m in stages],
        [m.needed(problem.stack) for m in stages],
        [m.high(problem.stack, problem.memory_byte) for m in stages],
    )
    return tuple(np.asarray(np.maximum.reduce(np.broadcast_arrays(*found)), dtype=float) for found in each)


def _quickest(problem: Problem, s: Strategy) -> tuple[Strategy, Priced]:
    """The quickest candidate that fits in memory; the smallest where none does; a lone candidate as it is."""
    table = tables(problem, s)
    step = step_time(problem, s, table.time, table.activation)
    n = np.asarray(s.tp).shape[0]
    total = np.broadcast_to(np.asarray(step.total, dtype=float), (n,))
    best = 0
    if n > 1:
        needed = np.broadcast_to(np.asarray(needed_memory(problem, s, table.activation), dtype=float), (n,))
        fits = needed <= problem.memory_byte
        best = int(np.argmin(np.where(fits, total, np.inf))) if fits.any() else int(np.argmin(needed))
    memory = [float(np.broadcast_to(found, (n,))[best]) for found in _memory(problem, s, table.activation)]
    chosen = Strategy(**{item.name: _plain(getattr(s, item.name), best, n) for item in fields(Strategy)})
    return chosen, Priced(_at(step, best, n), *memory)


def _plain(value: Num, index: int, n: int) -> int | float:
    """One entry, whole numbers as such."""
    found = float(np.broadcast_to(np.asarray(value), (n,))[index])
    return int(found) if found.is_integer() else found


def _at(step: StepTime, index: int, n: int) -> StepTime:
    """One strategy's causes out of arrays."""

    def pick(value: Num) -> float:
        return float(np.broadcast_to(np.asarray(value, dtype=float), (n,))[index])

    slowest = type(step.slowest)(*map(pick, step.slowest))
    rest = {name: pick(value) for name, value in step._asdict().items() if name != "slowest"}
    return StepTime(slowest=slowest, **rest)
