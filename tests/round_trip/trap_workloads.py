"""Workloads after which the server's own incremental backups were wrong, as one step before each backup.

F1: VACUUM truncates and COPY extends in bulk, so trailing zero pages are in no summary; rows came back from
the dead. F2: truncation leaves stale bits in the visibility map. F3: F1 with one more backup between the
truncation and the growth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.support.postgres import Cluster

Step = Callable[[Cluster], None]

EXTENSIONS = "CREATE EXTENSION pg_visibility; CREATE EXTENSION amcheck;"


def _fill(cluster: Cluster) -> None:
    cluster.psql(
        EXTENSIONS + "CREATE TABLE t (id int, pad text);"
        "INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 30000) g;"
        "CREATE INDEX ON t (id);"
        "VACUUM (FREEZE) t"
    )


def _shorten(cluster: Cluster) -> None:
    # At least a sixteenth of the table must be free at its end, or VACUUM does not truncate.
    before = _pages(cluster)
    cluster.psql("DELETE FROM t WHERE id > 20000")
    cluster.psql("VACUUM t")
    assert _pages(cluster) < before, "VACUUM did not truncate"


def _grow(cluster: Cluster) -> None:
    with cluster.connect() as connection, connection.cursor() as cursor:
        for rows in (501, 1001, 1501):
            with cursor.copy("COPY t FROM STDIN") as copy:
                for number in range(rows):
                    copy.write_row((number, "y" * 200))


def _both(cluster: Cluster) -> None:
    _shorten(cluster)
    _grow(cluster)


def _visible(cluster: Cluster) -> None:
    cluster.psql(
        EXTENSIONS + "CREATE TABLE t (id int PRIMARY KEY);"
        "INSERT INTO t SELECT g FROM generate_series(1, 60000) g;"
        "VACUUM (FREEZE) t;"
        "DELETE FROM t WHERE id > 30000"
    )
    cluster.psql("VACUUM (TRUNCATE FALSE) t")


def _truncate(cluster: Cluster) -> None:
    before = _pages(cluster)
    cluster.psql("VACUUM t")
    assert _pages(cluster) < before, "VACUUM did not truncate"


def _delete_visible(cluster: Cluster) -> None:
    """Rows of pages that were all visible when the base was taken go: no record names the map's page on 17."""
    cluster.psql("DELETE FROM t WHERE id % 100 = 0 AND id < 3000")


def _pages(cluster: Cluster) -> int:
    return int(cluster.psql("SELECT pg_relation_size('t') / 8192"))


WORKLOADS: dict[str, list[Step]] = {
    "F1": [_fill, _both],
    "F2": [_visible, _truncate],
    "F3": [_fill, _shorten, _grow],
    "F2 by deleting": [_fill, _delete_visible],
}


def after_restore(restored: Cluster) -> Iterator[tuple[str, Any]]:
    """What a restored cluster says of `t`, for a comparison with the source."""
    yield "rows", restored.psql("SELECT count(*), sum(id), sum(hashtext(t::text)) FROM t")
    yield "not visible", restored.psql("SELECT count(*) FROM pg_check_visible('t')")
    yield "not frozen", restored.psql("SELECT count(*) FROM pg_check_frozen('t')")
    # New rows fill what is free, and the answer of an index only must be that of the table.
    restored.psql("INSERT INTO t SELECT g FROM generate_series(200001, 240000) g")
    restored.psql("DELETE FROM t WHERE id > 235000")
    sequential = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off;"
    yield "table", restored.psql(f"{sequential} SELECT count(*) FROM t WHERE id > 0")
    yield "index", restored.psql("SET enable_seqscan = off; SELECT count(*) FROM t WHERE id > 0")
