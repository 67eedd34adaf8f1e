"""Workload: which tokens, which FLOP and which trained parameters a purpose means for a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from suanchou.demand.data import Convention, Purpose, chosen, constant, conventions, listed
from suanchou.demand.flop import convention_estimate, purpose_estimate, short
from suanchou.demand.memory import lora_parameter_count
from suanchou.demand.scaling import optimal_tokens
from suanchou.errors import SpecError
from suanchou.estimate import Estimate
from suanchou.i18n import _
from suanchou.model.architecture import Architecture
from suanchou.model.flop import training_flop
from suanchou.model.parameters import active_parameter_count

__all__ = [
    "EXACT",
    "FULL_TRAINING",
    "Tokens",
    "flop_estimates",
    "met_parameters",
    "purpose_notes",
    "sequence_length",
    "token_estimate",
    "trained_count",
]

FULL_TRAINING = ("pretrain", "continue", "sft")
"""Purposes that train every weight, so that every counting convention applies."""
EXACT: tuple[Literal["exact_causal", "exact_full"], ...] = ("exact_causal", "exact_full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """How many tokens: at most one of a count, a compute budget and compute-optimal; ``published`` stands in for none."""

    count: float | None = None
    budget_flop: float | None = None
    compute_optimal: bool = False
    published: float | None = None

    def __post_init__(self) -> None:
        if (self.count is not None) + (self.budget_flop is not None) + self.compute_optimal > 1:
            raise SpecError(
                "--tokens, --budget and --compute-optimal exclude each other", where="tokens", hint="give one of them"
            )
        if self.count is not None and not self.count >= 1:
            raise SpecError(f"{self.count:g} tokens are too few", where="--tokens", hint="write for example 15T or 2万亿")
        if self.budget_flop is not None and self.budget_flop <= 0:
            raise SpecError("a budget of nothing buys nothing", where="--budget", hint="write for example 3640 PFLOPS-days")


def token_estimate(met: float, purpose: Purpose, tokens: Tokens) -> Estimate:
    """The tokens asked for, or the usual number for the purpose, saying which.

    ``met`` : parameters that a token meets.
    """
    if tokens.count is not None or purpose.id == "serve":
        return Estimate(name="tokens", value=tokens.count or 1.0, unit="token", formula="as given", grade="exact")
    if tokens.budget_flop is not None:
        return Estimate(
            name="tokens",
            value=tokens.budget_flop / (purpose.per_param * met),
            unit="token",
            formula=f"{short(tokens.budget_flop)} / ({short(purpose.per_param)} * {short(met)})",
            assumptions=(_("as many tokens as the budget buys"),),
        )
    if purpose.tokens is not None and not tokens.compute_optimal:
        default = constant(f"ladder.{purpose.tokens}").estimate("tokens")
        return replace(default, assumptions=(_("no token count was given, so a usual one is taken: --tokens"),))
    if tokens.published is not None and not tokens.compute_optimal:
        note = _("no token count was given, so that of the model's publication is taken: --tokens")
        return Estimate(name="tokens", value=tokens.published, unit="token", formula="as published", assumptions=(note,))
    asked = _("compute-optimal: 20 tokens per active parameter")
    unasked = _("no token count was given, so the compute-optimal one is taken: --tokens")
    return Estimate(
        name="tokens",
        value=optimal_tokens(met),
        unit="token",
        formula=f"{short(optimal_tokens(1.0))} * {short(met)}",
        sources=("Hoffmann et al. 2022, arXiv 2203.15556",),
        assumptions=(asked if tokens.compute_optimal else unasked,),
        grade="fitted",
    )


def met_parameters(arch: Architecture) -> float:
    """Parameters that one token meets: the active ones, or half of them in an encoder-decoder."""
    return active_parameter_count(arch) / (2 if arch.encoder is not None else 1)


def sequence_length(arch: Architecture, seq: float | None) -> float:
    """Tokens per training sequence: as given, else the usual length, at most the longest context."""
    if seq is not None:
        return seq
    return min(float(arch.max_position), constant("training_seq").value)


def flop_estimates(
    arch: Architecture, tokens: float, purpose: Purpose, convention: str | None, seq: float
) -> tuple[str, Estimate, Estimate]:
    """The convention in use, FLOP as it counts them, and model FLOP."""
    default = "3nd" if arch.encoder is not None else "6nd"
    n_active, met = active_parameter_count(arch), met_parameters(arch)
    if purpose.id not in FULL_TRAINING:
        if convention is not None:
            raise SpecError(
                f"conventions count full training; {purpose.id} is counted term by term",
                where="convention",
                hint=f"leave it out, or ask for one of: {', '.join(FULL_TRAINING)}",
            )
        flop = purpose_estimate(met, tokens, purpose, name="flop")
        return purpose.id, flop, replace(flop, name="model_flop")
    table = conventions()
    every = {name: convention_estimate(n_active, tokens, table[name]) for name in ("6nd", "8nd") if arch.encoder is None}
    if arch.encoder is not None:
        every["3nd"] = convention_estimate(n_active, tokens, table["3nd"])
    for kind in EXACT:
        every[kind] = replace(training_flop(arch, tokens, convention=kind, seq=seq), name=kind)
    name = convention or default
    if name == "3nd" and arch.encoder is None:
        raise SpecError("3ND counts encoder-decoders; this model is a decoder", where="convention", hint="leave it out")
    if name not in every:
        every[name] = convention_estimate(n_active, tokens, _convention(name))
    flop = replace(every[name], name="flop", summed=False, children=tuple(every.values()))
    hardware = name in table and table[name].counts == "hardware"
    return name, flop, replace(every[default] if hardware else every[name], name="model_flop", children=())


def _convention(name: str) -> Convention:
    return chosen(conventions(), name, "counting convention", "convention")


def trained_count(arch: Architecture, purpose: Purpose, lora_rank: int | None, n_param: int) -> tuple[int, tuple[str, ...]]:
    """Trained parameters, and what was taken for granted about them."""
    if purpose.id not in ("lora", "qlora"):
        return n_param, ()
    rank = int(constant("lora.rank").value) if lora_rank is None else lora_rank
    if rank < 1:
        raise SpecError(f"an adapter of rank {rank} is impossible", where="lora-rank", hint="ranks of 4 to 64 are usual")
    roles = listed("lora.roles")
    trained = lora_parameter_count(arch, rank=rank, roles=roles)
    note = _("rank-{rank} adapters on {roles}: {n} trained parameters")
    return trained, (note.format(rank=rank, roles=", ".join(roles), n=short(trained)),)


def purpose_notes(purpose: Purpose) -> tuple[str, ...]:
    """What a purpose takes for granted."""
    notes = []
    if purpose.id == "dpo":
        notes.append(_("tokens are those of both answers of every pair"))
    if "generate" in purpose.terms:
        notes.append(_("tokens are response tokens; all models have the policy's size, and every batch is used once"))
        notes.append(_("generation is counted by FLOP; decoding is bound by memory and runs below the MFU of training"))
    return tuple(notes)
