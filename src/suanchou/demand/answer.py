"""demand(): from an architecture and a purpose to everything it takes, every number with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from suanchou.demand.data import (
    Constant,
    Convention,
    Optimizer,
    Purpose,
    chosen,
    constant,
    conventions,
    listed,
    optimizers,
    purposes,
    utilisation,
    weight_formats,
)
from suanchou.demand.fleet import Fleet, card_time
from suanchou.demand.flop import convention_estimate, purpose_estimate, short
from suanchou.demand.ladder import ladder
from suanchou.demand.memory import (
    ZERO_STAGES,
    checkpoint_estimate,
    lora_parameter_count,
    state_estimate,
    weight_estimate,
    zero_estimate,
)
from suanchou.demand.scaling import loss_estimate, optimal_tokens
from suanchou.demand.serving import Load, Served, serving
from suanchou.errors import Infeasible, MissingData, SpecError
from suanchou.estimate import Estimate
from suanchou.machine.cluster import Site
from suanchou.model.architecture import Architecture
from suanchou.model.flop import decode_flop_per_token, training_flop
from suanchou.model.kv import kv_byte_per_token, sequence_state_byte
from suanchou.model.parameters import active_parameter_count, parameter_count, parameters_by_role

__all__ = ["EXACT", "FULL_TRAINING", "Demand", "demand"]

FULL_TRAINING = ("pretrain", "continue", "sft")
"""Purposes that train every weight, so that every counting convention applies."""
EXACT = ("exact_causal", "exact_full")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a model asks for.

    Parameters
    ----------
    flop : under the chosen convention; its children are the other conventions, or the terms of the purpose.
    model_flop : recomputation not counted: what card time is computed from.
    card_time : card-hours per fleet, with days, energy, carbon and money below.
    weights : by format. ``state``: training state by optimizer recipe, the chosen one first. ``rank_state``: the chosen recipe
        on one data-parallel rank by ZeRO stage.
    kv : cache per token, and state per sequence, at 16 bits.
    loss : only for pre-training. ``ladder``: rungs of a domain model. ``serving``: cards per fleet, where a load was given.
    warnings : what could not be answered, and what to mind about the accelerators.
    """

    purpose: str
    convention: str
    parameters: Estimate
    active_parameters: Estimate
    tokens: Estimate
    flop: Estimate
    model_flop: Estimate
    card_time: tuple[Estimate, ...]
    weights: tuple[Estimate, ...]
    state: tuple[Estimate, ...]
    rank_state: tuple[Estimate, ...]
    checkpoint: Estimate
    kv: Estimate
    loss: Estimate | None
    ladder: tuple[Estimate, ...]
    serving: tuple[Estimate, ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def estimate(self) -> Estimate:
        """Everything as one tree: ``demand.flop``, ``demand.card_time.<accelerator>.energy``, ``demand.ladder.sft`` ..."""
        groups = (
            ("weights", self.weights),
            ("training_state", self.state),
            ("rank_state", self.rank_state),
            ("card_time", self.card_time),
            ("ladder", self.ladder),
            ("serving", self.serving),
        )
        single = (
            self.parameters,
            self.active_parameters,
            self.tokens,
            self.flop,
            self.model_flop,
            self.checkpoint,
            self.kv,
            self.loss,
        )
        nodes = [node for node in single if node is not None]
        for name, members in groups:
            if members:
                head = members[0]
                nodes.append(replace(head, name=name, summed=False, formula=f"that of {head.name}", children=members))
        return Estimate(
            name="demand",
            value=self.flop.value,
            unit="flop",
            formula="that of flop",
            grade=self.flop.grade,
            children=tuple(nodes),
        )


def _count(name: str, value: float, formula: str) -> Estimate:
    return Estimate(name=name, value=float(value), unit="parameter", formula=formula, grade="exact")


def _token_estimate(n_active: float, purpose: Purpose, tokens: float | None, compute_optimal: bool) -> Estimate:
    """Tokens asked for, or the default of the purpose, saying which."""
    if tokens is not None and compute_optimal:
        raise SpecError("--tokens and --compute-optimal exclude each other", where="tokens", hint="give one of them")
    if tokens is not None:
        if not tokens >= 1:
            raise SpecError(f"{tokens:g} tokens are too few", where="tokens", hint="write for example 15T or 2万亿")
        return Estimate(name="tokens", value=tokens, unit="token", formula="as given", grade="exact")
    if purpose.tokens is None or compute_optimal:
        note = "compute-optimal" if compute_optimal else "no token count was given, so the compute-optimal one is taken"
        factor = optimal_tokens(1.0)
        return Estimate(
            name="tokens",
            value=factor * n_active,
            unit="token",
            formula=f"{short(factor)} * {short(n_active)}",
            sources=("Hoffmann et al. 2022, arXiv 2203.15556",),
            assumptions=(note,),
            grade="fitted",
        )
    default = constant(f"ladder.{purpose.tokens}")
    return replace(default.estimate("tokens"), assumptions=("no token count was given, so a usual one is taken",))


def _named(estimate: Estimate, name: str) -> Estimate:
    return replace(estimate, name=name)


def _flop(
    arch: Architecture, n_active: float, tokens: float, purpose: Purpose, convention: str | None, seq: float | None
) -> tuple[str, Estimate, Estimate]:
    """The convention in use, FLOP as it counts them, and model FLOP."""
    default = "3nd" if arch.encoder is not None else "6nd"
    met = n_active / 2 if arch.encoder is not None else n_active
    if purpose.id not in FULL_TRAINING:
        if convention is not None:
            raise SpecError(
                f"conventions count full training; {purpose.id} is counted term by term",
                where="convention",
                hint=f"leave it out, or ask for one of: {', '.join(FULL_TRAINING)}",
            )
        flop = purpose_estimate(met, tokens, purpose, name="flop")
        return purpose.id, flop, _named(flop, "model_flop")
    table = conventions()
    every = {name: convention_estimate(n_active, tokens, table[name]) for name in ("6nd", "8nd") if arch.encoder is None}
    if arch.encoder is not None:
        every["3nd"] = convention_estimate(n_active, tokens, table["3nd"])
    for name in EXACT:
        every[name] = _named(training_flop(arch, tokens, convention=name, seq=seq), name)  # type: ignore[arg-type]
    name = convention or default
    if name == "3nd" and arch.encoder is None:
        raise SpecError("3ND counts encoder-decoders; this model is a decoder", where="convention", hint="leave it out")
    if name not in every:
        every[name] = convention_estimate(n_active, tokens, _convention(name))
    flop = replace(every[name], name="flop", summed=False, children=tuple(every.values()))
    hardware = name in table and table[name].counts == "hardware"
    return name, flop, _named(every[default] if hardware else every[name], "model_flop")


def _convention(name: str) -> Convention:
    known = {**conventions(), **dict.fromkeys(EXACT)}
    found = chosen(known, name, "counting convention", "convention")
    assert found is not None
    return found


def _served(arch: Architecture, load: Load, weight_format: str) -> Served:
    """The model as serving sees it: everything is read but the experts no token chose."""
    byte = chosen(weight_formats(), weight_format, "weight format", "weights").byte
    n_param, n_expert = parameter_count(arch), parameters_by_role(arch).get("expert", 0)
    idle = n_param - active_parameter_count(arch)
    return Served(
        weight_byte=n_param * byte,
        expert_byte=n_expert * byte,
        expert_share=1.0 - idle / n_expert if n_expert else 0.0,
        flop_per_token=decode_flop_per_token(arch, load.context).value,
        kv_byte=sequence_state_byte(arch, load.input_token + load.output_token).value,
    )


def _trained(arch: Architecture, purpose: Purpose, lora_rank: int | None, n_param: int) -> tuple[int, tuple[str, ...]]:
    """Trained parameters, and what was taken for granted about them."""
    if purpose.id not in ("lora", "qlora"):
        return n_param, ()
    rank = int(constant("lora.rank").value) if lora_rank is None else lora_rank
    if rank < 1:
        raise SpecError(f"an adapter of rank {rank} is impossible", where="lora-rank", hint="ranks of 4 to 64 are usual")
    roles = listed("lora.roles")
    trained = lora_parameter_count(arch, rank=rank, roles=roles)
    return trained, (f"rank-{rank} adapters on: {', '.join(roles)} ({short(trained)} parameters)",)


def _answers(fleets: Sequence[Fleet], price: Callable[[Fleet], Estimate], *, strict: bool) -> tuple[list[Estimate], list[str]]:
    """One answer per fleet; a fleet that cannot be answered is a warning unless it was asked for by name."""
    found, warnings = [], []
    for fleet in fleets:
        try:
            found.append(price(fleet))
        except (MissingData, Infeasible) as error:
            if strict:
                raise
            warnings.append(str(error))
            continue
        warnings += [f"{fleet.accelerator.name}: {text}" for text in fleet.accelerator.warnings]
    return found, warnings


def demand(
    arch: Architecture,
    *,
    fleets: Sequence[Fleet],
    site: Site,
    purpose: str = "pretrain",
    tokens: float | None = None,
    compute_optimal: bool = False,
    convention: str | None = None,
    seq: float | None = None,
    optimizer: str = "adam-mixed",
    dtype: str | None = None,
    mfu: float | None = None,
    goodput: float | None = None,
    lora_rank: int | None = None,
    load: Load | None = None,
    weight_format: str = "bf16",
    strict: bool = True,
) -> Demand:
    """Everything a model asks for.

    Parameters
    ----------
    fleets, site : whose card time, energy and money are worked out, and where they stand.
    purpose : one of the purposes of the defaults file: ``pretrain continue sft lora qlora dpo ppo grpo serve``.
    tokens : trained, or generated in RL; by default what the purpose usually takes, which the answer says.
    convention : how training FLOP are counted; by default ``6nd``, and ``3nd`` for an encoder-decoder.
    seq : tokens per sequence for the exact conventions; the longest context unless given.
    optimizer : recipe of the checkpoint and of the state per rank.
    dtype : whose dense peak is taken; bf16, else fp16.
    mfu, goodput : instead of the planning bands, which then shrink to a point.
    load, weight_format : the load to serve, and the weights it is served with.
    strict : whether a fleet without a published peak is an error or a warning.

    Raises
    ------
    SpecError : an argument is out of range or unknown.
    MissingData : a fleet lacks a value that is needed (only when ``strict``).
    Infeasible : a fleet cannot serve the load (only when ``strict``).
    """
    wanted = chosen(purposes(), purpose, "purpose", "for")
    recipe = chosen(optimizers(), optimizer, "optimizer recipe", "optimizer")
    if wanted.id == "serve" and load is None:
        raise SpecError("serving needs a load", where="for serve", hint="say how many people use it: --users 1M")
    n_param, n_active = parameter_count(arch), active_parameter_count(arch)
    n_trained, adapters = _trained(arch, wanted, lora_rank, n_param)
    token = _token_estimate(n_active, wanted, tokens, compute_optimal)
    name, flop, model_flop = _flop(arch, n_active, token.value, wanted, convention, seq)
    warnings: list[str] = []
    times: list[Estimate] = []
    if wanted.id != "serve":
        times, warnings = _answers(
            fleets,
            lambda fleet: card_time(
                model_flop, fleet, site=site, mfu=_mfu(fleet, mfu), goodput=_share("goodput", goodput), dtype=dtype
            ),
            strict=strict,
        )
    served: list[Estimate] = []
    if load is not None:
        model = _served(arch, load, weight_format)
        served, notes = _answers(fleets, lambda fleet: serving(model, load, fleet, site=site, dtype=dtype), strict=strict)
        warnings += notes
    return Demand(
        purpose=wanted.id,
        convention=name,
        parameters=_count("parameters", n_param, "sum of all weight tensors"),
        active_parameters=_count("active_parameters", n_active, "parameters that one token visits"),
        tokens=token,
        flop=flop,
        model_flop=model_flop,
        card_time=tuple(times),
        weights=tuple(weight_estimate(n_param, item) for item in weight_formats().values()),
        state=tuple(state_estimate(n_trained, item) for item in _first(recipe, optimizers().values())),
        rank_state=tuple(
            replace(one, name=f"{one.name}_r{n_rank}")
            for n_rank in listed("zero_ranks")
            for one in (zero_estimate(n_trained, recipe, zero=zero, n_rank=n_rank) for zero in ZERO_STAGES)
        ),
        checkpoint=checkpoint_estimate(n_trained, recipe),
        kv=kv_byte_per_token(arch),
        loss=loss_estimate(n_active, token.value) if wanted.id == "pretrain" else None,
        ladder=ladder(n_active / 2 if arch.encoder is not None else n_active),
        serving=tuple(served),
        assumptions=(*adapters, *token.assumptions, *_notes(wanted)),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _first(recipe: Optimizer, recipes: Iterable[Optimizer]) -> tuple[Optimizer, ...]:
    return (recipe, *(other for other in recipes if other is not recipe))


def _mfu(fleet: Fleet, given: float | None) -> Constant:
    if given is not None:
        return _share("mfu", given)
    a = fleet.accelerator
    return utilisation(a.kind, where=f"accelerators/{a.id}")


def _share(name: str, given: float | None) -> Constant:
    if given is None:
        return constant(name)
    if not 0 < given <= 1:
        raise SpecError(f"{name} of {given:g} is not a share", where=name, hint="write for example 45 % or 0.45")
    return Constant(name=name, value=given, grade="assumed", source="as given")


def _notes(purpose: Purpose) -> tuple[str, ...]:
    """What a purpose takes for granted."""
    notes = [f"tokens: {purpose.per}"] if purpose.per != "token" else []
    if "generate" in purpose.terms:
        notes.append("generation is counted by FLOP; it runs below the MFU of training because decoding is bound by memory")
    return tuple(notes)
