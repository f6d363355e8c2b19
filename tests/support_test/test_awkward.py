"""The awkward cluster can be made on every version, and its fingerprint sees every kind of change."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import machine
from tests.support.awkward import DBNAME, EMPTY_DATABASE, SMALL_TABLES, make_awkward, make_big_table
from tests.support.fingerprint import as_restored, database_fingerprint, fingerprint
from tests.support.postgres import Cluster

CHANGES = {
    "a row less": "DELETE FROM people WHERE id = 1",
    "a row twice": "INSERT INTO generated (a) SELECT a FROM generated WHERE a = 3",
    "another value": "UPDATE documents SET body = reverse(body) WHERE id = 7",
    "a value in another row": "UPDATE parted_old SET id = 3 - id WHERE id IN (1, 2)",
    "a table less": "DROP TABLE small.t1234",
    "another large object": "SELECT lo_put(max(oid), 159999, '\\x00') FROM pg_largeobject_metadata",
    "a large object less": "SELECT lo_unlink(min(oid)) FROM pg_largeobject_metadata",
    "NULL for an empty string": """UPDATE "sch""ema é"."ta.ble 'x'" SET "co""l" = NULL WHERE "co""l" = ''""",
}


@pytest.fixture(scope="module")
def awkward() -> Iterator[Cluster]:
    with Cluster() as cluster:
        make_awkward(cluster, machine.new_dir("spaces"))
        yield cluster


@pytest.mark.parametrize("major", [15, 17, 18])
def test_it_is_awkward_on_every_version(major: int, work_dir: Path) -> None:
    with Cluster(major) as cluster:
        made = make_awkward(cluster, work_dir)
        before = fingerprint(cluster.connect)
        assert fingerprint(cluster.connect) == before

        assert set(made.databases) | {"postgres"} == set(before["databases"])
        assert len(before["databases"][DBNAME]["tables"]) > SMALL_TABLES
        assert not before["databases"][EMPTY_DATABASE]["tables"]
        assert all(any(path.iterdir()) for path in made.tablespaces.values())

        # What crash recovery leaves of a cluster is what a physical restore leaves of it.
        cluster.kill9()
        cluster.start()
        after = fingerprint(cluster.connect)
        assert after != before
        assert after == as_restored(before)


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_sees(change: str, awkward: Cluster) -> None:
    before = database_fingerprint(awkward.connect, DBNAME)
    awkward.psql(CHANGES[change], DBNAME)
    assert database_fingerprint(awkward.connect, DBNAME) != before


def test_the_fingerprint_does_not_depend_on_where_rows_lie(awkward: Cluster) -> None:
    before = fingerprint(awkward.connect)
    awkward.psql("CLUSTER people USING people_name_idx; VACUUM FULL documents", DBNAME)
    for setting in ("datestyle = 'German'", "bytea_output = 'escape'", "timezone = 'Asia/Tokyo'"):
        awkward.psql(f"ALTER DATABASE {DBNAME} SET {setting}")
    assert fingerprint(awkward.connect) == before


def test_the_big_table_spans_two_files() -> None:
    with Cluster() as cluster:
        make_big_table(cluster, dbname="postgres")
        path = cluster.data_dir / cluster.psql("SELECT pg_relation_filepath('big')")
        assert path.stat().st_size == 1 << 30
        assert Path(f"{path}.1").stat().st_size > 0
