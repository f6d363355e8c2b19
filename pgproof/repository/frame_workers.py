"""Processes that hash and compress frames beside the one that receives them.

The first frames are made here: a small backup needs no workers, and a large one hardly notices.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from select import POLLIN, poll
from typing import Self

import blake3
import zstandard

from pgproof.errors import PreconditionError, TransientError
from pgproof.model.job import Job
from pgproof.repository import frame_worker
from pgproof.repository.compression import Codec
from pgproof.repository.frame_slots import Slot, Slots, nameless_file
from pgproof.repository.frame_work import NOT_COMPRESSED, REPLY, REQUEST, Work, work_on

_MOST_WORKERS = 8
_SLOTS_EACH = 6
_MADE_HERE = 16
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Done:
    """Work that was finished, and what it gave: a RAW body is the slot's content."""

    slot: Slot
    work: Work
    codec: Codec
    body_length: int


class FrameWorkers:
    """Hands out slots, takes work on them, tells what is done; a context manager, used by one thread.

    Raises TransientError if a worker dies, PreconditionError if none can be started.
    """

    def __init__(self, page_key: bytes, page_size: int, level: int | None, job: Job) -> None:
        self._page_key = page_key
        self._page_size = page_size
        self._level = level
        self._job = job
        self._count = min(max(2, len(os.sched_getaffinity(0))), _MOST_WORKERS)
        self._slots = Slots.make(self._count * _SLOTS_EACH, page_key, page_size)
        self._free = deque(range(len(self._slots)))
        self._finished: deque[Done] = deque()
        self._asked = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._requests = self._replies = -1
        self._errors = nameless_file()

    def take_slot(self) -> Slot | None:
        """A slot that nobody uses; None if work must be finished and a slot given back first."""
        return self._slots[self._free.popleft()] if self._free else None

    def give_back(self, slot: Slot) -> None:
        self._free.append(slot.number)

    def ask(self, slot: Slot, length: int, work: Work) -> None:
        """Begin `work` on the first `length` bytes of the slot's content."""
        self._asked += 1
        if self._asked <= _MADE_HERE:
            codec, body = work_on(slot, length, work, self._level, self._page_key, self._page_size)
            self._finished.append(Done(slot, work, codec, body))
            return
        if not self._processes:
            self._start()
        level = NOT_COMPRESSED if self._level is None else self._level
        try:
            # The pipe has room for more requests than there are slots.
            os.write(self._requests, REQUEST.pack(work, level, slot.number, length))
        except BrokenPipeError:
            self._all_ended()

    def done(self, *, block: bool) -> list[Done]:
        """What was finished since the last call; with `block` at least one, so something must be under way."""
        finished = list(self._finished)
        self._finished.clear()
        if self._processes:
            waiting = poll()
            waiting.register(self._replies, POLLIN)
            while not waiting.poll(500 if block and not finished else 0):
                if finished or not block:
                    return finished
                self._job.checkpoint()
                self._check()
            replies = os.read(self._replies, REPLY.size * len(self._slots))
            if not replies:
                self._all_ended()
            for work, codec, number, body in REPLY.iter_unpack(replies):
                finished.append(Done(self._slots[number], Work(work), Codec(codec), body))
        return finished

    def _start(self) -> None:
        if not sys.executable:
            raise PreconditionError(
                "this program does not know its Python",
                hint="run pgproof with an ordinary Python interpreter",
            )
        theirs, self._requests = os.pipe()
        self._replies, ours = os.pipe()
        try:
            for _number in range(self._count):
                self._processes.append(self._worker(theirs, ours))
        except OSError as error:
            raise TransientError(
                "a worker process cannot be started",
                hint="look at the limits of processes and memory, then run it again",
                reason=error.strerror,
            ) from error
        finally:
            os.close(theirs)
            os.close(ours)

    def _worker(self, requests: int, replies: int) -> subprocess.Popen[bytes]:
        packages = (
            Path(frame_worker.__file__).parents[1],
            *(Path(m.__file__ or "").parent for m in (blake3, zstandard)),
        )
        paths = sorted({str(package.parent) for package in packages})
        command = [sys.executable, "-I", "-S", frame_worker.__file__]
        numbers = [str(self._slots.descriptor), str(len(self._slots))]
        return subprocess.Popen(
            [*command, *numbers, *paths],
            stdin=requests,
            stdout=replies,
            stderr=self._errors,
            pass_fds=[self._slots.descriptor],
            env={},
        )

    def _all_ended(self) -> None:
        for process in self._processes:
            process.wait()
        self._check()

    def _check(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                said = os.pread(self._errors, 4096, 0).decode(errors="replace").strip().splitlines()
                raise TransientError(
                    "a worker process ended",
                    hint="run it again; if memory was short, the kernel's log says so",
                    status=process.returncode,
                    last_words=said[-1] if said else "none",
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for pipe in (self._requests, self._replies):
            if pipe >= 0:
                os.close(pipe)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            process.kill()
            process.wait()
        os.close(self._slots.descriptor)
        os.close(self._errors)
