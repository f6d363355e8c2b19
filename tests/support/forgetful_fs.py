"""A disk that forgets what was not synced: a file system in a process of its own, whose power can be cut.

    with ForgetfulDisk() as disk:
        run_something_on(disk.path)
        disk.cut()
        disk.power_on("seed 17")  # what was not fsynced is lost, at the seed's choice

After a cut every call fails until the power is on again. Calls can also be made to fail by `Rule`. What is
durable is told in `forgetful_tree`. Needs root and /dev/fuse.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pgproof.postgres import data_directory
from tests.support import machine
from tests.support.forgetful_server import SYNCFS_ATTRIBUTE, Rule, serve

__all__ = ["CHANGES", "ForgetfulDisk", "Rule", "pass_on_syncfs"]

_forks = multiprocessing.get_context("forkserver")  # whose modules tests.support.faults loads

# What a rule can name, beside "read".
CHANGES = frozenset(
    {"create", "mkdir", "symlink", "link", "unlink", "rmdir", "rename"}
    | {"write", "truncate", "attributes", "allocate", "fsync", "fsyncdir", "syncfs"}
)


class ForgetfulDisk:
    """Mounted at `path` while its block runs. `events` becomes readable when a rule cuts the power.

    `clock` dates its files; the process that serves it is given a copy.
    """

    path: Path
    events: Connection

    def __init__(self, *, one_journal: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._one_journal = one_journal
        self._clock = clock

    def __enter__(self) -> Self:
        self.path = machine.new_dir("forgetful")
        self._control, theirs = Pipe()
        self.events, their_events = Pipe()
        self._process = _forks.Process(
            target=serve,
            args=(self.path, theirs, their_events, self._one_journal, self._clock),
            daemon=True,
        )
        self._process.start()
        theirs.close()
        their_events.close()
        assert self.events.recv() == "mounted"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        self._process.join()
        self.events.close()
        self.path.rmdir()

    def arm(self, rules: Sequence[Rule]) -> None:
        """Replace the rules; they begin to count now."""
        self._order("rules", list(rules))

    def hits(self) -> int:
        """How many calls a rule has stopped since `arm`."""
        return int(self._order("hits"))

    def trace(self) -> list[tuple[str, str]]:
        """The changes and syncs since the last time this was asked, each with its path."""
        return list(self._order("trace"))

    def sync(self) -> None:
        """All that is there is durable."""
        self._order("sync")

    def cut(self) -> None:
        """Cut the power, unless it is off already."""
        if not self.is_off():
            self._order("cut")

    def is_off(self) -> bool:
        return self.events.poll()

    def power_on(self, seed: str) -> None:
        """Only what was durable is there, and of the rest what the seed chooses; no rules."""
        while self.events.poll():
            self.events.recv()
        self._order("power_on", seed)

    def repair(self) -> None:
        """The disk is well again; what it lost stays lost."""
        self._order("repair")

    def _order(self, name: str, *arguments: Any) -> Any:
        self._control.send((name, arguments))
        return self._control.recv()


def pass_on_syncfs() -> None:
    """Let this process's syncfs(2) reach a forgetful disk.

    The kernel does not tell FUSE of it (fc->sync_fs is set for virtiofs alone), so it is told as an extended
    attribute beside the real call.
    """
    libc = data_directory._libc

    class Telling:
        @staticmethod
        def syncfs(fd: int) -> int:
            if libc.syncfs(fd) != 0:
                return -1
            try:
                os.setxattr(fd, SYNCFS_ATTRIBUTE, b"")
            except OSError as error:
                ctypes.set_errno(error.errno or 0)
                return -1
            return 0

    data_directory._libc = Telling  # type: ignore[assignment]
