"""What counts as broken, and what `--fail-if` understands."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgproof.errors import PreconditionError
from pgproof.model.conditions import Condition, failing
from pgproof.model.objectives import Objectives, Standing, broken_objectives, loss_in_words

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
FINE = Standing(
    "main",
    NOON,
    backups=3,
    backup_id="b",
    backup_at=NOON - timedelta(hours=5),
    proven_id="a",
    proof_at=NOON - timedelta(days=2),
    proof_seconds=600.0,
    oldest=NOON - timedelta(days=7),
    newest=NOON - timedelta(minutes=30),
    lag_seconds=2.0,
)
NO_SERVER = replace(FINE, lag_seconds=None, server_problem="it is away")
NOTHING = Standing("main", NOON)


@pytest.mark.parametrize(
    ("standing", "objectives", "expected"),
    [
        (FINE, {}, []),
        (FINE, {"backup_max_age_hours": 6, "proof_max_age_days": 3, "rpo_minutes": 1, "rto_minutes": 11}, []),
        (FINE, {"backup_max_age_hours": 4}, ["backup-age"]),
        (FINE, {"proof_max_age_days": 1}, ["proof-age"]),
        (FINE, {"rto_minutes": 9}, ["rto"]),
        (replace(FINE, drill_seconds=500.0), {"rto_minutes": 9}, []),
        (replace(FINE, proof_seconds=None, drill_seconds=600.0), {"rto_minutes": 9}, ["rto"]),
        # Without the server's word the newest moment that can be restored is what there is.
        (NO_SERVER, {"rpo_minutes": 29}, ["rpo"]),
        (NO_SERVER, {"rpo_minutes": 31}, []),
        (replace(NO_SERVER, newest=None), {"rpo_minutes": 299}, ["rpo"]),
        (replace(FINE, proof_at=None, proof_seconds=None), {"proof_max_age_days": 1}, ["proof-age"]),
        # Nothing was measured yet: that is no broken promise of time.
        (replace(FINE, proof_seconds=None), {"rto_minutes": 9}, []),
        (NOTHING, {}, ["no-backup"]),
        # One cause, one alarm.
        (NOTHING, {"backup_max_age_hours": 4, "rpo_minutes": 1}, ["no-backup"]),
        (replace(FINE, gaps=("a gap",)), {}, ["gap"]),
        # What is stored behind a gap is of no use, whatever the server says of its lag.
        (replace(FINE, gaps=("a gap",)), {"rpo_minutes": 29}, ["gap", "rpo"]),
        (replace(FINE, flawed=("it is damaged",)), {}, ["degraded"]),
        (replace(FINE, cleanup_since=NOON - timedelta(days=1)), {}, ["cleanup"]),
    ],
)
def test_broken(standing: Standing, objectives: dict[str, int], expected: list[str]) -> None:
    found = broken_objectives(standing, Objectives(**objectives))
    assert [each.key for each in found] == expected
    assert all(each.text and each.hint for each in found)


@pytest.mark.parametrize(
    ("standing", "condition", "expected"),
    [
        (FINE, "backup-age>5h", []),
        (FINE, "backup-age>299m", ["backup-age"]),
        (FINE, "proof-age > 1d", ["proof-age"]),
        (FINE, "wal-lag>2s", []),
        (FINE, "wal-lag>1s", ["wal-lag"]),
        (FINE, "rpo>1s", ["rpo"]),
        (FINE, "rto>10m", []),
        (NOTHING, "backup-age>9999d", ["backup-age"]),
        (NOTHING, "wal-lag>9999d", ["wal-lag"]),
        (NOTHING, "objective", ["no-backup"]),
        (FINE, "server", []),
        (NO_SERVER, "server", ["server"]),
        (replace(FINE, gaps=("a gap",)), "gap", ["gap"]),
        (replace(FINE, flawed=("bad",)), "degraded", ["degraded"]),
        (replace(FINE, cleanup_since=NOON), "cleanup", ["cleanup"]),
        (FINE, "gap", []),
    ],
)
def test_conditions(standing: Standing, condition: str, expected: list[str]) -> None:
    found = failing([Condition.parse(condition)] * 2, standing, Objectives())
    assert [each.key for each in found] == expected


@pytest.mark.parametrize(
    "text", ["", "backup-age", "backup-age>5", "backup-age>-5h", "age>5h", "gap>5h", "rpo>٣h"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(PreconditionError, match="not a condition"):
        Condition.parse(text)


@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_what_is_no_objective_is_refused(value: Any) -> None:
    with pytest.raises(PreconditionError, match="not an objective"):
        Objectives(rpo_minutes=value)


@pytest.mark.parametrize(
    ("risk", "words"),
    [
        (None, "everything"),
        (timedelta(milliseconds=3), "less than a second"),
        (timedelta(seconds=4), "changes of 4 s"),
    ],
)
def test_a_loss_is_told_in_words(risk: timedelta | None, words: str) -> None:
    assert loss_in_words(risk) == words
