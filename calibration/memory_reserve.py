"""What a device holds beyond tensors: the allocator's reserve, from published memory figures of whole devices.

    PYTHONPATH=src python calibration/memory_reserve.py

A figure less runtime and communication buffers, over the bytes that tensors are predicted to occupy, less one. The median
over all figures is `allocator_frac` in `stacks.yaml`, the 90th percentile `allocator_high_frac`; the script prints both, by
source, and what they would be without each source.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from suanchou.training.memory import STAGES, activation_table, stage_memory
from suanchou.validation.policy import memory_reported
from suanchou.validation.predict import predict
from suanchou.validation.runs import Run, open_runs


def reserve(run: Run) -> float | None:
    """The reserve that a run's figure implies, as a share of the tensors; ``None`` where it reports something else."""
    if run.memory_gb is None or memory_reported(run).allocated:
        return None
    laid = predict(run).laid
    if laid is None:
        return None
    acts = activation_table(laid.problem, laid.strategy)
    stages = [stage_memory(laid.problem, laid.strategy, acts, stage) for stage in STAGES]
    fullest = max(stages, key=lambda memory: float(memory.allocated))
    taken = run.memory_gb * memory_reported(run).unit_byte / laid.unit
    return (taken - float(fullest.communicator + fullest.runtime)) / float(fullest.allocated) - 1.0


def _line(name: str, found: Iterable[float]) -> None:
    values = np.array(list(found))
    print(f"{name:62} n={values.size:3d}  median {np.median(values):.3f}  P90 {np.quantile(values, 0.9):.3f}")


def main() -> None:
    """Print the reserve by source, in all, and with each source left out."""
    found = [(run.source, value) for run in open_runs("training_runs") if (value := reserve(run)) is not None]
    sources = list(dict.fromkeys(source for source, _ in found))
    for source in sources:
        _line(source, (value for name, value in found if name == source))
    for source in sources:
        _line(f"without {source}", (value for name, value in found if name != source))
    _line("all", (value for _, value in found))


if __name__ == "__main__":
    main()
