"""Frames into packs: hashed and compressed in several threads, sealed in order, stored in the background.

Memory is bounded whatever the cluster's size: `_IN_FLIGHT` frames, the pack being filled, `_UPLOADS` on their way.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Self

from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.repository.packs import Frame, PackBuilder, compressed_frame
from pgproof.repository.repository import Repository
from pgproof.repository.resume import OWN, Place, StoredFrames
from pgproof.repository.sealing import Buffer, Kind

PACK_SIZE = 16 << 20
_IN_FLIGHT = 12
_UPLOADS = 2

# Called once a frame has its place.
Placed = Callable[[Place], None]


class PackWriter:
    """Stores the frames of one backup in packs `0, 1, 2, …`; use as a context manager.

    `put` may block until an earlier frame or pack is done, and raises what went wrong with it. A frame that is
    among `known` is not stored again.
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
        self._repository = repository
        self._backup_id = backup_id
        self._page_size = page_size
        self._level = level
        self._known = known
        self._job = job
        self._frames: deque[tuple[Future[Frame | Place], Placed]] = deque()
        self._uploads: deque[Future[None]] = deque()
        self._number = 0
        self._builder: PackBuilder | None = None
        self._workers = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="pgproof-frame")
        self._uploader = ThreadPoolExecutor(_UPLOADS, thread_name_prefix="pgproof-store")
        self._stored: dict[int, int] = {}

    def put(self, data: Buffer, placed: Placed) -> None:
        """Take one frame; it must not be changed afterwards."""
        self._frames.append((self._workers.submit(self._make, data), placed))
        while len(self._frames) > _IN_FLIGHT or (self._frames and self._frames[0][0].done()):
            self._place()

    def finish(self) -> dict[int, int]:
        """Wait until everything is durable; return the bytes of each pack by its number."""
        while self._frames:
            self._place()
        self._close_pack()
        while self._uploads:
            self._wait(self._uploads.popleft())
        return self._stored

    def _make(self, data: Buffer) -> Frame | Place:
        hashes = self._repository.hashes
        digests = hashes.page_digests(data, self._page_size)
        name = hashes.frame_hash(digests)
        return self._known.find(name, len(data)) or compressed_frame(self._level, data, digests, name)

    def _place(self) -> None:
        self._job.checkpoint()
        future, placed = self._frames.popleft()
        frame = future.result()
        if isinstance(frame, Place):
            placed(frame)
            return
        if self._builder is None:
            failpoint("pack.begun")
            context = self._repository.layout.pack_context(self._backup_id, self._number)
            self._builder = PackBuilder(self._repository.key, Kind.PACK, context, self._page_size, tags=True)
        placed(Place(OWN, self._number, self._builder.add(frame)))
        if self._builder.size >= PACK_SIZE:
            self._close_pack()

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

    def __exit__(self, *_exception: object) -> None:
        for pool in (self._workers, self._uploader):
            pool.shutdown(wait=True, cancel_futures=True)
