"""The flow `backup` with a directory and a bucket: a copy that fails fails the run, after everything else is done."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flows.backup import backup
from pgproof.backup import BackupManager
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, PostgresConfig
from tests.support.postgres import STREAM_PASSWORD, Cluster
from tests.support.s3 import S3Server


def test_the_next_run_copies_what_a_failed_one_could_not(
    prefect_backend: None, pg18: Cluster, s3: S3Server, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = pg18.tcp_config()
    environment = {
        "PGHOST": str(postgres.host),
        "PGPORT": str(postgres.port),
        "PGUSER": str(postgres.user),
        "PGPASSWORD": STREAM_PASSWORD,
        "BACKUP_DIR": str(work_dir / "backups"),
        "BACKUP_PASSPHRASE": "of the mirrored run",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asyncio.run(BackupManager(PostgresConfig.from_env()).init_repository())
    there = s3.backup_config(s3_bucket="mirrored-run")
    for name, value in {
        "AWS_S3_BUCKET": "mirrored-run",
        "AWS_S3_REGION": there.s3_region,
        "AWS_ENDPOINT_URL": there.s3_endpoint,
        "AWS_ACCESS_KEY_ID": there.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": there.s3_secret_access_key,
    }.items():
        monkeypatch.setenv(name, str(value))

    with pytest.raises(PreconditionError):
        backup(server="", repository="", verify="frames")
    (first,) = asyncio.run(BackupManager(postgres, BackupConfig.from_env()).list_backups())
    assert first.verified is not None and first.verified.ok, "it is verified although it was not copied"
    assert "local-only" in {finding.kind for finding in first.findings}

    s3.make_bucket("mirrored-run")
    assert backup(server="", repository="")["backup_id"]
    infos = asyncio.run(BackupManager(postgres, BackupConfig.from_env()).list_backups())
    assert len(infos) == 2
    assert all("local-only" not in {f.kind for f in info.findings} for info in infos)
