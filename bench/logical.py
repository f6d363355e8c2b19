"""Logical backups beside pg_dump and pg_restore.

The same data as for the other backups, on PostgreSQL 17, whose pg_dump compresses with zstd. We encrypt, pg_dump does
not. Every restored database must hold the rows of its source. Medians.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import data
from bench.contender import discard, drop_from_cache, size_of
from bench.measure import Command, Cost, measure
from bench.targets import Target, target_table
from tests.support import machine
from tests.support.postgres import Cluster

FULL, SAME, APPENDED, CHANGED, RESTORE = "full", "unchanged", "appended", "changed", "restore"
OURS, FORMAT_D, FORMAT_C = "pgproof", "pg_dump -Fd -j2, zstd 3", "pg_dump -Fc, zstd 3"
_ROOT = Path(__file__).parents[1]
_MAJOR = 17
_SAMPLE_EVERY = 0.05
_TARGET = "restored"


@dataclass(frozen=True)
class Measured:
    """One operation of one contender in one round; megabytes are 10^6 bytes."""

    name: str
    operation: str
    round: int
    wall: float
    cpu: float
    server_cpu: float
    memory_mb: float
    spool_mb: float
    stored_mb: float

    def __str__(self) -> str:
        return f"round {self.round + 1}: {self.name} {self.operation}: {self.wall:.2f} s"


def measurements(gigabytes: float, rounds: int, small_tables: int = data.SMALL_TABLES) -> Iterator[Measured]:
    """Everyone in turn, round by round, each round with data of its own."""
    work = Path(tempfile.mkdtemp(prefix="pgproof-bench-", dir="/tmp"))
    work.chmod(0o755)
    try:
        for number in range(rounds):
            with Cluster(_MAJOR, settings={"autovacuum": False, "max_wal_size": "16GB"}) as source:
                data.fill(source, gigabytes, small_tables)
                yield from _dumps(source, number, work)
                yield from _ours(source, number, work)
    finally:
        shutil.rmtree(work)


def _ours(source: Cluster, number: int, work: Path) -> Iterator[Measured]:
    repository, spool = work / "repository", work / "spool"
    repository.mkdir()
    spool.mkdir(mode=0o777)
    environment = {
        **source.libpq_environment(),
        "BACKUP_PASSPHRASE": "a secret of the benchmark",
        "BACKUP_DIR": str(repository),
        "TMPDIR": str(spool),
    }

    def command(*arguments: str) -> Command:
        program = str(_ROOT / "scripts" / "db_backup.py")
        return Command(
            [sys.executable, program, *arguments], machine.environment(PYTHONPATH=str(_ROOT), **environment)
        )

    def create(kind: str) -> Command:
        return command("create", "--method", "logical", "--type", kind, "--database", "postgres", "--json")

    try:
        measure(command("init", "--yes"), work / "log")
        changes: dict[str, Callable[[], None]] = {
            FULL: lambda: None,
            SAME: lambda: None,
            APPENDED: lambda: append_rows(source),
            CHANGED: lambda: change_rows(source),
        }
        for operation, change in changes.items():
            change()
            before = size_of(repository)[0]
            with _watched(spool) as peak:
                cost = measure(
                    create("full" if operation == FULL else "incremental"), work / "log", server=source.pid
                )
            stored = size_of(repository)[0] - before
            yield _measured(OURS, operation, number, cost, peak["bytes"], stored)
        drop_from_cache([repository])
        restore = command("restore", "latest", "--target", _TARGET, "--yes")
        with _watched(spool) as peak:
            cost = measure(restore, work / "log", server=source.pid)
        _check_restored(source)
        yield _measured(OURS, RESTORE, number, cost, peak["bytes"], 0)
    finally:
        discard(repository)
        discard(spool)


def _dumps(source: Cluster, number: int, work: Path) -> Iterator[Measured]:
    environment = machine.environment(**source.libpq_environment())
    dump = str(source.bin / "pg_dump")
    for name, options in ((FORMAT_C, ["-Fc"]), (FORMAT_D, ["-Fd", "-j2"])):
        target = work / "dump"
        argv = [dump, *options, "--compress=zstd:level=3", f"--file={target}", "postgres"]
        cost = measure(Command(argv, environment), work / "log", server=source.pid)
        stored = size_of(target)[0] if target.is_dir() else target.stat().st_size
        yield _measured(name, FULL, number, cost, 0, stored)
        if name == FORMAT_D:
            source.psql(f"CREATE DATABASE {_TARGET}")
            drop_from_cache([target])
            argv = [
                str(source.bin / "pg_restore"),
                "-j2",
                "--exit-on-error",
                f"--dbname={_TARGET}",
                str(target),
            ]
            cost = measure(Command(argv, environment), work / "log", server=source.pid)
            _check_restored(source)
            yield _measured(name, RESTORE, number, cost, 0, 0)
            discard(target)
        else:
            target.unlink()


def append_rows(source: Cluster) -> None:
    """One row in a hundred more at the end of the largest table."""
    source.psql(
        "INSERT INTO orders SELECT id + (SELECT max(id) FROM orders), customer, at, note FROM orders "
        "WHERE id <= (SELECT count(*) / 100 FROM orders)"
    )


def change_rows(source: Cluster) -> None:
    """One row in a hundred of the largest table, anywhere in it."""
    source.psql("UPDATE orders SET at = at + interval '1 second' WHERE hashint8(id) % 100 = 0")


def _check_restored(source: Cluster) -> None:
    expected, found = data.counts(source), data.counts(source, _TARGET)
    if expected != found:
        raise RuntimeError("the restored database has other rows")
    source.psql(f"DROP DATABASE {_TARGET}")


def _measured(name: str, operation: str, number: int, cost: Cost, spool: int, stored: int) -> Measured:
    return Measured(
        name,
        operation,
        number,
        round(cost.wall, 3),
        round(cost.cpu, 3),
        round(cost.server_cpu, 3),
        round(cost.memory_mb, 1),
        round(spool / 1e6, 1),
        round(stored / 1e6, 3),
    )


@contextmanager
def _watched(folder: Path) -> Iterator[dict[str, int]]:
    """Look at the room that the files of a folder take, holes left out; the most is under `bytes`."""
    peak, over = {"bytes": 0}, threading.Event()

    def look() -> None:
        while not over.wait(_SAMPLE_EVERY):
            peak["bytes"] = max(peak["bytes"], _room(folder))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _room(folder: Path) -> int:
    total = 0
    for path, _folders, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(path) / name).stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total


# the table


def markdown(found: Sequence[Measured]) -> str:
    titles = {
        FULL: "full backup",
        SAME: "incremental, nothing changed",
        APPENDED: "incremental, 1 % of the largest table's rows appended",
        CHANGED: "incremental, 1 % of its rows updated at random",
        RESTORE: "restore into a database",
    }
    lines = [
        "| | | wall s | CPU s | server's CPU s | memory MB | spool MB | stored MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for operation, title in titles.items():
        for name in (OURS, FORMAT_D, FORMAT_C):
            rows = [each for each in found if (each.name, each.operation) == (name, operation)]
            if rows:
                wall, cpu, server, memory, spool, stored = (
                    median(getattr(row, column) for row in rows)
                    for column in ("wall", "cpu", "server_cpu", "memory_mb", "spool_mb", "stored_mb")
                )
                lines.append(
                    f"| {title} | {name} | {wall:.2f} | {cpu:.2f} | {server:.2f} | {memory:.0f} | {spool:.0f} "
                    f"| {stored:.1f} |"
                )
    return "\n".join([*lines, *target_table(targets(found))])


def targets(found: Sequence[Measured]) -> list[Target]:
    def of(name: str, operation: str, column: str = "wall") -> float:
        rows: Mapping[int, float] = {
            each.round: getattr(each, column)
            for each in found
            if (each.name, each.operation) == (name, operation)
        }
        return median(rows.values())

    full = of(OURS, FULL, "stored_mb")
    return [
        Target(f"full backup, wall time by {FORMAT_D}'s", of(OURS, FULL) / of(FORMAT_D, FULL), 1.1),
        Target("stored of what did not change, by the full", of(OURS, SAME, "stored_mb") / full, 0.001),
        Target("stored of 1 % appended, by the full", of(OURS, APPENDED, "stored_mb") / full, 0.05),
        Target("restore, wall time by pg_restore -j2's", of(OURS, RESTORE) / of(FORMAT_D, RESTORE), 1.1),
        Target("spool, MB", max(each.spool_mb for each in found if each.name == OURS), 256),
    ]
