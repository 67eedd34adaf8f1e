"""What torch runs again when it recomputes a layer, counted by running it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from suanchou.model.architecture import MLP, Attention, Layer, Norm  # noqa: E402
from suanchou.model.layer_operators import layer_forward, layer_recompute  # noqa: E402
from suanchou.model.operators import Shape  # noqa: E402

D, WIDTH, TOKEN, HEADS = 32, 80, 8, 4


class Block(torch.nn.Module):
    """A pre-norm transformer layer with a plain MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(D) for _ in range(2))
        sizes = ((D, 3 * D), (D, D), (D, WIDTH), (WIDTH, D))
        self.qkv, self.out, self.up, self.down = (torch.nn.Linear(k, n, bias=False) for k, n in sizes)

    def forward(self, x):
        q, k, v = (part.view(1, TOKEN, HEADS, -1).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, dim=-1))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(1, TOKEN, D))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norms[1](x))))


class Products(TorchDispatchMode):
    """Shapes ``(k, n)`` of the products of activations and weights forward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mm.default and args[0].shape[0] == TOKEN:
            self.seen.append(tuple(args[1].shape))
        return func(*args, **(kwargs or {}))


def products(*, reentrant: bool) -> list[tuple[int, int]]:
    """The weight products of a recomputed layer's forward and backward, gradients of the inputs among them."""
    torch.manual_seed(0)
    block, x = Block(), torch.randn(1, TOKEN, D, requires_grad=True)
    with Products() as mode:
        checkpoint(block, x, use_reentrant=reentrant).sum().backward()
    return sorted(mode.seen)


@pytest.mark.parametrize(("reentrant", "early_stop"), [(True, False), (False, True)])
def test_products_run_again(reentrant, early_stop):
    layer = Layer(
        mixer=Attention(n_head=HEADS, n_kv_head=HEADS, d_head=D // HEADS, rotary=False),
        ffn=MLP(d_ff=WIDTH, gated=False),
        norms=(Norm(kind="layer"), Norm(kind="layer")),
    )
    ops = layer_forward(layer, D, Shape(batch=1.0, seq=float(TOKEN)))
    forward = [(int(op.k), int(op.n)) for op in ops if op.kind == "gemm"]
    again = [(int(op.k), int(op.n)) for op in layer_recompute(ops, early_stop=early_stop) if op.kind == "gemm"]
    inputs = [(n, k) for k, n in forward]
    assert products(reentrant=reentrant) == sorted(forward + again + inputs)
