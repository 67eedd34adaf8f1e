"""The accuracy page of the kernel model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search import Error

if TYPE_CHECKING:
    from fit import Result

HERE = Path(__file__).parent


def _errors(e: Error | None) -> str:
    return f"{100 * e.median:.1f} / {100 * e.p90:.0f}" if e else "-"


def _dtype(name: str) -> str:
    return "16 bit" if name == "*" else name


def shape_table(result: Result) -> list[str]:
    """Held-out shapes."""
    out = [
        "| kernel | part | type | tested rows | error, median / P90 % | large shapes | null |",
        "|---|---|---|---|---|---|---|",
    ]
    for kernel, part, dtype, (every, large, null) in result.shapes:
        count = every.n if every else 0
        out.append(f"| {kernel} | {part} | {_dtype(dtype)} | {count} | {_errors(every)} | {_errors(large)} | {_errors(null)} |")
    return out


def source_table(result: Result) -> list[str]:
    """Held-out sources."""
    out = ["| type | fitted on | predicted | rows | error, median / P90 % | bias % | null |", "|---|---|---|---|---|---|---|"]
    for dtype, one, other, found, null in result.sources:
        if found:
            bias = f"{100 * found.bias:+.1f}"
            out.append(f"| {_dtype(dtype)} | {one} | {other} | {found.n} | {_errors(found)} | {bias} | {_errors(null)} |")
    return out


def clock_table(result: Result) -> list[str]:
    """Sustained clock."""
    out = ["| part | measured by | sustained over burst rate | kernel time at half the loss |", "|---|---|---|---|"]
    out += [f"| {part} | {kind} | {share:.2f} | {1e3 * at:.2g} ms |" for part, kind, share, at in result.clocks]
    return out


def link_table(result: Result) -> list[str]:
    """Collectives."""
    out = ["| fitted on | predicted | rows | error, median / P90 % | 1 MB and more | null |", "|---|---|---|---|---|---|"]
    for one, other, (every, large, null) in result.links:
        count = every.n if every else 0
        out.append(f"| {one} | {other} | {count} | {_errors(every)} | {_errors(large)} | {_errors(null)} |")
    return out


def write_page(path: Path, result: Result, counts: dict[str, int]) -> None:
    """Fill the page's template with the tables."""
    text = (HERE / "page.md").read_text(encoding="utf-8")
    blocks = {
        "SHAPES": shape_table(result),
        "SOURCES": source_table(result),
        "CLOCKS": clock_table(result),
        "LINKS": link_table(result),
    }
    for name, lines in blocks.items():
        text = text.replace(f"@{name}@", "\n".join(lines))
    for name, count in counts.items():
        text = text.replace(f"@{name}@", f"{count:,}")
    path.write_text(text, encoding="utf-8")
