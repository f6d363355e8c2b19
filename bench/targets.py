"""What was promised, and whether it was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """What was promised: `value` is to be at most `limit`."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.limit


def target_table(targets: Sequence[Target]) -> list[str]:
    """Lines of Markdown; none without targets."""
    if not targets:
        return []
    return ["", "| target | | |", "|---|---:|---|"] + [
        f"| {each.what} | {each.value:.3g}{each.unit} "
        f"| {'met' if each.met else '**missed**'} (at most {each.limit:g}) |"
        for each in targets
    ]
