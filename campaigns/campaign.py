"""What every campaign is given: its seed, its size, a place to work in, and the counts it must fill."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Campaign:
    """One run of one attack. `share` is its size: 1.0 the full campaign, less for a sample in the tests."""

    name: str
    seed: int
    share: float
    place: Path
    counts: Counter[str] = field(default_factory=Counter)
    notes: dict[str, float] = field(default_factory=dict)

    def times(self, full: int, least: int = 1) -> int:
        """How often to do what the full campaign does `full` times."""
        return max(least, round(full * self.share))

    def rounds(self, full: int, least: int = 1) -> Iterator[tuple[int, random.Random]]:
        """Numbered rounds, each with randomness of its own: round 17 is the same whatever came before it."""
        for number in range(self.times(full, least)):
            yield number, self.random(f"round {number}")

    def random(self, purpose: str) -> random.Random:
        """Randomness that depends on the seed and this purpose alone."""
        return random.Random(f"{self.seed} {self.name} {purpose}")

    def until(self, full_seconds: float, least: float = 1.0) -> Iterator[int]:
        """Count upwards for as long as this size of campaign lasts."""
        end = time.monotonic() + max(least, full_seconds * self.share)
        number = 0
        while time.monotonic() < end:
            yield number
            number += 1

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] += by

    def require(self, what: str, full: int, least: int = 1) -> None:
        """Fail unless this really happened often enough: an attack that did nothing proves nothing."""
        wanted = self.times(full, least)
        if self.counts[what] < wanted:
            raise AssertionError(f"{what}: {self.counts[what]} times, wanted {wanted} (seed {self.seed})")
