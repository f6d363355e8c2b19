"""A running piece of work: it tells how far it is and can be asked to stop."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from pgproof.errors import Cancelled
from pgproof.model.report import Progress, ProgressCallback, no_progress


@dataclass(frozen=True, slots=True)
class Job:
    """Passed down by whoever starts long work; every loop calls `checkpoint` at least once a second."""

    progress: ProgressCallback = no_progress
    stop: threading.Event = field(default_factory=threading.Event)

    def report(self, phase: str, done: int = 0, total: int = 0) -> None:
        self.progress(Progress(phase, done, total))

    def checkpoint(self) -> None:
        """Raise Cancelled if the work was asked to stop."""
        if self.stop.is_set():
            raise Cancelled("stopped on request")
