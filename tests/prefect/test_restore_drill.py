"""The flow `restore_drill`: what it publishes, and the state that names the step that failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State

from flows.restore_drill import restore_drill
from pgproof.actions.drill import list_drills
from pgproof.actions.init_repository import init_repository
from pgproof.actions.recorded import list_actions
from pgproof.actions.take_backup import take_backup
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from tests.support.postgres import ClusterFactory, find_bin


def test_a_drill_is_published_and_a_failed_one_names_its_step(
    prefect_backend: None, cluster_factory: ClusterFactory, work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BackupConfig(backup_dir=str(work_dir / "repo"), encryption=False, bin_dir=str(find_bin(18)))
    init_repository(config)
    take_backup(cluster_factory(18).config(), config, BackupType.FULL, Job())
    monkeypatch.setenv("BACKUP_DIR", str(config.backup_dir))
    monkeypatch.setenv("BACKUP_ENCRYPTION", "false")
    monkeypatch.setenv("PATH", f"{config.bin_dir}:/usr/bin:/bin")
    found = restore_drill(repository="", seed=5)
    assert isinstance(found, dict) and found["ok"] and found["seed"] == 5
    artifact = Artifact.get("drill-main")
    assert artifact is not None
    for words in (
        "**Recovery (RTO)**",
        "The forecast is for a loss of the server now",
        "Replay WAL to the moment",
        "pg_amcheck",
        "--to-lsn",
    ):
        assert words in str(artifact.data)
    (work_dir / "checks").mkdir()
    (work_dir / "checks" / "orders.sql").write_text("SELECT count(*) > 0 FROM orders")
    state = restore_drill(repository="", checks=str(work_dir / "checks"), return_state=True)
    assert isinstance(state, State) and (state.name, state.is_failed()) == ("DrillFailed", True)
    assert state.message is not None and "at the step checks: check orders.sql" in state.message
    refused = restore_drill(repository="", checks=str(work_dir / "nowhere"), return_state=True)
    assert isinstance(refused, State) and refused.name == "DrillFailed"
    assert "no folder of checks" in str(refused.message) and "HINT" in str(refused.message)
    assert [drill.ok for drill in list_drills(config)] == [False, True]
    records, _damaged = list_actions(config)
    assert [each.command for each in records] == ["drill", "drill"]
    assert all(each.program.startswith("prefect restore-drill ") for each in records)
