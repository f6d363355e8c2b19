"""A repository of ten thousand backups: seconds and memory to list it, to plan a cleanup and to carry it out.

The objects are simulated (campaigns/large_repository.py) and lie in memory, as a cache of manifests would have them: what is
measured is our own work.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.targets import Target, target_table

_ROOT = Path(__file__).parents[1]
# What is measured, by the name that the campaign gives it, and how long it may take.
_SECONDS = {"listing": 2.0, "planning": 10.0, "cleaning": None}
_MEMORY_MB = 500.0


@dataclass(frozen=True)
class Measured:
    """One round: seconds by operation, and the peak memory of all of them in one process."""

    round: int
    backups: int
    objects: int
    removed: int
    listing: float
    planning: float
    cleaning: float
    memory_mb: float

    def __str__(self) -> str:
        return f"round {self.round + 1}: {self.backups} backups listed in {self.listing:.2f} s"


def measurements(backups: int, rounds: int) -> Iterator[Measured]:
    for number in range(rounds):
        command = [sys.executable, "-m", "campaigns.large_repository", str(backups)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=_ROOT)
        found = json.loads(done.stdout)
        yield Measured(
            number,
            found["backups"],
            found["objects"],
            found["removed"],
            *(found[f"{name}, s"] for name in _SECONDS),
            found["peak memory, MB"],
        )


def markdown(found: Sequence[Measured]) -> str:
    first = found[0]
    lines = [
        f"{first.backups:,} backups in {first.objects:,} simulated objects, of which a cleanup removes {first.removed:,}.",
        "",
        "| | s |",
        "|---|---:|",
        *(f"| {name} | {_median(found, name):.2f} |" for name in _SECONDS),
    ]
    targets = [
        Target(f"{name}, seconds", _median(found, name), limit) for name, limit in _SECONDS.items() if limit
    ]
    targets.append(Target("peak memory", max(each.memory_mb for each in found), _MEMORY_MB, " MB"))
    return "\n".join([*lines, *target_table(targets)])


def _median(found: Sequence[Measured], name: str) -> float:
    return float(median(getattr(each, name) for each in found))
