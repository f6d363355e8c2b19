"""A run that is repeated after a crash or a cut connection stores no frame again that is already there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.actions.take_backup import take_backup
from pgproof.errors import EngineError
from pgproof.model.config import BackupConfig, BackupType, PostgresConfig, VerifyLevel
from pgproof.model.job import Job
from pgproof.model.report import BackupInfo
from pgproof.repository.packs import DIGEST_LENGTH
from pgproof.repository.repository import Repository
from pgproof.repository.resume import interrupted_runs
from pgproof.repository.sealing import Kind
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.test_cut_stream import cutting
from tests.support.faults import replace as replace_file
from tests.support.faults import run_armed
from tests.support.postgres import Cluster

# Random bytes do not compress, so packs fill as fast as data comes.
DATA = """
    CREATE TABLE facts (id int, body bytea);
    ALTER TABLE facts ALTER body SET STORAGE EXTERNAL;
    INSERT INTO facts SELECT n, decode(string_agg(encode(sha512((n * 100 + g)::text::bytea), 'hex'), ''), 'hex')
        FROM generate_series(1, 100000) n, generate_series(1, 16) g GROUP BY n;
    CHECKPOINT;
"""


@pytest.fixture(scope="module")
def source() -> Iterator[Cluster]:
    with Cluster(18, settings={"autovacuum": "off"}) as cluster:
        cluster.psql(DATA)
        yield cluster


def back_up(postgres: PostgresConfig, config: BackupConfig) -> BackupInfo:
    return take_backup(postgres, config, BackupType.FULL, Job())


def frames(repository: Repository, run: str) -> list[bytes]:
    """The hashes of the frames in a run's packs."""
    return [
        index.hashes[at : at + DIGEST_LENGTH]
        for info in repository.pack_objects(run).values()
        for index in [repository.open_pack(info).index]
        for at in range(0, len(index.hashes), DIGEST_LENGTH)
    ]


def stored(repository: Repository, run: str) -> int:
    return sum(info.size for info in repository.pack_objects(run).values())


@pytest.mark.parametrize("store", ["local", "s3"])
def test_after_a_crash_only_the_rest_is_stored(front_doors: OpenDoors, source: Cluster, store: str) -> None:
    doors = front_doors(source, store)
    assert run_armed("pack.full@6=kill", back_up, source.config(), doors.config) == -9
    repository = open_repository(doors.config)
    (dead,) = interrupted_runs(repository)
    there = stored(repository, dead)
    assert there > 32 << 20

    info = doors.backup()

    again = set(frames(repository, dead)) & set(frames(repository, info.backup_id))
    assert not again, "frames that were there are stored twice"
    (finding,) = [f for f in info.findings if f.kind == "resumed"]
    print(f"{there:,} bytes were there, {info.stored_bytes:,} were added: {finding.message}")
    # Nearly all the data is incompressible, so sizes add up to the whole; the rest is WAL and maps.
    assert there + info.stored_bytes < info.size_bytes + (48 << 20)
    assert info.stored_bytes < info.size_bytes - there // 2
    assert doors.verify(info.backup_id, VerifyLevel.START).ok

    # What follows a finished backup is a full of its own.
    assert interrupted_runs(repository) == ()
    later = doors.backup()
    manifest = repository.read_manifest(later.backup_id)
    assert manifest is not None and list(manifest.packs) == [later.backup_id]


def test_many_cuts_add_up_to_one_backup(front_doors: OpenDoors, source: Cluster) -> None:
    """Each try gets a little further than the one before; together they store the cluster once."""
    doors = front_doors(source)
    direct = source.tcp_config()
    for budget in (40, 60, 80, 100):
        with cutting(source.port, budget << 20) as proxy, pytest.raises(EngineError):
            back_up(replace(direct, port=proxy.port), doors.config)
    repository = open_repository(doors.config)
    runs = interrupted_runs(repository)
    assert len(runs) == 4
    info = doors.backup()
    runs = (*runs, info.backup_id)
    assert sum(stored(repository, run) for run in runs) < info.size_bytes + (8 << 20)
    found = [set(frames(repository, run)) for run in runs]
    assert sum(map(len, found)) == len(set().union(*found))
    manifest = repository.read_manifest(info.backup_id)
    assert manifest is not None and len(manifest.packs) > 2
    intent = repository.read_json(Kind.INTENT, repository.layout.intent(info.backup_id))
    assert intent["parents"] == list(runs[:-1])
    assert doors.verify(info.backup_id, VerifyLevel.START).ok


def test_a_damaged_leftover_is_not_used(front_doors: OpenDoors, source: Cluster, work_dir: Path) -> None:
    doors = front_doors(source)
    assert run_armed("pack.full@6=kill", back_up, source.config(), doors.config) == -9
    repository = open_repository(doors.config)
    (dead,) = interrupted_runs(repository)
    packs = [work_dir / "repository" / info.key for info in repository.pack_objects(dead).values()]
    content = packs[0].read_bytes()
    replace_file(packs[0], content[:-1])
    (packs[0].parent / "not-a-pack").write_bytes(b"")
    info = doors.backup()
    assert not [f for f in info.findings if f.kind == "resumed"], "the run's folder is not to be trusted"
    (packs[0].parent / "not-a-pack").unlink()
    assert doors.verify(info.backup_id, VerifyLevel.FRAMES).ok
