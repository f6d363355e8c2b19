"""A process that may not do much: what it tries beyond that is noted, and what it takes is measured.

Python's audit hooks see every file that is opened for writing, every change of a directory, every program that is
started and every connection, whichever library asks for it.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Event and which of its arguments are paths that it changes.
_CHANGES = {
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
}
_NEVER = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "pickle.find_class",
)
_ADDRESS_SPACE = 8 << 30
_CPU_SECONDS = 120
_SECONDS = 3600


@dataclass
class Ended:
    """How a guarded process ended: its exit statuses and outputs, what it tried that it may not, and its peak memory."""

    results: list[dict[str, Any]] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    peak_mb: int = 0
    status: int = 0


def run_guarded(work: Callable[[], list[dict[str, Any]]], may_write: Sequence[Path]) -> Ended:
    """Run `work` in a child of this process, which must have a single thread; never raises for what it does."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(_in_child(work, may_write)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _pid, status, usage = os.wait4(child, 0)
    found: dict[str, Any] = json.loads(said) if said else {"results": [], "tried": []}
    return Ended(found["results"], found["tried"], usage.ru_maxrss // 1024, os.waitstatus_to_exitcode(status))


def _in_child(work: Callable[[], list[dict[str, Any]]], may_write: Sequence[Path]) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    signal.alarm(_SECONDS)  # for what waits for ever
    tried: list[str] = []
    _watch(tried, [os.path.realpath(place) for place in may_write])
    return {"results": work(), "tried": tried[:20]}


def call(name: str, command: Callable[[], int]) -> dict[str, Any]:
    """The exit status and outputs of a command that runs in this process; an exception is status 1."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = int(command())
        # Whatever comes out is what is looked for; the caller decides that it is a defect.
        except BaseException:  # noqa: BLE001
            status = 1
            traceback.print_exc(file=err)
    gc.collect()  # a real program ends here; memory is measured for the greediest of them
    return {"name": name, "status": status, "out": out.getvalue()[:20_000], "err": err.getvalue()[-3000:]}


def _watch(tried: list[str], roots: list[str]) -> None:
    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NEVER:
            tried.append(f"{event} {arguments!r}"[:300])
        elif event == "open":
            path, _mode, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and not _inside(path, roots):
                tried.append(f"open {path!r}"[:300])
        elif event in _CHANGES:
            for number in _CHANGES[event]:
                if not _inside(arguments[number], roots):
                    tried.append(f"{event} {arguments[number]!r}"[:300])

    sys.addaudithook(look)


def _inside(path: Any, roots: list[str]) -> bool:
    """Whether a path lies below the roots once the links on the way are followed."""
    if isinstance(path, int):
        return True  # a descriptor that was opened before, which was looked at
    text = os.fsdecode(path)
    head, _slash, name = text.rpartition("/")
    real = f"{os.path.realpath(head or '/')}/{name}" if text.startswith("/") else os.path.realpath(text)
    return text == os.devnull or any(real == root or real.startswith(f"{root}/") for root in roots)
