"""demand(): from an architecture and a purpose to everything it takes, every number with its reason."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from suanchou.demand.cards import Cards, card_time
from suanchou.demand.data import (
    Constant,
    Optimizer,
    Purpose,
    chosen,
    constant,
    listed,
    optimizers,
    purposes,
    utilisation,
    weight_formats,
)
from suanchou.demand.flop import short
from suanchou.demand.ladder import ladder
from suanchou.demand.memory import (
    ZERO_STAGES,
    checkpoint_estimate,
    held_estimate,
    state_estimate,
    weight_estimate,
    zero_estimate,
)
from suanchou.demand.scaling import loss_estimate
from suanchou.demand.serving import Load, Served, serving
from suanchou.demand.workload import (
    Tokens,
    flop_estimates,
    met_parameters,
    purpose_notes,
    sequence_length,
    token_estimate,
    trained_count,
)
from suanchou.errors import Infeasible, MissingData, SpecError
from suanchou.estimate import Estimate
from suanchou.i18n import _
from suanchou.machine.cluster import Site
from suanchou.model.architecture import Architecture
from suanchou.model.flop import decode_flop_per_token, flop_per_token
from suanchou.model.kv import cross_kv_byte, kv_byte, kv_byte_per_token, state_byte
from suanchou.model.parameters import active_parameter_count, parameter_count, parameters_by_role

__all__ = ["Demand", "demand"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a model asks for.

    Parameters
    ----------
    model : the architecture's name.
    seq : tokens per sequence of the exact conventions.
    flop : under the chosen convention; its children are the other conventions, or the terms of the purpose.
    model_flop : recomputation not counted: what card time is computed from.
    card_time : card-hours per one, with days, energy, carbon and money below.
    weights : by format. ``state``: training state by optimizer recipe, the chosen one first. ``held``: state and
        frozen models together. ``rank_state``: the chosen recipe
        on one data-parallel rank by ZeRO stage.
    kv : cache per token, and state per sequence, at 16 bits.
    loss : only for pre-training. ``ladder``: rungs of a domain model. ``serving``: cards per one, where a load was given.
    warnings : what could not be answered, and what to mind about the accelerators.
    """

    model: str
    purpose: str
    convention: str
    seq: float
    parameters: Estimate
    active_parameters: Estimate
    tokens: Estimate
    flop: Estimate
    model_flop: Estimate
    card_time: tuple[Estimate, ...]
    weights: tuple[Estimate, ...]
    state: tuple[Estimate, ...]
    held: Estimate
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
            self.held,
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


def _kv(arch: Architecture) -> Estimate:
    """Cache one token adds, with the state that does not grow below it."""
    note = "16-bit elements; no window is full yet"
    fixed = Estimate(
        name="state_per_sequence",
        value=float(state_byte(arch)),
        unit="byte",
        formula="recurrent states and convolution inputs of all layers",
        grade="exact",
    )
    return Estimate(
        name="kv_per_token",
        value=float(kv_byte_per_token(arch)),
        unit="byte",
        formula="2 byte * keys and values (or latent vectors) of all layers",
        assumptions=(note,),
        grade="exact",
        children=(fixed,) if fixed.value else (),
    )


def served_model(arch: Architecture, load: Load, weight_format: str) -> Served:
    """The model as serving sees it: everything is read but the experts no token chose."""
    byte = chosen(weight_formats(), weight_format, "weight format", "weights").byte
    n_param, n_expert = parameter_count(arch), parameters_by_role(arch).get("expert", 0)
    idle = n_param - active_parameter_count(arch)
    return Served(
        weight_byte=n_param * byte,
        expert_byte=n_expert * byte,
        expert_share=1.0 - idle / n_expert if n_expert else 0.0,
        prefill_flop=flop_per_token(arch, load.input_token, backward=False).value,
        decode_flop=decode_flop_per_token(arch, load.context).value,
        kv_byte=float(kv_byte(arch, load.context) + cross_kv_byte(arch, load.input_token) + state_byte(arch)),
    )


def _answers(
    cards: Sequence[Cards], price: Callable[[Cards], Estimate], *, strict: bool, required: bool = True
) -> tuple[list[Estimate], list[str]]:
    """One answer for each kind of card; without ``strict``, one that cannot be given becomes a warning.

    ``required`` : at least one must be given, else the first error is raised.
    """
    found: list[Estimate] = []
    warnings: list[str] = []
    first: MissingData | Infeasible | None = None
    for one in cards:
        try:
            found.append(price(one))
        except (MissingData, Infeasible) as error:
            if strict:
                raise
            first = first or error
            warnings.append(str(error))
            continue
        warnings += one.accelerator.warnings
        if one.power_w is None and one.accelerator.tdp_w is not None:
            warnings.append(
                _("{id}: energy counts the card alone; its server's power is not known").format(id=one.accelerator.id)
            )
    if first is not None and required and not found:
        raise first
    return found, warnings


def _wanted(purpose: str, load: Load | None) -> Purpose:
    wanted = chosen(purposes(), purpose, "purpose", "for")
    if wanted.id == "serve" and load is None:
        raise SpecError("serving needs a load", where="for serve", hint="say how many people use it: --users 1M")
    return wanted


