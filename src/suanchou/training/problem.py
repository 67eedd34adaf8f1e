"""Problem: a workload on a cluster with a stack, and the sums over the model that memory and time share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from suanchou.cost.collectives import Fabric, Members, fabric, members
from suanchou.cost.efficiency import Efficiency, efficiency
from suanchou.cost.fitted import Factors
from suanchou.cost.kernels import element_byte
from suanchou.errors import Infeasible, MissingData
from suanchou.machine.accelerator import Accelerator
from suanchou.machine.cluster import Cluster, Node
from suanchou.model.architecture import Layer, Weight
from suanchou.model.layer_operators import layer_backward, layer_forward
from suanchou.model.operators import Num, Operator, Shape
from suanchou.model.parameters import distinct_layers, kv_ways, layer_weights, mtp_weights, outer_weights
from suanchou.training.adapters import adapter_backward, adapter_forward, trained_frac, without_weight_gradients
from suanchou.training.stack import Stack
from suanchou.training.strategy import Strategy
from suanchou.training.workload import Workload

__all__ = ["LayerKind", "Problem", "ShardSum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSum:
    """Parameters by how TP and EP split them."""

    split: float = 0.0
    kv: float = 0.0
    replicated: float = 0.0
    expert: float = 0.0

    @classmethod
    def of(cls, tensors: list[Weight]) -> ShardSum:
        """Sum tensors."""
        sums = dict.fromkeys(("split", "kv", "replicated", "expert"), 0.0)
        for weight in tensors:
            key = weight.shard if weight.shard in ("kv", "replicated", "expert") else "split"
            sums[key] += weight.size
        return cls(**sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """Equal layers: one of them, their share of all layers and their parameters."""

    layer: Layer
    share: float
    parameters: ShardSum
    kv_ways: int


@dataclass(frozen=True)
class Problem:
    """Everything that is given; a Strategy is what is chosen.

    ``factors``: other fitted factors than those of all runs. ``beside``: parts of other machines, as :meth:`paced` counts them,
    that share the step and are waited for.
    """

    work: Workload
    cluster: Cluster
    stack: Stack
    factors: Factors | None = None
    beside: float = 0.0

    def __post_init__(self) -> None:
        if len(self.cluster.groups) != 1:
            names = ", ".join(group.node.id for group in self.cluster.groups)
            raise Infeasible(
                f"one problem has one kind of machine, not {names}",
                where="--on",
                hint="plan_mixed plans over several groups",
            )

    @property
    def node(self) -> Node:
        """The cluster's node."""
        return self.cluster.groups[0].node

    @property
    def accelerator(self) -> Accelerator:
        """The cluster's accelerator."""
        return self.node.accelerator

    @property
    def family(self) -> str:
        """The narrowest family of the accelerator, by which intervals are judged."""
        part = self.accelerator
        return (part.family_path or (part.family,))[0]

    @property
    def averaged(self) -> bool:
        """Whether stages hold the average layer rather than the layers that fall to them."""
        return False

    @cached_property
    def eff(self) -> Efficiency:
        """Efficiency of the accelerator's family."""
        return efficiency(self.accelerator, self.factors).with_attention(self.stack.attention_kernel)

    @cached_property
    def fabric(self) -> Fabric:
        """The network as collectives see it."""
        return fabric(self.cluster, self.eff)

    @cached_property
    def memory_byte(self) -> float:
        """Device memory.

        Raises
        ------
        MissingData : not published.
        """
        if self.accelerator.memory_byte is None:
            raise MissingData(
                f"no memory size is published for {self.accelerator.name}", where=f"accelerators/{self.accelerator.id}"
            )
        return self.accelerator.memory_byte

    @property
    def host_link_byte_per_s(self) -> float:
        """Host link of one accelerator, one way."""
        return self.node.host_link_byte_per_s or self.eff.host_link_byte_per_s

    @cached_property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The distinct layers of the decoder (an encoder's count as such, too)."""
        arch = self.work.arch
        n_layer = self.n_layer
        return tuple(
            LayerKind(
                layer=layer,
                share=count / n_layer,
                parameters=ShardSum.of(list(layer_weights(layer, arch.d_model))),
                kv_ways=kv_ways(layer.mixer) if layer.mixer is not None else 1,
            )
            for layer, count in distinct_layers((*(arch.encoder.layers if arch.encoder else ()), *arch.layers))
        )

    @cached_property
    def kind_before(self) -> tuple[tuple[int, ...], ...]:
        """For every kind, in the order of ``kinds``: how many of the first 0, 1, ... layers are of it."""
        arch = self.work.arch
        index = {kind.layer: i for i, kind in enumerate(self.kinds)}
        known: dict[int, int] = {}
        counts = [[0] for _ in self.kinds]
        for layer in (*(arch.encoder.layers if arch.encoder else ()), *arch.layers):
            if id(layer) not in known:
                known[id(layer)] = index[layer]
            this = known[id(layer)]
            for i, running in enumerate(counts):
                running.append(running[-1] + (i == this))
        return tuple(tuple(running) for running in counts)

    @cached_property
    def n_layer(self) -> int:
        """Layers that pipeline stages share out."""
        arch = self.work.arch
        return arch.n_layer + (len(arch.encoder.layers) if arch.encoder else 0)

    @cached_property
    def ends(self) -> tuple[ShardSum, ShardSum]:
        """Parameters that only the first and only the last stage hold (a tied head is a copy on the last one)."""
        outside = [*outer_weights(self.work.arch), *mtp_weights(self.work.arch)]
        last = [weight for weight in outside if weight.role in ("head", "mtp") or weight.name.startswith("final_norm")]
        return ShardSum.of([weight for weight in outside if weight not in last]), ShardSum.of(last)

    @cached_property
    def tied_copy(self) -> float:
        """Parameters of the embedding that the last of several stages holds again."""
        arch = self.work.arch
        return float(arch.vocab * (arch.d_embed or arch.d_model)) if arch.tied else 0.0

    @cached_property
    def n_tensor(self) -> float:
        """Weight tensors of all layers."""
        d_model = self.work.arch.d_model
        return self.n_layer * sum(kind.share * len(list(layer_weights(kind.layer, d_model))) for kind in self.kinds)

    @cached_property
    def trained_frac(self) -> float:
        """Share of the parameters that have gradients and optimizer states."""
        return trained_frac(self.work.arch, self.work.adapter_rank)

    def forward(self, layer: Layer, shape: Shape) -> tuple[Operator, ...]:
        """Kernels of one layer, with its adapters."""
        d_model, rank = self.work.arch.d_model, self.work.adapter_rank
        return (*layer_forward(layer, d_model, shape), *adapter_forward(layer, d_model, shape, rank))

    def backward(self, layer: Layer, shape: Shape) -> tuple[Operator, ...]:
        """Kernels of one layer backward; frozen weights need no gradient of their own."""
        d_model, rank = self.work.arch.d_model, self.work.adapter_rank
        frozen = without_weight_gradients(layer_backward(layer, d_model, shape), rank)
        return (*frozen, *adapter_backward(layer, d_model, shape, rank))

    def shape(self, s: Strategy) -> Shape:
        """What a rank sees of a micro-batch."""
        return Shape(
            batch=np.asarray(s.micro_batch, dtype=float),
            seq=float(self.work.seq),
            element_byte=element_byte(self.work.dtype),
            tp=s.tp,
            cp=s.cp,
            ep=s.ep,
            expert_tp=self.expert_tp(s),
            sp=s.sp,
            imbalance=self.work.expert_capacity,
            gradient_byte=1.0 if self.stack.gradient_pass_byte else self.stack.gradient_byte,
            attention="flash" if self.stack.attention == "flash" else "eager",
            fused=self.stack.fused,
            fused_norm=self.stack.fused_norm,
            dropout=self.stack.dropout,
            loss=self.stack.loss,  # type: ignore[arg-type]  # one of three words, checked by the data tests
            linear_byte=self._kept_byte(s, "linear", "all"),
            activation_byte=self._kept_byte(s, "all"),
            frozen=self.work.adapter_rank > 0,
        )

    def drift_frac(self, s: Strategy) -> Num:
        """Share of the step that ranks wait for the slowest: the largest of so many spread about alike.

        ``spread * sqrt(2 ln n)``, the expected maximum of ``n`` normal values for large ``n`` (Cramer 1946, section 28.6).
        """
        spread: Num = self.stack.straggler * self.eff.straggler_frac * np.sqrt(2.0 * np.log(self.paced(s)))
        return spread

    def paced(self, s: Strategy) -> Num:
        """Parts of the machine that keep their own pace and wait for each other once a step.

        Accelerators; on a torus, whose chips exchange data in every layer, the slices: what a slice loses to its slowest chip
        is part of the rate its kernels reach. Those of other machines in the same step count, too.
        """
        domain = self.node.scale_up
        if domain.topology == "torus":
            return np.ceil(np.asarray(s.n_rank, dtype=float) / domain.size) + self.beside
        return s.n_rank + self.beside

    def _kept_byte(self, s: Strategy, *words: str) -> Num | None:
        """Bytes of an element kept for backward: of the lower type where linear layers run in it and the stack says so."""
        if self.stack.narrow_activations not in words:
            return None
        return np.where(np.asarray(s.fp8) > 0, element_byte(self.work.low_dtype), element_byte(self.work.dtype))

    def weight_byte(self, s: Strategy) -> Num:
        """Bytes of a parameter as it stays on the device: frozen weights in the lower type where the stack stores them so.

        Embedding and head are few and counted alike.
        """
        stack = self.stack
        if not (self.work.adapter_rank and stack.narrow_frozen_weights):
            return stack.weight_byte
        return np.where(np.asarray(s.fp8) > 0, element_byte(self.work.low_dtype), stack.weight_byte)

    def group(self, size: Num, stride: Num) -> Members:
        """Members of a communicator on this machine."""
        middle = self.fabric.middle
        return members(size, stride, self.node.scale_up.size, None if middle is None else middle.size)

    def expert_tp(self, s: Strategy) -> Num:
        """Ways TP splits each expert: as the other layers, or not where the stack keeps the experts of EP whole."""
        if self.stack.expert_tensor:
            return s.tp
        return np.where(np.asarray(s.ep) > 1, 1.0, s.tp)

    def expert_replicas(self, s: Strategy) -> tuple[Num, Num]:
        """Ranks that hold the same expert, and how far they lie apart."""
        ways = self.expert_tp(s) * s.ep
        return s.tp * s.cp * s.dp / ways, ways
