"""Compare a rescued table with the live one, and put rows back."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import PostgresConfig
from pgproof.model.job import Job
from pgproof.model.table_names import TableName
from pgproof.model.table_rescue import Kind, Merge, MergeReport, TableComparison
from pgproof.model.table_shape import in_common
from pgproof.postgres.connection import connect
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.row_text import fix_settings
from pgproof.postgres.stopping import stopping
from pgproof.postgres.table_comparing import TableComparer
from pgproof.postgres.table_merging import lock_tables, merge_rows
from pgproof.postgres.table_shape import read_shape

_log = logging.getLogger(__name__)
Connection = psycopg.Connection[Any]


def compare_rescued(
    postgres: PostgresConfig,
    table: TableName,
    rescued: TableName,
    job: Job,
    *,
    csv: Path | None = None,
    rows_shown: int = 10,
) -> TableComparison:
    """Compare a table that was rescued before with the live one; both are only read."""
    with csv_file(csv) as write_csv, connect(postgres, name="pgproof_rescue") as live:
        found = compare_live(live, table, rescued, rows_shown, write_csv, job)
    if found is None:
        raise PreconditionError(
            "there is no live table to compare with", hint="look at its name", table=table
        )
    return found


def merge_rescued(
    postgres: PostgresConfig,
    table: TableName,
    rescued: TableName,
    merge: Merge,
    job: Job,
    *,
    written_by: Sequence[int] = (),
) -> MergeReport:
    """Put rows of `rescued` back into `table`, in one transaction, while nobody else writes into it.

    `written_by` restricts changed rows to those that one of these transactions wrote last. Raises
    PreconditionError for rows that would violate a constraint, naming them: then nothing is merged.
    """
    begun = time.monotonic()
    with connect(postgres, name="pgproof_rescue") as live:
        job.report("putting rows back")
        live.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        with stopping(job, "the merge", live), live.transaction():
            lock_tables(live, table, rescued)
            fix_settings(live)
            comparer = _comparer(live, table, rescued)
            inserted, updated, differ = merge_rows(comparer, merge, written_by)
    failpoint("rescue.committed")
    report = MergeReport(
        table, rescued, merge, inserted, updated, time.monotonic() - begun, differ, tuple(written_by)
    )
    _log.info(
        "table merged table=%s from=%s inserted=%d updated=%d differ_still=%d seconds=%.1f",
        table,
        rescued,
        inserted,
        updated,
        differ,
        report.seconds,
    )
    return report


def compare_live(
    live: Connection,
    table: TableName,
    rescued: TableName,
    rows_shown: int,
    write_csv: Callable[[Iterator[bytes]], None] | None,
    job: Job,
) -> TableComparison | None:
    """As one snapshot of the database sees them; None without a live table."""
    job.report("comparing with the live table")
    live.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with stopping(job, "the comparison", live), live.transaction():
        fix_settings(live)
        if read_shape(live, table) is None:
            return None
        comparer = _comparer(live, table, rescued)
        counts = comparer.collect()
        found = TableComparison(
            table,
            comparer.common,
            counts[Kind.MISSING],
            counts[Kind.CHANGED],
            counts[Kind.NEW],
            tuple(comparer.first(rows_shown)),
            tuple(comparer.writers()),
            tuple(comparer.violations()),
            comparer.live.triggers,
        )
        if write_csv is not None:
            write_csv(comparer.csv())
    return found


def _comparer(live: Connection, table: TableName, rescued: TableName) -> TableComparer:
    shapes = [read_shape(live, name) for name in (table, rescued)]
    for name, shape in zip((table, rescued), shapes, strict=True):
        if shape is None:
            raise PreconditionError("there is no such table", hint="look at its name", table=name)
    ours, theirs = shapes
    assert ours is not None and theirs is not None
    common = in_common(ours, theirs)
    if not common.columns:
        raise PreconditionError(
            "the two tables have no column in common",
            hint="compare them by hand",
            table=table,
            rescued=rescued,
        )
    return TableComparer(live, ours, theirs, common)


@contextmanager
def csv_file(path: Path | None) -> Iterator[Callable[[Iterator[bytes]], None] | None]:
    """Yields what writes the file; it has its name only when it is whole. Raises PreconditionError at once where it
    cannot be written."""
    if path is None:
        yield None
        return
    if path.exists():
        raise PreconditionError("the file exists already", hint="give another name with --csv", file=path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")

    def write(rows: Iterator[bytes]) -> None:
        with on_disk(unfinished), unfinished.open("wb") as file:
            for data in rows:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with on_disk(path):
            unfinished.rename(path)

    try:
        with on_disk(unfinished):
            unfinished.touch(mode=0o600, exist_ok=False)
        yield write
    finally:
        unfinished.unlink(missing_ok=True)
