"""Frames into packs: hashed and compressed by workers, sealed in order, stored in the background.

Memory is bounded whatever the cluster's size: the workers' slots, the pack being filled, `_UPLOADS` on their way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple, Self

from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.repository.compression import Codec
from pgproof.repository.frame_slots import DIGEST_LENGTH, Slot
from pgproof.repository.frame_work import Work
from pgproof.repository.frame_workers import Done, FrameWorkers
from pgproof.repository.packs import Frame, PackBuilder
from pgproof.repository.repository import Repository
from pgproof.repository.resume import OWN, Place, StoredFrames
from pgproof.repository.run_table import RunTable
from pgproof.repository.sealing import Kind

PACK_SIZE = 16 << 20
_UPLOADS = 2


class Member(NamedTuple):
    """Some pages of a file that lie in a frame."""

    file: int
    file_page: int
    pages: int


@dataclass(slots=True)
class _Pending:
    """A frame on its way: it has an outcome once it is made, or found among what is stored."""

    slot: Slot
    length: int
    members: Sequence[Member]
    digests: bytes = b""
    outcome: Frame | Place | None = None


class PackWriter:
    """Stores the frames of one backup in packs `0, 1, 2, …` and tells `runs` where their pages went.

    Fill a `slot`, then `put` it. Both may wait for earlier frames and packs, and raise what went wrong with them. A
    frame that is among `known` is not stored again. Use as a context manager, from one thread.
    """

    def __init__(
        self,
        repository: Repository,
        backup_id: str,
        page_size: int,
        level: int | None,
        known: StoredFrames,
        job: Job,
    ) -> None:
        self.runs = RunTable()
        self._repository = repository
        self._backup_id = backup_id
        self._page_size = page_size
        self._known = known
        self._job = job
        self._workers = FrameWorkers(repository.hashes.page_key, page_size, level, job)
        self._frames: deque[_Pending] = deque()
        self._working: dict[int, _Pending] = {}
        self._uploads: deque[Future[None]] = deque()
        self._number = 0
        self._builder: PackBuilder | None = None
        self._uploader = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="pgproof-store")
        self._stored: dict[int, int] = {}

    def slot(self) -> Slot:
        """Room for the content of a frame; what it holds is of an earlier one."""
        while (slot := self._workers.take_slot()) is None:
            self._advance(block=True)
        return slot

    def put(self, slot: Slot, members: Sequence[Member]) -> None:
        """Take the frame whose content begins the slot: the pages of its members, one after another."""
        length = sum(member.pages for member in members) * self._page_size
        pending = _Pending(slot, length, members)
        self._frames.append(pending)
        # Where most frames may be stored already, it is known before anything is compressed.
        self._ask(pending, Work.HASH if self._known.owners else Work.HASH | Work.COMPRESS)
        self._advance(block=False)

    def finish(self) -> dict[int, int]:
        """Wait until everything is durable; return the bytes of each pack by its number."""
        while self._frames:
            self._advance(block=True)
        self._close_pack()
        while self._uploads:
            self._wait(self._uploads.popleft())
        self.runs.finish()
        return self._stored

    def _ask(self, pending: _Pending, work: Work) -> None:
        self._working[pending.slot.number] = pending
        self._workers.ask(pending.slot, pending.length, work)

    def _advance(self, *, block: bool) -> None:
        """Take what the workers have done, and place the frames that are at the head of the line."""
        self._job.checkpoint()
        for done in self._workers.done(block=block):
            self._take(self._working.pop(done.slot.number), done)
        while self._frames and (outcome := self._frames[0].outcome) is not None:
            self._place(self._frames.popleft(), outcome)

    def _take(self, pending: _Pending, done: Done) -> None:
        hashes = self._repository.hashes
        if Work.HASH in done.work:
            pages = -(-pending.length // self._page_size)
            pending.digests = bytes(pending.slot.digests[: pages * DIGEST_LENGTH])
        name = hashes.frame_hash(pending.digests)
        if Work.COMPRESS not in done.work:
            pending.outcome = self._known.find(name, pending.length)
            if pending.outcome is None:
                self._ask(pending, Work.COMPRESS)
            return
        source = pending.slot.content if done.codec is Codec.RAW else pending.slot.body
        body = source[: done.body_length]
        pending.outcome = Frame(done.codec, body, pending.length, pending.digests, name)

    def _place(self, pending: _Pending, outcome: Frame | Place) -> None:
        place = outcome if isinstance(outcome, Place) else Place(OWN, self._number, self._pack().add(outcome))
        self._workers.give_back(pending.slot)
        for member in pending.members:
            self.runs.add(*member, *place)
            place = place._replace(page=place.page + member.pages)
        if self._builder is not None and self._builder.size >= PACK_SIZE:
            self._close_pack()

    def _pack(self) -> PackBuilder:
        if self._builder is None:
            failpoint("pack.begun")
            context = self._repository.layout.pack_context(self._backup_id, self._number)
            self._builder = PackBuilder(self._repository.key, Kind.PACK, context, self._page_size, tags=True)
        return self._builder

    def _close_pack(self) -> None:
        if self._builder is None:
            return
        failpoint("pack.full")
        number, builder = self._number, self._builder
        self._number, self._builder = number + 1, None
        while len(self._uploads) >= _UPLOADS or (self._uploads and self._uploads[0].done()):
            self._wait(self._uploads.popleft())
        self._uploads.append(self._uploader.submit(self._store, number, builder))

    def _wait(self, upload: Future[None]) -> None:
        """Until a pack is stored; a store that stalls does not keep us from being stopped."""
        while not wait([upload], 0.5).done:
            self._job.checkpoint()
        upload.result()

    def _store(self, number: int, builder: PackBuilder) -> None:
        data = builder.finish()
        failpoint("pack.sealed")
        self._repository.create_pack(self._repository.layout.pack_context(self._backup_id, number), data)
        failpoint("pack.stored")
        self._stored[number] = len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._uploader.shutdown(wait=True, cancel_futures=True)
        self._workers.__exit__(*exception)
