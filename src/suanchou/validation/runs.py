"""Published runs: the rows of a CSV file in the schema of ``training_runs.csv``, typed and checked."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from suanchou.errors import SpecError

__all__ = ["METRICS", "OPEN_SETS", "Run", "open_runs", "read_runs"]

Trust = Literal["A", "B", "C"]
OPEN_SETS = ("training_runs", "training_sweep_single_node")
"""The published runs in the package: a wide collection, and one sweep of small models on one node."""
METRICS = ("tokens_per_s_per_acc", "step_time_s", "model_tflops_per_acc", "hw_tflops_per_acc", "mfu", "hfu", "gpu_hours")
_TRUST = re.compile(r"trust=([ABC])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured run. ``None`` or an empty text is unknown; ``published`` is in the unit of ``metric_kind``.

    ``accelerators`` and ``per_node`` count the unit the source counts, which is ``accelerator_fraction`` of a package.
    """

    run_id: str
    source: str
    model_name: str
    trust: Trust
    accelerator_id: str
    metric_kind: str
    published: float
    layers: int
    hidden: int
    heads: int
    vocab: int
    moe: bool = False
    tied: bool = False
    framework: str = ""
    precision: str = ""
    zero: str = ""
    recompute: str = ""
    attention_kernel: str = ""
    flop_convention: str = ""
    notes: str = ""
    ffn_hidden: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    moe_ffn_hidden: int | None = None
    shared_experts: int | None = None
    params_total: float | None = None
    seq_len: int | None = None
    accelerator_fraction: float = 1.0
    accelerators: int | None = None
    per_node: int | None = None
    inter_node_gbps: float | None = None
    tp: int | None = None
    sp: int | None = None
    cp: int | None = None
    pp: int | None = None
    vpp: int | None = None
    ep: int | None = None
    dp: int | None = None
    micro_batch: int | None = None
    global_batch: int | None = None
    memory_gb: float | None = None

    def note(self, key: str) -> str:
        """The value of ``key=value`` in the notes, empty where there is none."""
        found = re.search(rf"(?:^|;)\s*{re.escape(key)}=([^;]*)", self.notes)
        return found.group(1).strip() if found else ""

    @property
    def complete(self) -> bool:
        """Whether layout, micro-batch, global batch, sequence length and recomputation are all known."""
        counts = (self.tp, self.pp, self.cp, self.dp, self.micro_batch, self.global_batch, self.seq_len, self.accelerators)
        return all(value is not None for value in counts) and bool(self.recompute)


_TEXTS = {
    "run_id": "run_id",
    "source": "source",
    "model_name": "model_name",
    "accelerator_id": "accelerator_id",
    "metric_kind": "metric_kind",
    "framework": "framework",
    "precision": "precision",
    "zero": "zero_stage_or_fsdp",
    "recompute": "recompute",
    "attention_kernel": "attention_kernel",
    "flop_convention": "flop_convention",
    "notes": "notes",
}
_COUNTS = {
    "layers": "layers",
    "hidden": "hidden",
    "heads": "heads",
    "vocab": "vocab",
    "ffn_hidden": "ffn_hidden",
    "kv_heads": "kv_heads",
    "head_dim": "head_dim",
    "experts": "experts",
    "experts_per_token": "experts_per_token",
    "moe_ffn_hidden": "moe_ffn_hidden",
    "shared_experts": "shared_experts",
    "seq_len": "seq_len",
    "accelerators": "accelerators",
    "per_node": "per_node",
    "sp": "sp",
    "tp": "tp",
    "cp": "cp",
    "pp": "pp",
    "vpp": "vpp",
    "ep": "ep",
    "dp": "dp",
    "micro_batch": "micro_batch",
    "global_batch": "global_batch_sequences",
}
_NUMBERS = {
    "published": "metric_value",
    "params_total": "params_total",
    "inter_node_gbps": "inter_node_gbps_per_accelerator",
    "memory_gb": "memory_gb_per_acc",
}
_MAY_BE_ZERO = {"sp", "shared_experts", "experts"}
_REQUIRED = ("run_id", "source", "accelerator_id", "metric_kind", "published", "layers", "hidden", "heads", "vocab")


