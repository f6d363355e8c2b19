"""What a transaction destroyed, in words: from the numbers of the WAL and the names of a catalog."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pgproof.model.harm_scan import Suspect
from pgproof.model.lsn import Lsn
from pgproof.model.relation_names import Names, Relation
from pgproof.model.wal_records import TransactionEnd


class What(StrEnum):
    DROP_DATABASE = "drop-database"
    DROP_TABLE = "drop-table"
    DROP_VIEW = "drop-materialized-view"
    TRUNCATE = "truncate"
    DELETE = "delete"
    UPDATE = "update"


@dataclass(frozen=True, slots=True)
class Harm:
    """`rows` are counted, `estimated_rows` the estimate of a backup's catalog; `relations` counts partitions, or those that
    nobody can name. `relation` is empty for a database."""

    what: What
    database: str
    relation: str
    rows: int | None = None
    estimated_rows: int | None = None
    relations: int = 1

    def __str__(self) -> str:
        verb = str(self.what).upper().replace("-", " ")
        text = f"{verb} {self.relation or self.database}"
        if self.relations > 1:
            text += f" ({self.relations} partitions)"
        if self.rows is not None:
            text += f": {self.rows:,} row{'s' if self.rows != 1 else ''}"
        elif self.estimated_rows is not None:
            text += f": about {self.estimated_rows:,} rows in the backup"
        return text + (f", in database {self.database}" if self.relation else "")

    def to_json(self) -> dict[str, Any]:
        return {
            "what": str(self.what),
            "database": self.database,
            "relation": self.relation or None,
            "rows": self.rows,
            "estimated_rows": self.estimated_rows,
            "relations": self.relations,
        }


@dataclass(frozen=True, slots=True)
class HarmfulTransaction:
    """A committed transaction; `restore` is the command that lands just before it."""

    end: TransactionEnd
    before: Lsn
    harms: tuple[Harm, ...]
    restore: str
    at_least: bool = False

    @property
    def prepared(self) -> bool:
        """Before it was committed it was prepared: so it is there after a restore, with all its locks."""
        return self.end.record.description.startswith("COMMIT_PREPARED")

    def to_json(self) -> dict[str, Any]:
        return {
            **self.end.to_json(),
            "prepared": self.prepared,
            "restore_lsn": str(self.before),
            "restore": self.restore,
            "at_least": self.at_least,
            "harms": [harm.to_json() for harm in self.harms],
        }


@dataclass(frozen=True, slots=True)
class DamageReport:
    """The transactions are in the order of their commits. `older_left_out` counts those before them."""

    timeline: int
    start_lsn: Lsn
    end_lsn: Lsn
    since: datetime | None
    until: datetime | None
    min_rows: int
    wal_bytes: int
    seconds: float
    transactions: tuple[HarmfulTransaction, ...] = ()
    older_left_out: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "timeline": self.timeline,
            "start_lsn": str(self.start_lsn),
            "end_lsn": str(self.end_lsn),
            "from": self.since.isoformat() if self.since else None,
            "to": self.until.isoformat() if self.until else None,
            "min_rows": self.min_rows,
            "wal_bytes": self.wal_bytes,
            "seconds": round(self.seconds, 3),
            "transactions": [each.to_json() for each in self.transactions],
            "older_left_out": self.older_left_out,
            "notes": list(self.notes),
        }


def restore_command(before: Lsn, timeline: int, cluster: str) -> str:
    named = ["--cluster", cluster] if cluster != "main" else []
    command = [
        "pgproof",
        "restore",
        "--to-lsn",
        str(before),
        "--exclusive",
        "--timeline",
        str(timeline),
        *named,
    ]
    return shlex.join([*command, "--data-dir", "DIR"])


def judge(suspect: Suspect, names: Names, min_rows: int) -> tuple[Harm, ...]:
    """What a transaction destroyed; nothing, if all that it did was to maintain."""
    rows = list(_rows(suspect, names))
    if sum(harm.rows or 0 for harm in rows) < min_rows:
        rows = []
    databases = [Harm(What.DROP_DATABASE, names.database(oid), "") for oid in suspect.databases]
    found = [*databases, *_drops(suspect, names), *_truncations(suspect, names), *rows]
    return tuple(sorted(found, key=lambda harm: (list(What).index(harm.what), harm.database, harm.relation)))


def _rows(suspect: Suspect, names: Names) -> Iterator[Harm]:
    groups: dict[tuple[str, str], list[int]] = {}
    for file, (deleted, updated) in suspect.rows.items():
        relation = names.of_file(file)
        if relation is not None and (not relation.holds_rows or relation.kind == "m"):
            continue
        label = relation.label if relation is not None else f"file {file}"
        group = groups.setdefault((names.database(file.database), label), [0, 0, 0, 0])
        for at, count in enumerate((deleted, updated)):
            group[at] += count
            group[at + 2] += bool(count)
    for (database, label), (deleted, updated, deleted_in, updated_in) in groups.items():
        if deleted:
            yield Harm(What.DELETE, database, label, deleted, relations=deleted_in)
        if updated:
            yield Harm(What.UPDATE, database, label, updated, relations=updated_in)


def _drops(suspect: Suspect, names: Names) -> list[Harm]:
    known = [names.of_oid(*each) for each in suspect.dropped]
    relations = [each for each in known if each is not None]
    harms = _grouped(What.DROP_TABLE, (each for each in relations if each.kind != "m"), names)
    harms += _grouped(What.DROP_VIEW, (each for each in relations if each.kind == "m"), names)
    # Each relation with rows has two types, and what is rewritten passes through a new relation.
    typed = sum(each.kind in "rmpvfc" for each in relations) + suspect.new_relations
    unnamed = [oid for (_database, oid), each in zip(suspect.dropped, known, strict=True) if each is None]
    explained = {each.oid for each in relations}
    files = [file for file in suspect.gone if names.of_file(file) is None and file.number not in explained]
    if unnamed and files and suspect.types > 2 * typed:
        label = f"relation {min(unnamed)}"
        count = max(1, min(suspect.types // 2 - typed, len(unnamed)))
        harms.append(Harm(What.DROP_TABLE, names.database(suspect.database), label, relations=count))
    return harms


def _truncations(suspect: Suspect, names: Names) -> list[Harm]:
    if not suspect.renewed:
        return []
    database = suspect.database
    dropped = {oid for _database, oid in suspect.dropped}
    known = [names.renewed(suspect, file) for file in suspect.renewed]
    named = [each for each in known if each is not None]
    if len(named) == len(known):
        return _grouped(What.TRUNCATE, named, names)
    if not any(each.holds_rows for each in named):
        # By the files that went, else by the relations that were changed.
        by_file = [names.of_file(file) for file in suspect.gone]
        by_oid = [names.of_oid(database, oid) for oid in sorted(suspect.relations)]
        for found in (by_file, by_oid):
            tables = [
                each for each in found if each is not None and each.holds_rows and each.oid not in dropped
            ]
            if tables:
                return _grouped(What.TRUNCATE, tables, names)
        file = next(file for file, each in zip(suspect.renewed, known, strict=True) if each is None)
        label = f"file {suspect.renewed[file] or file}"
        return [Harm(What.TRUNCATE, names.database(database), label)]
    return _grouped(What.TRUNCATE, named, names)


def _grouped(what: What, relations: Iterable[Relation], names: Names) -> list[Harm]:
    """Partitions under the name of their table; an estimate where there is one for all."""
    groups: dict[tuple[str, str], list[Relation]] = {}
    for each in relations:
        if each.holds_rows:
            groups.setdefault((names.database(each.database), each.label), []).append(each)
    harms = []
    for (database, label), members in groups.items():
        leaves = [each for each in members if each.kind != "p"]
        estimates = [each.rows for each in leaves if each.rows is not None]
        total = sum(estimates) if leaves and len(estimates) == len(leaves) else None
        harms.append(Harm(what, database, label, estimated_rows=total, relations=max(1, len(leaves))))
    return harms
