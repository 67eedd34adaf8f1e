"""Workload: what is to be trained; and the defaults that stand in for what the user left open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from suanchou.errors import SpecError
from suanchou.i18n import _
from suanchou.model.architecture import Architecture
from suanchou.training.defaults import batch_token, default

__all__ = ["Objective", "Workload", "divisible_batch", "workload"]

Objective = Literal["time", "money", "energy", "accelerators"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One training job.

    Parameters
    ----------
    arch : the model.
    token : training tokens.
    seq : tokens per sequence.
    global_batch : sequences per optimizer step.
    dtype : compute type of the matrix units, ``bf16`` or ``fp16``.
    low_dtype : type of the linear layers in strategies that run them below ``dtype`` (``Strategy.fp8``).
    adapter_rank : rank of LoRA adapters on the attention projections of a frozen model; 0 trains all weights.
    expert_capacity : rows of every expert over the mean, where experts are padded or cut to a capacity.
    """

    arch: Architecture
    token: float
    seq: int
    global_batch: int
    dtype: str
    low_dtype: str = "fp8"
    adapter_rank: int = 0
    expert_capacity: float = 1.0
    assumptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.token > 0:
            raise SpecError("training needs a positive number of tokens", where="--tokens", hint="for example --tokens 15T")
        for name, value in (("--seq", self.seq), ("--batch", self.global_batch)):
            if value < 1:
                raise SpecError(f"{value} is not a possible size", where=name)

    @property
    def batch_token(self) -> int:
        """Tokens per optimizer step."""
        return self.seq * self.global_batch

    @property
    def n_step(self) -> float:
        """Optimizer steps of the whole run."""
        return self.token / self.batch_token


def divisible_batch(wanted: float, n_rank: int) -> int:
    """The batch nearest to ``wanted`` that the odd part of ``n_rank`` divides, times a power of two where there is room."""
    unit = n_rank // (n_rank & -n_rank)
    while unit < 64 and unit * 32 <= wanted:
        unit *= 2
    return max(1, round(wanted / unit)) * unit if unit <= 4 * wanted else max(1, round(wanted))


def workload(
    arch: Architecture,
    *,
    token: float,
    dtype: str,
    parameters: float,
    seq: int | None = None,
    global_batch: int | None = None,
    n_rank: int = 1,
) -> Workload:
    """A Workload with its open fields filled in and said so; a default batch is one that ``n_rank`` ranks can share out.

    Raises
    ------
    SpecError : a sequence longer than learned positions allow.
    """
    assumptions = []
    if seq is None:
        longest = int(default("longest_default_seq").value)
        seq = min(arch.max_position, longest)
        assumptions.append(
            _("sequence length {seq}: the model's context, at most {longest} (--seq changes it)").format(
                seq=seq, longest=longest
            )
        )
    if arch.n_position and seq > arch.n_position:
        raise SpecError(
            f"the model has {arch.n_position} learned positions",
            where=f"--seq {seq}",
            hint=f"use --seq {arch.n_position} or less",
        )
    if global_batch is None:
        token_per_step, _source = batch_token(parameters)
        global_batch = divisible_batch(token_per_step / seq, n_rank)
        mi_token = global_batch * seq / 2**20
        assumptions.append(
            _("global batch {n} sequences = {mi:.3g} Mi tokens: common for models of this size (--batch)").format(
                n=global_batch, mi=mi_token
            )
        )
    return Workload(arch=arch, token=token, seq=seq, global_batch=global_batch, dtype=dtype, assumptions=tuple(assumptions))
