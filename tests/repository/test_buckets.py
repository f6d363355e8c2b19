"""One contract for every bucket: a local directory, memory, and a real S3 server."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.repository.bucket import Bucket
from pgproof.repository.local import LocalBucket
from pgproof.repository.object_store import memory_bucket, s3_bucket
from pgproof.repository.opening import open_bucket
from pgproof.repository.probe import probe_store, store_answers
from tests.support.s3 import S3Server

_numbers = itertools.count()


@pytest.fixture(params=["local", "memory", "s3", "s3 with a prefix"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "local":
        return LocalBucket(tmp_path)
    if request.param == "memory":
        return memory_bucket()
    server: S3Server = request.getfixturevalue("s3")
    name = server.make_bucket(f"contract-{next(_numbers)}")
    prefix = "some/prefix" if "prefix" in request.param else None
    return open_bucket(server.backup_config(repository_url=f"s3://{name}/{prefix or ''}"))


@pytest.fixture(params=["local", "memory"])
def quick_bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    return LocalBucket(tmp_path) if request.param == "local" else memory_bucket()


def test_what_was_created_is_read(bucket: Bucket) -> None:
    for size in (0, 1, 100_000):
        data = random.randbytes(size)
        bucket.create(f"a/b-{size}", data)
        assert bucket.read(f"a/b-{size}") == data


def test_an_object_is_created_once(bucket: Bucket) -> None:
    bucket.create("a/b", b"first")
    for data in (b"second", b"first", b""):
        with pytest.raises(ConflictError):
            bucket.create("a/b", data)
    assert bucket.read("a/b") == b"first"


def test_of_many_creates_at_once_one_wins(bucket: Bucket) -> None:
    barrier = threading.Barrier(6)

    def attempt(number: int) -> bytes | None:
        barrier.wait()
        try:
            bucket.create("a/race", str(number).encode())
        except ConflictError:
            return None
        return str(number).encode()

    with ThreadPoolExecutor(6) as pool:
        winners = [won for won in pool.map(attempt, range(6)) if won is not None]
    assert winners == [bucket.read("a/race")]


def test_ranges(bucket: Bucket) -> None:
    data = random.randbytes(10_000)
    bucket.create("a/b", data)
    for start, length in ((0, 10_000), (0, 1), (9_999, 1), (5_000, 100), (10_000, 0), (3, 0)):
        assert bucket.read_range("a/b", start, length) == data[start : start + length]


@pytest.mark.parametrize(("start", "length"), [(0, 101), (99, 2), (100, 1), (5_000, 10)])
def test_a_range_beyond_the_end_is_a_data_error(bucket: Bucket, start: int, length: int) -> None:
    bucket.create("a/b", bytes(100))
    with pytest.raises(DataError, match="a/b"):
        bucket.read_range("a/b", start, length)


def test_a_missing_object(bucket: Bucket) -> None:
    bucket.create("a/b", b"x")
    for key in ("a/c", "a", "b", "a/b-", "a/b/c"):
        with pytest.raises(DataError, match=f"key={key}"):
            bucket.read(key)
        with pytest.raises(DataError):
            bucket.read_range(key, 0, 1)
        assert bucket.head(key) is None


def test_head_tells_size_and_time(bucket: Bucket) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    bucket.create("a/b", bytes(123))
    info = bucket.head("a/b")
    assert info is not None
    assert (info.key, info.size) == ("a/b", 123)
    assert before <= info.modified
    assert info.modified.tzinfo is not None


def test_a_list_is_of_one_folder_and_all_below(bucket: Bucket) -> None:
    keys = {"a/b", "a/c/d", "a/c/e-1", "ab/x", "z"}
    for key in keys:
        bucket.create(key, key.encode())
    assert {info.key: info.size for info in bucket.list("a/")} == {"a/b": 3, "a/c/d": 5, "a/c/e-1": 7}
    assert {info.key for info in bucket.list("a/c/")} == {"a/c/d", "a/c/e-1"}
    assert {info.key for info in bucket.list("")} == keys
    assert list(bucket.list("nothing/")) == []


def test_a_list_shows_what_was_just_changed(bucket: Bucket) -> None:
    bucket.create("a/b", b"")
    assert [info.key for info in bucket.list("a/")] == ["a/b"]
    bucket.delete("a/b")
    assert list(bucket.list("a/")) == []


def test_a_long_list_is_complete(quick_bucket: Bucket) -> None:
    keys = {f"maps/{number:05d}" for number in range(2_345)}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: quick_bucket.create(key, b"x"), keys))
    listed = [info.key for info in quick_bucket.list("maps/")]
    assert len(listed) == len(keys)
    assert set(listed) == keys


def test_a_long_list_of_an_s3_server_is_complete(s3: S3Server) -> None:
    name = s3.make_bucket("long-list")
    bucket = open_bucket(s3.backup_config(s3_bucket=name))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: bucket.create(f"maps/{number:05d}", b"x"), range(1_050)))
    assert len({info.key for info in bucket.list("maps/")}) == 1_050


def test_delete_is_silent_about_what_is_gone(bucket: Bucket) -> None:
    bucket.create("a/b", b"x")
    bucket.create("a/c", b"y")
    for _ in range(2):
        bucket.delete("a/b")
        assert bucket.head("a/b") is None
    for key in ("never/was", "a", "a/c/d"):
        bucket.delete(key)
    assert bucket.read("a/c") == b"y"
    bucket.create("a/b", b"anew")
    assert bucket.read("a/b") == b"anew"


def test_the_probe_passes_and_leaves_nothing(bucket: Bucket) -> None:
    assert [check.name for check in probe_store(bucket) if not check.ok] == []
    assert store_answers(bucket).ok
    assert list(bucket.list("")) == []


@pytest.mark.parametrize("verb", ["read", "read_range", "create", "head", "list", "delete"])
def test_a_bucket_that_is_not_there(verb: str, s3: S3Server, tmp_path: Path) -> None:
    calls: dict[str, Callable[[Bucket], object]] = {
        "read": lambda bucket: bucket.read("a"),
        "read_range": lambda bucket: bucket.read_range("a", 0, 1),
        "create": lambda bucket: bucket.create("a", b"x"),
        "head": lambda bucket: bucket.head("a"),
        "list": lambda bucket: list(bucket.list("a/")),
        "delete": lambda bucket: bucket.delete("a"),
    }
    missing = open_bucket(s3.backup_config(s3_bucket="never-made"))
    # HEAD has no body to say it in, and deleting what is nowhere is no error either.
    if verb not in ("head", "delete"):
        with pytest.raises(PreconditionError, match="bucket does not exist"):
            calls[verb](missing)
    local = LocalBucket(tmp_path / "unmounted")
    with pytest.raises(PreconditionError, match="directory is missing"):
        calls[verb](local)
    assert not (tmp_path / "unmounted").exists()


def test_wrong_credentials_are_the_operators_business(s3: S3Server) -> None:
    name = s3.make_bucket("refuses")
    for key, secret in ((s3.access_key, "wrong"), ("nobody", s3.secret_key)):
        bucket = s3_bucket(name, endpoint=s3.endpoint, access_key_id=key, secret_access_key=secret)
        with pytest.raises(PreconditionError, match="access key") as refused:
            bucket.create("a", b"x")
        assert secret not in str(refused.value)


def test_a_store_that_does_not_answer_is_transient() -> None:
    bucket = s3_bucket(
        "any", endpoint="http://127.0.0.1:1", access_key_id="k", secret_access_key="s", options={}
    )
    with pytest.raises(TransientError, match="did not answer"):
        bucket.head("a")


def test_a_key_cannot_leave_the_directory(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    bucket = LocalBucket(tmp_path / "root")
    for key in ("../out", "a/../../out", "/etc/x", "a//b", "", ".hidden", "a/.staging-1", "a\0b"):
        with pytest.raises(DataError, match="not a key"):
            bucket.create(key, b"x")
        with pytest.raises(DataError, match="not a key"):
            bucket.read(key)
    assert [path.name for path in tmp_path.rglob("*")] == ["root"]


def test_a_list_begins_behind_a_key(bucket: Bucket) -> None:
    keys = [f"a/{name}" for name in ("1", "2", "2.x", "3", "10")]
    for key in [*keys, "b/5"]:
        bucket.create(key, b"x")
    for after in ["", "a", "a/1", "a/2", "a/25", "a/3", "a/4", "c"]:
        assert sorted(i.key for i in bucket.list("a/", after)) == sorted(k for k in keys if k > after)
