"""Request: what ``suanchou demand`` is asked, as written, and the answer to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from suanchou.demand.answer import Demand, demand
from suanchou.demand.cards import cards_from
from suanchou.demand.data import Constant, constant, listed
from suanchou.demand.serving import Load
from suanchou.demand.workload import Tokens
from suanchou.errors import SpecError
from suanchou.machine import site
from suanchou.model.source import FoundModel, find_model
from suanchou.units import parse

__all__ = ["Request", "demand_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Every field as a user writes it; ``None`` leaves the choice to the defaults.

    ``machines`` : what ``--on`` takes; empty asks for the usual four accelerators. The serving fields from ``users`` on size a
    service; without ``users`` there is none. See the command's help for the others.
    """

    model: str
    tokens: str | None = None
    compute_optimal: bool = False
    budget: str | None = None
    purpose: str = "pretrain"
    machines: tuple[str, ...] = ()
    convention: str | None = None
    seq: str | None = None
    optimizer: str = "adam-mixed"
    dtype: str | None = None
    mfu: str | None = None
    goodput: str | None = None
    region: str = "CN"
    lora_rank: int | None = None
    users: str | None = None
    requests: str | None = None
    input_tokens: str | None = None
    output_tokens: str | None = None
    peak_factor: str | None = None
    tpot: str | None = None
    weights: str = "bf16"


def _parsed(text: str | None, unit: str, option: str) -> float | None:
    return None if text is None else parse(text, unit, where=option)


def _or_default(text: str | None, unit: str, option: str, default: str) -> Constant:
    """The value asked for, without a band, or the default with its band."""
    usual = constant(default)
    if text is None:
        return usual
    return Constant(name=usual.name, value=parse(text, unit, where=option), unit=usual.unit, source="as given", grade="exact")


def _load(request: Request) -> Load | None:
    given = {
        "--requests": request.requests,
        "--input-tokens": request.input_tokens,
        "--output-tokens": request.output_tokens,
        "--peak-factor": request.peak_factor,
        "--tpot": request.tpot,
    }
    if request.users is None:
        alone = next((option for option, text in given.items() if text is not None), None)
        if alone is not None:
            raise SpecError(f"{alone} needs --users", where=alone, hint="say how many people use it: --users 1M")
        return None
    return Load(
        users=parse(request.users, "1", where="--users"),
        requests_per_user_day=_or_default(request.requests, "1", "--requests", "serving.requests_per_user_day"),
        input_token=_or_default(request.input_tokens, "1", "--input-tokens", "serving.input_token").value,
        output_token=_or_default(request.output_tokens, "1", "--output-tokens", "serving.output_token").value,
        peak_factor=_or_default(request.peak_factor, "1", "--peak-factor", "serving.peak_factor"),
        tpot_s=_or_default(request.tpot, "s", "--tpot", "serving.tpot").value,
    )


def _published(found: FoundModel) -> float | None:
    return None if found.record is None else found.record.number("training_tokens")


def demand_for(request: Request) -> Demand:
    """The answer to a request.

    Raises
    ------
    SpecError : an unknown name, or a value that cannot be read; ``where`` names the option.
    MissingData, Infeasible : see :func:`suanchou.demand.demand`.
    """
    tokens = Tokens(
        count=_parsed(request.tokens, "1", "--tokens"),
        budget_flop=_parsed(request.budget, "flop", "--budget"),
        compute_optimal=request.compute_optimal,
    )
    load = _load(request)
    found = find_model(request.model)
    machines = request.machines or listed("accelerators")
    return demand(
        found.architecture,
        cards=tuple(cards for text in machines for cards in cards_from(text)),
        site=site(request.region),
        purpose=request.purpose,
        tokens=replace(tokens, published=_published(found)),
        convention=request.convention,
        seq=_parsed(request.seq, "1", "--seq"),
        optimizer=request.optimizer,
        dtype=request.dtype,
        mfu=_parsed(request.mfu, "frac", "--mfu"),
        goodput=_parsed(request.goodput, "frac", "--goodput"),
        lora_rank=request.lora_rank,
        load=load,
        weight_format=request.weights,
        strict=bool(request.machines),
    )
