"""Looks that are remembered in a file: durable, trimmed, shared, and mended when it is damaged."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgproof.actions.replica_history import ReplicaHistory
from pgproof.errors import PreconditionError
from pgproof.model.replica_history import Look
from tests.support.faults import forks

NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)


def look(at: datetime) -> Look:
    return Look(at, 1, 1.0)


def test_a_week_is_kept(tmp_path: Path) -> None:
    history = ReplicaHistory(tmp_path, "main")
    assert history.read().looks == () and not history.path.parent.exists()
    days = [look(NOW + timedelta(days=day)) for day in range(10)]
    for each in days:
        history.append(each)
    found = history.read()
    assert found.note == "" and found.looks == tuple(days[2:])
    assert ReplicaHistory(tmp_path, "other").read().looks == ()


@pytest.mark.parametrize("damage", [b'{"at": 7}\n', b"\xff\x00\n", b'{"at":"2026-11-27T'])
def test_what_cannot_be_read_is_moved_aside_and_the_rest_stays(tmp_path: Path, damage: bytes) -> None:
    history = ReplicaHistory(tmp_path, "main")
    history.append(look(NOW))
    with history.path.open("ab") as file:
        file.write(damage)
    before = history.path.read_bytes()
    found = history.append(look(NOW + timedelta(minutes=1)))
    assert len(found.looks) == 2 and "cannot be read" in found.note
    (aside,) = history.path.parent.glob("*.damaged-*")
    assert aside.read_bytes() == before and str(aside) in found.note
    assert history.read().note == "" and len(history.read().looks) == 2


def _append(state: Path, worker: int) -> None:
    history = ReplicaHistory(state, "main")
    for number in range(25):
        # Old enough that some are trimmed meanwhile.
        history.append(look(NOW + timedelta(hours=12 * number, seconds=worker)))


def test_two_workers_lose_nothing_of_each_other(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=forks) as pool:
        for done in [pool.submit(_append, tmp_path, worker) for worker in (1, 2)]:
            done.result(timeout=60)
    found = ReplicaHistory(tmp_path, "main").read()
    kept = [each.at for each in found.looks]
    newest = NOW + timedelta(hours=12 * 24)
    wanted = {NOW + timedelta(hours=12 * number, seconds=worker) for worker in (1, 2) for number in range(25)}
    assert found.note == "" and {each for each in wanted if each > newest - timedelta(days=6)} <= set(kept)


def test_a_directory_that_may_not_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "replicas").touch()
    with pytest.raises(PreconditionError, match="history") as refused:
        ReplicaHistory(tmp_path, "main").append(look(NOW))
    assert "BACKUP_STATE_DIR" in refused.value.hint
