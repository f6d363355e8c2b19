"""A mistake among ongoing writes: found in the WAL, and put back exactly, without a trace on what others wrote."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pgproof.actions.take_backup import take_backup
from pgproof.cli.main import run as pgproof
from pgproof.model.config import BackupType
from pgproof.model.job import Job
from tests.support.postgres import Cluster
from tests.support.recovery_world import RecoveryWorld
from tests.wal.places import config_file

_TABLES = """
CREATE DATABASE app;
\\connect app
CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL, total numeric(12, 2), note text, placed timestamptz);
INSERT INTO orders SELECT g, g % 700, g * 1.25, 'order ' || g, to_timestamp(1700000000 + g) FROM generate_series(1, 20000) g;
CREATE TABLE truth (LIKE orders INCLUDING ALL);
INSERT INTO truth SELECT * FROM orders;
"""
_MISTAKES = (
    "DELETE FROM orders WHERE id <= 5000; UPDATE orders SET total = 0 WHERE id BETWEEN 10001 AND 13000"
)


@contextmanager
def at_work(cluster: Cluster, after: int = 20000) -> Iterator[None]:
    """Somebody commits while the block runs, before the mistake and after it: rows with numbers above `after`."""
    done, number = threading.Event(), after
    begun = threading.Event()

    def work() -> None:
        nonlocal number
        with cluster.connect("app") as connection:
            while not done.is_set():
                number += 1
                with connection.transaction():
                    for table in ("orders", "truth"):
                        old = 15001 + number % 5000
                        connection.execute(
                            f"INSERT INTO {table} VALUES (%s, 1, 2, 'new', '2026-11-25 12:00Z')".encode(),
                            [number],
                        )
                        connection.execute(
                            f"UPDATE {table} SET total = total + 1, note = 'seen' WHERE id = %s".encode(),
                            [old],
                        )
                if number > after + 20:
                    begun.set()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert begun.wait(60)
        yield
        before = number
        while number < before + 20:
            assert worker.is_alive()
            done.wait(0.01)
    finally:
        done.set()
        worker.join()


@pytest.mark.parametrize("major", [15, 17, 18])
def test_what_was_deleted_and_changed_is_put_back_exactly(
    major: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecoveryWorld(major) as world:
        cluster = world.cluster
        cluster.psql(_TABLES)
        world.backup()
        cluster.psql("UPDATE orders SET note = 'later' WHERE id % 10 = 0", "app")
        cluster.psql("UPDATE truth SET note = 'later' WHERE id % 10 = 0", "app")
        incremental = take_backup(cluster.config(), world.config, BackupType.INCREMENTAL, Job())
        config = ["--config", str(config_file(world.config, world.root / "config.toml"))]
        config += ["--host", str(cluster.socket_dir), "--port", str(cluster.port), "--user", "postgres"]
        config += ["--dbname", "app"]
        with at_work(cluster):
            cluster.psql(_MISTAKES.replace("; ", ";\n"), "app")
        world.switch(cluster)
        world.push()

        assert pgproof(["find-damage", *config, "--min-rows", "2500", "--json"]) == 0
        deleted, updated = json.loads(capsys.readouterr().out)["transactions"]
        assert deleted["harms"][0]["rows"] == 5000 and updated["harms"][0]["rows"] == 3000

        rows = world.root / "rows.csv"
        restore = ["restore", "--table", "public.orders", *config]
        point = ["--to-lsn", deleted["restore_lsn"], "--exclusive"]
        assert pgproof([*restore, *point, "--csv", str(rows), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["backup_id"] == incremental.backup_id
        comparison = found["comparison"]
        assert comparison["missing"] == 5000
        # What others wrote meanwhile differs too, and is told apart by who wrote it.
        assert comparison["changed"] > 3000 and comparison["new"] >= 20
        assert comparison["changed_by"][0] == {"xid": updated["xid"], "rows": 3000}
        differing = comparison["missing"] + 2 * comparison["changed"] + comparison["new"]
        assert rows.read_text().count("\n") == differing + 1
        assert rows.stat().st_mode & 0o777 == 0o600

        merge = [
            "--rescued",
            found["rescued"],
            "--merge",
            "both",
            "--written-by",
            str(updated["xid"]),
            "--yes",
        ]
        with at_work(cluster, after=40000):
            assert pgproof([*restore, *merge]) == 0
        said = capsys.readouterr().out
        assert "5,000 rows were put back and 3,000 overwritten" in said
        assert differences(cluster) == "0"


def differences(cluster: Cluster) -> str:
    return cluster.psql(
        "SELECT count(*) FROM ((TABLE orders EXCEPT ALL TABLE truth) UNION ALL (TABLE truth EXCEPT ALL TABLE orders)) d",
        "app",
    )
