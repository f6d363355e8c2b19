"""What is pushed is checked, stored once, and acknowledged when it is durable; whatever is no WAL of ours is refused."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgproof.actions.opening import open_repository
from pgproof.actions.wal_fetch import WalFetcher
from pgproof.actions.wal_push import WalPusher, push_wal_file, ready_files
from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError, TransientError
from pgproof.model.config import BackupConfig
from pgproof.model.wal_names import WalFile, parse_wal_name
from pgproof.repository.bucket import Bucket
from pgproof.repository.local import LocalBucket
from pgproof.repository.object_store import memory_bucket
from pgproof.repository.sealing import Kind
from pgproof.repository.wal_archive import WalArchive
from tests.repository.places import new_repository
from tests.support.faults import FailingBucket, run_armed
from tests.support.machine import wait_until
from tests.wal.segments import SIZE, SYSTEM, archive_in, content, leave, segment, stored

KILLED = -9
ONE = segment(5)


@pytest.fixture
def pg_wal(tmp_path: Path) -> Path:
    place = tmp_path / "pg_wal"
    place.mkdir()
    return place


@pytest.fixture(params=["local", "memory"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> WalArchive:
    root = tmp_path / "repo"
    root.mkdir()
    return archive_in(LocalBucket(root) if request.param == "local" else memory_bucket())


# names


@given(st.text(alphabet="0123456789ABCDEFabcdef.partilbckuphsoy/\\ %\n\0", max_size=50))
@example("0" * 24)
@example("0" * 8 + ".history")
@example("00000001000000000000000A\n")
@example("../00000001000000000000000A")
def test_only_postgresqls_own_names_are_names(text: str) -> None:
    try:
        found = parse_wal_name(text)
    except PreconditionError as error:
        assert error.hint
        return
    stem, _dot, rest = text.partition(".")
    assert stem == stem.upper() and set(stem) <= set("0123456789ABCDEF")
    assert found.timeline == int(stem[:8], 16) > 0
    shapes = {WalFile.SEGMENT: "", WalFile.PARTIAL: "partial", WalFile.HISTORY: "history"}
    assert rest == shapes.get(found.kind, rest)
    assert len(stem) == (8 if found.kind is WalFile.HISTORY else 24)


def test_the_names_that_a_server_uses() -> None:
    name = "0000001F000000010000000A"
    assert parse_wal_name(name).timeline == 0x1F
    assert parse_wal_name(f"{name}.partial").kind is WalFile.PARTIAL
    assert parse_wal_name(f"{name}.00000028.backup").kind is WalFile.BACKUP
    assert parse_wal_name("0000000A.history").timeline == 10


# one file


def test_a_segment_is_stored_once(archive: WalArchive, pg_wal: Path) -> None:
    path = leave(pg_wal, ONE)
    assert push_wal_file(archive, path, 3) > 0
    assert push_wal_file(archive, path, 3) == 0, "the same again is success"
    assert stored(archive, ONE) == path.read_bytes()


def test_another_content_is_refused_and_the_first_one_stays(archive: WalArchive, pg_wal: Path) -> None:
    first = leave(pg_wal, ONE).read_bytes()
    push_wal_file(archive, pg_wal / ONE.name, 3)
    leave(pg_wal, ONE, seed=1)
    for _ in range(2):
        with pytest.raises(ConflictError, match="different WAL segment"):
            push_wal_file(archive, pg_wal / ONE.name, 3)
    assert stored(archive, ONE) == first


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"magic": 0xD098}, "does not hold what its name says"),
        ({"magic": 0}, "does not hold what its name says"),
        ({"info": 0}, "does not hold what its name says"),
        ({"address": ONE.start.value - SIZE}, "does not hold what its name says"),
        ({"timeline": 2}, "does not hold what its name says"),
        ({"size": 16 << 20}, "does not hold what its name says"),
        ({"system": SYSTEM + 1}, "another cluster"),
    ],
)
def test_a_segment_of_something_else_is_refused(pg_wal: Path, changes: dict[str, int], what: str) -> None:
    archive = archive_in(memory_bucket())
    path = pg_wal / ONE.name
    path.write_bytes(content(ONE, **changes))
    with pytest.raises(DataError, match=what):
        push_wal_file(archive, path, 3)
    assert archive.inventory().pieces == ()


def test_a_segment_cut_anywhere_is_refused(pg_wal: Path) -> None:
    archive, path = archive_in(memory_bucket()), pg_wal / ONE.name
    whole = content(ONE)
    for length in [*range(0, SIZE, 8192), SIZE - 1, SIZE + 1]:
        path.write_bytes(whole[:length].ljust(length, b"x"))
        with pytest.raises(DataError, match="segment size"):
            push_wal_file(archive, path, 3)
    assert archive.inventory().pieces == ()


def test_a_name_of_another_segment_size_is_refused(pg_wal: Path) -> None:
    path = pg_wal / "0000000100000000FFFFFFFF"
    path.write_bytes(bytes(SIZE))
    with pytest.raises(DataError, match="no segment of this cluster"):
        push_wal_file(archive_in(memory_bucket()), path, 3)


def test_a_file_that_is_not_there_is_the_operators_to_find(pg_wal: Path) -> None:
    with pytest.raises(PreconditionError, match="cannot be read"):
        push_wal_file(archive_in(memory_bucket()), pg_wal / ONE.name, 3)


def test_the_first_page_of_a_segment_may_be_of_the_timeline_before(archive: WalArchive, pg_wal: Path) -> None:
    branched = segment(5, timeline=2)
    path = pg_wal / branched.name
    path.write_bytes(content(branched, timeline=1))
    assert push_wal_file(archive, path, 3) > 0


def test_a_history_goes_before_its_timelines_wal(archive: WalArchive, pg_wal: Path) -> None:
    line = b"1\t0/500100\tno recovery target specified\n"
    (pg_wal / "00000002.history").write_bytes(line)
    push_wal_file(archive, leave(pg_wal, segment(5, timeline=2)), 3)
    assert archive.read_history(2) == line
    assert push_wal_file(archive, pg_wal / "00000002.history", 3) == 0
    (pg_wal / "00000002.history").write_bytes(b"1\t0/600000\tanother server\n")
    with pytest.raises(ConflictError, match="different history"):
        push_wal_file(archive, pg_wal / "00000002.history", 3)
    assert archive.read_history(2) == line
    (pg_wal / "00000003.history").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not well formed"):
        push_wal_file(archive, pg_wal / "00000003.history", 3)


def test_partial_segments_of_two_promotions_are_both_kept(archive: WalArchive, pg_wal: Path) -> None:
    name = f"{ONE.name}.partial"
    fetcher = WalFetcher(archive, grace=0)
    assert fetcher.find(name) is None
    (pg_wal / name).write_bytes(content(ONE, seed=1))
    assert push_wal_file(archive, pg_wal / name, 3) > 0
    assert push_wal_file(archive, pg_wal / name, 3) == 0
    found = fetcher.find(name)
    assert found is not None
    assert b"".join(found.chunks) == content(ONE, seed=1)
    (pg_wal / name).write_bytes(content(ONE, seed=2))
    assert push_wal_file(archive, pg_wal / name, 3) > 0
    with pytest.raises(PreconditionError, match="several servers"):
        fetcher.find(name)
    assert archive.inventory().pieces == (), "they are no WAL of the timeline"
    assert fetcher.find(ONE.name) is None


def test_backup_files_are_acknowledged_and_not_stored(archive: WalArchive, pg_wal: Path) -> None:
    before = [info.key for info in archive.repository.bucket.list("")]
    path = pg_wal / f"{ONE.name}.00000028.backup"
    path.write_bytes(b"START WAL LOCATION")
    assert push_wal_file(archive, path, 3) == 0
    assert [info.key for info in archive.repository.bucket.list("")] == before


def push_in(config: BackupConfig, path: Path) -> None:
    push_wal_file(WalArchive.open(open_repository(config)), path, 3)


@pytest.mark.parametrize("point", ["create.staged", "create.after"])
def test_a_push_killed_at_any_storage_point_is_repeated(work_dir: Path, pg_wal: Path, point: str) -> None:
    config = new_repository(work_dir / "repo")
    repository = open_repository(config)
    described = {"format": 1, "system_identifier": str(SYSTEM), "block_size": 8192, "wal_segment_size": SIZE}
    repository.create_json(Kind.CLUSTER, repository.layout.cluster, described)
    archive = WalArchive.open(repository)
    branched = segment(5, timeline=2)
    (pg_wal / "00000002.history").write_bytes(b"1\t0/500100\tx\n")
    path, killed = leave(pg_wal, branched), 0
    while run_armed(f"bucket.{point}@{killed + 1}=kill", push_in, config, path) == KILLED:
        killed += 1
        # Nothing half, and no WAL of a timeline without its history.
        whole = stored(archive, branched)
        assert whole in (None, path.read_bytes())
        assert whole is None or archive.read_history(2) is not None
    assert stored(archive, branched) == path.read_bytes()
    assert killed > 0


# ahead of the server's asking


class Gate:
    """A real bucket whose creates wait until they are let through."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.open = threading.Event()
        self.waiting: set[str] = set()

    def create(self, key: str, data: bytes) -> None:
        self.waiting.add(key.rpartition("/")[2])
        self.open.wait()
        self._bucket.create(key, data)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._bucket, verb)


