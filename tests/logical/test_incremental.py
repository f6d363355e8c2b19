"""What did not change is not stored again, whatever became of its table; and of interrupted runs nothing is lost."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.actions.take_backup import take_backup
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupMethod, BackupType, PostgresConfig, VerifyLevel
from pgproof.model.job import Job
from pgproof.repository.catalog import find_backup
from tests.round_trip.conftest import OpenDoors
from tests.support.faults import run_armed
from tests.support.postgres import Cluster, ClusterFactory

LOGICAL = BackupMethod.LOGICAL
INCREMENTAL, DIFFERENTIAL, FULL = BackupType.INCREMENTAL, BackupType.DIFFERENTIAL, BackupType.FULL
# Rows that do not compress, so that what is stored is what was dumped.
_ROWS = """
    SELECT g AS id, md5(g::text) || md5((g * 7)::text) AS text, decode(md5((g * 3)::text), 'hex') AS raw
    FROM generate_series({}, {}) g
"""


@pytest.fixture(scope="module")
def source() -> Iterator[Cluster]:
    with Cluster(18) as cluster:
        cluster.psql("CREATE DATABASE app")
        cluster.psql(f"CREATE TABLE facts AS {_ROWS.format(1, 250_000)}", "app")
        yield cluster


def test_an_unchanged_database_costs_next_to_nothing_and_a_grown_one_what_grew(
    cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    source = cluster_factory(17)
    source.psql("CREATE DATABASE app")
    source.psql(f"CREATE TABLE facts AS {_ROWS.format(1, 400_000)}", "app")
    doors = front_doors(source, method=LOGICAL)
    full = doors.backup()
    assert (doors.backup(DIFFERENTIAL).parent_id, full.type) == (full.backup_id, FULL)
    same = doors.backup(INCREMENTAL)
    assert same.change_detection == "chunks" and same.parent_id != full.backup_id
    assert same.stored_bytes < full.stored_bytes // 1000
    # The last of a hundred parts, at the end of the table.
    source.psql(f"INSERT INTO facts {_ROWS.format(400_001, 404_000)}", "app")
    grown = doors.backup(INCREMENTAL)
    assert grown.stored_bytes <= full.stored_bytes // 20
    # Another name, another place among the tables, other numbers of pg_dump: the chunks are the same.
    source.psql("CREATE TABLE aaa (id int); ALTER TABLE facts RENAME TO renamed; CREATE SCHEMA s", "app")
    source.psql("ALTER TABLE renamed SET SCHEMA s; CREATE TABLE copied AS SELECT * FROM s.renamed", "app")
    moved = doors.backup(INCREMENTAL)
    assert moved.stored_bytes < full.stored_bytes // 1000
    # Rows in the middle: each takes the chunks beside it.
    source.psql("UPDATE s.renamed SET text = 'other' WHERE id IN (1000, 200000)", "app")
    assert doors.backup(INCREMENTAL).stored_bytes <= full.stored_bytes // 20
    everything_anew = doors.backup(FULL)
    assert everything_anew.stored_bytes > full.stored_bytes
    for info in (same, moved):
        assert doors.verify(info.backup_id, VerifyLevel.FRAMES).ok
    assert doors.verify("latest").proven


def test_a_base_has_the_same_method(source: Cluster, front_doors: OpenDoors) -> None:
    doors = front_doors(source)
    physical = doors.backup()
    logical = doors.backup(INCREMENTAL, method=LOGICAL)
    assert (logical.type, logical.parent_id) == (FULL, None)
    assert "no-base" in [finding.kind for finding in logical.findings]
    again = doors.backup(INCREMENTAL)
    assert (again.method, again.parent_id) == ("physical", physical.backup_id)
    assert doors.backup(INCREMENTAL, method=LOGICAL).parent_id == logical.backup_id
    # The newest backup is a logical one; a cluster is restored from the newest physical one.
    with pytest.raises(PreconditionError, match="a logical backup holds databases") as refused:
        doors.restore(logical.backup_id, Path("/nonexistent/data"))
    assert "--target DB" in refused.value.hint
    with pytest.raises(PreconditionError) as other:
        doors.restore("latest", Path("/"))
    assert "logical" not in str(other.value)


def back_up(postgres: PostgresConfig, config: BackupConfig, kind: BackupType) -> None:
    take_backup(postgres, config, kind, Job())


@pytest.mark.parametrize(
    "rule",
    [
        "backup.intended=kill",
        "dump.globals=kill",
        "dump.begun=kill",
        "pack.stored=kill",
        "dump.ended@2=kill",
        "map.stored=kill",
        "backup.checked=kill",
    ],
)
def test_a_killed_run_leaves_no_half_backup_and_its_repetition_stores_nothing_again(
    rule: str, source: Cluster, front_doors: OpenDoors
) -> None:
    doors = front_doors(source, method=LOGICAL)
    assert run_armed(rule, back_up, source.config(), doors.config, FULL) == -signal.SIGKILL
    assert doors.backups() == []
    info = doors.backup()
    assert doors.backups() == [info.backup_id]
    assert doors.verify(info.backup_id, VerifyLevel.FRAMES).ok
    # Nobody holds a snapshot of the killed one any more, not even if it was stopped.
    left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'"
    assert source.psql(left) == "0"
    if rule.startswith(("map", "backup.checked")):
        (resumed,) = [each.message for each in info.findings if each.kind == "resumed"]
        reused, size = re.findall(r"([0-9.]+) MB", resumed)
        assert float(reused) > 0.99 * float(size)
        assert info.stored_bytes < info.size_bytes // 100
    manifest = find_backup(open_repository(doors.config), info.backup_id)
    assert set(manifest.packs) <= {info.backup_id, *_interrupted(doors.config)}


def _interrupted(config: BackupConfig) -> list[str]:
    return [path.name for path in (Path(str(config.backup_dir)) / "clusters/main/backups").iterdir()]