def _timed(
    flop: Estimate, held: Estimate, one: Cards, *, site: Site, dtype: str | None, mfu: float | None, goodput: float | None
) -> Estimate:
    """Card time of a training on one kind of card, with the fewest that hold its state."""
    need = card_time(flop, one, site=site, dtype=dtype, mfu=_mfu(one, mfu), goodput=_share("goodput", goodput))
    return _with_least_cards(one, held, need)


def _with_least_cards(one: Cards, held: Estimate, need: Estimate) -> Estimate:
    """``need`` with the fewest cards whose memory holds what training keeps."""
    memory = one.accelerator.memory_byte
    if memory is None:
        return need
    least = Estimate(
        name="least_cards",
        value=float(math.ceil(held.value / memory)),
        unit="card",
        formula=f"ceil({short(held.value)} / {short(memory)})",
        sources=one.accelerator.sources,
        assumptions=held.assumptions,
        grade="datasheet",
    )
    return replace(need, children=(*need.children, least))


def _rank_states(n_trained: int, recipe: Optimizer) -> tuple[Estimate, ...]:
    """The training state of one rank, for each usual number of ranks and each ZeRO stage."""
    return tuple(
        replace(zero_estimate(n_trained, recipe, zero=zero, n_rank=n_rank), name=f"zero{zero}_r{n_rank}")
        for n_rank in listed("zero_ranks")
        for zero in ZERO_STAGES
    )


def demand(
    arch: Architecture,
    *,
    cards: Sequence[Cards],
    site: Site,
    purpose: str = "pretrain",
    tokens: Tokens | None = None,
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
    cards, site : whose card time, energy and money are worked out, and where they stand.
    purpose : one of the purposes of the defaults file: ``pretrain continue sft lora qlora dpo ppo grpo serve``.
    tokens : trained, or generated in RL; by default what the purpose usually takes, which the answer says.
    convention : how training FLOP are counted; by default ``6nd``, and ``3nd`` for an encoder-decoder.
    seq : tokens per sequence for the exact conventions; 8192, or the longest context if that is shorter.
    optimizer : recipe of the checkpoint and of the state per rank.
    dtype : whose dense peak is taken; bf16, else fp16.
    mfu, goodput : instead of the planning bands, which then shrink to a point.
    load, weight_format : the load to serve, and the weights it is served with.
    strict : whether an accelerator without a published peak is an error or a warning.

    Raises
    ------
    SpecError : an argument is out of range or unknown.
    MissingData : an accelerator lacks a value that is needed (only when ``strict``).
    Infeasible : an accelerator cannot serve the load (only when ``strict``).
    """
    wanted, recipe = _wanted(purpose, load), chosen(optimizers(), optimizer, "optimizer recipe", "optimizer")
    n_param, n_active, met = parameter_count(arch), active_parameter_count(arch), met_parameters(arch)
    n_trained, adapters = trained_count(arch, wanted, lora_rank, n_param)
    token = token_estimate(met, wanted, tokens or Tokens())
    length = sequence_length(arch, seq)
    name, flop, model_flop = flop_estimates(arch, token.value, wanted, convention, length)
    states = tuple(state_estimate(n_trained, item) for item in _first(recipe, optimizers().values()))
    held = held_estimate(n_param, states[0], wanted)

    timed = functools.partial(_timed, model_flop, held, site=site, dtype=dtype, mfu=mfu, goodput=goodput)
    times, warnings = _answers(cards if wanted.id != "serve" else (), timed, strict=strict)
    served: list[Estimate] = []
    if load is not None:
        price = functools.partial(serving, served_model(arch, load, weight_format), load, site=site, dtype=dtype)
        # A card named for its card time only, such as a bare rate, need not be able to serve.
        alone = wanted.id == "serve"
        served, notes = _answers(cards, price, strict=strict and alone, required=alone)
        warnings += notes
    return Demand(
        model=arch.name,
        purpose=wanted.id,
        convention=name,
        seq=length,
        parameters=_count("parameters", n_param, "sum of all weight tensors"),
        active_parameters=_count("active_parameters", n_active, "parameters that one token visits"),
        tokens=token,
        flop=flop,
        model_flop=model_flop,
        card_time=tuple(times),
        weights=tuple(weight_estimate(n_param, item) for item in weight_formats().values()),
        state=states,
        held=held,
        rank_state=_rank_states(n_trained, recipe),
        checkpoint=checkpoint_estimate(n_trained, recipe),
        kv=_kv(arch),
        loss=loss_estimate(met, token.value) if wanted.id == "pretrain" else None,
        ladder=ladder(met),
        serving=tuple(served),
        assumptions=(*adapters, *token.assumptions, *purpose_notes(wanted)),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _first(recipe: Optimizer, recipes: Iterable[Optimizer]) -> tuple[Optimizer, ...]:
    return (recipe, *(other for other in recipes if other is not recipe))


def _mfu(one: Cards, given: float | None) -> Constant:
    if given is not None:
        return _share("mfu", given)
    a = one.accelerator
    return utilisation(a.kind, where=f"accelerators/{a.id}")


def _share(name: str, given: float | None) -> Constant:
    if given is None:
        return constant(name)
    if not 0 < given <= 1:
        raise SpecError(f"{name} of {given:g} is not a share", where=name, hint="write for example 45 % or 0.45")
    return Constant(name=name, value=given, grade="assumed", source="as given")
