"""The flow `cleanup`: its plan is published, much needs approval, and the report says what went and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prefect import flow
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State

from campaigns.chained_runs import ChainedRun, first_files
from flows.cleanup import cleanup
from flows.support.catalog import publish_catalog
from pgproof.actions.opening import open_repository
from pgproof.model.config import BackupConfig, BackupType
from pgproof.repository.catalog import committed_ids
from tests.repository.places import new_repository


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BackupConfig:
    """A repository of three backups, configured by the environment."""
    config = new_repository(tmp_path / "r", encryption=False)
    now = datetime.now(UTC)
    for number in range(3):
        at = now - timedelta(days=3 - number)
        files = first_files(Random(number))
        ChainedRun(open_repository(config), at, BackupType.FULL, f"{number:06x}", files, 5 + number).take()
    for name, value in {
        "BACKUP_DIR": str(config.backup_dir),
        "BACKUP_ENCRYPTION": "false",
        "BACKUP_KEEP_LAST": "1",
        "BACKUP_KEEP_AT_LEAST": "1",
        "BACKUP_PITR_DAYS": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return config


def _ids(config: BackupConfig) -> list[str]:
    repository = open_repository(config)
    return sorted(committed_ids(repository.bucket, repository.layout))


def test_plan_approval_and_removal(prefect_backend: None, config: BackupConfig) -> None:
    ids = _ids(config)
    assert cleanup(repository="", plan_only=True)["removed"] == ids[:2]
    state = cleanup(repository="", return_state=True)
    assert isinstance(state, State) and state.name == "NeedsApproval"
    assert _ids(config) == ids
    report = cleanup(repository="", approved=True, compact=True)
    assert report["compaction"]["packs"] == 0 and report["plan"]["compaction"]["looked_at"] == 0
    assert report["removed"] == ids[:2] and _ids(config) == ids[2:]
    plan = Artifact.get("cleanup-plan-main")
    assert plan is not None and "**remove**" in str(plan.data)
    told = Artifact.get("cleanup-main")
    assert told is not None and "and the last 1 are kept" in str(told.data) and "@" in str(told.data)
    assert "0 packs were rewritten" in str(told.data)
    catalog = Artifact.get("catalog-main")
    assert catalog is not None and ids[2] in str(catalog.data) and ids[1] not in str(catalog.data)
    storage = Artifact.get("storage-main")
    assert storage is not None and "in all, now" in str(storage.data)


def test_a_catalog_that_cannot_be_published_fails_nothing(
    prefect_backend: None, caplog: pytest.LogCaptureFixture
) -> None:
    @flow
    def work() -> str:
        publish_catalog("there-is-no-such-block")
        return "done"

    state: Any = work(return_state=True)
    assert state.is_completed() and state.result() == "done"
    assert "the catalog could not be published" in caplog.text
