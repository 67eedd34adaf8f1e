"""``suanchou demand``: how much compute a model needs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from suanchou.cli._options import OutputOptions, argument, catalog_option, command, option, output_options
from suanchou.cli._output import emit
from suanchou.i18n import N_

__all__ = ["demand"]


@command(
    "demand",
    help=N_(
        "How much compute MODEL needs: FLOP under each counting convention, card-days on any accelerators, memory, checkpoint,"
        " energy, money, and what cheaper ways to a domain model cost. MODEL is a name of the catalogue, a config.json or a"
        " model folder."
    ),
)
@argument("model")
@option("--tokens", metavar="COUNT", help=N_("Tokens to train on: 15T, 2万亿."))
@option("--compute-optimal", is_flag=True, help=N_("Train on 20 tokens per active parameter."))
@option("--budget", metavar="FLOP", help=N_("Train on as many tokens as this amount buys: 3640 PFLOPS-days, 3e23 FLOP."))
@option(
    "--for",
    "purpose",
    default="pretrain",
    show_default=True,
    metavar="PURPOSE",
    help=N_("pretrain, continue, sft, lora, qlora, dpo, ppo, grpo or serve."),
)
@option(
    "--on",
    "machines",
    multiple=True,
    metavar="CARDS",
    help=N_("Accelerator, ACCELERATOR:COUNT, NODE:COUNT, a cluster or a rate (500P); may be repeated."),
)
@option("--convention", metavar="NAME", help=N_("How FLOP are counted: 6nd, 8nd, 3nd, exact_causal, exact_full ..."))
@option("--seq", metavar="COUNT", help=N_("Tokens per sequence for the exact counts; 8192, or the longest context if shorter."))
@option("--optimizer", default="adam-mixed", show_default=True, metavar="NAME", help=N_("Optimizer recipe."))
@option("--dtype", metavar="TYPE", help=N_("Data type whose peak is taken; bf16, else fp16."))
@option("--mfu", metavar="SHARE", help=N_("MFU instead of the planning band: 45 %."))
@option("--goodput", metavar="SHARE", help=N_("Share of wall time that advances the model, instead of the band."))
@option("--region", default="CN", show_default=True, metavar="NAME", help=N_("Where power is bought."))
@option("--lora-rank", type=int, metavar="RANK", help=N_("Rank of LoRA adapters."))
@option("--users", metavar="COUNT", help=N_("Size serving for so many users: 1M, 100万."))
@option("--requests", metavar="COUNT", help=N_("Requests per user and day."))
@option("--input-tokens", metavar="COUNT", help=N_("Input tokens per request."))
@option("--output-tokens", metavar="COUNT", help=N_("Output tokens per request."))
@option("--peak-factor", metavar="FACTOR", help=N_("Load of the busiest hour over the mean of the day."))
@option("--tpot", metavar="TIME", help=N_("Longest time per output token: 50 ms."))
@option(
    "--weights", default="bf16", show_default=True, metavar="FORMAT", help=N_("Weight format served: bf16, fp8, int8, int4 ...")
)
@catalog_option
@output_options
def demand(model: str, output: OutputOptions, catalog_dir: Path | None, **asked: Any) -> None:
    """Read the model, work out what it takes, print it."""
    from suanchou.catalog import use_catalog
    from suanchou.demand.request import Request, demand_for
    from suanchou.report.demand import demand_report

    with use_catalog(catalog_dir):
        request = Request(model=model, **asked)
        emit(demand_report(demand_for(request), inputs=asdict(request)), output)
