"""Collectives inside a scale-up domain: launch, hop, share of the link per kind, and the switch between two protocols."""

from __future__ import annotations

import numpy as np

from search import Constant, Error, Values, error, fit
from suanchou.cost.collectives import Fabric, Members
from suanchou.machine.cluster import Tier
from suanchou.machine.device import accelerator
from tables import Row, column, fold, rows, weights

KINDS = {
    "all_reduce": "scale_up_frac",
    "all_gather": "gather_frac",
    "reduce_scatter": "gather_frac",
    "all_to_all": "exchange_frac",
    "p2p": "send_frac",
}
CONSTANTS = {
    "collective_launch_s": Constant(8e-6, 1e-6, 5e-5),
    "collective_low_frac": Constant(0.35, 0.05, 1.0),
    "collective_bulk_s": Constant(5e-5, 1e-6, 5e-4),
}
SHARE = Constant(0.7, 0.02, 1.0)


PCIE = {"l40s": 32e9, "rtx-pro-6000-blackwell": 64e9, "arc-pro-b60": 32e9, "v100-pcie-16gb": 16e9, "a100-pcie-80gb": 32e9}
"""Raw rate of the PCIe link, one way, of accelerators that have no other (data sheets: generation and width)."""


def link(name: str) -> float:
    """Scale-up rate of one accelerator, one way."""
    return PCIE.get(name) or float(accelerator(name).link_byte_per_s or 0.0)


class Table:
    """Rows of one accelerator inside one domain."""

    def __init__(self, table: tuple[Row, ...]) -> None:
        self.rows, self.time, self.byte = table, column(table, "time_us") * 1e-6, column(table, "bytes")
        self.size = column(table, "ranks")
        self.weight = weights(table) * np.where(self.byte >= 1.6e7, 2.0, 1.0)
        self.fold = fold(table, "op", "bytes")
        self.op = np.array([row["op"] for row in table])
        self.link = link(table[0]["accelerator_id"]) if table else 0.0

    def pick(self, keep: np.ndarray) -> Table:
        """The rows where ``keep``."""
        return Table(tuple(row for row, use in zip(self.rows, keep, strict=True) if use))


def table(name: str, source: str = "") -> Table:
    """Library collectives inside one domain, by default of the sources without host time in small messages.

    The one-shot kernels of inference stacks are another thing and left out.
    """
    trays = name.startswith("gb")
    return Table(
        tuple(
            row
            for row in rows("collectives")
            if row["accelerator_id"] == name
            and row["op"] in KINDS
            and (row["nodes"] == "1" or trays)
            and "nccl" in row["software"]
            and row["busbw_gb_s"]
            and (row["source"] == source if source else row["source"] in ("aic-0.12.0", "apex_plus"))
        )
    )


def predict(data: Table, values: Values) -> np.ndarray:
    """Seconds of every row."""
    known = accelerator(data.rows[0]["accelerator_id"])
    tier = Tier(
        name="scale-up",
        size=int(data.size.max()),
        topology="switch",
        bandwidth_byte_per_s=data.link,
        latency_s=1.5e-6 if data.rows[0]["accelerator_id"] in PCIE else 1e-6,
        sources=known.sources,
    )
    net = Fabric(
        inner=tier,
        outer=None,
        inner_frac=values["scale_up_frac"],
        outer_frac=1.0,
        launch_s=values["collective_launch_s"],
        gather_frac=values.get("gather_frac"),
        exchange_frac=values.get("exchange_frac"),
        send_frac=values.get("send_frac"),
        low_frac=values["collective_low_frac"],
        bulk_s=values["collective_bulk_s"],
    )
    group = Members(data.size, np.ones_like(data.size), data.size)
    out = net.ring_s(data.byte, group)
    out = np.where(data.op == "all_reduce", net.all_reduce_s(data.byte, group), out)
    out = np.where(data.op == "all_to_all", net.all_to_all_s(data.byte, group), out)
    return np.where(data.op == "p2p", net.send_s(data.byte, 1.0), out)


def fitted(data: Table) -> Values:
    """Constants of one accelerator's links; the hop latency is the one of networks.csv."""
    free = CONSTANTS | {KINDS[op]: SHARE for op in sorted(set(data.op))}
    return fit(free, lambda v: predict(data, v), data.time, data.weight)


def held_out(data: Table) -> tuple[Error | None, Error | None, Error | None]:
    """Errors on message sizes kept out: all, 1 MB and more, and the null of one share of the link per kind."""
    test = data.fold == 0
    train, rest = data.pick(~test), data.pick(test)
    predicted = predict(rest, fitted(train))
    large = rest.byte >= 1e6

    def ideal(x: Table) -> np.ndarray:
        passes = np.where(x.op == "all_reduce", 2.0, 1.0)
        return passes * x.byte * np.where(x.op == "p2p", 1.0, (x.size - 1.0) / x.size) / x.link

    share = np.ones_like(rest.time)
    for op in set(data.op):
        at = train.op == op
        share[rest.op == op] = np.median((ideal(train) / train.time)[at & (train.byte >= 1e6)])
    return error(predicted, rest.time), error(predicted[large], rest.time[large]), error(ideal(rest) / share, rest.time)
