"""From a stream of WAL records to the transactions that may have destroyed data. Names come later.

Counts are kept for each unfinished (sub)transaction and file, and go with its end: memory is bounded by what is
unfinished at one time, and beyond a limit by not counting, which the scan tells.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

from pgproof.model.lsn import Lsn
from pgproof.model.wal_changes import (
    GLOBAL_TABLESPACE,
    Outcome,
    Place,
    RelationFile,
    all_files,
    created_file,
    database_directories,
    outcome,
    row_change,
    row_place,
)
from pgproof.model.wal_records import TransactionEnd, WalRecord, transaction_end

FIRST_USER_OID = 16384
LARGE_OBJECTS = 2613
_TYPES = 1247
_UNFINISHED_LIMIT = 200_000
_SUSPECTS_LIMIT = 1000
_MARKS_LIMIT = 10_000
# Rmgrs of which a record of a new file says that it is not a table's. Other indexes are built in whole pages.
_NO_TABLE = frozenset({"Hash", "BRIN", "Sequence", "Generic"})
_XACTS = re.compile(r" xacts: ([\d ]+)")


@dataclass(frozen=True, slots=True)
class Suspect:
    """A committed transaction that may have destroyed data, in the numbers of the WAL.

    `before` is the first record that is not to be replayed to undo it. `renewed` are new files that relations
    got and that hold rows or nothing, with the old ones, where these are certain; `gone` are files that went and were
    not its own; `dropped` are the relations that went, `relations` all that it changed, `new_relations` counts those that
    it made, and `types` the rows that it deleted from pg_type, two for each table. `at_least`: it began before the
    records that were read.
    """

    end: TransactionEnd
    before: Lsn
    at_least: bool
    rows: dict[RelationFile, tuple[int, int]]
    renewed: dict[RelationFile, RelationFile | None] = field(default_factory=dict)
    gone: tuple[RelationFile, ...] = ()
    dropped: tuple[tuple[int, int], ...] = ()
    relations: frozenset[int] = frozenset()
    new_relations: int = 0
    types: int = 0
    databases: tuple[int, ...] = ()

    @property
    def database(self) -> int:
        """Where its relations lie; a transaction sees one database only."""
        return next((file.database for file in (*self.gone, *self.renewed, *self.rows) if file.database), 0)


@dataclass(slots=True)
class _NewFile:
    """Where it was made, and whether it is a table's, for all that is known."""

    at: Lsn
    table: bool = True


@dataclass(slots=True)
class _Unfinished:
    """What a (sub)transaction has done so far."""

    rows: dict[RelationFile, list[int]] = field(default_factory=dict)
    types: int = 0
    files: dict[RelationFile, _NewFile] = field(default_factory=dict)
    made_databases: set[int] = field(default_factory=set)
    lost_databases: set[int] = field(default_factory=set)
    marked: Lsn | None = None


