"""Compare a rescued table with the live one, in the server.

The differences become a temporary table of row positions, so that the rows are joined once and everything that is
told about them afterwards is about the same ones. It lasts as long as the transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql

from pgproof.model.table_rescue import DifferingRow, Kind, Row, Violation
from pgproof.model.table_shape import Common, TableShape
from pgproof.postgres.row_text import row_text
from pgproof.postgres.table_placing import from_table

DIFFERENCES = "pgproof_differences"
_SHOWN_LENGTH = 200
_WRITERS = 5
_EXAMPLES = 3
_TRANSACTIONS = 1 << 32

_FOREIGN_KEYS = """
SELECT o.conname::text, n.nspname::text, f.relname::text, f.relkind = 'p', o.confrelid = o.conrelid,
       (SELECT array_agg(a.attname::text ORDER BY k.at) FROM unnest(o.conkey) WITH ORDINALITY k(attnum, at)
        JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.attnum),
       (SELECT array_agg(a.attname::text ORDER BY k.at) FROM unnest(o.confkey) WITH ORDINALITY k(attnum, at)
        JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.attnum)
FROM pg_constraint o JOIN pg_class f ON f.oid = o.confrelid JOIN pg_namespace n ON n.oid = f.relnamespace
WHERE o.conrelid = (SELECT c.oid FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
                    WHERE s.nspname = %s AND c.relname = %s)
  AND o.contype = 'f' AND o.conparentid = 0
  AND coalesce((to_jsonb(o) ->> 'conenforced')::boolean, true)
  AND NOT coalesce((to_jsonb(o) ->> 'conperiod')::boolean, false)
