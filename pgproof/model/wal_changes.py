"""What a WAL record changes: rows, relation files, databases; read from pg_waldump's words (PostgreSQL 15 to 18)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from pgproof.model.wal_records import WalRecord

_DEFAULT_TABLESPACE = 1663
GLOBAL_TABLESPACE = 1664
_BLOCK = re.compile(r"blkref #0: rel (\d{1,10})/(\d{1,10})/(\d{1,10})(?: fork \w+)? blk (\d{1,10})")
_BLOCKS = re.compile(r"blkref #\d+: rel (\d{1,10})/(\d{1,10})/(\d{1,10}) ")
_OFFSET = re.compile(r"off:? (\d{1,10})")
_FLAGS = re.compile(r"flags:? 0x([0-9A-Fa-f]{1,8})")
# heapam_xlog.h: a speculative insertion that is taken back, and the half of an update that moves a row.
_IS_SUPER, _IS_PARTITION_MOVE = 0x08, 0x10
_PATH = re.compile(r"(?:(global)|base/(\d{1,10})|pg_tblspc/(\d{1,10})/[^/ ]+/(\d{1,10}))/(\d{1,10})\Z")
_STATISTICS = re.compile(r"\b2/(\d{1,10})/(\d{1,10})")
_RELATION = re.compile(r"\brelcache (\d{1,10})")
_DIRECTORY = re.compile(r"\b(\d{1,10})/(\d{1,10})")
_NUMBER = re.compile(r"\d{1,10}")


class RelationFile(NamedTuple):
    """The number of a relation's file, with the tablespace and the database that it lies in."""

    tablespace: int
    database: int
    number: int

    def __str__(self) -> str:
        return f"{self.tablespace}/{self.database}/{self.number}"


class RowChange(NamedTuple):
    """One row is deleted, or else updated."""

    file: RelationFile
    deleted: bool


class Place(NamedTuple):
    """Where a row lies: a file's block, and the line in it."""

    file: RelationFile
    block: int
    line: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What else the end of a transaction brings: the subtransactions that end with it, the files that go, the
    relations (database, OID) whose statistics are dropped with them, and the OIDs of all relations it changed."""

    subtransactions: tuple[int, ...] = ()
    files: tuple[RelationFile, ...] = ()
    dropped: tuple[tuple[int, int], ...] = ()
    relations: frozenset[int] = frozenset()


def row_change(record: WalRecord) -> RowChange | None:
    """The row that a Heap record deletes or updates."""
    text = record.description
    if text.startswith("DELETE"):
        flags = _FLAGS.search(text)
        bits = int(flags[1], 16) if flags else 0
        file = first_file(record)
        return None if file is None or bits & _IS_SUPER else RowChange(file, not bits & _IS_PARTITION_MOVE)
    if text.startswith(("UPDATE", "HOT_UPDATE")):
        file = first_file(record)
        return None if file is None else RowChange(file, False)
    return None


def row_place(record: WalRecord) -> Place | None:
    """The row that a Heap record is about."""
    block, line = _BLOCK.search(record.description), _OFFSET.search(record.description)
    if block is None or line is None:
        return None
    return Place(RelationFile(int(block[1]), int(block[2]), int(block[3])), int(block[4]), int(line[1]))


def first_file(record: WalRecord) -> RelationFile | None:
    found = _BLOCK.search(record.description)
    return RelationFile(int(found[1]), int(found[2]), int(found[3])) if found else None


def all_files(record: WalRecord) -> set[RelationFile]:
    return {RelationFile(*map(int, found)) for found in _BLOCKS.findall(record.description)}


def created_file(record: WalRecord) -> RelationFile | None:
    """The main file that a Storage record creates."""
    word, _space, path = record.description.strip().partition(" ")
    return _file(path) if word == "CREATE" else None


def database_directories(record: WalRecord) -> tuple[str, frozenset[int]]:
    """What a Database record does, `CREATE` or `DROP`, to directories of which databases (OIDs)."""
    text = record.description
    word = "DROP" if text.startswith("DROP") else "CREATE" if text.startswith("CREATE") else ""
    # A copy names its source first.
    target = text.rpartition(" to ")[2]
    return word, frozenset(int(found[2]) for found in _DIRECTORY.finditer(target))


def outcome(record: WalRecord) -> Outcome:
    """Of a commit (or rollback), also of a prepared transaction; of PREPARE the subtransactions only."""
    if record.description.startswith("PREPARE"):
        # A name chosen by the user stands before it.
        after = record.description.rpartition("; subxacts: ")[2]
        some = after.partition(";")[0] if "; subxacts: " in record.description else ""
        return Outcome(tuple(int(number) for number in _NUMBER.findall(some)))
    sections = dict(part.partition(": ")[::2] for part in record.description.split("; ")[1:] if ": " in part)
    files = (_file(path) for path in sections.get("rels", "").split())
    return Outcome(
        tuple(int(number) for number in _NUMBER.findall(sections.get("subxacts", ""))),
        tuple(file for file in files if file is not None),
        tuple(
            (int(found[1]), int(found[2]))
            for found in _STATISTICS.finditer(sections.get("dropped stats", ""))
        ),
        frozenset(int(found[1]) for found in _RELATION.finditer(sections.get("inval msgs", ""))),
    )


def _file(path: str) -> RelationFile | None:
    """None for a fork other than the main one, and for files of temporary tables."""
    found = _PATH.match(path)
    if found is None:
        return None
    if found[1]:
        return RelationFile(GLOBAL_TABLESPACE, 0, int(found[5]))
    if found[2]:
        return RelationFile(_DEFAULT_TABLESPACE, int(found[2]), int(found[5]))
    return RelationFile(int(found[3]), int(found[4]), int(found[5]))
