"""Harm as pg_waldump's words tell it: lines as 15, 17 and 18 print them, and histories of transactions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.harm import What, judge, restore_command
from pgproof.model.harm_scan import HarmScan, Suspect
from pgproof.model.lsn import Lsn
from pgproof.model.relation_names import Names, Relation
from pgproof.model.wal_changes import (
    Outcome,
    RelationFile,
    RowChange,
    created_file,
    database_directories,
    outcome,
    row_change,
    row_place,
)
from pgproof.model.wal_records import WalRecord, parse_record

FILE = RelationFile(1663, 5, 16480)
NOON = "2026-11-25 12:00:00.000000 UTC"


def record(rmgr: str, description: str, xid: int = 0, lsn: int = 0x28E1FB0) -> WalRecord:
    line = (
        f"rmgr: {rmgr:<11} len (rec/tot):     54/    54, tx: {xid:>10}, lsn: {Lsn(lsn)}, prev {Lsn(lsn - 8)}, "
        f"desc: {description}"
    )
    found = parse_record(line)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("DELETE off 1 flags 0x00 KEYS_UPDATED , blkref #0: rel 1663/5/16480 blk 0", RowChange(FILE, True)),
        (
            "DELETE xmax: 780, off: 1, infobits: [KEYS_UPDATED], flags: 0x01, blkref #0: rel 1663/5/16480 blk 0 FPW",
            RowChange(FILE, True),
        ),
        ("DELETE off 1 flags 0x10 KEYS_UPDATED , blkref #0: rel 1663/5/16480 blk 0", RowChange(FILE, False)),
        ("DELETE xmax: 7, off: 1, infobits: [], flags: 0x08, blkref #0: rel 1663/5/16480 blk 0", None),
        (
            "HOT_UPDATE off 7 xmax 755 flags 0x20 ; new off 21 xmax 0, blkref #0: rel 1663/5/16480 blk 0",
            RowChange(FILE, False),
        ),
        (
            "UPDATE+INIT old_xmax: 783, old_off: 8, old_infobits: [KEYS_UPDATED], flags: 0x48, new_xmax: 0, new_off: 2, "
            "blkref #0: rel 1663/5/16480 blk 9, blkref #1: rel 1663/5/16480 blk 0",
            RowChange(FILE, False),
        ),
        ("INSERT off: 2, flags: 0x08, blkref #0: rel 1663/5/16480 blk 0", None),
        ("LOCK off 1: xid 7: flags 0x00 LOCK_ONLY EXCL_LOCK , blkref #0: rel 1663/5/16480 blk 0", None),
        ("INPLACE off: 4; inval msgs: , blkref #0: rel 1664/0/1262 blk 0", None),
    ],
)
def test_rows_are_read_in_the_words_of_every_version(description: str, expected: RowChange | None) -> None:
    assert row_change(record("Heap", description, 7)) == expected


def test_the_mark_of_a_database_is_the_row_that_is_deleted_then() -> None:
    marks = ["INPLACE off 4, blkref", "INPLACE off: 4; inval msgs: , blkref"]
    rows = [
        "DELETE off 4 flags 0x00 KEYS_UPDATED , blkref",
        "DELETE xmax: 788, off: 4, infobits: [], flags: 0x00, blkref",
    ]
    places = {row_place(record("Heap", f"{text} #0: rel 1664/0/1262 blk 3 FPW")) for text in (*marks, *rows)}
    assert len(places) == 1 and None not in places


def test_files_and_directories_are_read() -> None:
    assert created_file(record("Storage", "CREATE base/5/16442")) == RelationFile(1663, 5, 16442)
    assert created_file(record("Storage", "CREATE pg_tblspc/16385/PG_18_202506291/5/16390")) == RelationFile(
        16385, 5, 16390
    )
    assert created_file(record("Storage", "CREATE global/6100")) == RelationFile(1664, 0, 6100)
    assert created_file(record("Storage", "CREATE base/5/16442_init")) is None
    assert created_file(record("Storage", "TRUNCATE base/5/16442 to 0 blocks flags 7")) is None
    assert database_directories(record("Database", "DROP dir 1663/16434 16385/16434")) == ("DROP", {16434})
    copied = record("Database", "CREATE_FILE_COPY copy dir 1663/1 to 1663/16400")
    assert database_directories(copied) == ("CREATE", {16400})


@pytest.mark.parametrize("head", [f"COMMIT {NOON}", f"COMMIT_PREPARED 785: {NOON}"])
def test_the_end_of_a_transaction_names_what_ends_with_it(head: str) -> None:
    text = (
        f"{head}; rels: base/5/16427 base/5/16431; subxacts: 786 790; dropped stats: 2/5/16431 2/5/16427 1/5/0; "
        "inval msgs: catcache 55 relcache 16431 snapshot 2608 relcache 16427; sync"
    )
    assert outcome(record("Transaction", text)) == Outcome(
        (786, 790),
        (RelationFile(1663, 5, 16427), RelationFile(1663, 5, 16431)),
        ((5, 16431), (5, 16427)),
        frozenset({16431, 16427}),
    )
    assert outcome(record("Transaction", head)) == Outcome()


def test_the_name_of_a_prepared_transaction_is_not_believed() -> None:
    text = f"PREPARE gid a; subxacts: 5; rels: base/5/1: {NOON}; rels(commit): base/5/9; subxacts: 786; inval msgs: relcache 9"
    assert outcome(record("Transaction", text)) == Outcome((786,))


@dataclass
class Story:
    """A transaction: its changes (file, deleted), its subtransactions, and how it ends."""

    xid: int
    committed: bool
    changes: list[tuple[int, bool]]
    children: list[Story] = field(default_factory=list)

    def records(self) -> Iterator[tuple[str, str, int]]:
        for number, deleted in self.changes:
            words = (
                f"DELETE xmax: {self.xid}, off: 1, infobits: [], flags: 0x00"
                if deleted
                else f"HOT_UPDATE off 7 xmax {self.xid} flags 0x20 ; new off 21 xmax 0"
            )
            yield "Heap", f"{words}, blkref #0: rel 1663/5/{number} blk 0", self.xid
        for child in self.children:
            yield from child.records()
            if not child.committed:
                yield "Transaction", f"ABORT {NOON}", child.xid
        verb = "COMMIT" if self.committed else "ABORT"
        kept = [child.xid for child in self.children if child.committed]
        if self.children or self.xid < 1000:
            subs = f"; subxacts: {' '.join(map(str, kept))}" if kept else ""
            yield "Transaction", f"{verb} {NOON}{subs}", self.xid

    def counts(self) -> dict[RelationFile, tuple[int, int]]:
        found: dict[RelationFile, tuple[int, int]] = {}
        for story in (self, *(child for child in self.children if child.committed)):
            for number, deleted in story.changes:
                file = RelationFile(1663, 5, number)
                before = found.get(file, (0, 0))
                found[file] = (before[0] + deleted, before[1] + (not deleted))
        return found


changes = st.lists(st.tuples(st.integers(16384, 16386), st.booleans()), max_size=6)


@st.composite
def stories(draw: st.DrawFn) -> list[Story]:
    found = []
    for number in range(draw(st.integers(1, 6))):
        children = [
            Story(1000 + 10 * number + each, draw(st.booleans()), draw(changes))
            for each in range(draw(st.integers(0, 4)))
        ]
        found.append(Story(700 + number, draw(st.booleans()), draw(changes), children))
    return found


def told(many: Sequence[Story], seed: int) -> list[WalRecord]:
    """Their records, interleaved."""
    chance, open_stories = random.Random(seed), [list(story.records()) for story in many]
    found: list[WalRecord] = [
        record("Standby", "RUNNING_XACTS nextXid 700 latestCompletedXid 699 oldestRunningXid 700")
    ]
    while any(open_stories):
        story = chance.choice([each for each in open_stories if each])
        rmgr, text, xid = story.pop(0)
        found.append(record(rmgr, text, xid, 0x1000000 + 64 * len(found)))
    return found


def scanned(records: Iterable[WalRecord], begin: int = 0, min_rows: int = 1, **options: int) -> list[Suspect]:
    scan = HarmScan(Lsn(begin), min_rows, **options)
    for each in records:
        scan.take(each)
    return list(scan.suspects)


@given(stories(), st.integers(0, 1000))
def test_what_was_committed_is_counted_whatever_runs_beside_it(many: list[Story], seed: int) -> None:
    found = {suspect.end.xid: suspect.rows for suspect in scanned(told(many, seed))}
    assert found == {story.xid: story.counts() for story in many if story.committed and story.counts()}


@given(stories(), st.integers(0, 1000), st.integers(1, 5))
def test_beyond_the_limit_the_scan_says_what_it_did_not_count(
    many: list[Story], seed: int, limit: int
) -> None:
    scan = HarmScan(Lsn(0), 1, limit)
    for each in told(many, seed):
        scan.take(each)
    counted = sum(sum(map(sum, suspect.rows.values())) for suspect in scan.suspects)
    right = sum(sum(map(sum, story.counts().values())) for story in many if story.committed)
    assert counted <= right <= counted + scan.uncounted
    assert (scan.uncounted_at is None) == (scan.uncounted == 0)


def deletes(xid: int, count: int, number: int = 16480) -> list[WalRecord]:
    text = f"DELETE off 1 flags 0x00 KEYS_UPDATED , blkref #0: rel 1663/5/{number} blk 0"
    return [record("Heap", text, xid) for _ in range(count)]


def test_a_restart_ends_what_was_not_prepared() -> None:
    records = [
        *deletes(700, 5),
        *deletes(701, 6),
        *deletes(702, 7),
        record("Transaction", f"PREPARE gid g: {NOON}; subxacts: 702", 701),
        record("XLOG", "CHECKPOINT_SHUTDOWN redo 0/28E36A0; tli 1"),
        *deletes(700, 1),
        record("Transaction", f"COMMIT {NOON}", 700),
        record("Transaction", f"COMMIT_PREPARED 701: {NOON}; subxacts: 702"),
    ]
    assert [suspect.rows for suspect in scanned(records)] == [{FILE: (1, 0)}, {FILE: (13, 0)}]


def test_what_ran_before_the_first_record_is_marked() -> None:
    running = record(
        "Standby", "RUNNING_XACTS nextXid 705 latestCompletedXid 703 oldestRunningXid 701; 1 xacts: 701"
    )
    ends = [record("Transaction", f"COMMIT {NOON}", xid) for xid in (700, 701, 704)]
    records = [*deletes(700, 1), ends[0], running, *deletes(701, 1), *deletes(704, 1), *ends[1:]]
    assert [suspect.at_least for suspect in scanned(records)] == [True, True, False]


def test_only_the_newest_suspects_are_kept_and_the_others_counted() -> None:
    scan = HarmScan(Lsn(0), 1)
    for xid in range(700, 1750):
        for each in (*deletes(xid, 1), record("Transaction", f"COMMIT {NOON}", xid)):
            scan.take(each)
    assert (len(scan.suspects), scan.older) == (1000, 50)
    assert scan.suspects[-1].end.xid == 1749


def test_commits_before_the_window_are_left_out_and_few_rows_too() -> None:
    early = [*deletes(700, 9), record("Transaction", f"COMMIT {NOON}", 700, 0x1000)]
    late = [*deletes(701, 9), record("Transaction", f"COMMIT {NOON}", 701, 0x3000)]
    assert [s.end.xid for s in scanned([*early, *late], begin=0x2000)] == [701]
    assert scanned([*early, *late], min_rows=10) == []


def test_a_renewed_file_is_of_the_relation_that_had_the_old_one() -> None:
    """TRUNCATE a table with TOAST and an index, whose files come anew in this order; they go in the other one."""
    records = [
        record("Storage", "CREATE base/5/16442", 7, 0x100),
        record("Storage", "CREATE base/5/16443", 7, 0x200),
        record("Storage", "CREATE base/5/16444", 7, 0x300),
        record("XLOG", "FPI , blkref #0: rel 1663/5/16444 blk 0 FPW", 7),
        record(
            "Transaction",
            f"COMMIT {NOON}; rels: base/5/16398 base/5/16396 base/5/16392; inval msgs: relcache 16392 relcache 16396",
            7,
        ),
    ]
    (suspect,) = scanned(records)
    assert suspect.renewed == {
        RelationFile(1663, 5, 16442): RelationFile(1663, 5, 16392),
        RelationFile(1663, 5, 16443): RelationFile(1663, 5, 16396),
    }
    names = Names()
    names.learn_databases({5: "app"})
    assert names.lacks(suspect)
    for oid, kind in ((16392, "r"), (16396, "t")):
        names.learn(Relation(oid, 5, f"public.r{oid}", kind), None)
    assert not names.lacks(suspect)
    (harm,) = judge(suspect, names, 1)
    assert (harm.what, harm.relation, harm.database) == (What.TRUNCATE, "public.r16392", "app")


def test_a_rewrite_and_a_rebuilt_index_are_no_harm() -> None:
    rewrite = [
        record("Storage", "CREATE base/5/16446", 7, 0x100),
        record(
            "Transaction",
            f"COMMIT {NOON}; rels: base/5/16400; dropped stats: 2/5/16446; inval msgs: relcache 16446 relcache 16400",
            7,
        ),
    ]
    rebuilt = [
        record("Storage", "CREATE base/5/16450", 8),
        record(
            "XLOG", "FPI , blkref #0: rel 1663/5/16450 blk 0 FPW, blkref #1: rel 1663/5/16450 blk 1 FPW", 8
        ),
        record("Transaction", f"COMMIT {NOON}; rels: base/5/16405; inval msgs: relcache 16405", 8),
    ]
    assert scanned([*rewrite, *rebuilt]) == []


def test_the_command_can_be_pasted() -> None:
    assert restore_command(Lsn.parse("0/5000148"), 2, "main") == (
        "pgproof restore --to-lsn 0/5000148 --exclusive --timeline 2 --data-dir DIR"
    )
    assert "--cluster 'a b'" in restore_command(Lsn(1), 1, "a b")
