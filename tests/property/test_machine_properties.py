"""Machines from arguments: whatever is written, either a cluster that adds up or one clear refusal."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from suanchou import catalog
from suanchou.errors import MissingData, SpecError, SuanchouError
from suanchou.machine import accelerator, cluster, usual_node
from suanchou.machine.device import dies_of

T = TypeVar("T")
NAMES = catalog.names("accelerators")
DIES = {row["die_id"] for row in catalog.catalogue().side_table("dies") if row["die_id"]}


def attempt(call: Callable[[], T]) -> tuple[T | None, SuanchouError | None]:
    """The answer, or the refusal."""
    try:
        return call(), None
    except (SpecError, MissingData) as error:
        return None, error


@given(name=st.sampled_from(NAMES), count=st.integers(1, 5000))
@settings(deadline=None, max_examples=80)
def test_packing_keeps_every_card(name: str, count: int) -> None:
    machine, refusal = attempt(lambda: cluster([f"{name}:{count}"]))
    if machine is None:
        assert refusal is not None
        assert "do not fill equal nodes" in refusal.what
        low, high = (
            int(word.rpartition(":")[2]) for word in (refusal.hint or "").split() if ":" in word and word[-1].isdigit()
        )
        assert low < count < high
        for other in (low, high):
            if other:
                assert cluster([f"{name}:{other}"]).n_accelerator > 0
        return
    ranks = count if name in DIES else count * dies_of(catalog.catalogue(), name)
    assert machine.n_accelerator == ranks
    (group,) = machine.groups
    assert group.node.n_accelerator <= usual_node(name).n_accelerator
    assert group.node.scale_up.size >= 1


@given(name=st.sampled_from(catalog.names("nodes")), count=st.integers(1, 2000))
@settings(deadline=None, max_examples=80)
def test_tiers_grow_and_slow_down(name: str, count: int) -> None:
    """Each level of the network joins more ranks than the one below, and the last one joins them all."""
    machine = cluster([f"{name}:{count}"])
    tiers, refusal = attempt(lambda: machine.tiers)
    if tiers is None:
        assert isinstance(refusal, MissingData)
        assert count > 1
        return
    sizes = [tier.size for tier in tiers]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] >= machine.n_accelerator
    assert all(tier.bandwidth_byte_per_s > 0 and tier.latency_s >= 0 for tier in tiers)


@given(spec=st.text(max_size=40) | st.tuples(st.sampled_from(NAMES), st.text(max_size=12)).map(":".join))
@settings(deadline=None, max_examples=150)
def test_any_text_is_a_cluster_or_a_refusal(spec: str) -> None:
    machine, refusal = attempt(lambda: cluster([spec]))
    if machine is not None:
        assert machine.n_accelerator >= 1
    else:
        assert refusal is not None
        assert refusal.where
        assert "\n" not in refusal.what or "\n" in spec


CELL = st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=8) | st.sampled_from(
    ["1", "80", "-1", "nan", "1e999", '"']
)
HEADER = st.lists(st.sampled_from(["id", "name", "kind", "memory_gb", "recalled", "pcie", "oops"]), min_size=1, max_size=4)


@given(header=HEADER, rows=st.lists(st.lists(CELL, max_size=5), max_size=4))
@settings(deadline=None, max_examples=60)
def test_any_file_is_read_or_refused_with_its_place(header: list[str], rows: list[list[str]]) -> None:
    text = "\n".join([",".join(header), *(",".join(row) for row in rows)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "accelerators.csv"
        path.write_text(text, encoding="utf-8", newline="")
        with catalog.use_catalog(folder):
            found, refusal = attempt(lambda: catalog.names("accelerators"))
            if found is None:
                assert refusal is not None
                assert str(path) in (refusal.where or "")
                assert refusal.hint
                return
            for name in set(found) - set(NAMES):
                device, refusal = attempt(partial(accelerator, name))
                assert device.id == name if device is not None else refusal is not None and refusal.where
