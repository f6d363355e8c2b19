"""Runs that meet another run, are cancelled, killed, or lose their server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import pytest

from pgproof.errors import ConflictError, TransientError
from pgproof.model.config import BackupType
from pgproof.model.report import Progress
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import PASSPHRASE, SLOW
from tests.support import machine
from tests.support.postgres import ClusterFactory

_ROOT = Path(__file__).parents[2]
_SENDING = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase = 'streaming database files'"
_LEFT_BEHIND = (
    "SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_stat_progress_basebackup)"
)


def test_a_second_backup_at_once_is_refused_and_a_cancelled_one_leaves_nothing(
    cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    source = cluster_factory()
    doors = front_doors(source)
    copying = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.phase == "copying":
            copying.set()

    async def cancel_the_first_after_the_second() -> None:
        slow = doors.manager(max_rate=SLOW)
        first = asyncio.create_task(slow.create_backup(BackupType.FULL, progress=watch))
        assert await asyncio.to_thread(copying.wait, 60)
        with pytest.raises(ConflictError, match="another backup of this cluster is running") as refused:
            await doors.manager().create_backup(BackupType.FULL)
        assert refused.value.context["pid"] == os.getpid()
        # Another cluster's backup is no business of this lease.
        other = await doors.manager(cluster="other").create_backup(BackupType.FULL)
        assert other.status == "ok"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(cancel_the_first_after_the_second())
    assert doors.backups() == []
    machine.wait_until(lambda: source.psql(_LEFT_BEHIND) == "0|0", "the server to end the cancelled backup")
    assert doors.backups() == [] and doors.backup().backup_id == doors.backups()[0]


def test_a_killed_run_is_in_nobodys_way(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory()
    doors = front_doors(source)
    command = [sys.executable, "scripts/db_backup.py", "create", "--json", f"--max-rate={SLOW}"]
    environment = {
        **machine.environment(**source.libpq_environment()),
        "BACKUP_DIR": str(doors.config.backup_dir),
        "BACKUP_PASSPHRASE": PASSPHRASE,
    }
    run = subprocess.Popen(
        command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        machine.wait_until(
            lambda: run.poll() is not None or source.psql(_SENDING) == "1", "the backup to send files"
        )
    finally:
        run.kill()
        said, _ = run.communicate()
    assert run.returncode == -9, said.decode()
    machine.wait_until(lambda: source.psql(_LEFT_BEHIND) == "0|0", "the server to end the killed backup")

    assert doors.backups() == []
    # The next run does not wait for the dead one's lease to end.
    info = doors.backup()
    assert doors.backups() == [info.backup_id]
    assert doors.verify(info.backup_id).proven


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill -9"])
def test_a_server_that_goes_away_is_worth_another_try(
    mode: Literal["fast", "immediate", "kill -9"], cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    source = cluster_factory()
    doors = front_doors(source)
    with doors.backup_under_way() as running:
        if mode == "kill -9":
            source.kill9()
        else:
            source.stop(mode)
    with pytest.raises(TransientError) as lost:
        running.result()
    assert lost.value.hint
    assert doors.backups() == []
    with pytest.raises(TransientError):
        doors.backup()

    source.start()
    info = doors.backup()
    assert info.status == "ok" and doors.backups() == [info.backup_id]
