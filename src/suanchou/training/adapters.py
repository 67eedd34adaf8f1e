"""Adapters: low-rank adapters (LoRA) on the attention projections of a frozen model.

The frozen weights need the gradient of their input but none of their own, so their ``.wgrad`` kernels, gradients and optimizer
states fall away. Every projection ``d_in -> d_out`` gets two matrices, ``d_in x r`` and ``r x d_out`` (Hu et al. 2021,
arXiv 2106.09685), which are trained in full.
"""

from __future__ import annotations

from collections.abc import Iterator

from suanchou.model.architecture import Architecture, Layer, Weight
from suanchou.model.operators import Operator, Shape, Step, gemm
from suanchou.model.parameters import distinct_layers, layer_weights, parameter_count

__all__ = ["adapter_backward", "adapter_forward", "trained_frac", "without_weight_gradients"]


def _projections(layer: Layer, d_model: int) -> Iterator[Weight]:
    return (w for w in layer_weights(layer, d_model) if w.role == "attention" and len(w.shape) == 2)


def trained_frac(arch: Architecture, rank: int) -> float:
    """Adapter parameters over those of the model; 1 where all of the model is trained (``rank`` 0)."""
    if not rank:
        return 1.0
    adapters = sum(
        count * rank * sum(weight.shape)
        for layer, count in distinct_layers(arch.layers)
        for weight in _projections(layer, arch.d_model)
    )
    return adapters / parameter_count(arch)


def without_weight_gradients(ops: tuple[Operator, ...], rank: int) -> tuple[Operator, ...]:
    """The backward of a frozen module: the kernels whose result is no weight gradient; all of them for ``rank`` 0."""
    return tuple(op for op in ops if not op.name.endswith(".wgrad")) if rank else ops


def _steps(layer: Layer, d_model: int, shape: Shape, rank: int) -> Iterator[Step]:
    for weight in _projections(layer, d_model):
        d_out, d_in = weight.shape
        column, row = (shape.tp if weight.shard in sides else 1.0 for sides in (("column", "kv"), ("row",)))
        yield gemm(f"adapter.{weight.name}.down", shape, m=shape.token, n=float(rank), k=d_in / row)
        yield gemm(f"adapter.{weight.name}.up", shape, m=shape.token, n=d_out / column, k=float(rank))


def adapter_forward(layer: Layer, d_model: int, shape: Shape, rank: int) -> tuple[Operator, ...]:
    """Kernels of the adapters of one layer and micro-batch; none for ``rank`` 0."""
    return tuple(step.forward for step in _steps(layer, d_model, shape, rank)) if rank else ()


def adapter_backward(layer: Layer, d_model: int, shape: Shape, rank: int) -> tuple[Operator, ...]:
    """The backward of :func:`adapter_forward`, weight gradients included."""
    return tuple(op for step in _steps(layer, d_model, shape, rank) for op in step.backward) if rank else ()
