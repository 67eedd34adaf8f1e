"""The cost ladder of a domain model: what each way to a model that knows a field costs, dearest first."""

from __future__ import annotations

from suanchou.demand.data import constant, purposes
from suanchou.demand.flop import purpose_estimate, short
from suanchou.demand.scaling import optimal_tokens
from suanchou.estimate import Estimate

__all__ = ["RUNGS", "ladder"]

RUNGS = ("scratch", "continue", "sft", "lora", "rag")


def ladder(n_met: float) -> tuple[Estimate, ...]:
    """FLOP of each rung for a model of which each token meets ``n_met`` parameters.

    From scratch on compute-optimal tokens; continued pre-training, full fine-tuning and LoRA on the token counts of the
    defaults file; retrieval (RAG) trains nothing and only embeds a corpus once.
    """
    table = purposes()
    rungs = [purpose_estimate(n_met, optimal_tokens(n_met), table["pretrain"], name="scratch")]
    for name in ("continue", "sft", "lora"):
        rungs.append(purpose_estimate(n_met, constant(f"ladder.{name}").value, table[name], name=name))
    embedder, corpus = constant("ladder.rag_embedder"), constant("ladder.rag_corpus")
    rungs.append(
        Estimate(
            name="rag",
            value=2 * embedder.value * corpus.value,
            unit="flop",
            formula=f"2 * {short(embedder.value)} * {short(corpus.value)}",
            sources=("2 FLOP per weight and token forward",),
            assumptions=("embeds the corpus once; answering costs inference as usual",),
            grade="assumed",
            children=(embedder.estimate("embedder"), corpus.estimate("corpus")),
        )
    )
    return tuple(rungs)
