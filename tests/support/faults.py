"""Faults on purpose: a process that is killed, a bucket whose plug is pulled, bytes that were changed.

Nothing here stands in for our own code: the processes, buckets and files are real.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pgproof import failpoints
from pgproof.errors import ConflictError, TransientError
from pgproof.repository.bucket import Bucket, ObjectInfo

# A server that has imported the engine forks a child for each run: a new interpreter would cost more than most
# of the runs do.
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["pgproof.backup", "pgproof.recovery", "tests.support.faults"])


def run_armed(rules: str, work: Callable[..., object], *arguments: Any) -> int:
    """Run `work(*arguments)` in a process of its own with these failpoints; return its exit status.

    0 is success, 1 an exception, -9 a death by SIGKILL.
    """
    process = forks.Process(target=_armed, args=(rules, work, arguments))
    process.start()
    process.join()
    assert process.exitcode is not None
    status = process.exitcode
    process.close()
    return status


def _armed(rules: str, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    failpoints.arm(rules)
    work(*arguments)


class FailingBucket:
    """Works for `calls` changes, then fails for ever, like a pulled plug.

    With `last_takes_effect` the call that fails first is carried out, and only its answer is lost.
    """

    def __init__(self, bucket: Bucket, calls: int, *, last_takes_effect: bool = False) -> None:
        self._bucket = bucket
        self._left = calls
        self._effect = last_takes_effect

    @property
    def location(self) -> str:
        return self._bucket.location

    def read(self, key: str) -> bytes:
        self._refuse_if_pulled()
        return self._bucket.read(key)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self._refuse_if_pulled()
        return self._bucket.read_range(key, start, length)

    def create(self, key: str, data: bytes) -> None:
        self._change(lambda: self._bucket.create(key, data))

    def head(self, key: str) -> ObjectInfo | None:
        self._refuse_if_pulled()
        return self._bucket.head(key)

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        self._refuse_if_pulled()
        return self._bucket.list(prefix, after)

    def delete(self, key: str) -> None:
        self._change(lambda: self._bucket.delete(key))

    def _change(self, call: Callable[[], None]) -> None:
        if self._left == 0 and self._effect:
            self._effect = False
            self._left = -1
            call()
        self._refuse_if_pulled()
        self._left -= 1
        call()

    def _refuse_if_pulled(self) -> None:
        if self._left <= 0 and (self._left < 0 or not self._effect):
            raise TransientError("plug pulled", hint="this is a test")


class LostAnswerBucket:
    """Every create is stored, and answered as a retry inside the client would be: "it exists"."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.location = bucket.location
        self.read = bucket.read
        self.read_range = bucket.read_range
        self.head = bucket.head
        self.list = bucket.list
        self.delete = bucket.delete

    def create(self, key: str, data: bytes) -> None:
        with contextlib.suppress(ConflictError):
            self._bucket.create(key, data)
        raise ConflictError("an object of this name exists", key=key)


@contextlib.contextmanager
def put_back(root: Path) -> Iterator[None]:
    """Whatever the block adds, changes by replacing, or removes below `root` is undone at its end.

    Changes must replace a file, not write into it, as `replace` does.
    """
    before = {path: path.stat().st_ino for path in root.rglob("*") if path.is_file()}
    aside = root.with_name(f"{root.name}.aside")
    aside.mkdir()
    for number, path in enumerate(before):
        (aside / str(number)).hardlink_to(path)
    try:
        yield
    finally:
        for path in [p for p in root.rglob("*") if p.is_file()]:
            if before.get(path) != path.stat().st_ino:
                path.unlink()
        for number, path in enumerate(before):
            if path.exists():
                (aside / str(number)).unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                (aside / str(number)).rename(path)
        aside.rmdir()


def replace(path: Path, content: bytes) -> None:
    """Give a file other content, as a new file of the same name."""
    path.unlink()
    path.write_bytes(content)


def flip_bit(content: bytes, at: int, bit: int | None = None) -> bytes:
    """The content with one bit of the byte at `at` turned round, a random one unless `bit` says."""
    number = random.randrange(8) if bit is None else bit
    return content[:at] + bytes([content[at] ^ 1 << number]) + content[at + 1 :]
