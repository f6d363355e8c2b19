"""A backup that takes longer than it may is stopped, and cleans up as one that is cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.backup import BackupManager
from pgproof.errors import PreconditionError
from pgproof.waiting import within
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.postgres import Cluster


def test_it_is_stopped_and_leaves_nothing(pg18: Cluster, work_dir: Path) -> None:
    # The slowest rate that PostgreSQL takes.
    config = replace(new_repository(work_dir / "r"), max_rate=32)
    manager = BackupManager(pg18.tcp_config(), config)
    with pytest.raises(PreconditionError, match="took longer than it may"):
        asyncio.run(within(3, manager.create_backup()))
    leases = work_dir / "r" / "clusters" / "main" / "leases"
    assert [path for path in leases.rglob("*") if path.is_file()] == []
    machine.wait_until(
        lambda: pg18.psql("SELECT count(*) FROM pg_stat_progress_basebackup") == "0", "the server's sender"
    )