class HarmScan:
    """Feed it records in order; `suspects` are the newest ones found, `older` counts those that had to go."""

    RMGRS = ("Heap", "Transaction", "Storage", "Database", "XLOG", "Standby", *sorted(_NO_TABLE))

    def __init__(self, begin: Lsn, min_rows: int, limit: int = _UNFINISHED_LIMIT) -> None:
        self.suspects: deque[Suspect] = deque(maxlen=_SUSPECTS_LIMIT)
        self.older = 0
        self.uncounted = 0
        self.uncounted_at: Lsn | None = None
        self._begin = begin
        self._min_rows = min_rows
        self._limit = limit
        self._unfinished: dict[int, _Unfinished] = {}
        self._counts = 0
        self._new_files: dict[RelationFile, int] = {}
        self._prepared: dict[int, tuple[int, ...]] = {}
        # The last record that changed a row of pg_database in place: DROP DATABASE marks it so.
        self._marks: dict[Place, Lsn] = {}
        self._running: set[int] | None = None

    def take(self, record: WalRecord) -> None:
        rmgr = record.rmgr
        if rmgr == "Heap":
            self._heap(record)
        elif rmgr == "Transaction":
            self._transaction(record)
        elif rmgr == "Storage":
            file = created_file(record)
            if file is not None and record.xid:
                self._of(record.xid).files[file] = _NewFile(record.lsn)
                self._new_files[file] = record.xid
        elif rmgr == "Database":
            self._database(record)
        elif rmgr == "Standby":
            if self._running is None and record.description.startswith("RUNNING_XACTS"):
                found = _XACTS.search(record.description)
                self._running = {int(number) for number in found[1].split()} if found else set()
        elif rmgr in _NO_TABLE or record.description.startswith("FPI "):
            if self._new_files:
                for file in all_files(record):
                    if file in self._new_files:
                        self._of(self._new_files[file]).files[file].table = False
        elif record.description.startswith(("CHECKPOINT_SHUTDOWN", "END_OF_RECOVERY")):
            self._forget_unfinished()

    def _heap(self, record: WalRecord) -> None:
        if record.description.startswith("INPLACE"):
            place = row_place(record)
            if place is not None and place.file.tablespace == GLOBAL_TABLESPACE:
                if len(self._marks) >= _MARKS_LIMIT:
                    self._marks.clear()
                self._marks[place] = record.lsn
            return
        change = row_change(record)
        if change is None:
            return
        file = change.file
        if file.tablespace == GLOBAL_TABLESPACE:
            place = row_place(record) if change.deleted else None
            if place in self._marks:
                self._of(record.xid).marked = self._marks[place]
        elif file.number >= FIRST_USER_OID or file.number == LARGE_OBJECTS:
            self._count(record, file, change.deleted)
        elif file.number == _TYPES and change.deleted:
            self._of(record.xid).types += 1

    def _count(self, record: WalRecord, file: RelationFile, deleted: bool) -> None:
        known = self._unfinished.get(record.xid)
        counts = known.rows.get(file) if known is not None else None
        if counts is None:
            if self._counts >= self._limit:
                self.uncounted += 1
                self.uncounted_at = self.uncounted_at or record.lsn
                return
            self._counts += 1
            counts = self._of(record.xid).rows[file] = [0, 0]
        counts[0 if deleted else 1] += 1

    def _database(self, record: WalRecord) -> None:
        word, databases = database_directories(record)
        # Moving a database to another tablespace removes its old directory, too, but in no transaction.
        if word and record.xid:
            done = self._of(record.xid)
            (done.made_databases if word == "CREATE" else done.lost_databases).update(databases)
            done.marked = done.marked or record.lsn

    def _transaction(self, record: WalRecord) -> None:
        end = transaction_end(record)
        if end is None:
            if record.description.startswith("PREPARE"):
                self._prepared[record.xid] = outcome(record).subtransactions
            return
        result = outcome(record)
        self._prepared.pop(end.xid, None)
        done = [self._remove(xid) for xid in (end.xid, *result.subtransactions)]
        if end.committed and record.lsn >= self._begin:
            self._judge(end, result, [each for each in done if each is not None])

    def _judge(self, end: TransactionEnd, result: Outcome, done: list[_Unfinished]) -> None:
        made = {file: new for each in done for file, new in each.files.items()}
        rows: dict[RelationFile, tuple[int, int]] = {}
        for each in done:
            for file, (deleted, updated) in each.rows.items():
                if file not in made:
                    before = rows.get(file, (0, 0))
                    rows[file] = (before[0] + deleted, before[1] + updated)
        if sum(map(sum, rows.values())) < self._min_rows:
            rows = {}
        gone = tuple(file for file in result.files if file not in made)
        places = {file[:2] for file in gone}
        numbers = {file.number for file in made}
        # A new file whose number is an OID is that of a new relation.
        second = [
            file for file in sorted(made, key=lambda f: made[f].at) if file.number not in result.relations
        ]
        renewed = tuple(file for file in second if made[file].table and file[:2] in places)
        # Files are listed last first. With a relation that went, or was rewritten, there is no telling them apart.
        certain = not result.dropped and len(second) == len(gone)
        replaced = dict(zip(second, reversed(gone), strict=True)) if certain else {}
        dropped = tuple(each for each in result.dropped if each[1] not in numbers) if gone else ()
        databases = {oid for each in done for oid in each.lost_databases}
        databases -= {oid for each in done for oid in each.made_databases}
        marks = [each.marked for each in done if databases and each.marked is not None]
        if not (rows or renewed or dropped or databases):
            return
        if len(self.suspects) == self.suspects.maxlen:
            self.older += 1
        self.suspects.append(
            Suspect(
                end,
                min([end.lsn, *marks]),
                self._running is None or end.xid in self._running,
                rows,
                {file: replaced.get(file) for file in renewed},
                gone if renewed or dropped else (),
                dropped,
                result.relations if renewed else frozenset(),
                len(numbers & result.relations),
                sum(each.types for each in done),
                tuple(sorted(databases)),
            )
        )

    def _of(self, xid: int) -> _Unfinished:
        found = self._unfinished.get(xid)
        if found is None:
            found = self._unfinished[xid] = _Unfinished()
        return found

    def _remove(self, xid: int) -> _Unfinished | None:
        found = self._unfinished.pop(xid, None)
        if found is not None:
            self._counts -= len(found.rows)
            for file in found.files:
                self._new_files.pop(file, None)
        return found

    def _forget_unfinished(self) -> None:
        """The server starts anew: what was not prepared will never end."""
        kept = {xid for top, subs in self._prepared.items() for xid in (top, *subs)}
        for xid in [xid for xid in self._unfinished if xid not in kept]:
            self._remove(xid)
        self._running = self._running or set()
