"""Operators: what a layer executes, with FLOP and bytes, sharded by TP, SP, CP and EP.

Every number in :class:`Shape` and :class:`Operator` is a float or a NumPy array; arrays broadcast, so the same code prices
one strategy and millions. This file holds the contract and the constructors; ``layer_operators`` enumerates a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from suanchou.model.num import Num

__all__ = ["Num", "Operator", "Recompute", "Shape", "Step", "gemm", "grouped_gemm", "memory"]

Recompute = Literal["none", "selective", "full"]
"""What backward computes again: nothing, the attention core (or scan), or the whole layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one rank sees of a micro-batch.

    Parameters
    ----------
    batch : sequences in the micro-batch.
    seq : tokens per sequence, before context parallelism.
    encoder_seq : tokens per sequence that cross-attention reads; ``None``: as many as ``seq``.
    tp, cp, ep : tensor, context and expert parallel degrees.
    expert_tp : ways each expert's matrices are split; ``None``: as ``tp``.
    sp : 1 where sequence parallelism splits norms and residuals over TP, else 0.
    element_byte : bytes of an activation or weight element.
    gradient_byte : bytes of a weight-gradient element, which a wgrad kernel reads and writes (accumulation in place).
    attention : ``flash`` and ``sdpa`` keep no score matrix and skip masked pairs; ``eager`` computes and keeps them all.
    imbalance : load of the busiest expert rank over the mean.
    fused : norms, rotary embeddings and gated activations are one kernel each, otherwise a chain of them.
    fused_norm : norms are one kernel even where the others are not.
    dropout : attention probabilities and block outputs are dropped at random.
    loss : kernels of the cross-entropy, see ``layer_operators``.
    linear_byte : bytes of an element of what linear layers keep of their input for backward; ``None``: as ``element_byte``.
    activation_byte : the same for inputs of the MLP's activation function.
    frozen : the model's weights are not trained; adapters on the attention projections are.
    """

    batch: Num
    seq: Num
    encoder_seq: Num | None = None
    tp: Num = 1.0
    cp: Num = 1.0
    ep: Num = 1.0
    expert_tp: Num | None = None
    sp: Num = 0.0
    element_byte: Num = 2.0
    gradient_byte: Num = 4.0
    attention: Literal["flash", "sdpa", "eager"] = "flash"
    imbalance: Num = 1.0
    fused: bool = True
    fused_norm: bool = False
    loss: Literal["fused", "torch", "composer", "megatron"] = "fused"
    dropout: bool = False
    linear_byte: Num | None = None
    activation_byte: Num | None = None
    frozen: bool = False

    @property
    def kept_byte(self) -> Num:
        """Bytes of an element that a linear layer keeps of an input nobody else needs; frozen ones keep none."""
        if self.frozen:
            return 0.0
        return self.element_byte if self.linear_byte is None else self.linear_byte

    @property
    def token(self) -> Num:
        """Tokens per rank inside the tensor-parallel regions."""
        return self.batch * self.seq / self.cp

    @property
    def token_sp(self) -> Num:
        """Tokens per rank outside the tensor-parallel regions (norms, residuals, router)."""
        return self.token / (1.0 + self.sp * (self.tp - 1.0))

    @property
    def encoder_token(self) -> Num:
        """Encoder tokens per rank."""
        return self.batch * (self.seq if self.encoder_seq is None else self.encoder_seq) / self.cp


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One kind of kernel and how often a layer runs it.

    ``gemm``: ``m x k`` by ``k x n``, ``count`` times. ``grouped_gemm``: ``count`` experts with ``m`` rows each. ``attention``:
    ``m`` queries against ``n`` keys of ``k`` channels, ``count`` = sequences x heads. ``scan`` and ``memory``: element-wise
    or recurrent kernels, bound by ``byte``.

    Parameters
    ----------
    flop : work of all ``count`` calls, 2 per multiply-add; 0 for ``memory`` by convention.
    byte : traffic to device memory of all calls.
    launches : kernels started for all calls.
    batched : an ``attention`` that is one batched product ``m x k`` by ``k x n`` of activations instead of a flash kernel.
    permutes : a ``memory`` kernel that gathers or scatters rows by an index.
    """

    name: str
    kind: Literal["gemm", "grouped_gemm", "attention", "scan", "memory"]
    flop: Num
    byte: Num
    m: Num = 0.0
    n: Num = 0.0
    k: Num = 0.0
    count: Num = 1.0
    launches: Num = 1.0
    batched: bool = False
    permutes: bool = False


class Step(NamedTuple):
    """A forward operator and what it costs backward, in the order of execution."""

    forward: Operator
    backward: tuple[Operator, ...]


def _gemm(name: str, m: Num, n: Num, k: Num, byte: Num) -> Operator:
    return Operator(name=name, kind="gemm", flop=2.0 * m * n * k, byte=byte, m=m, n=n, k=k)


def gemm(name: str, shape: Shape, *, m: Num, n: Num, k: Num, bias: bool = False) -> Step:
    """A linear layer: ``m x k`` activations by ``k x n`` weights; backward is dgrad and wgrad.

    Traffic counts each operand once; wgrad reads and writes the gradient buffer. A bias costs nothing forward (an epilogue of
    the product) and backward a kernel that sums the output's gradient over the rows.
    """
    e = shape.element_byte
    once = e * (m * k + k * n + m * n)
    summed = (Operator(name=f"{name}.bias", kind="memory", flop=0.0, byte=e * m * n),) if bias else ()
    return Step(
        _gemm(name, m, n, k, once),
        (
            _gemm(f"{name}.dgrad", m, k, n, once),
            _gemm(f"{name}.wgrad", k, n, m, e * (m * k + m * n) + 2.0 * shape.gradient_byte * k * n),
            *summed,
        ),
    )


def _grouped(name: str, count: Num, m: Num, n: Num, k: Num, byte: Num) -> Operator:
    return Operator(name=name, kind="grouped_gemm", flop=2.0 * count * m * n * k, byte=byte, m=m, n=n, k=k, count=count)


def grouped_gemm(name: str, shape: Shape, *, count: Num, m: Num, n: Num, k: Num) -> Step:
    """``count`` experts, each with ``m`` rows through its own ``k x n`` weights; backward is dgrad and wgrad."""
    e = shape.element_byte
    once = count * e * (m * k + k * n + m * n)
    wgrad = count * (e * (m * k + m * n) + 2.0 * shape.gradient_byte * k * n)
    return Step(
        _grouped(name, count, m, n, k, once),
        (_grouped(f"{name}.dgrad", count, m, k, n, once), _grouped(f"{name}.wgrad", count, k, n, m, wgrad)),
    )


def memory(
    name: str, *, forward: Num, backward: Num, launches: tuple[float, float] = (1.0, 1.0), permutes: bool = False
) -> Step:
    """An element-wise kernel (or chain of kernels) that moves this many bytes forward and backward.

    ``launches`` are the kernels forward and backward; ``permutes`` says that they move rows by an index.
    """

    def op(suffix: str, byte: Num, started: float) -> Operator:
        return Operator(name=f"{name}{suffix}", kind="memory", flop=0.0, byte=byte, launches=started, permutes=permutes)

    return Step(op("", forward, launches[0]), (op(".backward", backward, launches[1]),))
