"""Names for the numbers that the WAL has: of relations and databases, as somebody's catalog knows them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from pgproof.model.harm_scan import LARGE_OBJECTS, Suspect
from pgproof.model.wal_changes import RelationFile

_TABLES = frozenset("rmp")


class NamesFrom(StrEnum):
    """Who is asked for names."""

    AUTO = "auto"
    SERVER = "server"
    BACKUP = "backup"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation by its OID. `kind` and `persistence` are pg_class's letters; `root` is the partitioned table that
    it is a partition of, in the end, else its own name; `rows` the catalog's estimate."""

    oid: int
    database: int
    name: str
    kind: str
    persistence: str = "p"
    root: str = ""
    rows: int | None = None
    catalog: bool = False

    @property
    def holds_rows(self) -> bool:
        """A table of the user's, or a materialized view, whose rows are in backups."""
        return self.kind in _TABLES and self.persistence == "p" and not self.catalog

    @property
    def label(self) -> str:
        return self.root or self.name


@dataclass(frozen=True, slots=True)
class Numbers:
    """What names are asked for: per database (OID) its files and OIDs."""

    files: dict[int, frozenset[RelationFile]] = field(default_factory=dict)
    oids: dict[int, frozenset[int]] = field(default_factory=dict)
    databases: frozenset[int] = frozenset()

    @classmethod
    def of(cls, suspects: Iterable[Suspect]) -> Self:
        files: dict[int, set[RelationFile]] = {}
        oids: dict[int, set[int]] = {}
        databases: set[int] = set()
        for suspect in suspects:
            databases |= set(suspect.databases)
            for file in (*suspect.rows, *suspect.renewed, *suspect.gone):
                files.setdefault(file.database, set()).add(file)
                oids.setdefault(file.database, set()).add(file.number)
            for database, oid in suspect.dropped:
                oids.setdefault(database, set()).add(oid)
            if suspect.relations:
                oids.setdefault(suspect.database, set()).update(suspect.relations)
        return cls(
            {database: frozenset(some) for database, some in files.items()},
            {database: frozenset(some) for database, some in oids.items()},
            frozenset(databases | set(files) | set(oids)) - {0},
        )


class Names:
    """What is known so far. What was learned first stays: whoever is asked first knows best."""

    def __init__(self) -> None:
        self.databases: dict[int, str] = {}
        self._files: dict[RelationFile, Relation] = {}
        self._oids: dict[tuple[int, int], Relation] = {}

    def learn(self, relation: Relation, file: RelationFile | None) -> None:
        self._oids.setdefault((relation.database, relation.oid), relation)
        if file is not None:
            self._files.setdefault(file, relation)

    def learn_databases(self, names: dict[int, str]) -> None:
        self.databases = {**names, **self.databases}

    def of_oid(self, database: int, oid: int) -> Relation | None:
        return self._oids.get((database, oid))

    def of_file(self, file: RelationFile) -> Relation | None:
        """By the file's number, else by that number as an OID, which a relation's first file has."""
        if file.number == LARGE_OBJECTS:
            return Relation(LARGE_OBJECTS, file.database, "pg_catalog.pg_largeobject", "r")
        return self._files.get(file) or self._oids.get((file.database, file.number))

    def database(self, oid: int) -> str:
        return self.databases.get(oid, f"database {oid}")

    def lacks(self, suspect: Suspect) -> bool:
        """Whether somebody else may know more about what this transaction did."""
        if any(oid not in self.databases for oid in (*suspect.databases, suspect.database) if oid):
            return True
        if any(self.of_file(file) is None for file in suspect.rows):
            return True
        if suspect.dropped and not self._all_known(suspect.dropped):
            return suspect.types > 2 * suspect.new_relations
        return any(self.renewed(suspect, file) is None for file in suspect.renewed)

    def renewed(self, suspect: Suspect, file: RelationFile) -> Relation | None:
        """The relation that got this new file."""
        old = suspect.renewed[file]
        return self._files.get(file) or (self.of_file(old) if old is not None else None)

    def _all_known(self, oids: Collection[tuple[int, int]]) -> bool:
        return all(self.of_oid(*each) is not None for each in oids)
