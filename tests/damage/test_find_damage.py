"""Harm found on real servers: all of it, with the right counts and names, and nothing else; and the way back."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pgproof.backup import BackupManager
from pgproof.cli.main import run as pgproof
from pgproof.errors import PreconditionError, TransientError
from pgproof.model.config import BackupConfig
from pgproof.model.harm import DamageReport, HarmfulTransaction, What
from pgproof.model.wal_records import TransactionEnd
from pgproof.recovery import RecoveryManager
from tests.damage import workload
from tests.damage.workload import Step
from tests.support.postgres import Cluster
from tests.support.recovery_world import RecoveryWorld
from tests.wal.places import config_file


@dataclass
class Past:
    world: RecoveryWorld
    place: Path
    steps: list[Step]
    report: DamageReport

    def look(self, config: BackupConfig | None = None, **options: Any) -> DamageReport:
        return look(self.world.cluster, config or self.world.config, **options)

    def transaction(self, what: What, name: str) -> HarmfulTransaction:
        return next(
            each
            for each in self.report.transactions
            if any(harm.what is what and name in (harm.relation, harm.database) for harm in each.harms)
        )

    def step(self, sql: str) -> Step:
        return next(step for step in self.steps if step.sql.startswith(sql))


def look(cluster: Cluster, config: BackupConfig, **options: Any) -> DamageReport:
    manager = RecoveryManager(cluster.config(), BackupManager(cluster.config(), config))
    return asyncio.run(manager.find_damage(**options))


everywhere = pytest.mark.parametrize("past", [15, 17, 18], indirect=True)
# What does not depend on the server's version.
on_18 = pytest.mark.parametrize("past", [18], indirect=True)


@pytest.fixture(scope="module")
def past(request: pytest.FixtureRequest) -> Iterator[Past]:
    with RecoveryWorld(request.param, settings={"max_prepared_transactions": 5}) as world:
        place = workload.before(world.cluster)
        with world.busy(world.cluster, 1):
            world.backup()
            steps = workload.steps()
            workload.run(world.cluster, steps)
        world.switch(world.cluster)
        world.push()
        yield Past(world, place, steps, look(world.cluster, world.config))


@everywhere
def test_all_harm_is_found_and_nothing_else(past: Past) -> None:
    expected = [step for step in past.steps if step.harms]
    for found, step in zip(past.report.transactions, expected, strict=False):
        assert list(found.harms) == step.harms, step.sql
        assert step.begun <= found.before <= found.end.lsn
        assert not found.at_least
    assert len(past.report.transactions) == len(expected)
    assert past.report.notes == ()
    assert past.report.older_left_out == 0


def bring_back(past: Past, what: What, name: str, database: str, query: str, rows: str) -> None:
    """By the command that is shown."""
    found = past.transaction(what, name)
    target = past.world.root / "back"
    command = [str(target) if word == "DIR" else word for word in shlex.split(found.restore)]
    command.append(f"--tablespace={past.place}={past.world.root / 'tablespace'}")
    config = config_file(past.world.config, past.world.root / "config.toml")
    try:
        assert command[0] == "pgproof"
        assert pgproof([*command[1:], "--config", str(config)]) == 0
        with past.world.adopt(target) as cluster:
            assert found.prepared == (name == "public.outlived")
            if found.prepared:
                cluster.psql("ROLLBACK PREPARED 'p'", "app")
            assert cluster.psql(query, database) == rows
            # What was committed before it is there, too.
            assert cluster.psql("SELECT to_regclass('customers') IS NULL", "app") == "t"
    finally:
        for path in (target, past.world.root / "tablespace"):
            shutil.rmtree(path, ignore_errors=True)


@everywhere
def test_the_command_that_is_shown_brings_a_database_back(past: Past) -> None:
    """Its directory went, and it was marked as invalid, before the transaction was committed."""
    query = "SELECT count(*) FROM pg_database WHERE datname = 'let'"
    bring_back(past, What.DROP_DATABASE, "let", "let", query, "1")


@on_18
def test_the_command_that_is_shown_brings_rows_and_tables_back(past: Past) -> None:
    bring_back(past, What.TRUNCATE, "public.stock", "app", "SELECT count(*) FROM stock", "400")
    bring_back(past, What.DROP_TABLE, "public.outlived", "app", "SELECT count(*) FROM outlived", "300")


@on_18
def test_a_window_of_time_and_a_number_of_rows_choose(past: Past) -> None:
    everything = past.report.transactions
    ends = {each.end for each in everything}

    def known(report: DamageReport) -> list[TransactionEnd]:
        """The server does not know what went, so it cannot tell that some of it was no harm."""
        return [each.end for each in report.transactions if each.end in ends]

    middle = everything[5]
    since = past.look(since=middle.end.time, names="server")
    assert known(since) == [each.end for each in everything[5:]]
    assert all(each.end.time >= middle.end.time for each in since.transactions)
    until = past.look(until=middle.end.time, since=middle.end.time - timedelta(days=1), names="server")
    assert known(until) == [each.end for each in everything[:6]]
    assert all(each.end.time <= middle.end.time for each in until.transactions)
    none = past.look(since=datetime.now(UTC) + timedelta(days=1))
    assert none.transactions == () and none.wal_bytes == 0
    most = past.look(min_rows=5000, names="server")
    rows = [harm.rows for each in most.transactions for harm in each.harms if harm.rows is not None]
    assert rows == [5000]


@on_18
def test_names_come_from_whom_they_are_asked_of(past: Past) -> None:
    numbers = past.look(names="none")
    # Without names nobody knows what is TOAST, a materialized view or unlogged; but nothing is overlooked.
    ends = {each.end for each in numbers.transactions}
    assert ends >= {each.end for each in past.report.transactions}
    assert all("public" not in (harm.relation or "") for each in numbers.transactions for harm in each.harms)
    away = replace(past.world.cluster.config(), port=1)
    manager = RecoveryManager(away, BackupManager(away, past.world.config))
    backup = asyncio.run(manager.find_damage())
    assert any("was not asked for names: the server cannot be reached" in note for note in backup.notes)
    found = {each.end: each.harms for each in backup.transactions}
    assert found[past.report.transactions[0].end] == past.report.transactions[0].harms
    (late,) = found[past.transaction(What.DELETE, "public.late").end]
    assert late.relation.startswith("file 1663/"), "the backup does not know it yet"
    with pytest.raises(TransientError):
        asyncio.run(manager.find_damage(names="server"))


@on_18
def test_what_nobody_can_name_is_shown_by_its_number(past: Past) -> None:
    """Made after the backup and gone before anybody asked; indexes that went are nobody's harm."""
    cluster = past.world.cluster
    since = datetime.now(UTC)
    cluster.psql(
        "CREATE TABLE brief (i int PRIMARY KEY, t text); INSERT INTO brief SELECT generate_series(1, 9)",
        "app",
    )
    oid = cluster.psql("SELECT 'brief'::regclass::oid", "app")
    cluster.psql("CREATE INDEX gone ON stock (n)", "app")
    cluster.psql("DROP INDEX gone", "app")
    cluster.psql("TRUNCATE brief", "app")
    cluster.psql("DROP TABLE brief", "app")
    past.world.switch(cluster)
    past.world.push()
    report = past.look(since=since)
    found = [(harm.what, harm.relation, harm.database) for each in report.transactions for harm in each.harms]
    assert found == [
        (
            What.TRUNCATE,
            f"file 1663/{cluster.psql('SELECT oid FROM pg_database WHERE datname = $$app$$')}/{oid}",
            "app",
        ),
        (What.DROP_TABLE, f"relation {oid}", "app"),
    ]


