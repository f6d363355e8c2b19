"""What the local directory promises beyond the contract: durability, privacy, and no harm from a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.errors import ConflictError, DataError, PreconditionError
from pgproof.repository.local import LocalBucket
from tests.support.faults import run_armed

# Stands between the interpreter and the system calls: says what is called on what, then calls.
_TRACED = """
import os, sys
from pathlib import Path
from pgproof.repository.local import LocalBucket

def traced(name, describe):
    call = getattr(os, name)
    def wrapper(*arguments, **options):
        print(name, describe(*arguments), flush=True)
        return call(*arguments, **options)
    setattr(os, name, wrapper)

opened = lambda fd, *rest: os.readlink(f"/proc/self/fd/{fd}")
named = lambda *arguments: arguments[-1] if isinstance(arguments[-1], (str, os.PathLike)) else arguments[0]
for name, describe in (("fsync", opened), ("write", opened), ("link", named), ("mkdir", named)):
    traced(name, describe)
try:
    LocalBucket(Path(sys.argv[1])).create("new/folder/object", b"content")
    print("done")
except Exception as error:
    print(type(error).__name__)
"""


def _calls(root: Path) -> list[tuple[str, str]]:
    """What a create asks of the system, in order, and how it ends."""
    command = [sys.executable, "-c", _TRACED, str(root)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    pairs = [line.partition(" ") for line in done.stdout.splitlines()]
    return [(name, path.removeprefix(f"{root}")) for name, _space, path in pairs]


@pytest.fixture
def careless_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


def test_only_the_owner_can_read(tmp_path: Path, careless_umask: None) -> None:
    LocalBucket(tmp_path).create("a/b/c", b"x")
    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700


def test_an_object_and_its_folders_are_synced_before_the_create_returns(tmp_path: Path) -> None:
    calls = _calls(tmp_path)
    staged = calls[4][1]
    assert staged.startswith("/new/folder/.staging-")
    assert calls == [
        ("mkdir", "/new"),
        ("fsync", ""),
        ("mkdir", "/new/folder"),
        ("fsync", "/new"),
        ("write", staged),
        ("fsync", staged),
        ("link", "/new/folder/object"),
        ("fsync", "/new/folder"),
        ("done", ""),
    ]


def test_a_name_that_is_refused_is_durable_all_the_same(tmp_path: Path) -> None:
    """Who is told "it exists" may rely on it, though its writer may not have come to its own sync yet."""
    LocalBucket(tmp_path).create("new/folder/object", b"content")
    assert _calls(tmp_path)[-3:] == [
        ("link", "/new/folder/object"),
        ("fsync", "/new/folder"),
        ("ConflictError", ""),
    ]


def _create(root: Path, key: str, data: bytes) -> None:
    LocalBucket(root).create(key, data)


def test_a_dead_writer_leaves_only_what_lists_ignore(tmp_path: Path) -> None:
    bucket = LocalBucket(tmp_path)
    assert run_armed("bucket.create.staged=kill", _create, tmp_path, "a/b", b"x" * 1000) == -signal.SIGKILL
    assert [path.name.startswith(".staging-") for path in (tmp_path / "a").iterdir()] == [True]
    assert list(bucket.list("")) == []
    assert bucket.head("a/b") is None
    bucket.create("a/b", b"y")
    assert bucket.read("a/b") == b"y"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_told_and_leaves_nothing_half_stored(small_disk: Path) -> None:
    bucket = LocalBucket(small_disk)
    bucket.create("a/first", b"1" * 300_000)
    for _ in range(2):
        with pytest.raises(PreconditionError, match="disk is full") as full:
            bucket.create("a/second", b"2" * 900_000)
        assert "free space" in full.value.hint
    assert [path.name for path in (small_disk / "a").iterdir()] == ["first"]
    assert bucket.head("a/second") is None
    bucket.create("a/third", b"3" * 300_000)
    assert bucket.read("a/first") == b"1" * 300_000


def test_an_unmounted_disk_gets_no_new_repository(small_disk: Path, tmp_path: Path) -> None:
    root = small_disk / "repo"
    root.mkdir()
    bucket = LocalBucket(root)
    bucket.create("a/b", b"x")
    shutil.rmtree(root)  # as it looks when the disk below the mount point is gone
    for attempt in (
        lambda: bucket.create("a/c", b"y"),
        lambda: list(bucket.list("a/")),
        lambda: bucket.head("a/b"),
    ):
        with pytest.raises(PreconditionError, match="mount or create it"):
            attempt()
    assert not root.exists()


def test_a_read_only_disk_is_told(small_disk: Path) -> None:
    bucket = LocalBucket(small_disk)
    bucket.create("a/b", b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(PreconditionError, match="no permission"):
        bucket.create("a/c", b"y")
    with pytest.raises(PreconditionError, match="no permission"):
        bucket.delete("a/b")
    assert bucket.read("a/b") == b"x"


def test_folders_that_became_empty_go_and_come_back(tmp_path: Path) -> None:
    bucket = LocalBucket(tmp_path)
    for _ in range(3):
        bucket.create("a/b/c", b"x")
        bucket.delete("a/b/c")
        assert list(tmp_path.iterdir()) == []


def test_a_second_create_leaves_no_staging_file(tmp_path: Path) -> None:
    bucket = LocalBucket(tmp_path)
    bucket.create("a/b", b"x")
    with pytest.raises(ConflictError):
        bucket.create("a/b", b"y")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("place", ["/dev/null", "/dev/zero", "/dev/tty", "/proc/self/mem", "b"])
def test_a_device_or_a_loop_in_the_place_of_an_object_is_damage(tmp_path: Path, place: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").symlink_to(place)
    with pytest.raises(DataError, match="a/b"):
        LocalBucket(tmp_path).read("a/b")


def test_a_socket_in_the_place_of_an_object_is_damage(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(DataError):
            LocalBucket(tmp_path).read("s")
