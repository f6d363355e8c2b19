"""Looks at the processes of this machine, over and over, for words that must not be there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

# PostgreSQL's programs and what starts them. Our own Python has the secrets in its environment rightly,
# and shows it under its name until a child has become another program.
_PROGRAMS = ("postgres", "pg_", "psql", "bwrap", "unshare", "setpriv", "sh")


class Watcher:
    """Watches while its block runs. `leaks` says where a word was seen, `servers` which servers were looked at."""

    def __init__(self, words: Sequence[str]) -> None:
        self.leaks: set[str] = set()
        self.servers: set[str] = set()
        self._words = [word.encode() for word in words]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            for process in Path("/proc").iterdir():
                if process.name.isdigit():
                    # It may end while we look, or belong to somebody else.
                    with contextlib.suppress(OSError):
                        self._look_at(process)
            self._done.wait(0.005)

    def _look_at(self, process: Path) -> None:
        arguments = (process / "cmdline").read_bytes()
        name = (process / "comm").read_text().strip()
        self._search(f"the arguments of {name}", arguments)
        if name.startswith(_PROGRAMS):
            self._search(f"the environment of {name}", (process / "environ").read_bytes())
        if name == "postgres" and arguments.count(b"\0") > 1:
            # A postmaster; what it forks shows a title instead of its arguments.
            self.servers.add(os.fsdecode(arguments.replace(b"\0", b" ")))

    def _search(self, where: str, content: bytes) -> None:
        for word in self._words:
            if word in content:
                self.leaks.add(f"{word.decode()} in {where}")
