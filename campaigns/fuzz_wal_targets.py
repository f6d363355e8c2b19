"""What the fuzzer feeds to the parsers of WAL: names, timelines, incremental files, pg_waldump's lines."""

from __future__ import annotations

import itertools
import json
import struct

import numpy as np

from campaigns.fuzz_input import Input
from pgproof.model.incremental_file import HEAD_LENGTH, MAGIC, head_length, parse_head
from pgproof.model.lsn import Lsn
from pgproof.model.relation_files import relation_file, without_prefix
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_changes import (
    all_files,
    created_file,
    database_directories,
    outcome,
    row_change,
    row_place,
)
from pgproof.model.wal_names import is_part_name, parse_history_name, parse_stored_name, parse_wal_name
from pgproof.model.wal_records import parse_record, restore_point, transaction_end

_PAGE = 8192
_SEGMENT_PAGES = 131_072
_SEGMENT = 16 << 20


def timeline_history(data: bytes) -> None:
    choice = Input(data)
    timeline, lsn = choice.number(4), Lsn(choice.number(8))
    history = TimelineHistory.parse(timeline, choice.rest())
    spans = history.spans()
    assert all(a.end == b.start for a, b in itertools.pairwise(spans)), "the path has a hole"
    assert history.timeline_at(lsn) in {span.timeline for span in spans}
    assert history.passes(history.timeline_at(lsn), lsn)


def timeline_seeds() -> list[bytes]:
    head = struct.pack("<IQ", 3, 1 << 25)
    return [
        head + b"1\t0/2000148\tno recovery target specified\n\n2\t0/3000000\tbefore 2000-01-01\n",
        head + b"# a comment\n1 0/0 x\n2 FFFFFFFF/FFFFFFFF\n",
    ]


def wal_name(data: bytes) -> None:
    name = data.decode("utf-8", "replace")
    stored = parse_stored_name(name, _SEGMENT)
    assert stored is None or (stored.name == name and is_part_name(name) == (not stored.whole))
    history = parse_history_name(name)
    assert history is None or f"{history:08X}.history" == name
    assert parse_wal_name(name).name == name


def wal_name_seeds() -> list[bytes]:
    segment = b"000000010000000A000000FE"
    ends = (b"", b".partial", b".00000028.backup", b".00000000-00002000", b".00000000-01000000")
    return [*(segment + end for end in ends), b"00000002.history"]


def incremental_file(data: bytes) -> None:
    """What a server sends for a file of which only some blocks changed."""
    choice = Input(data)
    size, path = choice.number(6), choice.piece()
    relation_file(path)
    without_prefix(path)
    content = choice.rest()
    if len(content) < HEAD_LENGTH:
        return
    length = head_length(content[:HEAD_LENGTH], size, _PAGE, _SEGMENT_PAGES)
    assert HEAD_LENGTH <= length <= size, "the head is longer than the file"
    head = parse_head(content[:length].ljust(length, b"\0"), _PAGE, _SEGMENT_PAGES)
    assert head.pages <= _SEGMENT_PAGES and np.all(head.blocks < max(head.pages, 1))


def incremental_seeds() -> list[bytes]:
    path = b"base/5/INCREMENTAL.16384"
    few = struct.pack("<III3I", MAGIC, 3, 9, 1, 4, 7)
    return [
        (4 * _PAGE).to_bytes(6, "little") + bytes([len(path)]) + path + few,
        HEAD_LENGTH.to_bytes(6, "little") + b"\0" + struct.pack("<III", MAGIC, 0, 131_072),
    ]


def waldump_line(data: bytes) -> None:
    """Names of restore points, prepared transactions and tablespaces are in it, which users choose."""
    record = parse_record(data.decode("utf-8", "surrogateescape"))
    if record is None:
        return
    restore_point(record)
    end = transaction_end(record)
    if end is not None:
        json.dumps(end.to_json())
        str(end)
    row_change(record)
    row_place(record)
    all_files(record)
    created_file(record)
    database_directories(record)
    outcome(record)


def waldump_seeds() -> list[bytes]:
    head = b"rmgr: %s len (rec/tot):     54/    54, tx:        742, lsn: 0/01500028, prev 0/015000F0, desc: "
    block = b", blkref #0: rel 1663/5/16384 blk 0"
    return [
        head % b"Heap       " + b"DELETE xmax: 742, off: 1, infobits: [KEYS_UPDATED], flags: 0x00" + block,
        head % b"Heap       " + b"HOT_UPDATE old_xmax: 742, old_off: 1, flags: 0x20, new_xmax: 0" + block,
        head
        % b"Transaction"
        + b"COMMIT 2026-11-25 10:00:00.123456 UTC; rels: base/5/16384; subxacts: 743 744; "
        b"dropped stats: 2/5/16384; inval msgs: catcache 80 relcache 16384",
        head % b"Transaction" + b"COMMIT_PREPARED 745: 2026-11-25 10:00:00 UTC",
        head % b"Transaction" + b"PREPARE gid x: 2026-11-25 10:00:00 UTC; subxacts: 743; y",
        head % b"XLOG       " + b"RESTORE_POINT before",
        head % b"Storage    " + b"CREATE base/5/16384",
        head % b"Database   " + b"CREATE_FILE_COPY copy dir 1663/1 to 1663/16400",
    ]
