"""The processes that a service has started, their children included, and their end. Linux: /proc, parent-death signals."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_PAUSE = 0.05


def die_with_parent() -> None:
    """For a new child, before its program starts: SIGTERM when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class ProcessTree:
    """What descends from processes of ours, or carries our mark `NAME=VALUE` in its environment.

    Either alone misses some: a process whose parent has died descends from nobody, and one that got an
    environment of its own has no mark. So what was seen once stays known.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()
        self._seen: dict[
            int, str
        ] = {}  # the time of its start tells a process from a later one of the same number

    def look(self, roots: Iterable[int]) -> set[int]:
        """All that live now: `roots`, their descendants, marked ones, and descendants of all those."""
        alive = _processes()
        known = {pid for pid, begun in self._seen.items() if pid in alive and alive[pid][1] == begun}
        found = known | {pid for pid in roots if pid in alive} | {pid for pid in alive if self._marked(pid)}
        new = found
        while new:
            new = {pid for pid, (parent, _) in alive.items() if parent in new} - found
            found |= new
        found -= {os.getpid()}
        self._seen = {pid: alive[pid][1] for pid in found}
        return found

    async def end(self, roots: Iterable[int], seconds: float) -> None:
        """Wait until all of them have ended; after `seconds` what is left is killed."""
        deadline = time.monotonic() + seconds
        while left := self.look(roots):
            if time.monotonic() > deadline:
                send(left, signal.SIGKILL)
            await asyncio.sleep(_PAUSE)

    def _marked(self, pid: int) -> bool:
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or belongs to somebody else
            return False


def children_of(pid: int) -> set[int]:
    """The living children of a process."""
    return {child for child, (parent, _) in _processes().items() if parent == pid}


def send(pids: Iterable[int], signum: int) -> None:
    """Send a signal to each; who has ended meanwhile is done."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def _processes() -> dict[int, tuple[int, str]]:
    """The parent and the time of the start of every process that lives; zombies do not."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold anything, parentheses as well.
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if fields and fields[0] not in "ZX":
            found[int(path.parent.name)] = (int(fields[1]), fields[19])
    return found
