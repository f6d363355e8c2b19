"""Maps made of a base's and of sent blocks: each page comes from where the rules say, whatever the numbers."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.filemap import ZEROS
from pgproof.model.incremental_file import HEAD_LENGTH, MAGIC, IncrementalHead, head_length, parse_head
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.model.relation_files import MAIN, VM, Relation, relation_file, without_prefix
from pgproof.model.summaries import LimitBlocks, SummariesUnusable, Summary, overlapping
from pgproof.repository.base import Base
from pgproof.repository.object_store import memory_bucket
from pgproof.repository.rebuild import Rebuild
from pgproof.repository.repository import Repository
from tests.repository.test_incremental import KEY, PAGE, Files, back_up, id_of

SEGMENT_PAGES = 64
RELATION = Relation(1663, 5, 777)
HEAP, VISIBILITY = b"base/5/777", b"base/5/777_vm"


def based(files: Files) -> tuple[Repository, Manifest]:
    bucket = memory_bucket()
    return Repository(bucket, KEY, "main"), back_up(bucket, id_of(0), files, None)


@given(
    old_pages=st.integers(1, 63),
    truncation=st.integers(0, 64),
    blocks=st.sets(st.integers(0, 63), max_size=12),
    limit=st.none() | st.integers(0, 70),
)
def test_each_page_comes_from_where_the_rules_say(
    old_pages: int, truncation: int, blocks: set[int], limit: int | None
) -> None:
    chance = random.Random(1)
    repository, manifest = BASES.setdefault(
        old_pages, based({HEAP: chance.randbytes(old_pages * PAGE), b"other": b"1"})
    )
    limits = LimitBlocks()
    if limit is not None:
        limits.add(RELATION, MAIN, limit)
    head = IncrementalHead(np.array(sorted(blocks), np.uint32), truncation, HEAD_LENGTH)
    with Base(repository, manifest, 1) as base:
        rebuild = Rebuild(base, limits, PAGE, SEGMENT_PAGES)
        patch = rebuild.patch(0, HEAP, head)
        old = base.file(HEAP)
        assert old is not None
        there = old.pages(0, 64)

    assert patch.pages == max([truncation, *(block + 1 for block in blocks)])
    found = {}
    for run in patch.runs:
        for at in range(int(run["pages"])):
            place = int(run["owner"]), int(run["pack"]), int(run["pack_page"]) + at
            found[int(run["file_page"]) + at] = place if run["owner"] != ZEROS else ZEROS
    assert found.keys() == set(range(patch.pages)) - blocks
    for page, place in found.items():
        inherited = page < truncation and page < old_pages and (limit is None or page < limit)
        expected = (int(there.owner[page]), int(there.pack[page]), int(there.page[page]))
        assert place == (expected if inherited else ZEROS)
    counts = rebuild.counts
    assert (counts.sent, counts.inherited + counts.zeroed) == (len(blocks), len(found))


BASES: dict[int, tuple[Repository, Manifest]] = {}


@pytest.mark.parametrize("order", ["heap first", "map first"])
@pytest.mark.parametrize(
    ("heap_blocks", "limit", "kept"), [([], None, True), ([3], None, False), ([], 60, False)]
)
def test_a_visibility_map_is_inherited_only_if_nothing_it_speaks_of_changed(
    order: str, heap_blocks: list[int], limit: int | None, kept: bool
) -> None:
    repository, manifest = based({HEAP: bytes(range(256)) * 32 * 8, VISIBILITY: b"\xff" * PAGE})
    limits = LimitBlocks()
    if limit is not None:
        limits.add(RELATION, MAIN, limit)
    with Base(repository, manifest, 1) as base:
        rebuild = Rebuild(base, limits, PAGE, SEGMENT_PAGES)
        heads = [(0, HEAP, heap_blocks, 8), (1, VISIBILITY, [], 1)]
        for number, path, blocks, pages in heads if order == "heap first" else heads[::-1]:
            rebuild.patch(number, path, IncrementalHead(np.array(blocks, np.uint32), pages, HEAD_LENGTH))
        ((number, runs),) = rebuild.deferred()
    assert number == 1 and runs["pages"].tolist() == [1]
    assert (int(runs["owner"][0]) != ZEROS) == kept


def test_a_base_that_lacks_the_file_or_its_map_cannot_be_built_on() -> None:
    repository, manifest = based({HEAP: b"x" * PAGE})
    head = IncrementalHead(np.empty(0, np.uint32), 1, HEAD_LENGTH)
    with Base(repository, manifest, 1) as base, pytest.raises(SummariesUnusable, match="lacks a file"):
        Rebuild(base, LimitBlocks(), PAGE, SEGMENT_PAGES).patch(0, b"base/5/778", head)
    for info in list(repository.bucket.list(repository.layout.maps)):
        repository.bucket.delete(info.key)
    with Base(repository, manifest, 1) as base, pytest.raises(SummariesUnusable):
        Rebuild(base, LimitBlocks(), PAGE, SEGMENT_PAGES).patch(0, HEAP, head)


def sent(blocks: list[int], truncation: int, *, magic: int = MAGIC, count: int | None = None) -> bytes:
    """The head of a file as the server sends it."""
    number = len(blocks) if count is None else count
    head = struct.pack(f"<III{len(blocks)}I", magic, number, truncation, *blocks)
    return head.ljust(-(-len(head) // PAGE) * PAGE, b"\0") if number else head


@given(st.sets(st.integers(0, SEGMENT_PAGES - 1)), st.integers(0, SEGMENT_PAGES))
def test_a_head_is_read_as_it_was_sent(blocks: set[int], truncation: int) -> None:
    head = sent(sorted(blocks), truncation)
    length = head_length(head[:HEAD_LENGTH], len(head) + len(blocks) * PAGE, PAGE, SEGMENT_PAGES)
    assert length == len(head)
    found = parse_head(head, PAGE, SEGMENT_PAGES)
    assert (found.blocks.tolist(), found.truncation) == (sorted(blocks), truncation)


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (sent([1], 2, magic=1), 2 * PAGE),
        (sent([], 2, count=65), 66 * PAGE),
        (sent([1], 65), 2 * PAGE),
        (sent([1], 2), 3 * PAGE),
        (sent([2, 1], 3), 3 * PAGE),
        (sent([1, 1], 3), 3 * PAGE),
        (sent([64], 3), 2 * PAGE),
        (sent([1], 3)[:-1] + b"x", 2 * PAGE),
    ],
)
def test_a_head_that_no_server_sends_is_refused(head: bytes, size: int) -> None:
    with pytest.raises(DataError):
        length = head_length(head[:HEAD_LENGTH], size, PAGE, SEGMENT_PAGES)
        parse_head(head[:length].ljust(length, b"\0"), PAGE, SEGMENT_PAGES)


def test_files_of_relations() -> None:
    assert relation_file(b"base/5/777_vm.2") == (RELATION, VM, 2)
    assert relation_file(b"global/1262") == (Relation(1664, 0, 1262), MAIN, 0)
    assert relation_file(b"pg_tblspc/16400/PG_18_1/5/9") == (Relation(16400, 5, 9), MAIN, 0)
    for path in (b"base/5/pg_filenode.map", b"base/5/t3_777", b"pg_xact/0000", b"base/5/INCREMENTAL.777"):
        assert relation_file(path) is None
    assert without_prefix(b"base/5/INCREMENTAL.777_vm") == VISIBILITY
    assert without_prefix(b"base/5/777") is None and without_prefix(b"pg_xact/INCREMENTAL.0000") is None


def test_summaries_must_cover_the_range_without_a_gap() -> None:
    def summary(start: int, end: int, timeline: int = 1) -> Summary:
        return Summary(timeline, Lsn(start), Lsn(end))

    some = [summary(0, 10), summary(10, 20), summary(20, 30), summary(12, 30, timeline=2)]
    assert overlapping(some, 1, Lsn(10), Lsn(25)) == some[1:3]
    assert overlapping(some, 1, Lsn(5), Lsn(10)) == some[:1]
    for start, end in ((25, 31), (0, 31)):
        with pytest.raises(SummariesUnusable, match="missing"):
            overlapping(some, 1, Lsn(start), Lsn(end))
    with pytest.raises(SummariesUnusable):
        overlapping([some[0], some[2]], 1, Lsn(0), Lsn(30))


def test_a_new_database_has_no_old_blocks() -> None:
    limits = LimitBlocks()
    limits.add(Relation(1663, 5, 0), MAIN, 0)
    assert limits.limit(RELATION, MAIN) == 0 and limits.touches(RELATION)
    assert limits.limit(Relation(1663, 6, 777), MAIN) is None
