"""A cluster with a past: backups, WAL in the repository over several timelines, and what was committed when.

Beside the ledger's clients there are marks: numbered rows, each with the transaction, the moment and the position of
its commit, so that for every target it is known which marks must be there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from pgproof.actions.init_repository import init_repository
from pgproof.actions.restore_cluster import plan_cluster_restore, restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.wal_single import push_one
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.report import BackupInfo, RestoreReport
from pgproof.model.restore_plan import RestorePlan
from tests.support import chains, machine
from tests.support.chains import Commit
from tests.support.ledger import Ledger
from tests.support.postgres import Cluster, find_bin


@dataclass(frozen=True)
class Mark:
    """`before` and `after` are the insert positions around its commit; `time` is a moment soon after it."""

    number: int
    xid: int
    before: Lsn
    after: Lsn
    time: datetime


@dataclass
class Lineage:
    """What was committed along one timeline, with what it inherited."""

    timeline: int
    marks: list[Mark] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)

    def branch(self, timeline: int, at: Lsn) -> Lineage:
        marks = [mark for mark in self.marks if mark.after <= at]
        return Lineage(timeline, marks, [commit for commit in self.commits if commit.after <= at])

    def complain(self, numbers: Sequence[int], end: Lsn) -> None:
        """Fail if a mark that was committed before `end` is missing, or one is there that was committed later."""
        required = {mark.number for mark in self.marks if mark.after <= end}
        allowed = {mark.number for mark in self.marks if mark.before < end}
        assert required <= set(numbers) <= allowed, (numbers, end, self.marks)


class RecoveryWorld:
    """A primary that archives into a directory, from which `push` brings the WAL into the repository."""

    def __init__(
        self, major: int, clients: int = 2, settings: Mapping[str, str | int | float | bool] = {}
    ) -> None:
        self.major = major
        self._more = settings
        self.clients = clients
        self.root = machine.new_dir("world")
        self.archive = machine.new_dir("archive", owned_by_service=True)
        self.config = BackupConfig(
            backup_dir=str(self.root / "repository"),
            passphrase="a passphrase of a world",
            bin_dir=str(find_bin(major)),
            scratch_dir=str(self.root),
        )
        self.root.chmod(0o755)
        self.lineages: dict[int, Lineage] = {1: Lineage(1)}
        self.backups: list[BackupInfo] = []
        self._stack = ExitStack()
        self._number = 0
        self._pushed: set[str] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.root)
            stack.callback(shutil.rmtree, self.archive)
            self.cluster = stack.enter_context(Cluster(self.major, settings=self._settings()))
            self.cluster.psql("CREATE TABLE marks (number int)")
            init_repository(self.config)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _settings(self) -> dict[str, str | int | float | bool]:
        return {
            "archive_mode": True,
            "archive_command": f"cp %p {self.archive}/%f.new && mv {self.archive}/%f.new {self.archive}/%f",
            "track_commit_timestamp": True,
            **self._more,
        }

    @contextmanager
    def busy(self, cluster: Cluster, timeline: int) -> Iterator[None]:
        """The ledger's clients commit while the block runs."""
        ledger = Ledger(self.clients, pause=0.02, seed=timeline).start(cluster)
        try:
            ledger.wait_for(3 * self.clients)
            yield
            ledger.wait_for(3 * self.clients)
        finally:
            ledger.stop()
            self.lineages[timeline].commits += ledger.commits()

    def backup(self) -> BackupInfo:
        info = take_backup(self.cluster.config(), self.config, BackupType.FULL, Job())
        self.backups.append(info)
        return info

    def mark(self, cluster: Cluster, timeline: int) -> Mark:
        self._number += 1
        with cluster.connect() as connection:

            def one(query: str) -> str:
                row = connection.execute(query.encode()).fetchone()
                assert row is not None
                return str(row[0])

            with connection.transaction():
                connection.execute("INSERT INTO marks VALUES (%s)", [self._number])
                xid = int(one("SELECT pg_current_xact_id()::text"))
                before = Lsn.parse(one("SELECT pg_current_wal_insert_lsn()"))
            after = Lsn.parse(one("SELECT pg_current_wal_insert_lsn()"))
            time = datetime.fromisoformat(one("SELECT clock_timestamp()::text"))
            # The clock moves on between this mark and whatever comes next.
            connection.execute("SELECT pg_sleep(0.002)")
        found = Mark(self._number, xid, before, after, time)
        self.lineages[timeline].marks.append(found)
        return found

    def switch(self, cluster: Cluster) -> None:
        """End the segment, and wait until it is archived."""
        name = cluster.psql("CHECKPOINT; SELECT pg_walfile_name(pg_switch_wal())")
        cluster.psql("CHECKPOINT")
        machine.wait_until((self.archive / name).exists, f"{name} to be archived")

    def promote(self) -> None:
        """The primary goes on as the next timeline."""
        old = max(self.lineages)
        self.cluster.stop()
        with (self.cluster.data_dir / "postgresql.auto.conf").open("a") as file:
            file.write("restore_command = 'false'\n")
        (self.cluster.data_dir / "recovery.signal").touch()
        machine.give_to_service(self.cluster.data_dir / "recovery.signal")
        self.cluster.start()
        machine.wait_until(
            lambda: self.cluster.psql("SELECT pg_is_in_recovery()") == "f", "the end of recovery"
        )
        begin = self.lineages[old].marks[-1].after  # nothing was committed behind it that is not the ledger's
        branch = Lineage(old + 1, list(self.lineages[old].marks), list(self.lineages[old].commits))
        assert begin <= self.cluster.insert_lsn()
        self.lineages[old + 1] = branch

    def push(self) -> None:
        """Everything that was archived since the last time into the repository; history files first."""
        names = sorted(path.name for path in self.archive.iterdir() if not path.name.endswith(".new"))
        for name in sorted(names, key=lambda each: (not each.endswith(".history"), each)):
            if name not in self._pushed:
                push_one(self.config, self.archive / name)
                self._pushed.add(name)
        machine.give_to_service(self.root / "repository")

    def plan(
        self, request: RecoveryRequest, backup_id: str | None = None, *, name: str = "planned"
    ) -> RestorePlan:
        return plan_cluster_restore(
            self.config,
            backup_id,
            self.root / name,
            tablespaces={},
            recover=True,
            owner=None,
            request=request,
        )

    @contextmanager
    def without(self, segment: WalSegment) -> Iterator[None]:
        """The repository lacks a segment while the block lasts."""
        with self.vanishing(segment) as vanish:
            vanish()
            yield

    @contextmanager
    def vanishing(self, segment: WalSegment) -> Iterator[Callable[[], None]]:
        """Yields what takes a segment away; afterwards it is back."""
        path = self.root / "repository/clusters/main/wal" / f"{segment.timeline:08X}" / segment.name
        aside = self.root / segment.name
        assert path.exists()

        def take_away() -> None:
            if path.exists():
                path.rename(aside)

        try:
            yield take_away
        finally:
            if aside.exists():
                aside.rename(path)

    def restore(
        self, name: str, request: RecoveryRequest, backup_id: str | None = None, *, job: Job | None = None
    ) -> tuple[Path, RestoreReport]:
        target = self.root / name
        report = restore_cluster(
            self.config,
            backup_id,
            target,
            tablespaces={},
            recover=True,
            owner=None,
            request=request,
            job=job or Job(),
        )
        return target, report

    def adopt(self, data_dir: Path, *, archive: bool = False, **settings: str) -> Cluster:
        return Cluster.adopt(data_dir, self.major, settings={"archive_mode": archive, **settings})

    def judge(self, data_dir: Path, report: RestoreReport, timeline: int) -> list[int]:
        """Start what was restored, compare it with the ledger, and return its marks."""
        assert report.end_lsn is not None
        lineage = self.lineages[timeline]
        with self.adopt(data_dir) as cluster, cluster.connect() as connection:
            chains.check(connection, lineage.commits, report.end_lsn, exact=True)
            rows: Sequence[tuple[int]] = connection.execute(
                "SELECT number FROM marks ORDER BY number"
            ).fetchall()
        numbers = [row[0] for row in rows]
        lineage.complain(numbers, report.end_lsn)
        shutil.rmtree(data_dir)
        return numbers
