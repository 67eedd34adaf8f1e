"""A progress bar on standard error, for work that lasts longer than a second and a terminal that shows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from suanchou.i18n import _

__all__ = ["progress_bar"]

PATIENCE_S = 1.0


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A function ``(done, total)`` that draws the bar, or ``None`` where nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    start, task = time.monotonic(), None

    def step(done: int, total: int) -> None:
        nonlocal task
        if time.monotonic() - start < PATIENCE_S:
            return
        if task is None:
            bar.start()
            task = bar.add_task(_("searching"), total=total)
        bar.update(task, completed=done)

    try:
        yield step
    finally:
        if task is not None:
            bar.stop()
