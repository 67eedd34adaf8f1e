"""Predict: the figure a published run reports, in its own metric and FLOP convention, beside what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from suanchou.cost.fitted import Factors
from suanchou.errors import SpecError, SuanchouError
from suanchou.model.flop import executed_flop_per_token, flop_per_token
from suanchou.validation.layout import Laid, lay_out
from suanchou.validation.runs import Run

__all__ = ["Prediction", "predict", "scale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One run and what the model says of it.

    ``time_frac`` is predicted over measured step time, minus one, whatever the metric: positive is too slow. ``error_frac`` is
    the same of the metric itself. ``model_flop_per_s`` is the measured rate of one unit in model FLOP (causal attention) plus
    recomputation, for the null model. Of a refused run only ``reason`` is set.
    """

    run: Run
    status: Literal["predicted", "refused"]
    reason: str = ""
    predicted: float | None = None
    error_frac: float | None = None
    time_frac: float | None = None
    step_s: float | None = None
    measured_step_s: float | None = None
    step_flop: float | None = None
    laid: Laid | None = None


def predict(run: Run, factors: Factors | None = None) -> Prediction:
    """Price a run, with other fitted ``factors`` if given; an error that a user could act on is the reason of a refusal."""
    try:
        laid = lay_out(run, factors)
        constant = scale(run, laid)
    except SuanchouError as error:
        reason = f"{error.what} ({error.hint})" if error.hint else error.what
        return Prediction(run=run, status="refused", reason=reason)
    step_s = float(laid.priced.step.total)
    inverse = run.metric_kind not in ("step_time_s", "gpu_hours")
    predicted = constant / step_s if inverse else constant * step_s
    measured = constant / run.published if inverse else run.published / constant
    return Prediction(
        run=run,
        status="predicted",
        predicted=predicted,
        error_frac=predicted / run.published - 1.0,
        time_frac=step_s / measured - 1.0,
        step_s=step_s,
        measured_step_s=measured,
        step_flop=_null_flop(laid),
        laid=laid,
    )


def scale(run: Run, laid: Laid) -> float:
    """What joins the metric and the step time: rate = scale / step, or amount = scale * step.

    Raises
    ------
    SpecError : GPU-hours without the tokens they trained on.
    """
    work = laid.problem.work
    token = work.batch_token / laid.units
    kind = run.metric_kind
    if kind == "step_time_s":
        return 1.0
    if kind == "tokens_per_s_per_acc":
        return token
    if kind == "gpu_hours":
        stated = re.match(r"[\d.]+(?:e\d+)?", run.note("train_tokens"))
        if stated is None:
            raise SpecError("GPU-hours without the tokens trained on", where=run.run_id, hint="note train_tokens=1e12")
        return float(stated.group()) / work.batch_token * laid.units / 3600.0
    flop = token * _counted_flop(run, laid)
    if kind in ("model_tflops_per_acc", "hw_tflops_per_acc"):
        return flop / 1e12
    return flop / _peak(run, laid)


def _counted_flop(run: Run, laid: Laid) -> float:
    """FLOP per token as the source counts them; attention in full where it does not say.

    Hardware figures add the forward of recomputed layers (Narayanan et al. 2021, appendix).
    """
    work = laid.problem.work
    text = run.flop_convention.casefold()
    if "6*n*" in text:
        return 6.0 * (run.params_total or 0.0)
    full = any(words in text for words in ("full attention", "in full", "not stated", "formula")) or "causal" not in text
    attention: Literal["causal", "full"] = "full" if full else "causal"
    model = flop_per_token(work.arch, work.seq, attention=attention, mtp=bool(work.arch.mtp)).value
    if run.metric_kind not in ("hw_tflops_per_acc", "hfu"):
        return model
    again = executed_flop_per_token(
        work.arch, work.seq, recompute="full", attention="eager" if attention == "full" else "flash"
    )["recompute"].value
    return model + float(laid.strategy.full_frac) * again


def _peak(run: Run, laid: Laid) -> float:
    """FLOP/s of one counted unit: as the convention states it, else the catalogue's."""
    stated = re.search(r"peak (?:about )?(\d+(?:\.\d+)?)|(\d+(?:\.\d+)?) TFLOPs per GCD peak", run.flop_convention)
    if stated:
        return float(stated.group(1) or stated.group(2)) * 1e12
    return laid.problem.accelerator.peak(laid.problem.work.dtype) * laid.unit


def _null_flop(laid: Laid) -> float:
    """Model FLOP per step and counted unit, causal attention, with recomputed layers once more."""
    work = laid.problem.work
    model = flop_per_token(work.arch, work.seq, mtp=bool(work.arch.mtp)).value
    again = float(laid.strategy.full_frac) / 3.0 * model
    return (model + again) * work.batch_token / laid.units