@on_18
def test_the_command_line_tells_it_in_words_and_in_json(
    past: Past, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file(past.world.config, past.world.root / "config.toml")
    server = past.world.cluster
    where = ["--host", str(server.socket_dir), "--port", str(server.port), "--user", "postgres"]
    options = ["find-damage", "--config", str(config), *where, "--min-rows", "5000"]
    assert pgproof([*options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    dropped = document["transactions"][0]
    expected = past.report.transactions[0]
    assert dropped["xid"] == expected.end.xid
    assert dropped["restore_lsn"] == dropped["lsn"] == str(expected.before)
    assert dropped["restore"] == expected.restore
    assert dropped["harms"] == [
        {
            "what": "drop-table",
            "database": "app",
            "relation": "public.customers",
            "rows": None,
            "estimated_rows": 700,
            "relations": 1,
        }
    ]
    assert pgproof([*options, "--names", "server"]) == 0
    said = capsys.readouterr().out
    assert "DELETE public.orders: 5,000 rows, in database app" in said
    assert "UTC" in said and "ago" in said
    assert expected.restore in said


@on_18
def test_what_cannot_be_asked_is_refused(past: Past) -> None:
    for options, words in [
        ({"min_rows": 0}, "too few rows"),
        ({"since": "2026-11-25T12:00Z", "until": "2026-11-24T12:00Z"}, "ends before it begins"),
        ({"since": "the other day"}, "not a time"),
        ({"timeline": 7}, "does not know this timeline"),
    ]:
        with pytest.raises(PreconditionError, match=words):
            past.look(**options)
    empty = Path(past.world.root / "place")
    empty.mkdir(exist_ok=True)
    with pytest.raises(PreconditionError):
        past.look(replace(past.world.config, scratch_dir=str(empty / "missing")))
