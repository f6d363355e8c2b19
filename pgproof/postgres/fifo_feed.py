"""A dump as pg_restore wants it, without its content on disk: FIFOs, each fed when pg_restore opens it.

Nobody is told when a FIFO is opened, so it is tried whether somebody has it open: those that come next first and often,
all of them as often as costs little.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from select import POLLOUT, poll
from typing import Self

from pgproof.postgres.disk_errors import TEMPORARY, on_disk

_TRY_AGAIN = 0.001
_TRY_ALL = 0.02
# All are tried for at most this part of the time.
_SHARE = 20
_PIPE_SIZE = 1 << 20
_PATIENCE_MS = 200


class FifoFeed:
    """Makes a FIFO in `directory` for each of `names`, which are in the order in which they are likely to be opened.

    `read` brings a file's content. At most `readers` files are open at a time. A context manager; leaving it stops.
    """

    def __init__(
        self,
        directory: Path,
        names: Sequence[bytes],
        read: Callable[[bytes], Iterator[bytes]],
        readers: int,
    ) -> None:
        self._directory = os.fsencode(directory)
        self._names = list(names)
        self._read = read
        self._left = set(range(len(self._names)))
        # The ones behind those that were opened last.
        self._next: set[int] = {0} if names else set()
        self._stopping = threading.Event()
        self._feeders = ThreadPoolExecutor(readers, thread_name_prefix="pgproof-feed")
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="pgproof-fifos")
        self._tasks: list[Future[None]] = []

    def check(self) -> None:
        """Raise what went wrong with the reading of a file."""
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.remove(task)
            task.result()

    def finish(self) -> None:
        """Nobody opens anything any more: wait for what is being read, and raise what went wrong.

        A file that could not be read to its end looks complete to whoever reads the FIFO.
        """
        self._stopping.set()
        for task in self._tasks:
            task.result()

    def _watch(self) -> None:
        next_sweep = 0.0
        while self._left and not self._stopping.wait(_TRY_AGAIN):
            for number in sorted(self._next):
                self._try(number)
            begun = time.monotonic()
            if begun >= next_sweep:
                for number in sorted(self._left):
                    self._try(number)
                took = time.monotonic() - begun
                next_sweep = begun + took + max(_TRY_ALL, _SHARE * took)

    def _try(self, number: int) -> None:
        path = self._path(number)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        self._left.discard(number)
        self._next.discard(number)
        if number + 1 in self._left:
            self._next.add(number + 1)
        self._tasks.append(self._feeders.submit(self._feed, number, descriptor))

    def _feed(self, number: int, descriptor: int) -> None:
        try:
            # A second opening must fail and not wait for ever.
            os.unlink(self._path(number))  # noqa: PTH108
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            for piece in self._read(self._names[number]):
                if not self._write(descriptor, memoryview(piece)):
                    return
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, data: memoryview) -> bool:
        """False if nobody wants more: pg_restore's own status tells why."""
        ready = poll()
        ready.register(descriptor, POLLOUT)
        while data:
            if self._stopping.is_set():
                return False
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                ready.poll(_PATIENCE_MS)
            except BrokenPipeError:
                return False
        return True

    def _path(self, number: int) -> bytes:
        return self._directory + b"/" + self._names[number]

    def __enter__(self) -> Self:
        with on_disk(self._directory, TEMPORARY):
            for number in self._left:
                os.mkfifo(self._path(number), 0o600)
        self._tasks.append(self._watcher.submit(self._watch))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._watcher.shutdown()
        self._feeders.shutdown()
