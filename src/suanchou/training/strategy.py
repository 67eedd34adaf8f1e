"""Strategy: how a training job is spread over ranks; and the grid of all strategies for a model on a cluster."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suanchou.i18n import N_
from suanchou.model.architecture import MLP, Architecture, Attention, LatentAttention, LinearAttention, MoE, StateSpace
from suanchou.model.operators import Num
from suanchou.training.schedule import SCHEDULES, schedule_named
from suanchou.training.workload import Workload
from suanchou.training.zero_bubble import FEWEST_STAGES

__all__ = ["LAYOUT_FIELDS", "OPTION_FIELDS", "Options", "Strategy", "divisors", "layouts", "virtual_stages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One strategy, or many when the fields are arrays that broadcast.

    Ranks are numbered TP fastest, then CP, then DP, then PP. EP takes its ranks out of CP x DP, or out of TP x CP x DP where
    the stack keeps experts whole.

    Parameters
    ----------
    tp, cp, pp, dp, ep : parallel degrees; ``tp * cp * pp * dp`` ranks.
    virtual : model chunks per pipeline stage (interleaved schedule when above 1).
    micro_batch : sequences of a micro-batch.
    sp : 1 with sequence parallelism (norms and residuals split over TP).
    ulysses : 1 where CP exchanges heads by all-to-all instead of passing keys and values round a ring.
    fp8 : 1 where linear layers run in fp8.
    schedule : code of the pipeline schedule (:data:`suanchou.training.schedule.SCHEDULES`); 0 is 1F1B.
    zero : 0 to 3; 3 is fully sharded (FSDP).
    shard_domain : 1 where ZeRO shards within a scale-up domain and replicates across (HSDP), else over all of DP x CP.
    selective : 1 where attention cores are recomputed.
    full_frac : share of layers that are recomputed whole.
    offload_weight, offload_optimizer, offload_activation : 1 where these live in host memory.
    """

    tp: Num = 1
    cp: Num = 1
    pp: Num = 1
    dp: Num = 1
    ep: Num = 1
    virtual: Num = 1
    micro_batch: Num = 1
    sp: Num = 0
    ulysses: Num = 0
    fp8: Num = 0
    schedule: Num = 0
    zero: Num = 0
    shard_domain: Num = 0
    selective: Num = 0
    full_frac: Num = 0.0
    offload_weight: Num = 0
    offload_optimizer: Num = 0
    offload_activation: Num = 0

    def micro_batches(self, work: Workload) -> Num:
        """Micro-batches per replica and step."""
        return work.global_batch / (self.dp * self.micro_batch)

    @property
    def n_rank(self) -> Num:
        """Ranks used."""
        return self.tp * self.cp * self.pp * self.dp

    def at(self, index: tuple[int, ...], shape: tuple[int, ...]) -> Strategy:
        """The scalar strategy at ``index`` of the broadcast ``shape``."""
        values: dict[str, Any] = {}
        for item in fields(self):
            value = np.broadcast_to(np.asarray(getattr(self, item.name)), shape)[index]
            values[item.name] = float(value) if item.name == "full_frac" else int(value)
        return Strategy(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the words of the field."""
        return {
            "tp": self.tp,
            "cp": self.cp,
            "pp": self.pp,
            "dp": self.dp,
            "ep": self.ep,
            "virtual_stages": self.virtual,
            "schedule": schedule_named(int(self.schedule)),
            "micro_batch": self.micro_batch,
            "sequence_parallel": bool(self.sp),
            "fp8": bool(self.fp8),
            "zero": self.zero,
            "zero_within": "domain" if self.shard_domain else "dp",
            "recompute": "full" if self.full_frac else "selective" if self.selective else "none",
            "recompute_frac": self.full_frac,
            "context_parallel_by": "all-to-all" if self.ulysses else "ring",
            "offload_weight": bool(self.offload_weight),
            "offload_optimizer": bool(self.offload_optimizer),
            "offload_activation": bool(self.offload_activation),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Strategy:
        """The strategy that :meth:`to_dict` wrote.

        Raises
        ------
        KeyError : a choice is missing, or the schedule is unknown.
        """
        full = data["recompute_frac"] if data["recompute"] == "full" else 0.0
        return cls(
            **{name: int(data[name]) for name in ("tp", "cp", "pp", "dp", "ep", "micro_batch", "zero")},
            virtual=int(data["virtual_stages"]),
            schedule=SCHEDULES[data["schedule"]].code,
            sp=int(data["sequence_parallel"]),
            ulysses=int(data["context_parallel_by"] == "all-to-all"),
            fp8=int(data["fp8"]),
            shard_domain=int(data["zero_within"] == "domain"),
            selective=int(data["recompute"] == "selective"),
            full_frac=float(full),
            **{name: int(data[name]) for name in ("offload_weight", "offload_optimizer", "offload_activation")},
        )

    @property
    def label(self) -> str:
        """Short name, for example ``TP8 PP4 DP32 v5 mb1 ZeRO-1``."""
        parts = [f"TP{self.tp}"] + (["SP"] if self.sp else [])
        for name, degree in (("CP", self.cp), ("PP", self.pp), ("DP", self.dp), ("EP", self.ep)):
            if degree > 1 or name == "DP":
                parts.append(f"{name}{degree}" + ("-ulysses" if name == "CP" and self.ulysses else ""))
        if self.schedule:
            parts.append(SCHEDULES[schedule_named(int(self.schedule))].label)
        elif self.virtual > 1:
            parts.append(f"v{self.virtual}")
        parts.append(f"mb{self.micro_batch}")
        if self.zero:
            parts.append(
                ("HSDP" if self.zero == 3 else f"ZeRO-{self.zero}/domain") if self.shard_domain else f"ZeRO-{self.zero}"
            )
        if self.full_frac:
            parts.append("full recompute" if self.full_frac == 1 else f"recompute {self.full_frac:.0%}")
        elif self.selective:
            parts.append("selective recompute")
        parts += ["weight offload"] if self.offload_weight else []
        parts += ["optimizer offload"] if self.offload_optimizer else []
        parts += ["activation offload"] if self.offload_activation else []
        parts += ["fp8"] if self.fp8 else []
        return " ".join(parts)


LAYOUT_FIELDS = ("tp", "cp", "pp", "dp", "ep", "virtual", "micro_batch", "sp", "ulysses", "fp8", "schedule")
OPTION_FIELDS = ("zero", "shard_domain", "selective", "full_frac", "offload_weight", "offload_optimizer", "offload_activation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The axes that every layout is crossed with, as arrays shaped to broadcast behind it: state x recompute x offload."""

    zero: NDArray[np.float64]
    shard_domain: NDArray[np.float64]
    selective: NDArray[np.float64]
    full_frac: NDArray[np.float64]
    offload_weight: NDArray[np.float64]
    offload_optimizer: NDArray[np.float64]
    offload_activation: NDArray[np.float64]

    @classmethod
    def build(cls, zero_stages: tuple[int, ...], *, offload: bool = True, recompute_step: int = 8) -> Options:
        """All options a stack knows; full recomputation covers ``1 .. recompute_step`` eighths of the layers."""
        state = [(zero, domain) for zero in zero_stages for domain in ((0, 1) if zero else (0,))]
        recompute = [(0, 0.0), (1, 0.0)] + [(0, i / recompute_step) for i in range(1, recompute_step + 1)]
        where = list(itertools.product((0, 1), repeat=3)) if offload else [(0, 0, 0)]

        def axis(rows: list[Any], column: int, position: int) -> NDArray[np.float64]:
            shape = [1, 1, 1, 1]
            shape[position] = len(rows)
            return np.array([row[column] for row in rows], dtype=float).reshape(shape)

        return cls(
            zero=axis(state, 0, 1),
            shard_domain=axis(state, 1, 1),
            selective=axis(recompute, 0, 2),
            full_frac=axis(recompute, 1, 2),
            offload_weight=axis(where, 0, 3),
            offload_optimizer=axis(where, 1, 3),
            offload_activation=axis(where, 2, 3),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent of the three axes."""
        return self.zero.shape[1], self.full_frac.shape[2], self.offload_optimizer.shape[3]

    @property
    def size(self) -> int:
        """Options per layout."""
        return int(np.prod(self.shape))

    @property
    def burden(self) -> NDArray[np.float64]:
        """How much each option asks of the user's set-up, for choosing among equals; shaped like the axes, flattened."""
        host = 2.0 * self.offload_weight + 2.0 * self.offload_optimizer + 2.0 * self.offload_activation
        recompute = self.full_frac + 0.5 * self.selective
        return np.broadcast_to(host + recompute + 0.3 * self.zero + 0.1 * self.shard_domain, (1, *self.shape)).ravel()

    def cross(self, layout: Strategy) -> Strategy:
        """Layouts (1-D arrays) crossed with all options; fields broadcast to ``(layouts, state, recompute, offload)``."""
        columns = {name: np.asarray(getattr(layout, name), dtype=float).reshape(-1, 1, 1, 1) for name in LAYOUT_FIELDS}
        return Strategy(**columns, **{name: getattr(self, name) for name in OPTION_FIELDS})

    def choose(self, layout: Strategy, option: NDArray[np.intp]) -> Strategy:
        """One option per layout, by its index in the flattened axes; every field 1-D."""
        index = np.unravel_index(option, self.shape)
        values = {name: np.asarray(getattr(layout, name)) for name in LAYOUT_FIELDS}
        for name in OPTION_FIELDS:
            axes = np.broadcast_to(getattr(self, name), (1, *self.shape))[0]
            values[name] = axes[index]
        return Strategy(**values)


def divisors(n: int) -> list[int]:
    """All divisors, ascending."""
    small = [i for i in range(1, int(n**0.5) + 1) if n % i == 0]
    return sorted({*small, *(n // i for i in small)})


def _shardable(arch: Architecture, tp: int) -> str:
    """Why TP of this degree is impossible; empty where it is possible."""
    for layer in dict.fromkeys(arch.layers):
        mixer = layer.mixer
        if isinstance(mixer, Attention | LatentAttention) and mixer.n_head % tp:
            return N_("TP does not divide the attention heads")
        if isinstance(mixer, Attention) and mixer.n_kv_head % tp and tp % mixer.n_kv_head:
            return N_("TP and KV heads do not divide each other")
        if isinstance(mixer, LinearAttention) and (mixer.n_value_head % tp or mixer.n_key_head % tp):
            return N_("TP does not divide the heads of a linear-attention layer")
        if isinstance(mixer, StateSpace) and mixer.d_inner % tp:
            return N_("TP does not divide the state-space width")
        ffn = layer.ffn
        width = ffn.d_ff if isinstance(ffn, MLP) else ffn.expert.d_ff if isinstance(ffn, MoE) else tp
        if width % tp:
            return N_("TP does not divide the MLP width")
    return ""


def _heads_divide(arch: Architecture, ways: int) -> bool:
    """Whether every attention's heads, queries and keys alike, can be dealt out ``ways`` ways."""
    mixers = [layer.mixer for layer in dict.fromkeys(arch.layers)]
    return all(isinstance(mixer, Attention) and mixer.n_kv_head % ways == 0 for mixer in mixers)


def virtual_stages(n_layer: int, pp: int) -> list[int]:
    """Model chunks per stage for which chunks are equal, or equal once embedding and head count as a layer each."""
    if pp == 1:
        return [1]
    most = n_layer // pp
    return [1] + [v for v in range(2, most + 1) if n_layer % (pp * v) == 0 or (n_layer + 2) % (pp * v) == 0]


@dataclass(slots=True)
class _Columns:
    rows: list[NDArray[np.int64]]
    refused: Counter[str]


def _meshes(n_rank: int) -> Iterator[tuple[int, int, int, int]]:
    for tp in divisors(n_rank):
        for cp in divisors(n_rank // tp):
            for pp in divisors(n_rank // tp // cp):
                yield tp, cp, pp, n_rank // tp // cp // pp


def layouts(
    work: Workload,
    n_rank: int,
    *,
    fp8: bool,
    most_micro_batch: int = 64,
    fixed: dict[str, int] | None = None,
    expert_tensor: bool = True,
    schedules: tuple[str, ...] = ("1f1b",),
) -> tuple[Strategy, Counter[str]]:
    """Every layout of ``n_rank`` ranks whose degrees divide what they must, and the count of refused ones by reason.

    The layout fields are those of ``LAYOUT_FIELDS``; ``fixed`` pins some of them. ``expert_tensor``: TP splits experts, too;
    else EP may take its ranks out of TP as well. ``schedules`` are those to try.

    Returns
    -------
    1-D arrays in a Strategy, and the refusals.
    """
    arch, fixed = work.arch, fixed or {}
    experts = [layer.ffn.n_expert for layer in arch.layers if isinstance(layer.ffn, MoE)]
    codes = [SCHEDULES[name].code for name in schedules]
    tp_reason = {tp: _shardable(arch, tp) for tp in divisors(n_rank)}
    out = _Columns([], Counter())
    pinned = {name: fixed[name] for name in ("tp", "cp", "pp", "dp") if name in fixed}
    if pinned and n_rank % max(1, int(np.prod(list(pinned.values())))):
        out.refused[f"pinned degrees do not divide the {n_rank} accelerators"] += 1
    for tp, cp, pp, dp in _meshes(n_rank):
        if any(fixed.get(name, value) != value for name, value in (("tp", tp), ("cp", cp), ("pp", pp), ("dp", dp))):
            continue
        if tp_reason[tp]:
            out.refused[tp_reason[tp]] += 1
        elif pp > arch.n_layer:
            out.refused[N_("more pipeline stages than layers")] += 1
        elif work.global_batch % dp:
            out.refused[N_("DP does not divide the global batch")] += 1
        elif cp > 1 and work.seq % (2 * cp):
            out.refused[N_("twice CP does not divide the sequence")] += 1
        else:
            spread = dp * cp if expert_tensor else dp * cp * tp
            ways = [e for e in divisors(spread) if all(n % e == 0 for n in experts)] if experts else [1]
            _add(out, work, (tp, cp, pp, dp), ways, fp8, most_micro_batch, fixed, codes)
    table = np.concatenate(out.rows, axis=1) if out.rows else np.zeros((len(LAYOUT_FIELDS), 0), dtype=np.int64)
    return Strategy(**dict(zip(LAYOUT_FIELDS, table.astype(float), strict=True))), out.refused


def _add(
    out: _Columns,
    work: Workload,
    mesh: tuple[int, int, int, int],
    ep: list[int],
    fp8: bool,
    most: int,
    fixed: dict[str, int],
    schedules: list[int],
) -> None:
    tp, cp, pp, dp = mesh
    per_replica = work.global_batch // dp
    axes = {
        "ep": ep,
        "virtual": virtual_stages(work.arch.n_layer, pp),
        "micro_batch": [b for b in divisors(per_replica) if b <= most],
        "sp": [0, 1] if tp > 1 else [0],
        "ulysses": [0, 1] if cp > 1 and _heads_divide(work.arch, tp * cp) else [0],
        "fp8": [0, 1] if fp8 else [0],
        "schedule": schedules if pp > 1 else [0],
    }
    for name, values in axes.items():
        if name in fixed:
            axes[name] = [value for value in values if value == fixed[name]]
            if not axes[name]:
                out.refused[f"pinned {name} of {fixed[name]} does not go with the other degrees"] += 1
                return
    grid = np.stack(
        [axis.ravel() for axis in np.meshgrid(*(np.array(v, dtype=np.int64) for v in axes.values()), indexing="ij")]
    )
    virtual, schedule, m = grid[1], grid[6], per_replica // np.maximum(grid[2], 1)
    fits = (schedule > 0) | (virtual == 1) | (m % pp == 0)
    out.refused[N_("interleaving needs micro-batches in multiples of PP")] += int((~fits).sum())
    if schedule.any():
        runs = _runs(schedule, pp, virtual, m)
        out.refused[N_("the schedule does not go with this number of stages, chunks or micro-batches")] += int((~runs).sum())
        fits &= runs
    grid = grid[:, fits]
    out.rows.append(np.concatenate([np.tile(np.array([[tp], [cp], [pp], [dp]]), (1, grid.shape[1])), grid]))


def _runs(schedule: NDArray[np.int64], pp: int, virtual: NDArray[np.int64], m: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a schedule can run: ZB-V has two chunks per rank, DualPipe an even number of ranks and micro-batches."""
    folded, both = schedule == SCHEDULES["zb-v"].code, schedule == SCHEDULES["dualpipe"].code
    fills = (pp >= FEWEST_STAGES) & (m >= 2 * pp) & (virtual == np.where(folded, 2, 1))
    found: NDArray[np.bool_] = (schedule == 0) | (fills & (~both | ((pp % 2 == 0) & (m % 2 == 0))))
    return found
