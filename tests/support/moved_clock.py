"""A clock that tests move, for any program of this machine: a library of ours tells it what time it is.

    clock = MovedClock.at(datetime(2026, 6, 29, tzinfo=UTC))
    spawn(command, log, {**environment, **clock.environment})
    clock.move_to(datetime(2026, 6, 30, tzinfo=UTC))

Only the wall clock is moved: it goes on at its usual pace, and lengths of time are measured as ever. What stat(2) tells
stays the file system's word. Programs that do not use the C library (Go) keep the real time.

Not libfaketime: with the monotonic clock left alone, its 0.9.10 lets every clock_nanosleep fail, and so Python's
time.sleep; and it needs a semaphore for each program, which one of another user cannot open.
"""

from __future__ import annotations

import functools
import os
import struct
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from tests.support import machine

_SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class MovedClock:
    """By how much it is moved stands in `file`; there may be any number of clocks."""

    file: Path

    @classmethod
    def by(cls, length: timedelta) -> Self:
        clock = cls(machine.new_dir("clock") / "moved-by")
        clock.move_by(length)
        return clock

    @classmethod
    def at(cls, moment: datetime) -> Self:
        return cls.by(moment - datetime.now(UTC))

    @property
    def environment(self) -> dict[str, str]:
        """What makes a program, and all that it starts, live by this clock."""
        return {"LD_PRELOAD": str(_library()), "MOVED_CLOCK": str(self.file)}

    def move_to(self, moment: datetime) -> None:
        self.move_by(moment - datetime.now(UTC))

    def move_by(self, length: timedelta) -> None:
        """Away from the real time, not from what it shows now."""
        fd = os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            # In one piece, and never cut off: programs have it mapped.
            os.pwrite(fd, struct.pack("<q", round(length.total_seconds() * 1e9)), 0)
        finally:
            os.close(fd)

    def time(self) -> float:
        """What time.time() tells those who live by it."""
        (nanoseconds,) = struct.unpack("<q", self.file.read_bytes())
        return time.time() + nanoseconds / 1e9

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)


@functools.cache
def _library() -> Path:
    built = machine.new_dir("clock") / "moved_clock.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(built), str(_SOURCE), "-ldl"], check=True)
    return built
