"""What an incremental backup of a very large cluster costs in seconds and memory: real maps, no data.

The full campaign is a cluster of 10 TB in files of 1 GiB, of which each of two incremental backups finds 1 % of the
pages changed, at random. What is done is what a backup by summaries and a restore do, but for the pages themselves: the
base's map is read and patched, stored and committed, and read again in the order in which packs would be.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from campaigns.campaign import Campaign

_FILES = 10 * 1024
MOST_MEMORY = 1 << 30


def run(campaign: Campaign) -> None:
    for name, value in measure(campaign.place, campaign.times(_FILES, least=16), campaign.seed).items():
        campaign.notes[name] = value


def measure(place: Path, files: int, seed: int) -> dict[str, float]:
    """Seconds and peaks of memory in MB by step, of a cluster of so many GiB; in a process of its own."""
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "campaigns.large_maps_steps", str(place), str(files), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[1])
    found: dict[str, float] = json.loads(done.stdout)
    assert found["pages wrong"] == 0
    assert found["peak memory, MB"] * 1e6 < MOST_MEMORY, found
    return found
