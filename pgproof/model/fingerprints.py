"""What tables hold, as values that can be compared: a count and a hash of each, whatever the order of its rows.

Two tables of the same fingerprint hold the same rows, as far as the text of their rows tells: see
docs/decisions/0013-logical-backups.md for what this text is and for what stays out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from pgproof.errors import DataError

_SHOWN = 20

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TableFingerprint:
    """All rows are counted. Of `one_in` rows one, chosen by the hash of its primary key, is in `hash`, a decimal number."""

    schema: str
    name: str
    rows: int
    hash: str
    one_in: int = 1

    @property
    def key(self) -> Name:
        return self.schema, self.name

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "name": self.name,
            "rows": self.rows,
            "hash": self.hash,
            "one_in": self.one_in,
        }


@dataclass(frozen=True, slots=True)
class UnreadTable:
    """A table without a fingerprint, and why."""

    schema: str
    name: str
    reason: str

    @property
    def key(self) -> Name:
        return self.schema, self.name

    def to_json(self) -> dict[str, Any]:
        return {"schema": self.schema, "name": self.name, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class DatabaseFingerprint:
    """`tables` and `unread` together are all tables of the database."""

    database: str
    encoding: str
    tables: tuple[TableFingerprint, ...]
    unread: tuple[UnreadTable, ...] = ()

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def rates(self) -> dict[Name, int]:
        """How the tables were sampled, for whoever is to be compared with this."""
        return {table.key: table.one_in for table in self.tables}

    def by_roots(self, roots: Mapping[Name, Name]) -> Self:
        """Partitions taken together under the name of their root; all must have been hashed whole."""
        found: dict[Name, TableFingerprint] = {}
        for table in self.tables:
            key = roots.get(table.key, table.key)
            before = found.get(key)
            rows, total = (before.rows, int(before.hash)) if before else (0, 0)
            found[key] = TableFingerprint(*key, rows + table.rows, str(total + int(table.hash)), table.one_in)
        return replace(self, tables=tuple(found.values()))

    def to_json(self) -> dict[str, Any]:
        return {
            "database": self.database,
            "encoding": self.encoding,
            "tables": [table.to_json() for table in self.tables],
            "unread": [table.to_json() for table in self.unread],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises DataError for what `to_json` did not write."""
        try:
            return cls(
                text(value["database"]),
                text(value["encoding"]),
                tuple(_table(each) for each in value["tables"]),
                tuple(
                    UnreadTable(text(each["schema"]), text(each["name"]), text(each["reason"]))
                    for each in value["unread"]
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("a fingerprint is damaged", reason=repr(error)[:200]) from error


def _table(value: Mapping[str, Any]) -> TableFingerprint:
    rows, one_in = value["rows"], value["one_in"]
    if type(rows) is not int or type(one_in) is not int or rows < 0 or one_in < 1 or one_in & (one_in - 1):
        raise ValueError("not a number of rows, or not a rate")
    return TableFingerprint(
        text(value["schema"]), text(value["name"]), rows, str(int(text(value["hash"]))), one_in
    )


def text(value: Any) -> str:
    """Raises TypeError or ValueError for what is no text, or one that could be neither shown nor stored again."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()
    return value


@dataclass(frozen=True, slots=True)
class Difference:
    """A table that is not the same on both sides, and how."""

    database: str
    schema: str
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.database}: {self.schema}.{self.name}: {self.what}"

    def to_json(self) -> dict[str, Any]:
        return {"database": self.database, "schema": self.schema, "name": self.name, "what": self.what}


@dataclass(frozen=True, slots=True)
class FingerprintComparison:
    """`tables` and `rows` count what was compared, `sampled` the tables of which not every row was hashed."""

    tables: int
    rows: int
    sampled: int
    differences: tuple[Difference, ...] = ()
    not_compared: tuple[Difference, ...] = ()

    @property
    def same(self) -> bool:
        return not self.differences

    def summary(self) -> str:
        tables, rows = ("" if count == 1 else "s" for count in (self.tables, self.rows))
        words = f"{self.tables:,} table{tables} with {self.rows:,} row{rows} compared"
        if self.sampled:
            words += f", {self.sampled:,} of them by a sample of their rows"
        if self.not_compared:
            words += f"; {len(self.not_compared):,} tables were not compared"
        return words

    def lines(self) -> Iterator[str]:
        """Differences, then what was not compared, each only at its beginning."""
        for each in self.differences[:_SHOWN]:
            yield str(each)
        if len(self.differences) > _SHOWN:
            yield f"and {len(self.differences) - _SHOWN} more tables differ"
        for each in self.not_compared[:_SHOWN]:
            yield f"not compared: {each}"
        if len(self.not_compared) > _SHOWN:
            yield f"and {len(self.not_compared) - _SHOWN} more tables were not compared"

    def to_json(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "tables": self.tables,
            "rows": self.rows,
            "sampled": self.sampled,
            "differences": [each.to_json() for each in self.differences],
            "not_compared": [each.to_json() for each in self.not_compared],
        }

    def __add__(self, other: FingerprintComparison) -> FingerprintComparison:
        return FingerprintComparison(
            self.tables + other.tables,
            self.rows + other.rows,
            self.sampled + other.sampled,
            self.differences + other.differences,
            self.not_compared + other.not_compared,
        )


NOTHING = FingerprintComparison(0, 0, 0)


def compare_databases(source: DatabaseFingerprint, copy: DatabaseFingerprint) -> FingerprintComparison:
    """What the copy has that its source had not, and the other way round.

    What the source could not tell is not compared; what the copy cannot tell although the source could differs.
    """
    ours = {table.key: table for table in source.tables}
    theirs = {table.key: table for table in copy.tables}
    unread_there = {table.key: table.reason for table in copy.unread}
    skipped = [Difference(source.database, *table.key, table.reason) for table in source.unread]
    if source.encoding != copy.encoding:
        reason = f"the encodings differ, {source.encoding} and {copy.encoding}"
        return FingerprintComparison(
            0, 0, 0, (), tuple(Difference(source.database, *key, reason) for key in ours)
        )
    found = []
    for key, table in ours.items():
        if key in theirs:
            what = _difference(table, theirs[key])
        else:
            what = f"cannot be read: {unread_there[key]}" if key in unread_there else "is missing"
        if what:
            found.append(Difference(source.database, *key, what))
    known = ours.keys() | {table.key for table in source.unread}
    found += [
        Difference(source.database, *key, "is there, and was not in the source")
        for key in [*theirs, *unread_there]
        if key not in known
    ]
    both = [table for key, table in ours.items() if key in theirs]
    return FingerprintComparison(
        len(both),
        sum(table.rows for table in both),
        sum(table.one_in > 1 for table in both),
        tuple(sorted(found, key=lambda each: (each.schema, each.name))),
        tuple(skipped),
    )


def _difference(source: TableFingerprint, copy: TableFingerprint) -> str:
    if source.one_in != copy.one_in:
        return f"was sampled one in {copy.one_in}, and in the source one in {source.one_in}"
    if source.rows != copy.rows:
        return f"has {copy.rows:,} rows in place of {source.rows:,}"
    return "has as many rows, but other ones" if source.hash != copy.hash else ""
