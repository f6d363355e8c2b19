"""CREATE TABLESPACE while a backup runs: only the WAL knows of it, and its directory is production's."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgproof.actions.init_repository import init_repository
from pgproof.actions.restore_cluster import plan_cluster_restore, restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupType, VerifyLevel
from pgproof.model.job import Job
from pgproof.model.report import RestoreReport
from tests.postgres.clusters import contents, processes_of
from tests.support import machine
from tests.support.faults import run_armed
from tests.support.postgres import Cluster, find_bin

_SLOW = 8192  # kilobytes a second: an empty cluster then takes seconds


@dataclass
class Production:
    """Two tablespaces and their tables were made while the backup ran; the server is still there."""

    major: int
    config: BackupConfig
    spaces: list[Path]

    def restore(self, target: Path, mapping: dict[str, str], *, recover: bool = True) -> RestoreReport:
        return restore_cluster(
            self.config, "latest", target, tablespaces=mapping, recover=recover, owner=None, job=Job()
        )


@pytest.fixture(scope="module", params=[15, 18])
def production(request: pytest.FixtureRequest) -> Iterator[Production]:
    major = request.param
    place = machine.new_dir("born")
    bin_dir = str(find_bin(major))
    config = BackupConfig(backup_dir=str(place / "repo"), encryption=False, bin_dir=bin_dir)
    init_repository(config)
    spaces = [place / "first space", place / "second"]
    for space in spaces:
        space.mkdir(mode=0o700)
        machine.give_to_service(space)
    begun, created = threading.Event(), []

    def progress_seen(phase: str) -> None:
        if phase == "copying":
            begun.set()

    with Cluster(major, settings={"autovacuum": False}) as cluster:

        def create() -> None:
            assert begun.wait(60)
            for number, space in enumerate(spaces):
                cluster.psql(f"CREATE TABLESPACE space_{number} LOCATION '{space}'")
                cluster.psql(
                    f"CREATE TABLE kept_{number} TABLESPACE space_{number} AS SELECT generate_series(1, 5000) n"
                )
            created.append(cluster.insert_lsn())

        creator = threading.Thread(target=create)
        creator.start()
        slow = replace(config, max_rate=_SLOW)
        job = Job(lambda progress: progress_seen(progress.phase))
        backup = take_backup(cluster.config(), slow, BackupType.FULL, job)
        creator.join()
        assert created and created[0] < backup.stop_lsn, "the backup was too quick"
        cluster.psql("CHECKPOINT")
        yield Production(major, config, spaces)
    shutil.rmtree(place)


def test_they_are_restored_beside_the_data_directory_or_where_they_are_mapped(
    production: Production, work_dir: Path
) -> None:
    before = [contents(space) for space in production.spaces]
    assert all(before)
    first, second = map(str, production.spaces)
    mapped, target = work_dir / "mapped here", work_dir / "data"
    report = production.restore(target, {second: str(mapped)})
    beside = Path(report.tablespaces[first])
    assert beside.parent == work_dir / "data-tablespaces"
    assert report.tablespaces == {first: str(beside), second: str(mapped)}
    assert any(str(beside) in note for note in report.notes)
    assert {link.readlink() for link in (target / "pg_tblspc").iterdir()} == {beside, mapped}
    with Cluster.adopt(target, production.major) as restored:
        assert restored.psql("SELECT count(*), sum(n) FROM kept_0") == "5000|12502500"
        assert restored.psql("SELECT count(*), sum(n) FROM kept_1") == "5000|12502500"
        restored.psql("UPDATE kept_0 SET n = 0; DROP TABLE kept_1; CHECKPOINT")
    assert [contents(space) for space in production.spaces] == before


def test_a_mapping_that_not_even_the_wal_knows_is_refused_before_the_first_byte(
    production: Production, work_dir: Path
) -> None:
    first = str(production.spaces[0])
    mapping = {first: str(work_dir / "a"), f"{first}-typo": str(work_dir / "b")}
    with pytest.raises(PreconditionError, match="no tablespace at this location") as caught:
        production.restore(work_dir / "data", mapping)
    assert first in caught.value.hint
    with pytest.raises(PreconditionError, match="no tablespace at this location"):
        production.restore(work_dir / "data", {first: str(work_dir / "a")}, recover=False)
    occupied = work_dir / "occupied"
    occupied.mkdir()
    (occupied / "something").touch()
    with pytest.raises(PreconditionError, match="is not empty"):
        production.restore(work_dir / "data", {first: str(occupied)})
    assert list(work_dir.iterdir()) == [occupied]
    plan = plan_cluster_restore(
        production.config, "latest", work_dir / "data", tablespaces={first: "/x"}, recover=True, owner=None
    )
    assert f"tablespace        {first} → /x" in plan.lines(datetime.now(UTC))


def test_without_recovery_the_report_warns_of_production_s_directories(
    production: Production, work_dir: Path
) -> None:
    before = [contents(space) for space in production.spaces]
    report = production.restore(work_dir / "data", {}, recover=False)
    warnings = [note for note in report.notes if "creates a tablespace" in note]
    assert len(warnings) == 2 and str(production.spaces[0]) in warnings[0]
    assert [contents(space) for space in production.spaces] == before


def test_such_a_backup_is_proven(production: Production) -> None:
    before = [contents(space) for space in production.spaces]
    report = verify_backup(production.config, "latest", VerifyLevel.FULL, Job())
    assert report.proven, report
    assert [contents(space) for space in production.spaces] == before


def test_killed_before_its_links_lead_elsewhere_it_does_not_start(
    production: Production, work_dir: Path
) -> None:
    before = [contents(space) for space in production.spaces]
    target = work_dir / "data"
    assert run_armed("server.open=kill", production.restore, target, {}) == -signal.SIGKILL
    machine.wait_until(lambda: not processes_of(target), "the server to die with its parent")
    links = {link.readlink() for link in (target / "pg_tblspc").iterdir()}
    assert links == set(production.spaces), "this test no longer shows anything"
    refused = pytest.raises(RuntimeError, match="pgproof-this-restore-is-not-finished")
    with refused, Cluster.adopt(target, production.major):
        pass
    assert [contents(space) for space in production.spaces] == before
