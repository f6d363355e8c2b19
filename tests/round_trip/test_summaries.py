"""Backups by WAL summaries: what they fall back for, and the audit that finds one that left something out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.model.config import BackupType, ChangeDetection, VerifyLevel
from pgproof.model.filemap import FileEntry, Segment, SegmentBuilder, bitmap_of
from pgproof.model.manifest import Manifest, MapRef
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import RecoveryTarget, TargetKind
from pgproof.model.report import BackupInfo
from pgproof.recovery import RecoveryManager
from pgproof.repository.repository import Repository
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.trap_workloads import WORKLOADS
from tests.support import machine
from tests.support.postgres import Cluster, ClusterFactory

FULL, INCREMENTAL = BackupType.FULL, BackupType.INCREMENTAL
COMPARE, SUMMARIES = ChangeDetection.COMPARE, ChangeDetection.SUMMARIES
SETTINGS = {"autovacuum": False, "summarize_wal": True}


def reason(info: BackupInfo) -> str:
    """Why summaries were not used."""
    assert info.change_detection == "compare" and info.status == "ok", info
    (finding,) = [f for f in info.findings if f.kind == "summaries-not-used"]
    return finding.message


def promote(cluster: Cluster) -> None:
    """A new timeline, as a recovery of the same directory makes it."""
    cluster.stop()
    (cluster.data_dir / "standby.signal").touch()
    machine.give_to_service(cluster.data_dir / "standby.signal")
    cluster.start()
    cluster.psql("SELECT pg_promote()")
    machine.wait_until(lambda: cluster.psql("SELECT pg_is_in_recovery()") == "f", "the promotion")
    cluster.psql("CHECKPOINT")


def switch_off(cluster: Cluster) -> None:
    cluster.psql("ALTER SYSTEM SET summarize_wal = off")
    cluster.psql("SELECT pg_reload_conf()")
    machine.wait_until(lambda: cluster.psql("SHOW summarize_wal") == "off", "summarize_wal to be off")


def lose_summaries(cluster: Cluster) -> None:
    """As if `wal_summary_keep_time` had passed for the range that begins with the base."""
    folder = cluster.data_dir / "pg_wal" / "summaries"
    before = set(folder.iterdir())
    cluster.psql("CHECKPOINT; CREATE TABLE more AS SELECT 1; CHECKPOINT")
    machine.wait_until(lambda: len(set(folder.glob("*.summary")) - before) > 1, "two summaries")
    for path in sorted(folder.glob("*.summary"))[:-1]:
        path.unlink()


@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [
        (promote, "promoted or restored"),
        (switch_off, "summarize_wal is off"),
        (lose_summaries, "the server refuses"),
    ],
)
def test_what_speaks_against_summaries(
    meanwhile: Callable[[Cluster], None],
    expected: str,
    cluster_factory: ClusterFactory,
    front_doors: OpenDoors,
) -> None:
    source = cluster_factory(18, settings=SETTINGS)
    doors = front_doors(source, change_detection=SUMMARIES)
    doors.backup()
    meanwhile(source)
    info = doors.backup(INCREMENTAL)
    assert expected in reason(info)
    assert doors.verify(info.backup_id, VerifyLevel.START).ok


def test_an_old_server_compares(cluster_factory: ClusterFactory, front_doors: OpenDoors) -> None:
    doors = front_doors(cluster_factory(15), change_detection=SUMMARIES)
    doors.backup()
    assert "older than PostgreSQL 17" in reason(doors.backup(INCREMENTAL))


def test_without_checksums_hints_must_be_logged(
    cluster_factory: ClusterFactory, front_doors: OpenDoors
) -> None:
    source = cluster_factory(17, initdb_args=("--no-data-checksums",), settings=SETTINGS)
    doors = front_doors(source, change_detection=SUMMARIES)
    doors.backup()
    assert "neither data checksums nor" in reason(doors.backup(INCREMENTAL))
    source.psql("ALTER SYSTEM SET wal_log_hints = on")
    source.restart()
    assert "neither data checksums nor" in reason(doors.backup(INCREMENTAL)), "it was off at the base"
    info = doors.backup(INCREMENTAL)
    assert info.change_detection == "summaries", info.findings


def test_a_damaged_base_is_not_inherited_from(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    """A pack that is gone, a map that is gone, and then a base that is whole again."""
    source = cluster_factory(18, settings=SETTINGS)
    doors = front_doors(source, change_detection=SUMMARIES)
    base = doors.backup()
    repository = work_dir / "repository" / "clusters" / "main"
    next((repository / "packs" / base.backup_id).iterdir()).unlink()
    info = doors.backup(INCREMENTAL)
    assert "missing" in reason(info) and doors.verify(info.backup_id, VerifyLevel.FRAMES).ok
    whole = doors.backup(INCREMENTAL)
    assert whole.change_detection == "summaries"
    manifest = open_repository(doors.config).read_manifest(whole.backup_id)
    assert manifest is not None
    relation = source.psql("SELECT pg_relation_filepath('pg_attribute')").encode()
    damaged = max((ref for ref in manifest.maps if ref.first <= relation), key=lambda ref: ref.first)
    path = repository / "maps" / damaged.hash
    path.write_bytes(path.read_bytes()[:-1])
    info = doors.backup(INCREMENTAL)
    assert "damaged" in reason(info) and doors.verify(info.backup_id, VerifyLevel.FRAMES).ok


@pytest.mark.parametrize("how", ["older pages", "older zeros"])
def test_the_audit_finds_what_was_left_out(
    how: str, cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    """The map of a backup by summaries is made wrong on purpose, as F1 would make it; the next but one says so."""
    source = cluster_factory(18, settings=SETTINGS)
    doors = front_doors(source, change_detection=SUMMARIES)
    fill, change = WORKLOADS["F1"]
    fill(source)
    full = doors.backup()
    if how == "older pages":
        source.psql("UPDATE t SET id = id + 1 WHERE id < 100")
    else:
        change(source)
    repository = open_repository(doors.config)
    wrong = doors.backup(INCREMENTAL)
    assert wrong.change_detection == "summaries"
    path = source.psql("SELECT pg_relation_filepath('t')").encode()
    put_back_map(repository, wrong.backup_id, full.backup_id, path)
    source.psql("CREATE TABLE other AS SELECT g FROM generate_series(1, 1000) g")
    also_wrong = doors.backup(INCREMENTAL)
    assert also_wrong.change_detection == "summaries"

    compared = doors.backup(INCREMENTAL, change_detection=COMPARE)

    findings = [f.message for f in compared.findings if f.kind == "omitted-blocks"]
    assert len(findings) == 2 and compared.status == "ok"
    for finding, backup in zip(findings, (also_wrong, wrong), strict=True):
        assert backup.backup_id in finding and f"{path.decode()} pages " in finding
    listed = {info.backup_id: info.verified for info in asyncio.run(doors.manager().list_backups())}
    for info in (wrong, also_wrong):
        verified = listed[info.backup_id]
        assert verified is not None and not verified.ok
    assert listed[full.backup_id] is None and listed[compared.backup_id] is None
    # It starts, and yet nothing makes it good again.
    report = doors.verify(wrong.backup_id, VerifyLevel.START)
    assert not report.ok and not report.proven and "blocks were left out" in report.damage[0]
    listed = {info.backup_id: info.verified for info in asyncio.run(doors.manager().list_backups())}
    verified = listed[wrong.backup_id]
    assert verified is not None and not verified.ok
    # A restore to a moment that only the wrong ones are near to begins with the one before them, and says so.
    moment = RecoveryRequest(RecoveryTarget(TargetKind.LSN, also_wrong.stop_lsn))
    plan = asyncio.run(
        RecoveryManager(doors.postgres, doors.manager()).plan_restore(
            None, work_dir / "planned", request=moment
        )
    )
    assert (
        plan.backup_id == full.backup_id and sum("blocks were left out" in note for note in plan.notes) == 2
    )
    doors.restore(compared.backup_id, work_dir / "restored")
    rows = "SELECT count(*), sum(id), sum(hashtext(t::text)) FROM t"
    with Cluster.adopt(work_dir / "restored", 18) as restored:
        machine.wait_until(lambda: restored.psql("SELECT pg_is_in_recovery()") == "f", "promotion")
        assert restored.psql(rows) == source.psql(rows)
    # What was compared is audited no more, and the chain goes on from it.
    later = doors.backup(INCREMENTAL, change_detection=COMPARE)
    assert not [f for f in later.findings if f.kind == "omitted-blocks"]


def put_back_map(repository: Repository, backup_id: str, older_id: str, path: bytes) -> None:
    """Give a backup's file the pages that an older backup has in their places, as far as that one reaches."""
    manifest, older = repository.read_manifest(backup_id), repository.read_manifest(older_id)
    assert manifest is not None and older is not None
    donor, old_entry = find(repository, older, path)
    refs, packs = [], {owner: set() for owner in {*manifest.packs, older_id}}  # type: ignore[var-annotated]
    for ref in manifest.maps:
        segment = repository.segment(ref, manifest.block_size)
        builder = SegmentBuilder()
        for entry in segment.files:
            runs, owners, size = segment.runs_of(entry), segment.owners, entry.size
            if entry.path == path:
                runs, owners = donor.runs_of(old_entry), donor.owners
                size = old_entry.size
            builder.add(entry.path, entry.kind, size, entry.mode, runs, owners)
            for owner, pack in zip(runs["owner"].tolist(), runs["pack"].tolist(), strict=True):
                if owner != 0xFFFF:
                    packs[owners[owner]].add(pack)
        name, _stored = repository.create_map(builder.encode())
        refs.append(MapRef(name, builder.first, len(builder), builder.bytes, builder.pages))
    repository.bucket.delete(repository.layout.manifest(backup_id))
    named = {owner: bitmap_of(sorted(numbers)) for owner, numbers in packs.items() if numbers}
    repository.commit(replace(manifest, maps=tuple(refs), packs=named))


def find(repository: Repository, manifest: Manifest, path: bytes) -> tuple[Segment, FileEntry]:
    for segment in repository.segments(manifest):
        for entry in segment.files:
            if entry.path == path:
                return segment, entry
    raise AssertionError(f"{path!r} is not in {manifest.backup_id}")
