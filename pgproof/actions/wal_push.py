"""Push what PostgreSQL archives: checked, durable in the repository, and only then acknowledged.

A worker may look ahead: what the server has marked as ready beside the segment it asks for is pushed at the same
time. The server is told of each file only when that file itself is durable, and still the one that was read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.lsn import WalSegment
from pgproof.model.timelines import MAX_HISTORY
from pgproof.model.wal_names import StoredRange, WalFile, WalName, parse_wal_name
from pgproof.model.wal_pages import check_first_page
from pgproof.repository.frame_slots import FRAME_SIZE
from pgproof.repository.wal_archive import WalArchive

_COMPRESSING = max(2, os.cpu_count() or 1)
# Names are remembered until the server has come for them; it comes in this order.
_READY = ".ready"

Identity = tuple[int, int, int, int]


def wal_level(config: BackupConfig) -> int | None:
    """How WAL is compressed. It must keep up with the server, and level 3 takes a third longer for the same size
    (measured on a table's inserts and updates: 25 against 34 ms a segment, 3.2 against 3.4 MB)."""
    return 1 if config.compression else None


def push_wal_file(archive: WalArchive, path: Path, level: int | None, pool: Executor | None = None) -> int:
    """Store one file of pg_wal; return the bytes stored now, 0 if the same was there or nothing is kept of it.

    Raises PreconditionError for what PostgreSQL does not archive, DataError for a segment that is not what its name
    and the cluster's record say, ConflictError if something else is stored under its name.
    """
    name = parse_wal_name(path.name)
    failpoint("push.begun")
    if name.kind is WalFile.BACKUP:
        return 0
    try:
        if name.kind is WalFile.HISTORY:
            return int(archive.create_history(name.timeline, _small(path)))
        return _push_segment(archive, path, name, level, pool)
    except OSError as error:
        raise _unreadable(path, error) from error


def _push_segment(
    archive: WalArchive, path: Path, name: WalName, level: int | None, pool: Executor | None
) -> int:
    try:
        segment = WalSegment.parse(name.segment, archive.segment_size)
    except ValueError as error:
        raise DataError("no segment of this cluster has such a name", file=path, reason=error) from error
    if segment.timeline > 1:
        _history_first(archive, path.parent, segment.timeline)
    layout = archive.repository.layout
    if name.kind is WalFile.SEGMENT:
        key = layout.wal_range(StoredRange(segment, 0, segment.size))
    else:
        hashes = archive.repository.hashes
        key = layout.partial(segment, hashes.name_of(b"".join(_frames(archive, path, segment)))[:16])
    return archive.create_object(key, _frames(archive, path, segment), level, pool)


def _history_first(archive: WalArchive, folder: Path, timeline: int) -> None:
    """No WAL of a timeline before its history: one that was archived elsewhere before still lies in pg_wal."""
    if archive.knows_history(timeline):
        return
    try:
        content = _small(folder / f"{timeline:08X}.history")
    except FileNotFoundError:
        return
    archive.create_history(timeline, content)


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_HISTORY + 1)


def _frames(archive: WalArchive, path: Path, segment: WalSegment) -> Iterator[bytes]:
    """The file's bytes, a frame at a time. Raises DataError if they are not this segment's, or change meanwhile."""
    with path.open("rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        if before.st_size != segment.size:
            raise DataError(
                "a WAL segment does not have the cluster's segment size",
                hint="PostgreSQL archives complete segments only: was this file copied or cut?",
                file=path,
                bytes=before.st_size,
                expected=segment.size,
            )
        for at in range(0, segment.size, FRAME_SIZE):
            data = file.read(min(FRAME_SIZE, segment.size - at))
            if len(data) != min(FRAME_SIZE, segment.size - at):
                raise DataError("a WAL segment was cut while it was read", file=path)
            if at == 0:
                check_first_page(data, segment, archive.system_identifier, str(path))
            yield data
        after = os.fstat(file.fileno())
        if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
            raise TransientError(
                "a WAL segment was written to while it was read", hint="try again", file=path
            )


class WalPusher:
    """Pushes for a resident worker; with `ahead` files at once beside the one that is asked for."""

    def __init__(self, archive: WalArchive, level: int | None, ahead: int) -> None:
        self._archive = archive
        self._level = level
        self._ahead = ahead
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[Identity, Future[int]]] = {}
        self._frames = ThreadPoolExecutor(_COMPRESSING, thread_name_prefix="pgproof-frame")
        # The one that is asked for never waits behind those that are not.
        self._asked = ThreadPoolExecutor(2, thread_name_prefix="pgproof-push")
        self._looking = ThreadPoolExecutor(max(1, ahead), thread_name_prefix="pgproof-ahead")

    def push(self, path: Path) -> int:
        """Return when this very file is durable in the repository; errors as `push_wal_file`."""
        parse_wal_name(path.name)
        future = self._begun(path, self._asked)
        self._look_ahead(path)
        try:
            stored = future.result()
        except EngineError:
            self._forget(path)
            raise
        if self._identity(path) != self._known_identity(path):
            # Pushed ahead under this name was another file than the one that the server means.
            self._forget(path)
            stored = push_wal_file(self._archive, path, self._level, self._frames)
        self._forget(path)
        return stored

    def close(self) -> None:
        for pool in (self._looking, self._asked, self._frames):
            pool.shutdown(wait=True, cancel_futures=True)

    def _begun(self, path: Path, pool: ThreadPoolExecutor) -> Future[int]:
        identity = self._identity(path)
        with self._lock:
            known = self._known.get(path)
            if known is not None and known[0] == identity and not _failed(known[1]):
                return known[1]
            future = pool.submit(push_wal_file, self._archive, path, self._level, self._frames)
            self._known[path] = identity, future
            return future

    def _look_ahead(self, path: Path) -> None:
        if not self._ahead:
            return
        ready = ready_files(path.parent)
        with self._lock:
            # What is no longer marked was acknowledged by somebody else, or is gone.
            for known in [p for p in self._known if p != path and p.name not in ready]:
                del self._known[known]
            waiting = sum(p != path for p in self._known)
        for name in ready:
            each = path.with_name(name)
            if each != path and each not in self._known and waiting < 2 * self._ahead:
                self._begun(each, self._looking)
                waiting += 1

    def _forget(self, path: Path) -> None:
        with self._lock:
            self._known.pop(path, None)

    def _known_identity(self, path: Path) -> Identity | None:
        with self._lock:
            known = self._known.get(path)
            return known[0] if known else None

    @staticmethod
    def _identity(path: Path) -> Identity:
        try:
            status = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def ready_files(pg_wal: Path) -> list[str]:
    """What the server has marked to be archived, in the order in which it will ask: histories first."""
    try:
        marked = [entry.name for entry in os.scandir(pg_wal / "archive_status")]
    except OSError:
        return []  # not a data directory: then nothing is looked for ahead
    names = [name.removesuffix(_READY) for name in marked if name.endswith(_READY)]
    return sorted(names, key=lambda name: (not name.endswith(".history"), name))


def _unreadable(path: Path, error: OSError) -> PreconditionError:
    return PreconditionError(
        "the WAL file cannot be read",
        hint="run this as the server's user, in its data directory, with the path that %p gives",
        file=path,
        reason=error.strerror,
    )


def _failed(future: Future[int]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)
