"""The progress bar: one line a phase, with rate and remaining time, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgproof.cli.screen import Screen
from pgproof.cli.text import printable
from pgproof.model.report import Progress, ProgressCallback, no_progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


@contextmanager
def progress_bar(screen: Screen) -> Iterator[ProgressCallback]:
    """Yield a callback that may be called from any thread."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=screen.console(to_error=True),
    )
    with bars:
        phases = Phases(bars)
        try:
            yield phases.report
        finally:
            phases.end()


class Phases:
    """Turns progress reports into bars: a new bar when the phase changes, the old one ended."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._phase = ""
        self._task: TaskID | None = None
        self._done = 0

    def report(self, progress: Progress) -> None:
        if progress.phase != self._phase or self._task is None:
            self.end()
            self._phase = progress.phase
            self._task = self._bars.add_task(printable(progress.phase), total=None)
        self._done = progress.done
        # An estimate may turn out too small; a bar beyond its end would be a lie, so it pulses again.
        total = progress.total if progress.total >= progress.done else 0
        self._bars.update(self._task, completed=progress.done, total=total or None)

    def end(self) -> None:
        """Show the current phase as finished."""
        if self._task is not None:
            self._bars.update(self._task, completed=max(self._done, 1), total=max(self._done, 1))
            self._bars.stop_task(self._task)
            self._task = None
