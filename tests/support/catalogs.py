"""Made-up overviews, for what shows them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.growth import growth
from pgproof.model.lsn import Lsn
from pgproof.model.overview import Catalog, Overview, Storage
from pgproof.model.report import BackupInfo, VerificationSummary
from pgproof.model.wal_status import Restorable

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def made_up(count: int = 40, *, price: float | None = 0.02, cluster: str = "main") -> Overview:
    """A full backup a week and an incremental one on the other days; the newest full one is proven."""
    backups = tuple(_backup(cluster, count, number) for number in range(count))
    windows = (
        Restorable(1, Lsn(100), NOW - timedelta(days=count), Lsn(900), NOW - timedelta(days=20)),
        Restorable(1, Lsn(1200), NOW - timedelta(days=15), Lsn(9000), NOW),
    )
    net = {(NOW - timedelta(days=number)).date(): 10**9 for number in range(count)}
    stored = {"backups": 9 * 10**8 * count, "wal": 10**8 * count, "other": 0}
    return Overview(
        Catalog(cluster, NOW, backups, windows if count else ()),
        Storage("s3://bucket/prefix", stored, 1234, growth(net, NOW.date()), price),
    )


def _backup(cluster: str, count: int, number: int) -> BackupInfo:
    at = NOW - timedelta(days=count - number)
    kind = BackupType.INCREMENTAL if number % 7 else BackupType.FULL
    info = BackupInfo(
        backup_id=f"{at:%Y%m%dT%H%M%SZ}-{kind}-{number:06x}",
        cluster=cluster,
        type=kind,
        method="physical",
        status="ok",
        parent_id=None,
        started_at=at - timedelta(seconds=90),
        finished_at=at,
        size_bytes=10**10,
        stored_bytes=10**7 if number % 7 else 2 * 10**9,
        start_lsn=Lsn(100 * number),
        stop_lsn=Lsn(100 * number + 50),
        timeline=1,
        server_version="18.1",
        system_identifier="7",
        change_detection="none",
    )
    proof = VerificationSummary(VerifyLevel.FULL, at + timedelta(hours=2), True)
    return info if number % 7 else replace(info, verified=proof)
