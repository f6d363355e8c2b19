"""Frames into packs: hashed and compressed by workers, sealed in order, stored in the background.

Where there is an earlier backup to build on, frames are hashed first, and only the pages that it does not have are
gathered into frames and stored. Memory is bounded whatever the cluster's size: the workers' slots, the pack being
filled, `_UPLOADS` on their way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Self

from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.repository.audit import Audit
from pgproof.repository.comparing import Member, compare
from pgproof.repository.compression import Codec
from pgproof.repository.frame_slots import DIGEST_LENGTH, FRAME_SIZE, Slot
from pgproof.repository.frame_work import Work
from pgproof.repository.frame_workers import Done, FrameWorkers
from pgproof.repository.packs import Frame, PackBuilder
from pgproof.repository.repository import Repository
from pgproof.repository.resume import OWN, Place, StoredFrames
from pgproof.repository.run_table import RunTable
from pgproof.repository.sealing import Kind

PACK_SIZE = 16 << 20
_UPLOADS = 2
_LEAST_GATHERED = 16


@dataclass(slots=True)
class _Pending:
    """A frame on its way: hashed first, where it may be stored already, then compressed."""

    slot: Slot
    members: list[Member]
    pages: int
    digests: bytes = b""
    frame: Frame | None = None
    cuts: bool = False


@dataclass(slots=True)
class _Gathering:
    """Changed pages of many frames, on their way into one."""

    slot: Slot
    pages: int = 0
    members: list[Member] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


class PackWriter:
    """Stores the frames of one backup in packs `0, 1, 2, …` and tells `runs` where their pages went.

    Fill a `slot`, then `put` it. Both may wait for earlier frames and packs, and raise what went wrong with them.
    With `compares`, pages that their member's old file has are not stored again, and neither is a frame that is
    among `known`; those that differ are shown to `audit`. Use as a context manager, from one thread.
    """

    def __init__(
        self,
        repository: Repository,
        backup_id: str,
        page_size: int,
        level: int | None,
        known: StoredFrames,
        job: Job,
        *,
        compares: bool = False,
        audit: Audit | None = None,
    ) -> None:
        self.runs = RunTable()
        self._repository = repository
        self._backup_id = backup_id
        self._page_size = page_size
        self._known = known
        self._audit = audit
        self._job = job
        self._workers = FrameWorkers(repository.hashes.page_key, page_size, level, job)
        self._judges = compares or bool(known.owners)
        # In the order in which they came: frames that are hashed, and behind them those that are compressed.
        self._hashing: deque[_Pending] = deque()
        self._compressing: deque[_Pending] = deque()
        self._working: dict[int, _Pending] = {}
        # It always has a slot: all the others may be waiting for room in it.
        self._gathering = _Gathering(self.slot()) if compares else None
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

    def put(self, slot: Slot, members: list[Member], *, cuts: bool = False) -> None:
        """Take the frame whose content begins the slot: the pages of its members, one after another.

        With `cuts` no frame of changed pages goes on from before it, so that repetitions of an interrupted run find
        what it stored although more has changed since.
        """
        pending = _Pending(slot, members, sum(member.pages for member in members), cuts=cuts)
        if self._judges:
            self._hashing.append(pending)
            self._ask(pending, Work.HASH)
        else:
            self._compressing.append(pending)
            self._ask(pending, Work.HASH | Work.COMPRESS)
        self._advance(block=False)

    def finish(self) -> dict[int, int]:
        """Wait until everything is durable; return the bytes of each pack by its number."""
        while self._hashing:
            self._advance(block=True)
        if self._gathering is not None:
            self._put_gathered(self._gathering)
        while self._compressing:
            self._advance(block=True)
        self._close_pack()
        while self._uploads:
            self._wait(self._uploads.popleft())
        self.runs.finish()
        return self._stored

    def _ask(self, pending: _Pending, work: Work) -> None:
        self._working[pending.slot.number] = pending
        self._workers.ask(pending.slot, pending.pages * self._page_size, work)

    def _advance(self, *, block: bool) -> None:
        """Take what the workers have done, then see to the frames that are at the head of their lines."""
        self._collect(block=block)
        while self._hashing and self._hashing[0].digests:
            self._judge(self._hashing.popleft())

    def _collect(self, *, block: bool) -> None:
        self._job.checkpoint()
        for done in self._workers.done(block=block):
            self._take(self._working.pop(done.slot.number), done)
        while self._compressing and (frame := self._compressing[0].frame) is not None:
            self._seal(self._compressing.popleft(), frame)

    def _take(self, pending: _Pending, done: Done) -> None:
        if Work.HASH in done.work:
            pending.digests = bytes(pending.slot.digests[: pending.pages * DIGEST_LENGTH])
        if Work.COMPRESS in done.work:
            name = self._repository.hashes.frame_hash(pending.digests)
            source = pending.slot.content if done.codec is Codec.RAW else pending.slot.body
            length = pending.pages * self._page_size
            pending.frame = Frame(done.codec, source[: done.body_length], length, pending.digests, name)

    def _judge(self, pending: _Pending) -> None:
        """Store of a hashed frame what is not stored yet."""
        if pending.cuts and self._gathering is not None and self._gathering.pages >= _LEAST_GATHERED:
            self._gathering = self._put_gathered(self._gathering)
        compared = compare(pending.members, pending.digests)
        if self._audit is not None:
            for each in compared:
                self._audit.look(each, pending.slot.content)
        if any(each.unchanged or each.same.any() for each in compared):
            for each in compared:
                for run in each.kept():
                    self.runs.add(each.member.file, *run)
                if not each.unchanged:
                    for at, part in each.changed():
                        self._gather(pending, at, part)
            self._workers.give_back(pending.slot)
        else:
            self._store(pending)

    def _store(self, pending: _Pending) -> None:
        name = self._repository.hashes.frame_hash(pending.digests)
        place = self._known.find(name, pending.pages * self._page_size)
        if place is not None:
            self._workers.give_back(pending.slot)
            self._placed(pending.members, place)
        else:
            self._compressing.append(pending)
            self._ask(pending, Work.COMPRESS)

    def _gather(self, pending: _Pending, at: int, part: Member) -> None:
        """Copy the pages of `part`, which begin at page `at` of the frame, behind those that changed before."""
        size, gathering = self._page_size, self._gathering
        assert gathering is not None, "nothing was compared, and yet pages are the same"
        while part.pages:
            taken = min(part.pages, FRAME_SIZE // size - gathering.pages)
            content = pending.slot.content[at * size : (at + taken) * size]
            gathering.slot.content[gathering.pages * size : (gathering.pages + taken) * size] = content
            gathering.digests.append(pending.digests[at * DIGEST_LENGTH : (at + taken) * DIGEST_LENGTH])
            gathering.members.append(Member(part.file, part.file_page, taken))
            gathering.pages += taken
            at, part = at + taken, Member(part.file, part.file_page + taken, part.pages - taken)
            if gathering.pages == FRAME_SIZE // size:
                gathering = self._gathering = self._put_gathered(gathering)

    def _put_gathered(self, gathering: _Gathering) -> _Gathering:
        """Store what was gathered; returns the next one, in a slot that is free once this or another is stored."""
        if gathering.pages == 0:
            return gathering
        digests = b"".join(gathering.digests)
        self._store(_Pending(gathering.slot, gathering.members, gathering.pages, digests))
        while (slot := self._workers.take_slot()) is None:
            self._collect(block=True)
        return _Gathering(slot)

    def _seal(self, pending: _Pending, frame: Frame) -> None:
        place = Place(OWN, self._number, self._pack().add(frame))
        self._workers.give_back(pending.slot)
        self._placed(pending.members, place)
        if self._builder is not None and self._builder.size >= PACK_SIZE:
            self._close_pack()

    def _placed(self, members: Sequence[Member], place: Place) -> None:
        owner, pack, page = place
        for member in members:
            self.runs.add(member.file, member.file_page, member.pages, owner, pack, page)
            page += member.pages

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
        self._uploads.append(self._uploader.submit(self._upload, number, builder))

    def _wait(self, upload: Future[None]) -> None:
        """Until a pack is stored; a store that stalls does not keep us from being stopped."""
        while not wait([upload], 0.5).done:
            self._job.checkpoint()
        upload.result()

    def _upload(self, number: int, builder: PackBuilder) -> None:
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
