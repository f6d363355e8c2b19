"""`status` on the command line: the screen, the exit status, and who is told how often."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from campaigns.small_repository import make_small
from pgproof.actions.opening import open_repository
from pgproof.actions.watch import announce
from pgproof.cli.exits import Exit
from pgproof.cli.main import run
from pgproof.model.alarms import Record
from pgproof.model.config import BackupConfig, VerifyLevel
from pgproof.model.objectives import Broken
from pgproof.model.report import VerificationReport
from pgproof.repository.alarm_log import LocalLog
from pgproof.repository.catalog import list_backups, store_verification
from tests.support.receiver import Receiver, receiver


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three backups in a directory that the environment names; no server listens."""
    root = tmp_path / "repository"
    small = make_small(Random(1), encrypted=False, backups=3)
    for key, (data, _at) in small.bucket.objects.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name, value in {
        "BACKUP_DIR": str(root),
        "BACKUP_ENCRYPTION": "false",
        "BACKUP_STATE_DIR": str(tmp_path / "state"),
        "PGHOST": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    return root


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiver() as found:
        monkeypatch.setenv("BACKUP_NOTIFY_URL", found.apprise)
        yield found


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = Exit.OK) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["status", *arguments, "--json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def titles(hook: Receiver) -> list[str]:
    return [each["title"] for each in hook.received]


def test_one_screen_without_server_or_prefect(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status"]) == Exit.OK
    shown = capsys.readouterr().out
    assert "backups          3" in shown
    assert "server           not asked: " in shown
    assert "✓ nothing is broken" in shown


def test_a_condition_that_holds_is_the_exit_status(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = answer(capsys, "--fail-if", "backup-age>9999d", "--fail-if", "gap", "--fail-if", "objective")
    assert fine["failed"] == [] and fine["backups"] == 3
    found = answer(capsys, "--fail-if", "backup-age>1h", "--fail-if", "server", status=Exit.NOT_PASSED)
    assert [each["key"] for each in found["failed"]] == ["backup-age", "server"]
    assert found["broken"] == [], "no objective is set"
    monkeypatch.setenv("BACKUP_MAX_AGE_HOURS", "1")
    assert answer(capsys)["broken"][0]["key"] == "backup-age"
    assert answer(capsys, "--fail-if", "objective", status=Exit.NOT_PASSED)
    error = answer(capsys, "--fail-if", "age>1h", status=Exit.PRECONDITION)["error"]
    assert error["message"] == "not a condition"
    assert answer(capsys, "--cluster", "other", "--fail-if", "objective", status=Exit.NOT_PASSED)["failed"]


def test_the_last_proof_and_how_long_it_took(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer(capsys)["proof_at"] is None
    config = BackupConfig(backup_dir=str(repository), encryption=False)
    opened = open_repository(config)
    first = list_backups(opened)[0].backup_id
    now = datetime.now(UTC)
    store_verification(opened, VerificationReport(first, VerifyLevel.START, True, True, now, 120.0, 1))
    found = answer(capsys, "--fail-if", "proof-age>1h", "--fail-if", "rto>3m")
    assert (found["newest_proven"], found["measured_rto_seconds"]) == (first, 120.0)
    monkeypatch.setenv("BACKUP_RTO_MINUTES", "1")
    assert [each["key"] for each in answer(capsys)["broken"]] == ["rto"]
    # A newest backup that fails its verification is not the newest good one any more.
    newest = found["newest_good"]
    store_verification(opened, VerificationReport(newest, VerifyLevel.FULL, False, False, now, 1.0, 1))
    found = answer(capsys, "--fail-if", "degraded", status=Exit.NOT_PASSED)
    assert found["newest_good"] not in (newest, None)


def test_a_host_whose_clock_ran_ahead_does_not_look_alive_when_it_is_dead(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = BackupConfig(backup_dir=str(repository), encryption=False)
    opened = open_repository(config)
    newest = list_backups(opened)[-1]
    ahead = datetime.now(UTC) + timedelta(days=2)
    store_verification(
        opened, VerificationReport(newest.backup_id, VerifyLevel.START, True, True, ahead, 1.0, 1)
    )
    # Here the store's time of a manifest is earlier than the host's word; that of the proof is now.
    for manifest in (repository / "clusters" / "main" / "backups").glob("*/manifest"):
        stored = newest.finished_at.timestamp() - 2 * 86400
        os.utime(manifest, (stored, stored))
    found = answer(capsys, "--fail-if", "proof-age>0s", status=Exit.NOT_PASSED)
    assert 0 < found["proof_age_seconds"] < 3600
    assert found["newest_good_at"] == (newest.finished_at - timedelta(days=2)).isoformat()


def test_one_alarm_and_one_recovery_are_told(
    repository: Path,
    hook: Receiver,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert answer(capsys, "--notify")["told"] == []
    monkeypatch.setenv("BACKUP_MAX_AGE_HOURS", "1")
    hook.status = 500
    failed = answer(capsys, "--notify", status=Exit.TRANSIENT)["error"]
    assert "token-that-is-secret" not in json.dumps(failed)
    hook.status = 204
    for _ in range(3):
        answer(capsys, "--notify")
    assert titles(hook) == ["pgproof main: 1 broken (backup-age)"]
    assert "HINT: " in hook.received[0]["message"]
    assert list((repository / "clusters" / "main" / "alarms").iterdir()), "remembered in the repository"
    monkeypatch.delenv("BACKUP_MAX_AGE_HOURS")
    for _ in range(2):
        answer(capsys, "--notify")
    assert titles(hook)[1:] == ["pgproof main: recovered"]


def test_a_repository_that_is_away_is_told_as_well(
    repository: Path, hook: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    away = repository.with_name("away")
    repository.rename(away)
    for _ in range(2):
        found = answer(capsys, "--notify", status=Exit.PRECONDITION)
        assert found["error"]["hint"]
    assert titles(hook) == ["pgproof main: 1 broken (repository)"]
    away.rename(repository)
    for _ in range(2):
        assert answer(capsys, "--notify")["broken"] == []
    assert titles(hook)[1:] == ["pgproof main: recovered"]


def test_where_the_repository_takes_no_record_this_machine_remembers(
    repository: Path,
    hook: Receiver,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No folder can be made here; rights would not stop root.
    (repository / "clusters" / "main" / "alarms").touch()
    monkeypatch.setenv("BACKUP_MAX_AGE_HOURS", "1")
    for _ in range(2):
        answer(capsys, "--notify")
    monkeypatch.delenv("BACKUP_MAX_AGE_HOURS")
    for _ in range(2):
        answer(capsys, "--notify")
    assert titles(hook) == ["pgproof main: 1 broken (backup-age)", "pgproof main: recovered"]


def test_a_damaged_record_is_told_anew(
    repository: Path,
    hook: Receiver,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BACKUP_MAX_AGE_HOURS", "1")
    answer(capsys, "--notify")
    newest = max((repository / "clusters" / "main" / "alarms").iterdir())
    newest.chmod(0o600)
    newest.write_bytes(b"rotten")
    answer(capsys, "--notify")
    answer(capsys, "--notify")
    assert len(hook.received) == 2


@pytest.mark.parametrize("url", ["", "no-such-scheme://token-that-is-secret", "json://"])
def test_nobody_to_tell_is_said_without_the_url(
    repository: Path, url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_NOTIFY_URL", url)
    assert run(["status", "--notify", "-vv"]) == Exit.PRECONDITION
    shown = capfd.readouterr()
    assert "HINT: " in shown.err
    assert "token-that-is-secret" not in shown.out + shown.err


def test_of_many_watchers_one_tells(tmp_path: Path) -> None:
    told: list[str] = []
    start = threading.Barrier(8)

    def look() -> None:
        log = LocalLog(tmp_path / "log")
        start.wait()
        announce(
            log, "main", [Broken("gap", "a gap", "mend it")], lambda subject, _body: told.append(subject)
        )

    watchers = [threading.Thread(target=look) for _ in range(8)]
    for each in watchers:
        each.start()
    for each in watchers:
        each.join()
    assert told == ["pgproof main: 1 broken (gap)"]


def test_a_watcher_that_died_while_telling_loses_no_alarm(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log")
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    assert log.create(1, Record(long_ago, done=False))
    assert not log.create(1, Record(long_ago, done=False))
    told: list[str] = []
    announce(log, "main", [Broken("gap", "a gap", "mend it")], lambda subject, _body: told.append(subject))
    assert len(told) == 1
    shutil.rmtree(tmp_path / "log")
