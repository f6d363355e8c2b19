"""The names, calls and fields that users were promised."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path

import pytest

from core.db.backup import (
    BackupConfig,
    BackupManager,
    BackupScheduler,
    BackupType,
    PostgresConfig,
    RecoveryManager,
)
from core.db.replication import ReadReplicaRouter, ReplicaInfo, ReplicaType
from pgproof.errors import PreconditionError
from tests.support.postgres import Cluster
from tests.support.s3 import S3Server

PROMISED_FIELDS = {
    "backup_id", "cluster", "type", "method", "status", "parent_id", "started_at", "finished_at", "size_bytes",
    "stored_bytes", "start_lsn", "stop_lsn", "timeline", "server_version", "system_identifier",
    "change_detection", "findings", "verified", "pinned_until",
}  # fmt: skip


def test_the_promised_calls(
    pg18: Cluster, s3: S3Server, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_PASSPHRASE", "from the environment")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    s3.make_bucket("my-backups")
    postgres_config = pg18.config(database="app")
    config = BackupConfig(
        backup_dir=str(work_dir / "backups"),
        s3_bucket="my-backups",
        backup_type=BackupType.FULL,
        compression=True,
        encryption=True,
        retention_days=30,
        full_backup_interval="daily",
        incremental_interval="hourly",
    )
    backup_manager = BackupManager(postgres_config, config)
    recovery_manager = RecoveryManager(postgres_config, backup_manager)

    async def calls() -> None:
        await backup_manager.init_repository()
        backup_info = await backup_manager.create_backup(BackupType.FULL)
        assert backup_info.backup_id
        backups = await backup_manager.list_backups()
        assert [f"{b.backup_id}: {b.size_mb:.1f} MB" for b in backups] == [
            f"{backup_info.backup_id}: {backup_info.size_bytes / 1e6:.1f} MB"
        ]
        # The promised example names a directory and a bucket: both have it.
        assert "local-only" not in {finding.kind for finding in backups[0].findings}
        document = json.loads(json.dumps(backup_info.to_json()))
        assert set(document) >= PROMISED_FIELDS
        report = await recovery_manager.restore_cluster(backup_info.backup_id, work_dir / "restored")
        assert report.recovered
        await recovery_manager.restore_database(backup_info.backup_id, target_database="restored_db")
        assert pg18.psql("SELECT count(*) FROM accounts", "restored_db") == "1000"
        await recovery_manager.clone_database("restored_db", "target_db")
        assert pg18.psql("SELECT count(*) FROM accounts", "target_db") == "1000"
        pg18.psql("DROP DATABASE restored_db; DROP DATABASE target_db")
        with pytest.raises(PreconditionError, match="before the end of the oldest backup"):
            await recovery_manager.point_in_time_recovery(target_time=datetime(2023, 12, 26, 12, 0, 0))
        with pytest.raises(PreconditionError, match="before the end of the oldest backup") as refused:
            await recovery_manager.point_in_time_recovery(
                target_time=datetime(2023, 12, 26, 12, 0, 0), data_dir=work_dir / "then"
            )
        assert str(backup_info.stop_lsn) in refused.value.hint

    asyncio.run(calls())


def test_the_configuration_may_come_from_the_environment_alone(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_DIR", str(work_dir / "nowhere"))
    monkeypatch.setenv("BACKUP_PASSPHRASE", "x")
    manager = BackupManager(PostgresConfig.from_env())
    with pytest.raises(PreconditionError, match="missing"):
        asyncio.run(manager.list_backups())


def test_the_promised_scheduler_tells_what_must_be_changed_first(tmp_path: Path) -> None:
    config = BackupConfig(
        backup_dir=str(tmp_path), full_backup_interval="daily", incremental_interval="hourly"
    )
    scheduler = BackupScheduler(BackupManager(PostgresConfig(), config))
    with pytest.raises(PreconditionError, match="init"):
        asyncio.run(scheduler.run())
    never = BackupConfig(backup_dir=str(tmp_path), full_backup_interval="never", incremental_interval="never")
    with pytest.raises(PreconditionError, match="no backup would ever be taken"):
        asyncio.run(BackupScheduler(BackupManager(PostgresConfig(), never)).run())


def test_the_promised_router(pg18: Cluster) -> None:
    """As the request has it; replica1.example.com is away, which is no reason not to begin."""
    pg18.psql("CREATE TABLE users (email text, active boolean DEFAULT true)", "app")

    async def calls() -> None:
        primary_config = pg18.config(database="app")
        router = ReadReplicaRouter(primary_config)
        router.add_replica(
            ReplicaInfo(
                id="replica1",
                host="replica1.example.invalid",
                port=5432,
                database="app_db",
                username="replicator",
                password="password",
                replica_type=ReplicaType.READ_ONLY,
                weight=1,
            )
        )
        await router.initialize()
        assert await router.fetch_all_read("SELECT * FROM users WHERE active = true") == []
        await router.execute_write("INSERT INTO users (email) VALUES ('test@example.com')")
        users = await router.fetch_all_read("SELECT * FROM users WHERE active = true")
        assert users == [("test@example.com", True)]
        primary, replica = router.get_primary(), router.get_read_replica()
        assert (primary.id, replica.id) == ("primary", "primary")
        async with primary.connection() as connection:
            await connection.execute("DROP TABLE users")
        await router.close()

    asyncio.run(calls())
