"""Two versions of a table in one database: what they differ in, and rows put back, all or none."""

from __future__ import annotations

import asyncio
import csv
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgproof.backup import BackupConfig, BackupManager
from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.table_rescue import Merge, MergeReport, TableComparison
from pgproof.recovery import RecoveryManager
from tests.support.postgres import Cluster


class Pair:
    """A live table `t` and `before`, as a rescue would have placed it."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        self.cluster = cluster
        self.database = database
        postgres = cluster.config(database=database)
        self.manager = RecoveryManager(postgres, BackupManager(postgres, BackupConfig(backup_dir="/none")))

    def psql(self, sql: str) -> str:
        return self.cluster.psql(sql, self.database)

    def compare(self, table: str = "public.t", rescued: str = "before", **options: Any) -> TableComparison:
        return asyncio.run(self.manager.compare_rescued(table, rescued, **options))

    def merge(
        self, merge: Merge, table: str = "public.t", rescued: str = "before", **options: Any
    ) -> MergeReport:
        return asyncio.run(self.manager.merge_rescued(table, rescued, merge, **options))


NewPair = Callable[[str], Pair]


@pytest.fixture(scope="module", params=[15, 18])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param, settings={"track_commit_timestamp": True}) as running:
        yield running


@pytest.fixture
def pair(cluster: Cluster) -> Iterator[NewPair]:
    names = [f"d{number}" for number in range(9)]
    made = []

    def make(sql: str) -> Pair:
        made.append(names[len(made)])
        cluster.psql(f"CREATE DATABASE {made[-1]}")
        found = Pair(cluster, made[-1])
        found.psql(sql)
        return found

    yield make
    for name in made:
        cluster.psql(f"DROP DATABASE {name}")


def counts(found: TableComparison) -> tuple[int, int, int]:
    return found.missing, found.changed, found.new


def test_text_decides_and_not_what_an_operator_calls_equal(pair: NewPair) -> None:
    """1.0 and 1.00, -0 and 0, json and types without equality: a difference that one can see is one."""
    both = pair(
        """
        CREATE TABLE t (id int PRIMARY KEY, n numeric, f float8, j json, p point, b bytea, z timestamptz);
        INSERT INTO t SELECT g, 1.0, 0, '{"a": 1}', '(1,2)', '\\x00', '2026-11-25 12:00Z' FROM generate_series(1, 9) g;
        CREATE TABLE before (LIKE t INCLUDING ALL); INSERT INTO before SELECT * FROM t;
        ALTER ROLE postgres SET DateStyle = 'German, DMY'; ALTER ROLE postgres SET extra_float_digits = -3;
        """
    )
    try:
        assert counts(both.compare()) == (0, 0, 0)
        changes = [
            "n = 1.00",
            "f = '-0'",
            """j = '{"a":1}'""",
            "p = '(1,3)'",
            "b = '\\x01'",
            "z = z + '1 us'",
        ]
        for number, change in enumerate(changes, 1):
            both.psql(f"UPDATE t SET {change} WHERE id = {number}")
        assert counts(both.compare()) == (0, len(changes), 0)
        assert both.merge(Merge.BOTH).updated == len(changes)
        assert counts(both.compare()) == (0, 0, 0)
        rows = both.psql("SELECT DISTINCT n::text, f::text, j::text, p::text, b::text FROM t")
        assert rows == '1.0|0|{"a": 1}|(1,2)|\\x00'
    finally:
        both.psql("ALTER ROLE postgres RESET ALL")


def test_generated_and_identity_columns(pair: NewPair) -> None:
    both = pair(
        """
        CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED);
        INSERT INTO t (a) SELECT g FROM generate_series(1, 10) g;
        CREATE TABLE before (id int PRIMARY KEY, a int, g int); INSERT INTO before SELECT * FROM t;
        DELETE FROM t WHERE id <= 3; UPDATE t SET a = 0 WHERE id = 9;
        CREATE TABLE u (k int PRIMARY KEY, id int GENERATED ALWAYS AS IDENTITY);
        INSERT INTO u SELECT g FROM generate_series(1, 5) g;
        CREATE TABLE u_before (k int PRIMARY KEY, id int); INSERT INTO u_before SELECT k, id + 100 FROM u;
        DELETE FROM u WHERE k = 2;
        """
    )
    found = both.compare()
    assert counts(found) == (3, 1, 0)
    assert any("computed columns are not compared: g" in note for note in found.common.notes)
    both.merge(Merge.BOTH)
    assert both.psql("SELECT count(*), sum(id), sum(a), sum(g) FROM t") == "10|55|55|110"
    # A row that is there keeps its identity, one that comes back gets its old one.
    assert counts(both.compare("public.u", "u_before")) == (1, 0, 0)
    assert both.merge(Merge.BOTH, "public.u", "u_before").inserted == 1
    assert both.psql("SELECT k, id FROM u WHERE id > 100") == "2|102"


def test_columns_that_came_went_and_changed_their_type(pair: NewPair) -> None:
    both = pair(
        """
        CREATE TABLE before (id int PRIMARY KEY, gone text, n int, c text COLLATE "C");
        INSERT INTO before SELECT g, 'gone', g, 'c' FROM generate_series(1, 10) g;
        CREATE TABLE t (fresh text DEFAULT 'fresh', c text, n numeric(10, 2), id bigint PRIMARY KEY);
        INSERT INTO t SELECT 'x', 'c', g, g FROM generate_series(3, 10) g; UPDATE t SET n = 7.5 WHERE id = 3;
        """
    )
    found = both.compare()
    assert counts(found) == (2, 1, 0)
    assert found.common.columns == ("c", "n", "id")
    for words in [
        "added since are not compared: fresh",
        "dropped since are not compared: gone",
        "n was integer",
    ]:
        assert any(words in note for note in found.common.notes), found.common.notes
    both.merge(Merge.BOTH)
    assert counts(both.compare()) == (0, 0, 0)
    assert both.psql("SELECT fresh, n FROM t WHERE id <= 3 ORDER BY id") == "fresh|1.00\nfresh|2.00\nx|3.00"


def test_without_a_primary_key_whole_rows_are_compared(pair: NewPair) -> None:
    both = pair(
        """
        CREATE TABLE t (a int, j json); INSERT INTO t SELECT g % 3, '{}' FROM generate_series(1, 30) g;
        INSERT INTO t VALUES (NULL, NULL), (NULL, NULL);
        CREATE TABLE before AS TABLE t;
        DELETE FROM t WHERE ctid IN (SELECT ctid FROM t WHERE a = 1 LIMIT 4); DELETE FROM t WHERE a IS NULL;
        UPDATE t SET a = 7 WHERE ctid = (SELECT ctid FROM t WHERE a = 2 LIMIT 1);
        """
    )
    found = both.compare(rows_shown=1)
    assert counts(found) == (4 + 2 + 1, 0, 1)
    assert any("whole rows are compared" in note for note in found.common.notes)
    for merge in (Merge.CHANGED, Merge.BOTH):
        with pytest.raises(PreconditionError, match="without a primary key") as refused:
            both.merge(merge)
        assert "--merge missing" in refused.value.hint
    assert both.merge(Merge.MISSING).inserted == 7
    assert counts(both.compare()) == (0, 0, 1)
    assert (
        both.psql("SELECT count(*) FILTER (WHERE a IS NULL), count(*) FILTER (WHERE a = 1) FROM t") == "2|10"
    )


def test_rows_that_would_violate_a_foreign_key_are_told_and_nothing_is_merged(pair: NewPair) -> None:
    both = pair(
        """
        CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 5);
        CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE, boss int REFERENCES t,
                        u int UNIQUE);
        INSERT INTO t SELECT g, 1 + g % 5, CASE WHEN g > 1 THEN g - 1 END, g FROM generate_series(1, 50) g;
        CREATE TABLE before (LIKE t INCLUDING ALL); INSERT INTO before SELECT * FROM t;
        UPDATE t SET parent = 1 WHERE id = 50; UPDATE t SET boss = NULL; DELETE FROM parent WHERE id = 3;
        """
    )
    found = both.compare()
    assert found.missing == 10
    ((constraint, rows),) = [(each.constraint, each.rows) for each in found.violations]
    assert (constraint, rows) == ("t_parent_fkey", 10)
    assert found.violations[0].examples[0] == "(3)"
    state = both.psql("SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t")
    with pytest.raises(PreconditionError, match="nothing was merged") as refused:
        both.merge(Merge.BOTH)
    assert "10 missing rows would violate t_parent_fkey: (3)" in refused.value.hint
    # What a unique index refuses, the server names.
    both.psql("INSERT INTO parent VALUES (3); INSERT INTO t VALUES (99, 1, NULL, 2)")
    with pytest.raises(PreconditionError, match="the merge was refused") as refused:
        both.merge(Merge.MISSING)
    assert "t_u_key" in str(refused.value) and "(u)=(2)" in str(refused.value)
    both.psql("DELETE FROM t WHERE id = 99")
    assert both.psql("SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t") == state
    # They refer to each other, and come back together.
    both.merge(Merge.BOTH)
    assert counts(both.compare()) == (0, 0, 0)


def test_triggers_run_as_they_are_used_to_and_what_they_change_is_told(pair: NewPair) -> None:
    both = pair(
        """
        CREATE TABLE audit (what text); CREATE TABLE t (id int PRIMARY KEY, n int, at text DEFAULT 'never');
        INSERT INTO t SELECT g, g FROM generate_series(1, 10) g;
        CREATE TABLE before (LIKE t INCLUDING ALL); INSERT INTO before SELECT * FROM t;
        DELETE FROM t WHERE id = 1; UPDATE t SET n = 0 WHERE id = 2;
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.at = 'now'; INSERT INTO audit VALUES (TG_OP || NEW.id || current_setting('search_path'));
            RETURN NEW; END $$;
        CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
        """
    )
    assert both.compare().triggers == ("touch",)
    report = both.merge(Merge.BOTH)
    assert (report.inserted, report.updated, report.differ_still) == (1, 1, 2)
    assert both.psql("SELECT n, at FROM t WHERE id <= 2 ORDER BY id") == "1|now\n2|now"
    assert both.psql("SELECT what FROM audit ORDER BY 1") == 'INSERT1"$user", public\nUPDATE2"$user", public'


def test_only_what_one_transaction_wrote(pair: NewPair) -> None:
    both = pair(
        """
        CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, g FROM generate_series(1, 100) g;
        CREATE TABLE before (LIKE t INCLUDING ALL); INSERT INTO before SELECT * FROM t;
        UPDATE t SET n = -1 WHERE id <= 40
        """
    )
    mistake = int(both.psql("SELECT xmin FROM t WHERE id = 1"))
    both.psql("UPDATE t SET n = 1000 WHERE id BETWEEN 31 AND 50")
    found = both.compare()
    assert found.changed == 50 and found.writers[0] == (mistake, 30)
    assert both.merge(Merge.CHANGED, written_by=[mistake]).updated == 30
    assert both.psql("SELECT count(*) FROM t WHERE n = 1000") == "20"
    assert both.compare().changed == 20


def test_partitions_on_both_sides_of_a_change(pair: NewPair) -> None:
    both = pair(
        """
        CREATE TABLE t (id int, day int, n int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
        CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);
        INSERT INTO t SELECT g, 1 + g % 2, g FROM generate_series(1, 100) g;
        CREATE TABLE before (id int, day int, n int, PRIMARY KEY (id, day)); INSERT INTO before SELECT * FROM t;
        DELETE FROM t WHERE id <= 10; UPDATE t SET n = 0 WHERE id > 90;
        """
    )
    assert counts(both.compare()) == (10, 10, 0)
    both.merge(Merge.BOTH)
    assert counts(both.compare()) == (0, 0, 0)
    assert both.psql("SELECT tableoid::regclass, count(*) FROM t GROUP BY 1 ORDER BY 1") == "t1|50\nt2|50"


def test_hostile_names_and_values(pair: NewPair, work_dir: Path) -> None:
    schema, table = 'a "b\n.c', 'x"; DROP TABLE u; --\n\\! touch /tmp/p %s {}'
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table))
    other = quoted[:-1] + '2"'
    both = pair(
        f"""
        CREATE TABLE u (); CREATE SCHEMA "a ""b\n.c";
        CREATE TABLE {quoted} ("t" int PRIMARY KEY, "d.kind" text, "%s {{}}" text, "x"" y\nz" text, ctid2 text, "p" text, l text);
        INSERT INTO {quoted} VALUES (1, 'a', 'b', E'line\\nend', '=1+1', NULL, ''), (2, 'a', 'b', 'c', 'd', 'e', 'f');
        CREATE TABLE {other} (LIKE {quoted} INCLUDING ALL); INSERT INTO {other} SELECT * FROM {quoted};
        DELETE FROM {quoted} WHERE t = 1; UPDATE {quoted} SET l = 'g' WHERE t = 2;
        """
    )
    rows = work_dir / "rows.csv"
    found = both.compare(quoted, other, csv=rows)
    assert counts(found) == (1, 1, 0)
    assert found.first[0].backup == ("1", "a", "b", "line\nend", "=1+1", None, "")
    with rows.open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header[:4] == ["difference", "side", "t", "d.kind"] and header[5] == 'x" y\nz'
    assert sorted(line[:3] for line in lines) == [
        ["changed", "backup", "2"],
        ["changed", "live", "2"],
        ["missing", "backup", "1"],
    ]
    both.merge(Merge.BOTH, quoted, other)
    assert counts(both.compare(quoted, other)) == (0, 0, 0)
    with pytest.raises(PreconditionError, match="exists already"):
        both.compare(quoted, other, csv=rows)


def test_a_table_that_others_hold_is_not_waited_for_for_ever(pair: NewPair) -> None:
    both = pair("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE before (id int PRIMARY KEY)")
    both.psql("INSERT INTO before VALUES (1)")
    failed: list[BaseException] = []

    def merge() -> None:
        try:
            both.merge(Merge.MISSING)
        except ConflictError as error:
            failed.append(error)

    with both.cluster.connect(both.database) as holder, holder.transaction():
        holder.execute("LOCK TABLE t IN ROW EXCLUSIVE MODE")
        thread = threading.Thread(target=merge)
        thread.start()
        thread.join()
    assert "others hold a lock" in str(failed[0])
    assert both.psql("SELECT count(*) FROM t") == "0"


def test_what_is_no_table_is_refused(pair: NewPair) -> None:
    both = pair("CREATE TABLE t (id int); CREATE VIEW v AS TABLE t; CREATE TABLE before (other int)")
    for table, words in [
        ("public.v", "no table"),
        ("public.t", "no column in common"),
        ("public.w", "no live"),
    ]:
        with pytest.raises(PreconditionError, match=words):
            both.compare(table)
    for name in ["t", "a.b.c", '"a', "public.", ".t", 'public."t"x']:
        with pytest.raises(PreconditionError, match="not the name of a table"):
            both.compare(name)
