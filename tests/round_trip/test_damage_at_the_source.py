"""A source that is damaged is backed up all the same, and the backup says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgproof.model.config import VerifyLevel
from pgproof.model.report import BackupInfo
from tests.round_trip.conftest import OpenDoors
from tests.support.postgres import Cluster, ClusterFactory

_PAGE = 8192


def _damage(cluster: Cluster, table: str, blocks: list[int]) -> str:
    """Flip a byte in the middle of these pages while the server is down; return the file's path."""
    cluster.psql("CHECKPOINT")
    path = cluster.psql(f"SELECT pg_relation_filepath('{table}')")
    cluster.stop()
    with (cluster.data_dir / path).open("r+b") as file:
        for block in blocks:
            file.seek(block * _PAGE + _PAGE // 2)
            (byte,) = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte ^ 0x10]))
    cluster.start()
    return path


def _degrading(info: BackupInfo) -> list[tuple[str, str]]:
    return [(finding.kind, finding.message) for finding in info.findings if finding.degrades]


@pytest.mark.parametrize("major", [15, 18])
def test_damaged_pages_are_named_by_file_and_block(
    major: int, cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory(major)
    source.psql(
        "CREATE TABLE few AS SELECT n, repeat('x', 500) AS pad FROM generate_series(1, 2000) n;"
        "CREATE TABLE many AS SELECT * FROM few"
    )
    few = _damage(source, "few", [3, 70])
    # The server names the first five of a file and counts the others.
    blocks = [1, 2, 3, 5, 8, 13, 21, 34]
    many = _damage(source, "many", blocks)

    doors = front_doors(source)
    info = doors.backup()
    assert info.status == "degraded"
    messages = [message for kind, message in _degrading(info) if kind == "page-checksum"]
    assert f"{few}: 2 damaged pages at the source: 3, 70" in messages
    assert f"{many}: 8 damaged pages at the source: {', '.join(map(str, blocks))}" in messages

    # Such a backup is kept, and may be the only one: it restores, but is not proven.
    doors.restore(info.backup_id, work_dir / "restored")
    with Cluster.adopt(work_dir / "restored", major) as restored:
        assert restored.psql("SELECT count(*) FROM few WHERE ctid < '(3,0)'") != "0"
        with pytest.raises(RuntimeError, match="invalid page in block 3"):
            restored.psql("SELECT count(*) FROM few")
    report = doors.verify(info.backup_id, VerifyLevel.FULL)
    assert not report.ok and not report.proven
    failed = {check.name: check.detail for check in report.checks if check.ok is False}
    assert "few" in failed["pg_amcheck"] or "invalid page" in failed["pg_amcheck"]
    assert few in failed["pg_checksums"]


def test_a_file_behind_a_link_is_missed_aloud(
    cluster_factory: ClusterFactory, front_doors: OpenDoors, work_dir: Path
) -> None:
    source = cluster_factory()
    elsewhere = work_dir / "kept-elsewhere.conf"
    elsewhere.write_text("# a file that BASE_BACKUP does not follow\n")
    (source.data_dir / "extra.conf").symlink_to(elsewhere)

    doors = front_doors(source)
    info = doors.backup()
    assert info.status == "degraded"
    ((kind, message),) = _degrading(info)
    assert kind == "skipped-file" and "extra.conf" in message
    assert doors.verify(info.backup_id).proven