def _number(text: str, column: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise SpecError(f"{text!r} is not a number", where=f"{where}: {column}", hint="leave it empty if unknown") from None
    if not 0 <= value < 1e30:
        raise SpecError(f"{text} is out of range", where=f"{where}: {column}", hint="a number of 0 or more")
    return value


def _count(text: str, column: str, where: str, *, zero: bool) -> int | None:
    value = _number(text, column, where)
    if value is None or (value == 0 and not zero):
        return None
    if value != int(value):
        raise SpecError(f"{text} is not a whole number", where=f"{where}: {column}")
    return int(value)


def _run(row: dict[str, str], where: str) -> Run:
    cells = {name: (value or "").strip() for name, value in row.items() if name}
    values: dict[str, object] = {field: cells.get(column, "") for field, column in _TEXTS.items()}
    for field, column in _COUNTS.items():
        values[field] = _count(cells.get(column, ""), column, where, zero=field in _MAY_BE_ZERO)
    for field, column in _NUMBERS.items():
        values[field] = _number(cells.get(column, ""), column, where)
    for field in _REQUIRED:
        if values[field] in (None, ""):
            column = {**_TEXTS, **_COUNTS, **_NUMBERS}[field]
            raise SpecError("is empty or zero", where=f"{where}: {column}", hint="every run needs it")
    if not values["published"]:
        raise SpecError("a measured value of 0 cannot be compared", where=f"{where}: metric_value")
    if values["metric_kind"] not in METRICS:
        hint = f"one of {', '.join(METRICS)}"
        raise SpecError(f"unknown metric {values['metric_kind']!r}", where=f"{where}: metric_kind", hint=hint)
    trust = _TRUST.search(cells.get("notes", ""))
    values["trust"] = trust.group(1) if trust else "B"
    values["moe"] = cells.get("arch") == "moe"
    values["tied"] = cells.get("tied_embeddings") == "1"
    values["accelerator_fraction"] = _number(cells.get("accelerator_fraction", ""), "accelerator_fraction", where) or 1.0
    return Run(**values)  # type: ignore[arg-type]  # the maps above name every field with its type


def _parse(text: str, name: str) -> tuple[Run, ...]:
    reader = csv.DictReader(io.StringIO(text))
    wanted = {**_TEXTS, **_COUNTS, **_NUMBERS}
    missing = [wanted[field] for field in _REQUIRED if wanted[field] not in (reader.fieldnames or ())]
    if missing:
        raise SpecError(f"has no column {missing[0]!r}", where=name, hint="use the columns of the built-in training_runs.csv")
    runs = tuple(_run(row, f"{name}: line {reader.line_num}") for row in reader)
    if not runs:
        raise SpecError("holds no run", where=name, hint="give one row per run below the header")
    seen: set[str] = set()
    for run in runs:
        if run.run_id in seen:
            raise SpecError(f"{run.run_id!r} stands there twice", where=name, hint="give every run an id of its own")
        seen.add(run.run_id)
    return runs


def read_runs(paths: Iterable[Path]) -> tuple[Run, ...]:
    """The runs of CSV files, in order.

    Raises
    ------
    SpecError : a file that cannot be read, a missing column, or a cell that does not fit its column.
    """
    found: list[Run] = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise SpecError(f"cannot be read: {reason}", where=str(path), hint="give a CSV file") from None
        found += _parse(text, str(path))
    return tuple(found)


def open_runs(name: str) -> tuple[Run, ...]:
    """One of the :data:`OPEN_SETS`."""
    text = resources.files("suanchou.catalog").joinpath(f"data/{name}.csv").read_text(encoding="utf-8")
    return _parse(text, f"{name}.csv")
