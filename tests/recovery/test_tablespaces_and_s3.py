"""Recovery to a moment with tablespaces, one of them made after the backup, out of a directory and out of S3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from pgproof.actions.init_repository import init_repository
from pgproof.actions.restore_cluster import plan_cluster_restore, restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import LATEST, RecoveryTarget, target_from
from pgproof.model.report import RestoreReport
from tests.postgres.clusters import contents
from tests.support import machine
from tests.support.postgres import Cluster, find_bin
from tests.support.s3 import S3Server
from tests.support.streaming import Streamer, wait_for_flush, written

ROWS = "SELECT (SELECT count(*) FROM here), (SELECT count(*) FROM there), (SELECT count(*) FROM born)"


@dataclass
class Past:
    """`old` was there when the backup was taken; `new` was made later, then rows, then the moment, then more rows."""

    major: int
    config: BackupConfig
    old: Path
    new: Path
    early: datetime
    moment: datetime

    def restore(self, place: Path, target: RecoveryTarget, mapping: dict[str, str]) -> RestoreReport:
        return restore_cluster(
            self.config,
            "latest",
            place,
            tablespaces=mapping,
            recover=True,
            owner=None,
            request=RecoveryRequest(target),
            job=Job(),
        )


def _now(cluster: Cluster) -> datetime:
    # The clock moves on between this moment and whatever comes next.
    return datetime.fromisoformat(cluster.psql("SELECT clock_timestamp() FROM pg_sleep(0.01)"))


@pytest.fixture(
    scope="module", params=[(15, "s3"), (18, "local"), (18, "s3")], ids=lambda p: f"{p[0]}-{p[1]}"
)
def past(request: pytest.FixtureRequest, s3: S3Server) -> Iterator[Past]:
    major, where = request.param
    place = machine.new_dir("spaces")
    place.chmod(0o755)
    if where == "s3":
        url = f"s3://{s3.make_bucket(f'pitr-{major}')}/r"
        config = s3.backup_config(repository_url=url, passphrase="of a bucket", bin_dir=str(find_bin(major)))
    else:
        config = BackupConfig(
            backup_dir=str(place / "r"), passphrase="of a disk", bin_dir=str(find_bin(major))
        )
    init_repository(config)
    old, new = place / "old space", place / "new\\space"
    for space in (old, new):
        space.mkdir(mode=0o700)
        machine.give_to_service(space)
    with Cluster(major) as cluster, Streamer(cluster.config(), config) as streamer:
        cluster.psql(f"CREATE TABLESPACE old LOCATION '{old}'")
        cluster.psql("CREATE TABLE here AS SELECT generate_series(1, 100) n")
        cluster.psql("CREATE TABLE there TABLESPACE old AS SELECT generate_series(1, 1000) n")
        take_backup(cluster.config(), config, BackupType.FULL, Job())
        cluster.psql("INSERT INTO there VALUES (0)")
        early = _now(cluster)
        # Replay stops at this commit; at that of the tablespace's the directory would be there already.
        cluster.psql("INSERT INTO there VALUES (-1)")
        cluster.psql(f"CREATE TABLESPACE new LOCATION '{new}'")
        cluster.psql(
            "CREATE TABLE born TABLESPACE new AS SELECT generate_series(1, 5000) n; SELECT pg_switch_wal()"
        )
        cluster.psql("INSERT INTO here VALUES (0); CREATE DATABASE lodger TABLESPACE new")
        moment = _now(cluster)
        cluster.psql("DELETE FROM there; DROP TABLE here")
        wait_for_flush(cluster, written(cluster))
        streamer.stop()
        yield Past(major, config, old, new, early, moment)


def _target(moment: datetime) -> RecoveryTarget:
    target = target_from(time=moment)
    assert target is not None
    return target


def test_a_moment_after_a_tablespace_was_made(past: Past, work_dir: Path) -> None:
    before = contents(past.old), contents(past.new)
    moved, mapped = work_dir / "moved", work_dir / "mapped"
    mapping = {str(past.old): str(moved), str(past.new): str(mapped)}
    report = past.restore(work_dir / "data", _target(past.moment), mapping)
    assert {link.readlink() for link in (work_dir / "data/pg_tblspc").iterdir()} == {moved, mapped}
    assert report.tablespaces == {str(past.old): str(moved), str(past.new): str(mapped)}
    with Cluster.adopt(work_dir / "data", past.major) as restored:
        assert restored.psql(ROWS) == "101|1002|5000"
        assert restored.psql("SELECT count(*) FROM pg_class", "lodger") != "0"
        restored.psql("UPDATE born SET n = 0; CHECKPOINT")
    assert (contents(past.old), contents(past.new)) == before


def test_what_is_not_mapped_is_put_beside_and_named(past: Past, work_dir: Path) -> None:
    report = past.restore(work_dir / "data", LATEST, {str(past.old): str(work_dir / "moved")})
    beside = Path(report.tablespaces[str(past.new)])
    assert beside.parent == work_dir / "data-tablespaces"
    with Cluster.adopt(work_dir / "data", past.major) as restored:
        assert restored.psql("SELECT count(*) FROM there") == "0"
        assert restored.psql("SELECT count(*), min(n) FROM born") == "5000|1"


def test_a_moment_before_it_was_made(past: Past, work_dir: Path) -> None:
    mapping = {str(past.old): str(work_dir / "moved"), str(past.new): str(work_dir / "unused")}
    report = past.restore(work_dir / "data", _target(past.early), mapping)
    assert str(past.new) not in report.tablespaces
    assert not (work_dir / "unused").exists()
    with Cluster.adopt(work_dir / "data", past.major) as restored:
        assert restored.psql("SELECT count(*), to_regclass('born') IS NULL FROM there") == "1001|t"


def test_where_the_source_has_it_is_no_place_for_a_restore(past: Past, work_dir: Path) -> None:
    with pytest.raises(PreconditionError):
        plan_cluster_restore(
            past.config,
            "latest",
            work_dir / "data",
            tablespaces={},
            recover=True,
            owner=None,
            request=RecoveryRequest(_target(past.moment)),
        )