def test_what_is_ready_is_pushed_with_what_is_asked_for(pg_wal: Path) -> None:
    archive = archive_in(memory_bucket())
    archive.repository.bucket = gate = Gate(archive.repository.bucket)
    paths = [leave(pg_wal, segment(number)) for number in range(5, 25)]
    pusher = WalPusher(archive, 3, ahead=3)
    try:
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(pusher.push, paths[0])
            wait_until(lambda: len(gate.waiting) == 4, "three more to be on their way")
            assert gate.waiting == {path.name for path in paths[:4]}
            assert not asked.done(), "nothing is acknowledged before it is durable"
            gate.open.set()
            assert asked.result(10) > 0
        for path in paths:
            pusher.push(path)
            (pg_wal / "archive_status" / f"{path.name}.ready").unlink()
            assert stored(archive, segment(int(path.name[-2:], 16))) == path.read_bytes()
    finally:
        gate.open.set()
        pusher.close()


def test_what_was_pushed_ahead_is_acknowledged_only_as_the_file_it_was(pg_wal: Path) -> None:
    archive = archive_in(memory_bucket())
    first, second = (leave(pg_wal, segment(number)) for number in (5, 6))
    pusher = WalPusher(archive, 3, ahead=3)
    try:
        pusher.push(first)
        wait_until(lambda: stored(archive, segment(6)) is not None, "the second one to be pushed ahead")
        second.unlink()
        leave(pg_wal, segment(6), seed=1)
        with pytest.raises(ConflictError):
            pusher.push(second)
    finally:
        pusher.close()


