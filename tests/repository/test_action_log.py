"""Who did what: one object for each action, whatever came of it, without a secret, and never at the cost of the action."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from campaigns.chained_runs import ChainedRun, first_files
from pgproof import failpoints
from pgproof.actions.opening import open_repository
from pgproof.actions.recorded import recorded
from pgproof.backup import BackupManager
from pgproof.cli.main import run
from pgproof.errors import Cancelled, PreconditionError
from pgproof.model.action_record import ActionRecord, Outcome
from pgproof.model.config import BackupConfig, BackupType, PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.repository.action_log import list_actions
from pgproof.repository.bucket import Bucket
from pgproof.whoami import PROGRAM
from tests.repository.places import new_repository
from tests.support.machine import wait_until
from tests.support.postgres import ClusterFactory

_SECRET = "hunter2-never-to-be-seen"


@pytest.fixture(autouse=True)
def plain_python() -> Iterator[None]:
    """No flow, though one may have run in this process."""
    token = PROGRAM.set("python")
    yield
    PROGRAM.reset(token)


@pytest.fixture
def config(tmp_path: Path) -> BackupConfig:
    """A repository of three backups that no server has seen."""
    config = new_repository(tmp_path / "r", retention_days=1, keep_at_least=1, pitr_days=0)
    for number in range(3):
        at = datetime.now(UTC) - timedelta(days=9 - 3 * number)
        files = first_files(Random(number))
        ChainedRun(open_repository(config), at, BackupType.FULL, f"{number:06x}", files, 5 + number).take()
    return config


def _log(config: BackupConfig) -> list[ActionRecord]:
    records, damaged = list_actions(open_repository(config))
    assert not damaged
    return records


def test_each_action_leaves_one_record_and_none_a_secret(config: BackupConfig) -> None:
    manager = BackupManager(PostgresConfig(password=_SECRET), config)
    ids = [info.backup_id for info in asyncio.run(manager.list_backups())]
    slot = asyncio.run(manager.add_key(_SECRET))
    asyncio.run(manager.remove_key(slot.slot_id))
    token = PROGRAM.set("prefect cleanup 1234")
    try:
        asyncio.run(manager.keep_backup(ids[0], why="audit"))
        prepared = asyncio.run(manager.plan_cleanup())
        asyncio.run(manager.cleanup(prepared, approved=True))
    finally:
        PROGRAM.reset(token)
    with pytest.raises(PreconditionError):
        asyncio.run(manager.keep_backup("20200101"))
    found = [(each.command, each.outcome, each.program) for each in _log(config)]
    assert found == [
        ("keys add", Outcome.DONE, "python"),
        ("keys remove", Outcome.DONE, "python"),
        ("keep", Outcome.DONE, "prefect cleanup 1234"),
        ("cleanup", Outcome.DONE, "prefect cleanup 1234"),
        ("keep", Outcome.FAILED, "python"),
    ]
    _added, removed, kept, cleaned, failed = _log(config)
    assert (
        removed.subject == slot.slot_id and kept.subject == ids[0] and cleaned.subject.startswith("removed ")
    )
    assert failed.subject == "20200101" and failed.error == "there is no such backup"
    assert all(each.pid == os.getpid() and each.by.endswith(os.uname().nodename) for each in _log(config))
    repository = open_repository(config)
    text = json.dumps([each.to_json() for each in _log(config)])
    assert _SECRET not in text and str(config.passphrase) not in text
    keys = [info.key for info in repository.bucket.list(repository.layout.actions)]
    assert len(keys) == 5, "a cleanup removes none of them"
    assert not any(b"cleanup" in repository.bucket.read(key) for key in keys), "they are encrypted"


def test_the_command_line_shows_what_was_done_since_and_names_what_is_damaged(
    config: BackupConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_DIR", str(config.backup_dir))
    monkeypatch.setenv("BACKUP_PASSPHRASE", str(config.passphrase))
    assert run(["keep", "latest"]) == 0
    between = datetime.now(UTC)
    assert run(["keep", "latest", "--remove"]) == 0
    capsys.readouterr()
    assert run(["audit"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and " cli " in lines[1] and "done" in lines[1]
    assert run(["audit", "--json", "--since", between.isoformat()]) == 0
    (only,) = json.loads(capsys.readouterr().out)["actions"]
    assert (only["command"], only["program"], only["outcome"]) == ("keep --remove", "cli", "done")
    layout = open_repository(config).layout
    oldest = min((Path(str(config.backup_dir)) / layout.actions).iterdir())
    oldest.chmod(0o600)
    oldest.write_bytes(oldest.read_bytes()[:-1] + b"\0")
    assert run(["audit", "--json"]) == 5
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["actions"]) == 1 and shown["damaged"] == [f"{layout.actions}{oldest.name}"]


def test_a_backup_whose_record_cannot_be_written_is_whole_and_says_so(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    config = new_repository(tmp_path / "r", encryption=False)
    manager = BackupManager(cluster_factory(18).config(), config)
    failpoints.arm("action.recording=raise")
    try:
        info = asyncio.run(manager.create_backup())
    finally:
        failpoints.arm("")
    (finding,) = [each for each in info.findings if each.kind == "not-recorded"]
    assert "the backup is whole" in finding.message and info.status == "ok" and info.stop_lsn > Lsn(0)
    (listed,) = asyncio.run(manager.list_backups())
    assert (listed.backup_id, _log(config)) == (info.backup_id, [])


def test_a_store_that_stalls_is_not_waited_for_once_more_by_what_failed(config: BackupConfig) -> None:
    """A flow that is cancelled has half a minute to end, and a store's own tries take longer than that."""
    stalls, goes_on = threading.Event(), threading.Event()

    class Stalled:
        def __init__(self, bucket: Bucket) -> None:
            self._bucket = bucket

        def create(self, key: str, data: bytes) -> None:
            stalls.set()
            goes_on.wait()
            self._bucket.create(key, data)

        def __getattr__(self, verb: str):  # type: ignore[no-untyped-def]
            return getattr(self._bucket, verb)

    def work() -> None:
        repository = open_repository(config)
        repository.bucket = Stalled(repository.bucket)  # type: ignore[assignment]
        raise Cancelled

    try:
        with pytest.raises(Cancelled):
            recorded(config, "backup", work)
        assert stalls.is_set() and not _log(config)
    finally:
        goes_on.set()
    wait_until(lambda: [each.outcome for each in _log(config)] == [Outcome.CANCELLED], "the late record")
