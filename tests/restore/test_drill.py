"""Restore drills on real servers: the moment, the questions, the clock on each step, and what is left behind."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.actions.drill import list_drills, run_drill
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.model.drill import DrillReport, DrillRequest
from pgproof.model.job import Job
from pgproof.model.recovery_target import target_from
from tests.postgres.clusters import processes_of
from tests.support import machine
from tests.support.faults import run_armed
from tests.support.recovery_world import Mark, RecoveryWorld

_STEPS = ["choose", "restore", "replay", "start", "checks"]


class Rehearsed:
    """A world with two backups, WAL behind them, and marks."""

    def __init__(self, world: RecoveryWorld) -> None:
        self.world = world
        primary = world.cluster
        primary.psql("CREATE DATABASE shop")
        primary.psql("CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id", dbname="shop")
        self.marks: list[Mark] = []
        for _ in range(2):
            world.backup()
            self.marks += [world.mark(primary, 1) for _ in range(2)]
            primary.psql(
                "CREATE TABLE IF NOT EXISTS bulk AS SELECT repeat('x', 900) FROM generate_series(1, 9000)"
            )
            world.switch(primary)
        world.push()


@pytest.fixture(scope="module")
def rehearsed() -> Iterator[Rehearsed]:
    with RecoveryWorld(18) as world:
        yield Rehearsed(world)


def _write(folder: Path, **files: str) -> Path:
    for name, sql in files.items():
        path = folder / f"{name.replace('__', '/')}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sql)
    return folder


def test_a_drawn_moment_is_reached_asked_timed_and_kept(rehearsed: Rehearsed, tmp_path: Path) -> None:
    world = rehearsed.world
    folder = _write(
        tmp_path / "checks",
        marks="SELECT count(*) <= 4 FROM marks -- with a comment",
        shop__orders="SELECT count(*) = 1000 FROM orders;",
    )
    request = DrillRequest(seed=7, checks_dir=folder)
    report = run_drill(world.config, None, request, Job())
    assert report.ok, report
    assert sorted(step.name for step in report.steps) == sorted(_STEPS)
    found = {check.name: check.ok for check in report.checks}
    assert found["check marks.sql"] and found["check shop/orders.sql"] and found["pg_amcheck"]
    assert found["pg_visibility"] is not False
    assert report.rto_seconds is not None and report.forecast is not None and report.end_lsn is not None
    seconds = {step.name: step.seconds for step in report.steps}
    assert report.rto_seconds == pytest.approx(sum(seconds[name] for name in _STEPS[:4]))
    assert report.forecast.size_bytes == world.backups[-1].size_bytes
    assert report.forecast.wal_bytes > 0 and report.forecast.seconds > 0
    assert list_drills(world.config, 1) == [DrillReport.from_json(report.to_json())]
    # The command that the report names goes to the same place.
    backup_id, lsn = report.again.split()[3], report.again.split()[5]
    named = run_drill(world.config, None, DrillRequest(backup_id, target_from(lsn=lsn)), Job())
    assert (named.end_lsn, named.backup_id) == (report.end_lsn, report.backup_id)
    assert [each.at for each in list_drills(world.config, 2)] == [named.at, report.at]


def test_questions_that_are_not_answered_with_yes_fail_the_drill(
    rehearsed: Rehearsed, tmp_path: Path
) -> None:
    """At a moment that is known: the first mark is there, the second not yet."""
    first, second = rehearsed.marks[:2]
    target = target_from(time=first.time)
    folder = _write(
        tmp_path / "checks",
        first=f"SELECT count(*) = 1 FROM marks WHERE number = {first.number}",
        second=f"SELECT count(*) = 0 FROM marks WHERE number = {second.number}",
        none="SELECT true WHERE false",
        false="SELECT number <> 1 FROM marks",
        error="SELECT no_such_function()",
        writes="CREATE TABLE written ()",
        two="SELECT true; DROP TABLE marks",
        slow="SELECT pg_sleep(60) IS NOT NULL",
        nowhere__database="SELECT true",
        empty="",
    )
    request = DrillRequest(target=target, checks_dir=folder, check_seconds=0.2)
    report = run_drill(rehearsed.world.config, "postgres", request, Job())
    assert not report.ok and report.failed_step == "checks"
    wrong = {check.name: check.detail for check in report.checks if check.ok is False}
    assert {name.removeprefix("check ").removesuffix(".sql") for name in wrong} == {
        *("none", "false", "error", "writes", "two", "slow", "nowhere/database", "empty")
    }
    assert "statement timeout" in wrong["check slow.sql"] and "read-only" in wrong["check writes.sql"]
    assert "multiple commands" in wrong["check two.sql"] and "1 of 1" in wrong["check false.sql"]
    assert report.rto_seconds is not None, "it was recovered all the same"
    assert list_drills(rehearsed.world.config, 1)[0].failed_step == "checks"


def _drill(config: BackupConfig, temporary: Path, backup_id: str) -> None:
    tempfile.tempdir = str(temporary)
    run_drill(config, None, DrillRequest(backup_id, seed=1), Job())


def test_a_damaged_backup_fails_the_drill_and_what_a_killed_one_left_goes(
    rehearsed: Rehearsed, work_dir: Path
) -> None:
    world, temporary = rehearsed.world, work_dir / "tmp"
    temporary.mkdir()
    temporary.chmod(0o755)
    config, old = replace(world.config, scratch_dir=None), world.backups[0].backup_id
    assert run_armed("drill.started=kill", _drill, config, temporary, old) == -signal.SIGKILL
    (place,) = temporary.glob("pgproof-scratch-*")
    machine.wait_until(lambda: not processes_of(place / "data"), "the server to die with its parent")
    (pack, *_rest) = sorted((world.root / "repository/clusters/main/packs" / old).iterdir())
    content = pack.read_bytes()
    pack.chmod(0o600)
    try:
        pack.write_bytes(content[:1000] + bytes(50) + content[1050:])
        assert run_armed("", _drill, config, temporary, old) == 0
    finally:
        pack.write_bytes(content)
    # A server's own directory goes when the next server starts, as after a killed verification.
    assert list(temporary.glob("pgproof-scratch-*")) == []
    report = list_drills(config, 1)[0]
    assert (report.failed_step, report.backup_id, report.rto_seconds) == ("restore", old, None)
    assert "sealed bytes were changed" in report.failure and "pgproof verify" in report.hint


def test_requests_that_make_no_sense_are_refused_and_not_recorded(
    rehearsed: Rehearsed, tmp_path: Path
) -> None:
    config, before = rehearsed.world.config, len(list_drills(rehearsed.world.config))
    (tmp_path / "empty").mkdir()
    binary = _write(tmp_path / "binary", a="SELECT true")
    (binary / "a.sql").write_bytes(b"\xff\xfe")
    for request, words in [
        (DrillRequest(checks_dir=tmp_path / "missing"), "no folder of checks"),
        (DrillRequest(checks_dir=tmp_path / "empty"), "no checks in this folder"),
        (DrillRequest(checks_dir=binary), "not text"),
        (DrillRequest(backup_id="20200101"), "no such backup"),
        (DrillRequest(target=target_from(time="2020-01-01T00:00:00Z")), "before the end of the oldest"),
    ]:
        with pytest.raises(PreconditionError, match=words):
            run_drill(config, None, request, Job())
    assert len(list_drills(config)) == before


def test_a_machine_without_the_user_for_its_servers_fails_the_drill(rehearsed: Rehearsed) -> None:
    report = run_drill(
        replace(rehearsed.world.config, scratch_user="nobody-of-this-name"), None, DrillRequest(), Job()
    )
    assert (report.failed_step, report.rto_seconds) == ("choose", None)
    assert "nobody-of-this-name" in report.failure and report.hint