def test_trouble_ahead_is_told_to_whoever_asks_for_it(pg_wal: Path) -> None:
    archive = archive_in(memory_bucket())
    first, cut = (leave(pg_wal, segment(number)) for number in (5, 6))
    cut.write_bytes(content(segment(6))[:-1])
    pusher = WalPusher(archive, 3, ahead=3)
    try:
        pusher.push(first)
        with pytest.raises(DataError, match="segment size"):
            pusher.push(cut)
        leave(pg_wal, segment(6))
        assert pusher.push(cut) > 0, "and is tried again"
    finally:
        pusher.close()


def test_a_pulled_plug_is_an_error_every_time(pg_wal: Path) -> None:
    archive = archive_in(memory_bucket())
    whole = archive.repository.bucket
    path = leave(pg_wal, ONE)
    for effect in (False, True):
        archive.repository.bucket = FailingBucket(whole, 0, last_takes_effect=effect)
        pusher = WalPusher(archive, 3, ahead=1)
        try:
            with pytest.raises(TransientError):
                pusher.push(path)
        finally:
            pusher.close()
    archive.repository.bucket = whole
    assert push_wal_file(archive, path, 3) == 0, "the last one was stored, only its answer was lost"
    assert stored(archive, ONE) == path.read_bytes()


def test_histories_are_ready_first(pg_wal: Path) -> None:
    status = pg_wal / "archive_status"
    assert ready_files(pg_wal) == []
    status.mkdir()
    names = [segment(6).name, "00000002.history", segment(5).name]
    random.Random(1).shuffle(names)
    for name in names:
        (status / f"{name}.ready").touch()
    (status / f"{segment(4).name}.done").touch()
    assert ready_files(pg_wal) == ["00000002.history", segment(5).name, segment(6).name]


def test_errors_of_a_push_end_with_less_than_126() -> None:
    from pgproof.cli.exits import exit_status
    from pgproof.model.wal_commands import failed_push

    for kind in (PreconditionError, TransientError, DataError, ConflictError):
        error: EngineError = kind("m")
        assert failed_push(error) == exit_status(error) <= 125
