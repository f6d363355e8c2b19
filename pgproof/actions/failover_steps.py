"""What a failover has done so far, for its report."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from pgproof.actions.fence import masked
from pgproof.model.failover_report import Step


@dataclass
class StepLog:
    """Whatever is told is masked by `secrets`."""

    secrets: Iterable[str]
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def step(
        self, name: str, begun: float, *, ok: bool | None = True, detail: str = "", hint: str = ""
    ) -> None:
        """It began at `begun`, of the clock that only runs, and ends now. `ok` is None where somebody has to do the rest."""
        self.steps.append(Step(name, time.monotonic() - begun, ok, masked(detail, self.secrets), hint))
