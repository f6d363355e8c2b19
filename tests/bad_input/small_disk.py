"""A disk of a few megabytes that really runs full: a tmpfs in a mount namespace of its own.

No right to mount is needed. Programs reach it by `prefix`, this process by `view`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import machine

_MOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"tmpfs", os.fsencode(sys.argv[1]), b"tmpfs", 0, os.fsencode(sys.argv[2])):
    sys.exit(os.strerror(ctypes.get_errno()))
print("mounted", flush=True)
sys.stdin.read()
"""
_ROOT = os.geteuid() == 0


class SmallDisk:
    """Entering it mounts the disk at `path`, leaving it takes the disk away with all that is on it."""

    def __init__(self, megabytes: int, *, files: int = 100_000) -> None:
        self._options = f"size={megabytes}m,nr_inodes={files},mode=0755"
        self.path = machine.new_dir("disk")

    def __enter__(self) -> Self:
        own_user = [] if _ROOT else ["--user", "--map-current-user", "--keep-caps"]
        command = ["unshare", "--mount", *own_user, "--", sys.executable, "-c", _MOUNT]
        self._holder = subprocess.Popen(
            [*command, str(self.path), self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout is not None
        answer = self._holder.stdout.readline()
        assert answer == "mounted\n", answer
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.communicate("")

    @property
    def prefix(self) -> list[str]:
        """What stands before a command that shall see the disk."""
        own_user = [] if _ROOT else ["--user", "--preserve-credentials"]
        return ["nsenter", f"--target={self._holder.pid}", "--mount", *own_user, "--"]

    @property
    def view(self) -> Path:
        """The disk as we see it."""
        return Path(f"/proc/{self._holder.pid}/root{self.path}")

    def free_bytes(self) -> int:
        status = os.statvfs(self.view)
        return status.f_bavail * status.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Put a file on the disk that leaves so many bytes free."""
        with (self.view / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, self.free_bytes() - leave)

    def free(self) -> None:
        (self.view / "ballast").unlink()
