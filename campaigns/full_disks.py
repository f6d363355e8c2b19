"""File systems of the kernel that really run full: small ones, and thin ones that notice it only when they write back.

Part of the campaign `disk_errors`; needs root to mount.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaigns import disk_work
from campaigns.campaign import Campaign
from campaigns.disk_ground import Ground
from campaigns.disk_work import Outcome
from pgproof.actions.opening import open_repository
from pgproof.errors import EngineError, PreconditionError, TransientError
from pgproof.model.config import BackupConfig, VerifyLevel
from pgproof.repository.catalog import find_backup, list_backups
from tests.support import machine
from tests.support.mounts import others_sync, resize, small_disk, thin_disk
from tests.support.postgres import Cluster

_MEGABYTE = 1 << 20


class FullDisks:
    """One round of each kind; what was full has room in the end, and the repetition succeeds."""

    def __init__(self, campaign: Campaign, ground: Ground) -> None:
        self._campaign = campaign
        self._ground = ground
        self._stocked = ground.stocked_repository()
        stored = sum(path.stat().st_size for path in Path(self._stocked.backup_dir or "").rglob("*"))
        self._stored_megabytes = stored // _MEGABYTE + 1
        size = find_backup(open_repository(self._stocked), "latest").size_bytes
        self._restored_megabytes = size // _MEGABYTE + 1

    def repository(self, chance: random.Random) -> None:
        """The repository's disk is too small, or just not."""
        with small_disk(round(chance.uniform(0.02, 1.2) * self._stored_megabytes) + 1) as disk:
            config = BackupConfig(backup_dir=str(disk / "repository"), encryption=False)
            first = self._runs(disk_work.init, config)
            outcome = self._runs(disk_work.back_up, self._ground.cluster.config(), config)
            if disk_work.opens(config):
                listed = [info.backup_id for info in list_backups(open_repository(config))]
                assert listed == ([outcome.value] if outcome.done else [])
            resize(disk, self._stored_megabytes * 3)
            if not first.done and not disk_work.opens(config):
                self._succeeds(disk_work.init, config)
            self._succeeds(disk_work.back_up, self._ground.cluster.config(), config)
            found = self._succeeds(disk_work.verify, config, VerifyLevel.FRAMES, self._ground.place).value
            assert not found, found

    def target(self, chance: random.Random) -> None:
        """The target's disk is too small, has too few inodes, or runs full during recovery."""
        recover = chance.random() < 0.6
        self._ground.clear()
        with self._tight_disk(chance) as disk:
            arguments = (self._stocked, disk / "data", self._ground.tablespaces(), recover)
            outcome = self._runs(disk_work.restore, *arguments)
            state = self._ground.state_of(disk / "data")
            assert state == "whole" if outcome.done else state in ("refuses", "whole"), state
            resize(disk, self._restored_megabytes * 3)
            shutil.rmtree(disk / "data", ignore_errors=True)
            self._ground.clear()
            self._succeeds(disk_work.restore, *arguments)
            assert self._ground.state_of(disk / "data") == "whole"

    def spool(self, chance: random.Random) -> None:
        """The temporary directory, where a verification restores to, is too small."""
        with self._tight_disk(chance) as disk:
            arguments = (self._stocked, VerifyLevel.START, disk)
            outcome = self._runs(disk_work.verify, *arguments)
            assert not outcome.value, f"a full disk was taken for a damaged backup: {outcome.value}"
            assert list(disk.iterdir()) == []
            resize(disk, self._restored_megabytes * 4)
            found = self._succeeds(disk_work.verify, *arguments).value
            assert not found, found

    def source(self, chance: random.Random) -> None:
        """The source has no room for its WAL: its own affair, but told clearly."""
        cluster = Cluster(18, initdb_args=("--wal-segsize=1",))
        wal = cluster.data_dir / "pg_wal"
        with small_disk(40 + chance.randrange(16)) as disk:
            shutil.copytree(wal, disk / "pg_wal", symlinks=True)
            shutil.rmtree(wal)
            wal.symlink_to(disk / "pg_wal")
            machine.give_to_service(disk)
            machine.give_to_service(cluster.data_dir)
            try:
                cluster.start()
                config = self._ground.new_repository(self._ground.place)
                self._succeeds(disk_work.back_up, cluster.config(), config)
                with contextlib.suppress(RuntimeError):  # the server gives up in the middle of it
                    _fill(disk)
                    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 1000000)")
                outcome = self._runs(disk_work.back_up, cluster.config(), config)
                assert not outcome.done
                (disk / "ballast").unlink()
                if cluster.running:
                    cluster.stop("immediate")
                cluster.start()
                self._succeeds(disk_work.back_up, cluster.config(), config)
            finally:
                cluster.remove()

    def thin_target(self, chance: random.Random) -> None:
        """Writes succeed and are lost when they are written back; somebody else may be told of it first."""
        self._ground.clear()
        room = round(chance.uniform(0.2, 0.7) * self._restored_megabytes)
        with small_disk(room) as below, thin_disk(below) as disk, others_sync(disk):
            arguments = (self._stocked, disk / "data", self._ground.tablespaces(), False)
            outcome = self._runs(disk_work.restore, *arguments)
            assert not outcome.done, f"{room} MB held {self._restored_megabytes} MB"
            assert not (disk / "data" / "global" / "pg_control").exists()

    def thin_repository(self, chance: random.Random) -> None:
        room = round(chance.uniform(0.2, 0.7) * self._stored_megabytes)
        with small_disk(room) as below, thin_disk(below) as disk, others_sync(disk):
            config = BackupConfig(backup_dir=str(disk / "repository"), encryption=False)
            self._succeeds(disk_work.init, config)
            outcome = self._runs(disk_work.back_up, self._ground.cluster.config(), config)
            assert not outcome.done
            assert list_backups(open_repository(config)) == []

    def _tight_disk(self, chance: random.Random) -> contextlib.AbstractContextManager[Path]:
        if chance.random() < 0.5:
            return small_disk(self._restored_megabytes * 3, inodes=chance.randint(3, 1300))
        return small_disk(round(chance.uniform(0.5, 1.6) * self._restored_megabytes))

    def _runs(self, work: Callable[..., Any], *arguments: Any) -> Outcome:
        """Run work that may fail for want of room, with a clear error then."""
        outcome = disk_work.run([], work, *arguments)
        if outcome.error is not None:
            _require_clear(outcome.error)
            self._campaign.count("ended with an error for want of room")
        return outcome

    def _succeeds(self, work: Callable[..., Any], *arguments: Any) -> Outcome:
        outcome = disk_work.run([], work, *arguments)
        assert outcome.done, outcome.error
        self._campaign.count("next runs that succeeded")
        return outcome


def _fill(disk: Path) -> None:
    status = os.statvfs(disk)
    with (disk / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, status.f_bavail * status.f_frsize)


def _require_clear(error: EngineError) -> None:
    said = f"{type(error).__name__}: {error}"
    assert isinstance(error, (PreconditionError, TransientError)) and error.hint, said
