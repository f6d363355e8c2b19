"""Temporary directories of processes that were killed go away, and those in use stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from pgproof.postgres.temporary import temporary_directory
from tests.postgres.clusters import USER

_CHILD = """
import pathlib, sys
from pgproof.postgres.osuser import service_user
from pgproof.postgres.temporary import temporary_directory

with temporary_directory("kind", pathlib.Path(sys.argv[1]), service_user()) as path:
    (path / "something").mkdir()
    print(path, flush=True)
    sys.stdin.read()
"""


def test_only_what_a_dead_process_left_is_removed(work_dir: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(work_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        theirs = Path(child.stdout.readline().strip())
        # Others may make such a name under /tmp: it is not ours to remove.
        foreign, linked = work_dir / "pgproof-kind-foreign", work_dir / "pgproof-kind-link"
        foreign.mkdir()
        os.chown(foreign, 4711 if os.geteuid() == 0 else -1, -1)
        linked.symlink_to(work_dir / "elsewhere")
        with temporary_directory("kind", work_dir, USER) as ours:
            assert ours.stat().st_mode & 0o777 == 0o700
            with temporary_directory("kind", work_dir, USER):
                assert ours.exists() and theirs.exists()
            child.send_signal(signal.SIGKILL)
            child.wait()
            with temporary_directory("kind", work_dir, USER):
                assert ours.exists() and not theirs.exists()
        assert linked.is_symlink()
        assert foreign.exists() or os.geteuid() != 0