ORDER BY o.conname
"""


class TableComparer:
    """Compares `live` with `rescued`, which lies in the same database; the settings are fixed."""

    def __init__(
        self, connection: psycopg.Connection[Any], live: TableShape, rescued: TableShape, common: Common
    ) -> None:
        self.connection = connection
        self.live = live
        self.rescued = rescued
        self.common = common

    def collect(self, name: str = DIFFERENCES) -> dict[Kind, int]:
        """Make the temporary table of all differences; return how many there are of each kind."""
        on: sql.Composable = sql.SQL("l.x = r.x AND l.n = r.n")
        values: sql.Composable = sql.SQL("NULL")
        if self.common.key:
            pairs = [self._at(column) for column in self.common.key]
            on = sql.SQL(" AND ").join(sql.SQL("l.{c} = r.{c}").format(c=column) for column in pairs)
            if self.common.values:
                texts = [self._texts(side, self.common.values) for side in "lr"]
                values = sql.SQL("CASE WHEN {} <> {} THEN 'changed' END").format(*texts)
        command = sql.SQL(
            """
            CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS
            SELECT d.* FROM (
                SELECT CASE WHEN l.p IS NULL THEN 'missing' WHEN r.p IS NULL THEN 'new' ELSE {values} END AS kind,
                       l.o AS live_table, l.p AS live_row, l.w AS writer, r.p AS backup_row
                FROM ({live}) l FULL JOIN ({rescued}) r ON {on}) d
            WHERE d.kind IS NOT NULL
            """
        ).format(
            name=self._table(name),
            values=values,
            live=self._side(self.live, {}),
            rescued=self._side(self.rescued, self.common.casts),
            on=on,
        )
        self.connection.execute(command)
        self.connection.execute(sql.SQL("ANALYZE {}").format(self._table(name)))
        counted = self.connection.execute(
            sql.SQL("SELECT kind, count(*) FROM {} GROUP BY kind").format(self._table(name))
        ).fetchall()
        found = {Kind(kind): count for kind, count in counted}
        return {kind: found.get(kind, 0) for kind in Kind}

    def writers(self) -> Iterator[tuple[int, int]]:
        """The transactions that wrote changed rows last, and how many rows."""
        query = sql.SQL(
            "SELECT writer::text::bigint, count(*) FROM {} WHERE kind = 'changed' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {}"
        ).format(self._table(), _WRITERS)
        yield from self.connection.execute(query).fetchall()

    def first(self, count: int) -> Iterator[DifferingRow]:
        """The first rows of each kind, by their keys."""
        backup, live = (
            sql.SQL("ARRAY[{}]::text[]").format(
                sql.SQL(", ").join(self._shown(side, column) for column in self.common.columns)
            )
            for side in "rl"
        )
        order: list[sql.Composable] = [
            sql.SQL("coalesce({}, {})").format(self._value("r", column), sql.Identifier("l", column))
            for column in self.common.key
        ]
        for kind in Kind if count else ():
            query = sql.SQL("SELECT {}, {} FROM {} WHERE d.kind = {} ORDER BY {} LIMIT {}").format(
                backup,
                live,
                self.joined(),
                kind.value,
                sql.SQL(", ").join(order or [sql.SQL("d.backup_row, d.live_row")]),
                count,
            )
            for theirs, ours in self.connection.execute(query).fetchall():
                yield DifferingRow(
                    kind,
                    _row(theirs) if kind is not Kind.NEW else None,
                    _row(ours) if kind is not Kind.MISSING else None,
                )

    def csv(self) -> Iterator[bytes]:
        """All differing rows as CSV with a header: how they differ, which side it is, and the columns."""
        sides = [
            sql.SQL("SELECT {} AS side, {} WHERE d.kind <> {}").format(
                word,
                sql.SQL(", ").join(
                    sql.SQL("{} AS {}").format(
                        self._value(alias, column) if alias == "r" else sql.Identifier(alias, column),
                        sql.Identifier(column),
                    )
                    for column in self.common.columns
                ),
                without,
            )
            for word, alias, without in (("backup", "r", "new"), ("live", "l", "missing"))
        ]
        query = sql.SQL(
            "COPY (SELECT d.kind AS difference, s.* FROM {} CROSS JOIN LATERAL ({} UNION ALL {}) s) "
            "TO STDOUT (FORMAT csv, HEADER)"
        ).format(self.joined(), *sides)
        with self.connection.cursor().copy(query) as rows:
            for data in rows:
                yield bytes(data)

    def violations(self) -> Iterator[Violation]:
        """Rows of the backup that refer to what is not in the live database."""
        found = self.connection.execute(_FOREIGN_KEYS, [self.live.name.schema, self.live.name.table])
        for name, schema, table, partitioned, itself, columns, referenced in found.fetchall():
            if not set(columns) <= set(self.common.columns):
                continue  # a row gets the default there, and the server says whether that may be
            values = [self._value("r", column) for column in columns]
            missing = [
                sql.SQL("NOT EXISTS (SELECT FROM {}{} f WHERE {})").format(
                    sql.SQL("" if partitioned else "ONLY "),
                    sql.Identifier(schema, table),
                    _equal("f", referenced, values),
                )
            ]
            if itself:
                # What is put back with it, it may refer to.
                missing.append(
                    sql.SQL("NOT EXISTS (SELECT FROM {} e JOIN {} ON f.ctid = e.backup_row WHERE {})").format(
                        self._table(), from_table(self.rescued, "f"), _equal("f", referenced, values)
                    )
                )
            row = sql.SQL("left(format('%s', ROW({})), {})").format(sql.SQL(", ").join(values), _SHOWN_LENGTH)
            query = sql.SQL(
                "SELECT d.kind, count(*), (array_agg({}))[1:{}] FROM {} d JOIN {} ON r.ctid = d.backup_row "
                "WHERE d.kind <> 'new' AND {} AND {} GROUP BY d.kind ORDER BY d.kind DESC"
            ).format(
                row,
                _EXAMPLES,
                self._table(),
                from_table(self.rescued, "r"),
                sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(value) for value in values),
                sql.SQL(" AND ").join(missing),
            )
            for kind, rows, examples in self.connection.execute(query).fetchall():
                yield Violation(name, Kind(kind), rows, tuple(examples))

    def joined(self) -> sql.Composed:
        """A FROM item: differences `d` with their rows in the live table `l` and in the backup `r`."""
        return sql.SQL(
            "{} d LEFT JOIN {} ON l.ctid = d.live_row AND l.tableoid = d.live_table "
            "LEFT JOIN {} ON r.ctid = d.backup_row"
        ).format(self._table(), from_table(self.live, "l"), from_table(self.rescued, "r"))

    def value(self, column: str) -> sql.Composed:
        """A value of the backup in the live column's type."""
        return self._value("r", column)

    def _value(self, alias: str, column: str) -> sql.Composed:
        cast = sql.SQL(self.common.casts.get(column, ""))  # as format_type wrote it
        return sql.SQL("({}{})").format(sql.Identifier(alias, column), cast)

    def _side(self, shape: TableShape, casts: dict[str, str]) -> sql.Composed:
        """Position, writer and columns, whose names here are numbers; without a key also the whole row, and which
        of the equal ones it is."""
        values = {
            column: self._value("t", column) if casts else sql.SQL("{}").format(sql.Identifier("t", column))
            for column in self.common.columns
        }
        columns = [sql.SQL("{} AS {}").format(value, self._at(column)) for column, value in values.items()]
        if not self.common.key:
            text = row_text(sql.SQL(", ").join(values.values()))
            columns = [
                sql.SQL("{} AS x").format(text),
                sql.SQL("row_number() OVER (PARTITION BY {}) AS n").format(text),
            ]
        return sql.SQL("SELECT t.ctid AS p, t.tableoid AS o, t.xmin AS w, {} FROM {}").format(
            sql.SQL(", ").join(columns), from_table(shape, "t")
        )

    def _texts(self, side: str, columns: Sequence[str]) -> sql.Composed:
        return row_text(
            sql.SQL(", ").join(sql.SQL("{}.{}").format(sql.SQL(side), self._at(column)) for column in columns)
        )

    def _at(self, column: str) -> sql.Identifier:
        return sql.Identifier(f"c{self.common.columns.index(column)}")

    def _shown(self, alias: str, column: str) -> sql.Composed:
        value = sql.Identifier(alias, column)
        return sql.SQL("CASE WHEN num_nulls({v}) = 0 THEN left(format('%s', {v}), {n}) END").format(
            v=value, n=_SHOWN_LENGTH
        )

    def _table(self, name: str = DIFFERENCES) -> sql.Identifier:
        return sql.Identifier("pg_temp", name)


def _equal(alias: str, columns: Sequence[str], values: Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(alias, column), value)
        for column, value in zip(columns, values, strict=True)
    )


def _row(values: Sequence[str | None]) -> Row:
    return tuple(values)
