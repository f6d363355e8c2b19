"""`cleanup` and `keep` on the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from campaigns.chained_runs import ChainedRun
from campaigns.small_repository import PAGE, make_small
from campaigns.synthetic_runs import Files, small_frames
from pgproof.actions.opening import open_repository
from pgproof.cli.exits import Exit
from pgproof.cli.main import run
from pgproof.model.config import BackupType
from pgproof.model.pin import Pin
from pgproof.repository.pins import store_pin
from tests.repository.places import new_repository

RULES = ("--keep-last", "1", "--keep-at-least", "1", "--pitr-days", "0")


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three backups in a directory that the environment names."""
    small = make_small(Random(1), encrypted=False, backups=3)
    for key, (data, _at) in small.bucket.objects.items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path))
    monkeypatch.setenv("BACKUP_ENCRYPTION", "false")
    return list(small.backups)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = Exit.OK) -> dict:  # type: ignore[type-arg]
    assert run([*arguments, "--json"]) == status
    found: dict = json.loads(capsys.readouterr().out)  # type: ignore[type-arg]
    return found


def test_the_plan_is_shown_and_nothing_removed(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cleanup", "--plan", *RULES]) == Exit.OK
    shown = capsys.readouterr().out
    assert f"remove  {ids[0]}" in shown and f"keep    {ids[2]}" in shown
    assert "2 backups of 3 would be removed" in shown
    assert answer(capsys, "cleanup", "--plan", *RULES)["needs_confirmation"]


def test_much_is_removed_only_when_somebody_agrees(
    ids: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    error = answer(capsys, "cleanup", *RULES, status=Exit.PRECONDITION)["error"]
    assert "confirmation" in error["message"]
    assert answer(capsys, "cleanup", *RULES, "--yes")["removed"] == ids[:2]
    assert answer(capsys, "cleanup", *RULES)["removed"] == []


def test_packs_are_rewritten_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = new_repository(tmp_path / "r", encryption=False)
    random, now = Random(1), datetime.now(UTC)
    files: Files = {b"base": None, **{b"base/%d" % n: random.randbytes(16 * PAGE) for n in range(8)}}
    later = files | {path: random.randbytes(16 * PAGE) for path in sorted(files)[2:]}
    for number, kind in enumerate((BackupType.FULL, BackupType.INCREMENTAL, BackupType.FULL)):
        at = now - timedelta(days=3 - number)
        run_ = ChainedRun(
            open_repository(config), at, kind, f"{number:06x}", later if number else files, 5 + number
        )
        with small_frames(2 * PAGE):
            run_.take()
        if number == 1:
            store_pin(open_repository(config), run_.backup_id, Pin(None, "wanted"), at)
    for name, value in {"BACKUP_DIR": str(tmp_path / "r"), "BACKUP_ENCRYPTION": "false"}.items():
        monkeypatch.setenv(name, value)
    assert answer(capsys, "cleanup", "--plan", *RULES)["compaction"] is None
    assert run(["cleanup", "--plan", "--compact", *RULES]) == Exit.OK
    assert "1 pack would be rewritten, 1.05 MB as 13" in capsys.readouterr().out
    plan = answer(capsys, "cleanup", "--plan", "--compact", *RULES)["compaction"]
    assert (plan["looked_at"], plan["packs"]) == (1, 1)
    assert run(["cleanup", "--compact", *RULES, "--yes"]) == Exit.OK
    shown = capsys.readouterr().out
    assert "1 pack rewritten, 1.05 MB as 13" in shown and "the old ones go with a cleanup after 20" in shown
    done = answer(capsys, "cleanup", "--compact", *RULES)["compaction"]
    assert (done["packs"], done["failed"]) == (0, [])
    assert run(["cleanup", "--plan", "--compact", *RULES]) == Exit.OK
    assert (
        "nothing to rewrite: of 1 pack of backups that are gone half or more is needed"
        in capsys.readouterr().out
    )


def test_a_pinned_backup_stays(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keep", ids[0], "--why", "the audit"]) == Exit.OK
    assert "kept until somebody releases it" in capsys.readouterr().out
    assert run(["list"]) == Exit.OK
    assert "ok, pinned" in capsys.readouterr().out
    plan = answer(capsys, "cleanup", "--plan", *RULES)
    assert plan["removed"] == ids[1:2]
    assert plan["backups"][0]["reasons"] == ["pinned for good: the audit"]
    assert answer(capsys, "keep", ids[0], "--remove")["pinned_until"] is None
    assert answer(capsys, "keep", ids[0], "--remove", status=Exit.PRECONDITION)
    assert answer(capsys, "keep", ids[0], "--until", "2001-01-01", status=Exit.PRECONDITION)
    assert answer(capsys, "cleanup", "--plan", *RULES)["removed"] == ids[:2]
