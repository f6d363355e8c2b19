"""The directories of earlier test runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.support import machine


def test_what_a_killed_run_left_is_removed_and_what_is_in_use_stays() -> None:
    ours = machine.workspace()
    left = Path(tempfile.mkdtemp(prefix=f"{ours.name[:-8]}", dir=ours.parent))
    (left / "data").mkdir()
    machine.remove_abandoned()
    assert ours.exists() and not left.exists()
