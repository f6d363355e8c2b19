"""`metrics`: what Prometheus is told, by file and over HTTP, and that alerts and dashboard name nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pgproof.actions.opening import open_repository
from pgproof.actions.take_backup import take_backup
from pgproof.cli.exits import Exit
from pgproof.cli.main import run
from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.job import Job
from pgproof.model.report import VerificationReport
from pgproof.repository.catalog import store_verification
from tests.cli.test_cleanup import ids  # noqa: F401
from tests.repository.places import new_repository
from tests.support.postgres import SUPERUSER_PASSWORD, ClusterFactory
from tests.support.streaming import Streamer, standby_of, wait_for_flush, written

ROOT = Path(__file__).parent.parent.parent
MONITORING = ROOT / "monitoring"
NAME = re.compile(r"\bpgproof_[a-z_]+")


def parsed(text: str) -> dict[str, float]:
    """Every sample by its name and labels."""
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_textfile_is_whole_and_replaced(ids: list[str], tmp_path: Path) -> None:  # noqa: F811
    target = tmp_path / "textfiles" / "pgproof.prom"
    target.parent.mkdir()
    target.write_text("old")
    assert run(["metrics", "--textfile", str(target)]) == Exit.OK
    found = parsed(target.read_text())
    assert found["pgproof_up cluster=main"] == 1
    assert found["pgproof_backups cluster=main method=physical status=ok type=full"] == 3
    assert found["pgproof_repository_stored_bytes cluster=main kind=backups"] > 0
    newest = found["pgproof_backup_last_success_timestamp_seconds cluster=main method=physical type=full"]
    assert 1.7e9 < newest < 2e9
    assert list(target.parent.iterdir()) == [target]


def test_a_repository_that_cannot_be_read_is_told_as_such(
    ids: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "pgproof.prom"
    missing = ["--repository", str(tmp_path / "unmounted")]
    assert run(["metrics", *missing, "--textfile", str(target)]) == Exit.PRECONDITION
    assert parsed(target.read_text()) == {"pgproof_up cluster=main": 0}
    assert "HINT:" in capsys.readouterr().err
    assert run(["metrics", *missing]) == Exit.PRECONDITION
    assert parsed(capsys.readouterr().out) == {"pgproof_up cluster=main": 0}


def test_where_it_cannot_write_it_says_so(
    ids: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["metrics", "--textfile", str(tmp_path / "no" / "x.prom")]) == Exit.PRECONDITION
    assert "name a file in a directory" in capsys.readouterr().err
    for wrong in ("9187", "host:", "host:99999"):
        assert run(["metrics", "--listen", wrong]) == Exit.USAGE


def test_it_serves_until_it_is_stopped_and_outlives_its_repository(ids: list[str], tmp_path: Path) -> None:  # noqa: F811
    command = [sys.executable, "scripts/db_backup.py", "metrics", "--listen", "127.0.0.1:0", "--every", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert parsed(_get(url))["pgproof_backups_pinned cluster=main"] == 0
        shutil.move(tmp_path / "repository.json", tmp_path / "away")
        assert parsed(_get(url)) == {"pgproof_up cluster=main": 0}
        shutil.move(tmp_path / "away", tmp_path / "repository.json")
        assert parsed(_get(url))["pgproof_up cluster=main"] == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait() == Exit.INTERRUPTED


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def test_alerts_and_dashboard_name_what_is_really_told(
    cluster_factory: ClusterFactory,
    work_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = cluster_factory(18)
    postgres, config = cluster.config(), new_repository(work_dir / "r", encryption=False)
    info = take_backup(postgres, config, BackupType.FULL, Job())
    proof = VerificationReport(info.backup_id, VerifyLevel.START, True, True, info.finished_at, 1.0, 1)
    store_verification(open_repository(config), proof)
    for name, value in {
        "PGHOST": postgres.host,
        "PGPORT": postgres.port,
        "PGUSER": postgres.user,
        "BACKUP_DIR": config.backup_dir,
        "BACKUP_ENCRYPTION": "false",
    }.items():
        monkeypatch.setenv(name, str(value))
    with standby_of(cluster, "replica") as replica, Streamer(postgres, config) as streamer:
        monkeypatch.setenv("READ_REPLICA_HOSTS", f"127.0.0.1:{replica.port}")
        monkeypatch.setenv("PGPASSWORD", SUPERUSER_PASSWORD)
        wait_for_flush(cluster, written(cluster))
        assert run(["metrics", "--with-server"]) == Exit.OK
        streamer.stop()
    text = capsys.readouterr().out
    found, told = parsed(text), {family.name for family in text_string_to_metric_families(text)}
    assert found["pgproof_wal_slot_active cluster=main"] == 1 == found["pgproof_server_up cluster=main"]
    node = f"cluster=main node=127.0.0.1:{replica.port}"
    assert found[f"pgproof_replica_up {node}"] == 1 == found[f"pgproof_replica_role {node} role=standby"]
    assert found["pgproof_replica_problems cluster=main"] == 0 == found[f"pgproof_replica_lag_seconds {node}"]
    assert (
        found["pgproof_backup_last_success_timestamp_seconds cluster=main method=physical type=full"]
        == info.finished_at.timestamp()
        == found["pgproof_backup_last_proven_timestamp_seconds cluster=main"]
    )
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    for named in (
        {name for rule in rules for name in NAME.findall(rule["expr"])},
        {
            name
            for panel in dashboard["panels"]
            for target in panel["targets"]
            for name in NAME.findall(target["expr"])
        },
    ):
        assert len(named) > 10 and named <= told
    page = (ROOT / "docs" / "cli.md").read_text()
    documented = set(NAME.findall(page.partition("## Monitoring")[2].partition("\n## ")[0]))
    assert documented == told
    assert all(rule["annotations"]["summary"] for rule in rules)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
