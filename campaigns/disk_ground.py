"""What disk campaigns work on: a small cluster with a tablespace, what it holds, and repositories of it."""

from __future__ import annotations

import errno
import random
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from campaigns import disk_work
from pgproof.actions.opening import open_repository
from pgproof.actions.verify_backup import verify_backup
from pgproof.model.config import BackupConfig, VerifyLevel
from pgproof.model.job import Job
from pgproof.repository.catalog import list_backups
from tests.postgres.clusters import processes_of
from tests.repository.places import new_repository, starts
from tests.support import machine
from tests.support.forgetful_fs import ForgetfulDisk
from tests.support.postgres import Cluster, find_bin

_FACTS = "SELECT count(*), sum(hashtext(f::text)) FROM facts f"
_MOVED = "SELECT count(*), sum(hashtext(f::text)) FROM moved f"
# Enough for a second pack, of what does not compress.
_FILL = """
CREATE TABLE facts AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g;
CREATE TABLE moved TABLESPACE elsewhere AS SELECT g, md5(g::text) FROM generate_series(1, 3000) g;
CREATE TABLE noise AS SELECT (SELECT string_agg(sha256((g * 40 + i)::text::bytea), '')
    FROM generate_series(1, 32) i) AS bytes FROM generate_series(1, 14000) g
"""


class Ground:
    """Entering it starts the cluster and mounts two forgetful disks; leaving it removes everything."""

    def __init__(self) -> None:
        self.cluster = Cluster(18, initdb_args=("--wal-segsize=1",))
        self.disk, self.second = ForgetfulDisk(), ForgetfulDisk()
        self.place = machine.new_dir("ground")
        self.location = machine.new_dir("tablespace", owned_by_service=True)

    def __enter__(self) -> Self:
        self.cluster.start()
        self.cluster.psql("ALTER SYSTEM SET work_mem = '77MB'")
        self.cluster.restart()
        self.cluster.psql(f"CREATE TABLESPACE elsewhere LOCATION '{self.location}'")
        self.cluster.psql(_FILL)
        self.rows = self._rows(self.cluster)
        self.disk.__enter__()
        self.second.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.disk.__exit__(None, None, None)
        self.second.__exit__(None, None, None)
        self.cluster.remove()
        shutil.rmtree(self.place)
        shutil.rmtree(self.location)

    def new_repository(self, parent: Path) -> BackupConfig:
        return new_repository(parent / secrets.token_hex(4), bin_dir=str(find_bin(18)))

    def stocked_repository(self) -> BackupConfig:
        """A repository on an ordinary disk, with one backup of the cluster as it is."""
        config = self.new_repository(self.place)
        outcome = disk_work.run([], disk_work.back_up, self.cluster.config(), config)
        assert outcome.done, outcome
        return config

    def tablespaces(self) -> dict[str, str]:
        """The tablespace goes to the second disk."""
        return {str(self.location): str(self.second.path / "tablespace")}

    def repair(self) -> None:
        for disk in (self.disk, self.second):
            disk.repair()

    def power_cut(self, chance: random.Random) -> None:
        """Both disks lose what was not synced, and are on again."""
        for disk in (self.disk, self.second):
            disk.cut()
        for disk in (self.disk, self.second):
            disk.power_on(f"{chance.random()}")

    def require_listed(self, config: BackupConfig, acknowledged: set[str]) -> list[str]:
        """Everything listed is whole, and everything acknowledged is listed; returns all that is listed."""
        found = list_backups(open_repository(config))
        ids = [info.backup_id for info in found]
        assert acknowledged <= set(ids), f"acknowledged and gone: {acknowledged - set(ids)}"
        for info in found:
            assert info.status == "ok", info
            report = verify_backup(config, info.backup_id, VerifyLevel.FRAMES, Job())
            assert report.ok, (info.backup_id in acknowledged, report)
        return ids

    def state_of(self, target: Path) -> str:
        """What a server does on a target: "refuses", or "whole" where it has all rows and settings.

        Raises AssertionError where it starts on less.
        """
        machine.wait_until(lambda: not processes_of(target), "the scratch server to end")
        if not starts(target):
            return "refuses"
        with Cluster.adopt(target) as server:
            rows = self._rows(server)
        assert rows == self.rows, f"a cluster started with {rows!r}; the source has {self.rows!r}"
        return "whole"

    def require_owned(self, target: Path) -> None:
        """All of it belongs to the server's user."""
        user = machine.service_user()
        assert user is not None
        for path in (target, *target.rglob("*"), self.second.path / "tablespace"):
            assert path.lstat().st_uid == user.pw_uid, f"{path} belongs to somebody else"

    def require_files(self, target: Path) -> None:
        """Every file is the one that the server's own manifest of the backup names."""
        # Written anew, because the tablespace has moved.
        ignored = "--ignore=tablespace_map"
        machine.run([str(find_bin(18) / "pg_verifybackup"), "--no-parse-wal", ignored, str(target)])

    def clear(self) -> None:
        """Both disks are empty again."""
        for disk in (self.disk, self.second):
            for path in disk.path.iterdir():
                _retrying(shutil.rmtree, path)
            disk.sync()

    @staticmethod
    def _rows(cluster: Cluster) -> str:
        return cluster.psql(f"SHOW work_mem; {_FACTS}; {_MOVED}; SELECT count(*) FROM noise")


def _retrying(remove: Callable[[Path], None], path: Path) -> None:
    """A server that is ending may still make files."""

    def removed() -> bool:
        try:
            remove(path)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        return True

    machine.wait_until(removed, f"{path} to be removed")
