"""How long each step of a rebuild takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pgproof.model.job import Job


@dataclass
class Clock:
    """Times the steps, and tells the job of each as it begins."""

    job: Job
    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Clock]:
        self.job.checkpoint()
        self.job.report(name)
        begun = time.monotonic()
        yield self
        self.steps.append((name, time.monotonic() - begun))
