"""Whole runs of the engine, with a PostgreSQL server, for the S3 campaigns: create, verify, restore, compare rows."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from campaigns.campaign import Campaign
from campaigns.s3_ground import Ground, attempt, count
from pgproof.actions.opening import open_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.model.config import BackupConfig, BackupType, VerifyLevel
from pgproof.model.job import Job
from pgproof.repository.catalog import list_backups
from tests.support import machine
from tests.support.postgres import Cluster

_DIGEST = "SELECT count(*) || ' ' || md5(string_agg(f::text, '|' ORDER BY id)) FROM facts f"


@dataclass
class Whole:
    """Backups of one real cluster; what its table held at each is remembered."""

    campaign: Campaign
    here: Ground
    source: Cluster
    cluster: str
    done: dict[str, str] = field(default_factory=dict)

    def config(self, *, direct: bool = False) -> BackupConfig:
        return self.here.server.backup_config(
            s3_bucket=self.here.bucket_name,
            s3_endpoint=self.here.server.endpoint if direct else self.here.proxy.endpoint,
            s3_options={} if direct else {"timeout": "3s"},
            passphrase=self.here.secret,
            cluster=self.cluster,
            bin_dir=str(self.source.bin),
            scratch_dir=str(machine.workspace()),
        )

    def back_up(self, *, direct: bool = False) -> str:
        self.source.psql("INSERT INTO facts SELECT max(id) + 1, clock_timestamp()::text FROM facts")
        rows = self.source.psql(_DIGEST)
        config = self.config(direct=direct)
        info = take_backup(self.source.config(), config, BackupType.FULL, Job())
        self.done[info.backup_id] = rows
        return info.backup_id

    def live(self) -> None:
        """A backup, a list, a verification that starts it and a restore, through the proxy."""
        config = self.config()
        attempt(self.campaign, "whole backup", self.back_up)
        attempt(self.campaign, "whole list", lambda: list_backups(open_repository(config)))
        if not self.done:
            return
        newest = max(self.done)
        report = attempt(
            self.campaign, "whole verify", lambda: verify_backup(config, newest, VerifyLevel.START, Job())
        )
        if report is not None and not report.ok:
            count(self.campaign, "whole verifications with an alarm")
        self._restore(newest, config)

    def judge(self) -> None:
        """Without the proxy: every backup is listed, starts, and has its rows."""
        config = self.config(direct=True)
        shown = list_backups(open_repository(config))
        assert set(self.done) <= {info.backup_id for info in shown}, "reported done, but not listed"
        # A verification that was told wrong bytes has said so; what it stored is in the list and is no damage.
        for info in shown:
            assert info.status == "ok", info
            report = verify_backup(config, info.backup_id, VerifyLevel.FRAMES, Job())
            assert report.ok, f"{info.backup_id} is listed and not whole: {report.damage} {report.checks}"
            count(self.campaign, "whole backups judged whole")

    def prove(self) -> None:
        """The next run succeeds, and its backup comes back with its rows."""
        backup_id = self.back_up(direct=True)
        assert self._restore(backup_id, self.config(direct=True)), "a restore failed without a fault"

    def _restore(self, backup_id: str, config: BackupConfig) -> bool:
        """Whether it was restored; then its rows are right."""
        target = machine.new_dir("restored", owned_by_service=True) / "data"
        try:
            done = attempt(self.campaign, "whole restore", lambda: _restored(config, backup_id, target))
            if done is None:
                return False
            with Cluster.adopt(target, self.source.major) as restored:
                found = restored.psql(_DIGEST)
            assert found == self.done[backup_id], f"{backup_id} was restored with other rows: {found}"
            count(self.campaign, "whole restores compared")
            return True
        finally:
            shutil.rmtree(target.parent)


def _restored(config: BackupConfig, backup_id: str, target: Path) -> bool:
    restore_cluster(config, backup_id, target, tablespaces={}, recover=True, owner=None, job=Job())
    return True


@contextlib.contextmanager
def source_cluster() -> Iterator[Cluster]:
    """A small server whose table `facts` nobody else writes to."""
    with Cluster(18, initdb_args=("--wal-segsize=1",)) as cluster:
        cluster.psql(
            "CREATE TABLE facts AS SELECT g AS id, md5(g::text) AS fact FROM generate_series(1, 1000) g"
        )
        yield cluster
