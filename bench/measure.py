"""What a command costs: wall time, CPU seconds (its own, and those of servers it made work), memory.

- CPU of a command: `getrusage` of it and all its descendants, also of those that it did not wait for.
- CPU of a server: user and system time of its process tree before and after, including what its ended children
  left to it. What a server starts (an archive_command) counts as the server's.
- Memory: the private pages of all its processes and the shared pages of the largest, the highest of samples
  taken 20 times a second; at least the exact peak of its largest process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import machine

_REAPER = Path(__file__).with_name("reaper.py")
_SAMPLE_EVERY = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Command:
    """Arguments and whole environment of a program; `as_service` runs it as PostgreSQL's user."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=machine.environment)
    as_service: bool = False


@dataclass(frozen=True)
class Cost:
    """Seconds and megabytes. `server_cpu` and `store_cpu` are what PostgreSQL and the S3 server spent."""

    wall: float
    cpu: float
    memory_mb: float
    server_cpu: float = 0.0
    store_cpu: float = 0.0
    output: str = ""


class CommandFailed(Exception):
    """A measured command ended with an error; its last words are the message."""


def measure(command: Command, log: Path, *, server: int | None = None, store: int | None = None) -> Cost:
    """Run `command` once the disks are idle. `server` and `store` are the process ids of the servers it uses.

    Raises CommandFailed unless it ends with status 0.
    """
    os.sync()
    argv = list(command.argv)
    if command.as_service:
        argv = machine.as_service_user(argv, die_with_us="KILL")
    else:
        argv = ["setpriv", "--pdeathsig=KILL", "--", *argv]
    wanted = json.dumps({"argv": argv, "env": dict(command.env), "log": str(log)})
    before = tree_cpu(server), tree_cpu(store)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(_REAPER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reaper:
        sampler = _Sampler(reaper.pid)
        sampler.start()
        told, _nothing = reaper.communicate(wanted)
        sampler.end()
    if reaper.returncode:
        raise CommandFailed(f"{argv}: the measuring program ended with status {reaper.returncode}")
    result = json.loads(told)
    output = log.read_text(errors="replace")
    if result["status"]:
        raise CommandFailed(
            f"{' '.join(command.argv)} ended with status {result['status']}:\n{output[-3000:]}"
        )
    return Cost(
        wall=result["wall"],
        cpu=result["cpu"],
        memory_mb=max(sampler.peak_mb, result["largest_kb"] * 1024 / 1e6),
        server_cpu=tree_cpu(server) - before[0],
        store_cpu=tree_cpu(store) - before[1],
        output=output,
    )


def tree_cpu(root: int | None) -> float:
    """CPU seconds that a process and its descendants, living and waited for, have used until now."""
    if root is None:
        return 0.0
    total = 0
    for pid in _tree(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended since; its parent has its time
        total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return total / _TICKS


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


class _Sampler(threading.Thread):
    """Looks at the memory of a process's descendants until it is ended."""

    def __init__(self, root: int) -> None:
        super().__init__(name="memory", daemon=True)
        self.peak_mb = 0.0
        self._root = root
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_EVERY):
            private = shared = 0
            for pid in _tree(self._root)[1:]:
                try:
                    statm = Path(f"/proc/{pid}/statm").read_text().split()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                private += int(statm[1]) - int(statm[2])
                shared = max(shared, int(statm[2]))
            self.peak_mb = max(self.peak_mb, (private + shared) * _PAGE_MB)

    def end(self) -> None:
        self._over.set()
        self.join()
