"""The demo's steps as people see them: bars while they run, a table of durations afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table, duration, printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Steps:
    """Steps may overlap. `seconds` has the duration of every finished step by its title."""

    def __init__(self, screen: Screen) -> None:
        self.seconds: dict[str, float] = {}
        self._screen = screen
        self._begun: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._bars: Bars | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bars on a terminal; they vanish at the end, `table` is what stays."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._screen.console(to_error=True),
            transient=True,
        )
        with self._bars:
            yield

    def begin(self, title: str) -> None:
        self._begun[title] = time.monotonic()
        if self._bars:
            self._tasks[title] = self._bars.add_task(title, total=None, note="")

    def report(self, title: str, percent: float, note: str) -> None:
        """Show how far a step is; 0 percent means that it is not known."""
        if self._bars:
            known = percent > 0
            self._bars.update(
                self._tasks[title], completed=percent, total=100 if known else None, note=printable(note)
            )

    def end(self, title: str) -> None:
        self.seconds[title] = time.monotonic() - self._begun[title]
        if self._bars:
            self._bars.update(self._tasks[title], completed=1, total=1, note="")
        else:
            self._screen.say(f"✓ {title}  {duration(self.seconds[title])}")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.begin(title)
        yield
        self.end(title)

    def table(self) -> Table:
        """The finished steps in the order in which they began."""
        begun = [title for title in self._begun if title in self.seconds]
        rows = [(f"✓ {title}", duration(self.seconds[title])) for title in begun]
        return Table([Column("step"), Column("time", right=True)], rows)
