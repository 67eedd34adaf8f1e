"""Set-up: from a published run to the model and the machine it ran on."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache

from suanchou.errors import SpecError
from suanchou.machine import accelerator, cluster, usual_node
from suanchou.machine.cluster import Cluster, Group, Node
from suanchou.machine.server import part_of
from suanchou.model.architecture import MLP, Architecture, Attention, Layer, MoE, Norm
from suanchou.model.parameters import parameter_count
from suanchou.model.source import find_model
from suanchou.validation.policy import policy
from suanchou.validation.runs import Run

__all__ = ["architecture_of", "machine_of", "ranks_per_unit"]


def architecture_of(run: Run) -> Architecture:
    """The model of a run, from its architecture columns.

    Whether the MLP is gated is not a column: of the two, the one whose parameters come closer to ``params_total``. A model
    that the columns cannot describe (latent attention, windows) is the catalogue's, cut to the row's layers.

    Raises
    ------
    SpecError : columns that contradict each other or leave the MLP open.
    """
    named = next((e["model"] for e in policy()["architectures"] if fnmatchcase(run.model_name.casefold(), e["pattern"])), None)
    if named is not None:
        return _from_catalogue(run, named)
    return min((_from_columns(run, gated=gated) for gated in (True, False)), key=lambda arch: _mismatch(run, arch))


def _mismatch(run: Run, arch: Architecture) -> float:
    return abs(parameter_count(arch) - (run.params_total or 0.0)) if run.params_total else 0.0


def _dense_first(run: Run) -> int | None:
    """How many layers at the start are dense, where the notes say so."""
    found = re.search(r"first (\d+) layers dense|(first layer) dense|dense_layers=(\d+)", run.notes)
    if found is None:
        return None
    return 1 if found.group(2) else int(found.group(1) or found.group(3))


def _from_catalogue(run: Run, name: str) -> Architecture:
    arch = find_model(name).architecture
    sparse = [layer for layer in arch.layers if isinstance(layer.ffn, MoE)]
    dense = [layer for layer in arch.layers if not isinstance(layer.ffn, MoE)]
    stated = _dense_first(run)
    n_dense = min(len(dense) if stated is None else stated, run.layers)
    cycle = sparse or dense
    rest = tuple(cycle[i % len(cycle)] for i in range(run.layers - n_dense))
    with_mtp = "with mtp" in run.notes.casefold()
    return replace(
        arch,
        name=run.model_name,
        layers=(*dense[:n_dense], *rest),
        vocab=run.vocab,
        n_position=0,
        mtp=arch.mtp if with_mtp else (),
        mtp_extra=arch.mtp_extra if with_mtp else (),
    )


def _from_columns(run: Run, *, gated: bool) -> Architecture:
    heads, kv = run.heads, run.kv_heads or run.heads
    head_dim = run.head_dim or run.hidden // heads
    mixer = Attention(
        n_head=heads,
        n_kv_head=kv,
        d_head=head_dim,
        rotary=gated,
        q_bias=not gated,
        kv_bias=not gated,
        out_bias=not gated,
    )
    norm = Norm(kind="rms" if gated else "layer", bias=not gated)

    def layer(ffn: MLP | MoE) -> Layer:
        return Layer(mixer=mixer, ffn=ffn, norms=(norm, norm), parallel="parallel attention" in run.notes)

    if run.moe:
        experts, per_token, width = run.experts, run.experts_per_token, run.moe_ffn_hidden or run.ffn_hidden
        if not (experts and per_token and width):
            raise SpecError("a mixture of experts without experts, experts_per_token or moe_ffn_hidden", where=run.run_id)
        shared = MLP(d_ff=width * run.shared_experts, gated=gated) if run.shared_experts else None
        sparse = layer(MoE(n_expert=experts, top_k=per_token, expert=MLP(d_ff=width, gated=gated), shared=shared))
        n_dense = _dense_first(run) or 0
        dense = (
            (layer(MLP(d_ff=run.ffn_hidden, gated=gated, up_bias=not gated, down_bias=not gated)),) * n_dense
            if n_dense and run.ffn_hidden
            else ()
        )
        layers = (*dense, *(sparse,) * (run.layers - len(dense)))
    elif run.ffn_hidden:
        layers = (layer(MLP(d_ff=run.ffn_hidden, gated=gated, up_bias=not gated, down_bias=not gated)),) * run.layers
    else:
        raise SpecError("the width of the MLP is not stated", where=run.run_id, hint="fill ffn_hidden")
    return Architecture(
        name=run.model_name,
        family="validation",
        d_model=run.hidden,
        vocab=run.vocab,
        layers=layers,
        max_position=run.seq_len or 4096,
        tied=run.tied,
        final_norm=norm,
    )


def ranks_per_unit(run: Run) -> int:
    """Ranks (devices as software sees them) in one unit that the row counts.

    Raises
    ------
    SpecError : the row counts parts of a device.
    """
    ranks = run.accelerator_fraction * accelerator(run.accelerator_id).dies
    if ranks < 1 or ranks != int(ranks):
        raise SpecError(
            f"{run.accelerator_fraction:g} of a {run.accelerator_id} is no whole device",
            where=run.run_id,
            hint="check accelerator_fraction",
        )
    return int(ranks)


def machine_of(run: Run, accelerators: int) -> Cluster:
    """The machine of a run: the accelerator's usual node with the row's devices per node and network.

    Raises
    ------
    SpecError : an unknown accelerator, or accelerators that do not fill equal nodes.
    """
    unit = ranks_per_unit(run)
    slices = run.note("slices").split(" ")[0]
    return _machine(
        run.accelerator_id,
        accelerators * unit,
        None if run.per_node is None else run.per_node * unit,
        None if run.inter_node_gbps is None else run.inter_node_gbps * 1e9 / 8 / unit,
        int(slices) if slices.isdigit() else 1,
    )


@cache
def _machine(name: str, ranks: int, per_node: int | None, nic_byte_per_s: float | None, slices: int) -> Cluster:
    whole = usual_node(name)
    on_node = min(per_node or whole.n_accelerator, ranks)
    if ranks % on_node:
        raise SpecError(f"{ranks} devices do not fill nodes of {on_node}", where=name)
    node = part_of(whole, on_node) if on_node < whole.n_accelerator else replace(whole, n_accelerator=on_node)
    node = _with_domain(whole, node, ranks // slices)
    if nic_byte_per_s is not None:
        node = replace(node, nic_byte_per_s=nic_byte_per_s * on_node)
    usual = cluster((f"{whole.id}:1",))
    return replace(usual, name=f"{name}:{ranks}", groups=(Group(node=node, n_node=ranks // on_node),))


def _with_domain(whole: Node, node: Node, most: int) -> Node:
    """A scale-up domain wider than a node (a pod) spans the nodes of a run, or of one of its slices."""
    if whole.scale_up.size <= whole.n_accelerator:
        return node
    return replace(node, scale_up=replace(whole.scale_up, size=min(whole.scale_up.size, most)))
