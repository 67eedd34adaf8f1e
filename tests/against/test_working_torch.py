"""Working memory against torch: live storages counted after every kernel of a real backward pass."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is the oracle of working memory")

from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from suanchou.model.architecture import MLP, Attention, Layer, Norm  # noqa: E402
from suanchou.model.operators import Shape  # noqa: E402
from suanchou.model.working import layer_working_byte  # noqa: E402
from suanchou.training.stack import stack  # noqa: E402

TOKEN, WIDTH, INNER, HEAD = 512, 128, 704, 32


class Live(TorchDispatchMode):
    """Bytes of the storages that kernels have written and that are alive, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def now(self) -> int:
        self.found = {key: (ref, n) for key, (ref, n) in self.found.items() if not ref.expired()}
        return sum(n for _, n in self.found.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.found[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.most = max(self.most, self.now())
        return out


class Fused(torch.autograd.Function):
    """A product whose weight gradient is added to a buffer that is there already."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, main: Any) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.main = main
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        ctx.main.addmm_(grad.t(), x)
        return grad @ weight, None, None


class Gate(torch.autograd.Function):
    """Gated activation as one kernel each way: keeps its input, writes its gradient into one tensor."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        a, b = x.chunk(2, dim=-1)
        return functional.silu(a) * b

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
        return torch.empty_like(ctx.saved_tensors[0])


class Same(torch.autograd.Function):
    """An activation function as one kernel each way: keeps its input."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
        return torch.empty_like(ctx.saved_tensors[0])


class OverLogits(torch.autograd.Function):
    """A loss whose forward kernel leaves the gradient where the logits were."""

    @staticmethod
    def forward(ctx: Any, logits: Any) -> Any:
        ctx.save_for_backward(logits.detach())
        return torch.empty(logits.shape[0], dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
        return ctx.saved_tensors[0]


class Norms(torch.autograd.Function):
    """A norm as one kernel each way."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
        return torch.empty_like(grad)


HELD: list[Any] = []
"""Weights and their gradients outlive a backward pass."""


def linear(x: Any, n_out: int) -> Any:
    weight = torch.empty(n_out, x.shape[-1], dtype=torch.bfloat16)
    main = torch.empty_like(weight)
    HELD.extend((weight, main))
    return Fused.apply(x, weight, main)


def mlp(gated: bool) -> Any:
    def run(x: Any) -> Any:
        inner = linear(x, 2 * INNER if gated else INNER)
        return linear(Gate.apply(inner) if gated else Same.apply(inner), WIDTH)

    return run


def eager(x: Any) -> Any:
    """Causal attention with a score matrix, dealt out to heads."""
    heads = WIDTH // HEAD
    q, k, v = (part.unflatten(-1, (heads, HEAD)).transpose(0, 1) for part in linear(x, 3 * WIDTH).chunk(3, dim=-1))
    weights = torch.softmax(q @ k.transpose(1, 2), dim=-1)
    return linear((weights @ v).transpose(0, 1).reshape(TOKEN, WIDTH), WIDTH)


def working(layer: Any) -> int:
    """What the backward pass of a layer with a residual allocates beyond what was alive when it began."""
    x = torch.zeros(TOKEN, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    with Live() as live:
        y = x + layer(Norms.apply(x))
        kept, live.most = live.now(), 0
        y.backward(torch.ones_like(y))
    HELD.clear()
    return live.most - kept


@pytest.mark.parametrize("gated", [True, False])
def test_mlp(gated: bool) -> None:
    layer = Layer(mixer=None, ffn=MLP(d_ff=INNER, gated=gated), norms=(Norm(),))
    expected = layer_working_byte(layer, WIDTH, Shape(batch=1.0, seq=float(TOKEN)))
    assert expected == pytest.approx(working(mlp(gated)), rel=0.03)


def test_eager_attention() -> None:
    mixer = Attention(n_head=WIDTH // HEAD, n_kv_head=WIDTH // HEAD, d_head=HEAD)
    layer = Layer(mixer=mixer, ffn=None, norms=(Norm(),))
    expected = layer_working_byte(layer, WIDTH, Shape(batch=1.0, seq=float(TOKEN), attention="eager"))
    assert expected == pytest.approx(working(eager), rel=0.03)


def test_plain_loss() -> None:
    """Cross entropy of upcast logits: 12 bytes a logit at the fullest, once nobody holds the bf16 logits any more."""
    vocab = 4096
    hidden = torch.zeros(TOKEN, 8, dtype=torch.bfloat16, requires_grad=True)
    weight, labels = torch.zeros(vocab, 8, dtype=torch.bfloat16), torch.zeros(TOKEN, dtype=torch.long)
    with Live() as live:
        functional.cross_entropy(functional.linear(hidden, weight).float(), labels).backward()
    per_logit = live.most / (TOKEN * vocab)
    assert stack("torch-fsdp2").loss_peak_byte == pytest.approx(per_logit, rel=0.01)
    assert stack("deepspeed-zero").loss_peak_byte == pytest.approx(per_logit, rel=0.01)


def test_the_gradient_over_the_logits() -> None:
    """A kernel that writes the gradient over the bf16 logits, as the fused loss of Transformer Engine, needs nothing else."""
    vocab = 4096
    hidden = torch.zeros(TOKEN, 8, dtype=torch.bfloat16, requires_grad=True)
    with Live() as live:
        OverLogits.apply(linear(hidden, vocab)).sum().backward()
    weight = 2 * vocab * 8 * 2
    assert stack("megatron-core").loss_peak_byte == pytest.approx((live.most - weight) / (TOKEN * vocab), rel=0.01)
