"""Frames made by worker processes are those that this process would make, and nobody outlives anybody."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgproof.errors import Cancelled, PreconditionError, TransientError
from pgproof.model.job import Job
from pgproof.repository.compression import Codec
from pgproof.repository.frame_slots import FRAME_SIZE
from pgproof.repository.frame_work import Work
from pgproof.repository.frame_workers import Done, FrameWorkers
from pgproof.repository.packs import Frame, make_frame
from pgproof.repository.sealing import Hashes
from tests.support import machine

HASHES = Hashes(b"p" * 32, b"f" * 32)
PAGE = 8192


def contents(count: int) -> list[bytes]:
    """Frames of all lengths and kinds, more than there are slots."""
    chance = random.Random(7)
    made = []
    for number in range(count):
        pages = 64 if number % 3 else chance.randrange(1, 65)
        text = chance.randbytes(64) * (pages * PAGE // 64)
        made.append(text if number % 2 else chance.randbytes(pages * PAGE))
    return made


def as_frame(done: Done, content: bytes) -> Frame:
    source = done.slot.content if done.codec is Codec.RAW else done.slot.body
    digests = bytes(done.slot.digests[: len(content) // PAGE * 32])
    return Frame(
        done.codec, bytes(source[: done.body_length]), len(content), digests, HASHES.frame_hash(digests)
    )


def make_all(workers: FrameWorkers, frames: list[bytes], work: Work) -> dict[int, Frame]:
    made: dict[int, Frame] = {}
    under_way: dict[int, int] = {}

    def take(*, block: bool) -> None:
        for done in workers.done(block=block):
            number = under_way.pop(done.slot.number)
            assert done.work == work
            made[number] = as_frame(done, frames[number])
            workers.give_back(done.slot)

    for number, content in enumerate(frames):
        while (slot := workers.take_slot()) is None:
            take(block=True)
        slot.content[: len(content)] = content
        under_way[slot.number] = number
        workers.ask(slot, len(content), work)
    while under_way:
        take(block=True)
    return made


@pytest.mark.parametrize("level", [3, None])
def test_workers_make_the_frames_that_this_process_makes(level: int | None) -> None:
    frames = contents(150)
    with FrameWorkers(HASHES.page_key, PAGE, level, Job()) as workers:
        made = make_all(workers, frames, Work.HASH | Work.COMPRESS)
        assert len(children()) >= 2
    for number, content in enumerate(frames):
        wanted = make_frame(HASHES, PAGE, level, content)
        assert made[number] == Frame(
            wanted.codec, bytes(wanted.body), wanted.plain_length, wanted.digests, wanted.hash
        )
    assert not children()


def test_digests_alone() -> None:
    frames = contents(60)
    with FrameWorkers(HASHES.page_key, PAGE, 3, Job()) as workers:
        made = make_all(workers, frames, Work.HASH)
    for number, content in enumerate(frames):
        assert made[number].digests == HASHES.page_digests(content, PAGE)


def test_few_frames_need_no_workers() -> None:
    with FrameWorkers(HASHES.page_key, PAGE, 3, Job()) as workers:
        make_all(workers, contents(10), Work.HASH | Work.COMPRESS)
        assert not children()


def test_a_worker_that_is_killed_is_noticed() -> None:
    frames = contents(60)
    with FrameWorkers(HASHES.page_key, PAGE, 3, Job()) as workers:
        make_all(workers, frames, Work.HASH)
        for child in children():
            os.kill(child, signal.SIGKILL)
        with pytest.raises(TransientError, match="a worker process ended"):
            make_all(workers, frames, Work.HASH | Work.COMPRESS)
    assert not children()


def test_a_stopped_job_does_not_wait_for_workers() -> None:
    job = Job()
    frames = contents(60)
    with FrameWorkers(HASHES.page_key, PAGE, 3, job) as workers:
        make_all(workers, frames, Work.HASH)
        for child in children():
            os.kill(child, signal.SIGSTOP)
        job.stop.set()
        with pytest.raises(Cancelled):
            make_all(workers, frames, Work.HASH)
        for child in children():
            os.kill(child, signal.SIGCONT)
    assert not children()


def test_workers_end_with_the_process_that_needs_them() -> None:
    program = (
        "import time\n"
        "from tests.repository.test_frame_workers import *\n"
        "workers = FrameWorkers(HASHES.page_key, PAGE, 3, Job())\n"
        "make_all(workers, contents(40), Work.HASH)\n"
        "print(*children(), flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) >= 2
        process.kill()
    machine.wait_until(lambda: not any(machine.is_alive(worker) for worker in workers), "the workers end")


def test_without_a_python_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with FrameWorkers(HASHES.page_key, PAGE, 3, Job()) as workers:
        monkeypatch.setattr(sys, "executable", "")
        with pytest.raises(PreconditionError, match="does not know its Python"):
            make_all(workers, contents(60), Work.HASH)


def test_a_worker_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FrameWorkers(HASHES.page_key, PAGE, 3, Job()) as workers:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        with pytest.raises(TransientError, match="cannot be started"):
            make_all(workers, contents(60), Work.HASH)


def test_a_frame_fills_its_slot_and_no_more() -> None:
    with FrameWorkers(HASHES.page_key, PAGE, 3, Job()) as workers:
        slot = workers.take_slot()
        assert slot is not None
        assert len(slot.content) == FRAME_SIZE
        workers.give_back(slot)


def children() -> list[int]:
    """The worker processes of this process."""
    return [
        pid
        for pid in machine.children(os.getpid())
        if b"frame_worker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
