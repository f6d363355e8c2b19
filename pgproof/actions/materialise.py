"""Write a backup's files into empty directories, pg_control last."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pgproof.actions.delta import only_changed
from pgproof.errors import DataError
from pgproof.failpoints import failpoint
from pgproof.model.control_file import ControlFile, parse_control_file
from pgproof.model.filemap import DIRECTORY, FileEntry, Segment
from pgproof.model.job import Job
from pgproof.model.lsn import WalSegment
from pgproof.model.manifest import Manifest
from pgproof.model.restore_plan import RestorePlan, tablespace_map
from pgproof.model.source_files import BACKUP_LABEL, CONTROL_FILE, SERVER_MANIFEST, TABLESPACE_MAP
from pgproof.postgres.data_directory import DataDirectory
from pgproof.postgres.delta_directory import DeltaDirectory
from pgproof.postgres.open_files import OpenFiles
from pgproof.postgres.osuser import OsUser
from pgproof.repository.content import Content
from pgproof.repository.frame_stream import batches, read_batch
from pgproof.repository.repository import Repository

# More than cores: while some wait for the disk, others decompress.
_THREADS = (os.cpu_count() or 1) + 2


@dataclass(frozen=True, slots=True)
class Essentials:
    """The files that a restore cannot do without, read before anything is written."""

    control: bytes
    control_mode: int

    @property
    def parsed(self) -> ControlFile:
        return parse_control_file(self.control)


def read_essentials(repository: Repository, manifest: Manifest) -> Essentials:
    """Raises DataError if the backup lacks its backup_label or a whole pg_control: it must not be started."""
    content = Content(repository)
    label = find_file(repository, manifest, BACKUP_LABEL)
    control = find_file(repository, manifest, CONTROL_FILE)
    if label is None or control is None:
        raise DataError(
            "the backup has no backup_label or no pg_control",
            hint="use another backup; this one cannot be started",
            backup=manifest.backup_id,
        )
    segment, entry = control
    try:
        found = Essentials(content.read(segment, entry, manifest.block_size), entry.mode)
        if str(found.parsed.system_identifier) != manifest.system_identifier:
            raise DataError("pg_control belongs to another cluster")
    except DataError as error:
        context = {**error.context, "backup": manifest.backup_id}
        raise DataError(error.message, hint=error.hint, **context) from error
    return found


def write_files(
    repository: Repository,
    manifest: Manifest,
    plan: RestorePlan,
    essentials: Essentials,
    user: OsUser | None,
    job: Job,
    written: Callable[[int], None] = lambda _bytes: None,
) -> DataDirectory:
    """Everything but pg_control, and the WAL; then all of it is on disk. Returns the directory.

    `written` is told how many bytes of pages were written.
    """
    mode = 0o750 if essentials.control_mode & 0o040 else 0o700
    kind = DataDirectory if plan.delta is None else DeltaDirectory
    directory = kind(plan.data_dir, plan.tablespaces, user)
    directory.make_roots(mode)
    failpoint("restore.made")
    writer = _Writer(directory, manifest, plan.recover, job)
    for batch in batches(repository, manifest):
        job.checkpoint()
        with_pages = np.zeros(len(batch.files), np.bool_)
        with_pages[batch.places["file"]] = True
        for number, entry in enumerate(batch.files):
            if entry.kind == DIRECTORY:
                directory.make_directory(entry)
            elif not with_pages[number] and not writer.withheld(entry):
                # Empty, or nothing but pages of zeros: no pack brings it.
                directory.make_file(entry)
        if isinstance(directory, DeltaDirectory):
            batch = only_changed(repository, batch, directory, manifest.block_size, writer.withheld, job)
        for _stored in read_batch(repository, batch, manifest.block_size, writer.sink, _THREADS, job):
            writer.report()
    failpoint("restore.files")
    written(writer.written)
    if plan.tablespaces:
        directory.write_file(TABLESPACE_MAP, tablespace_map(plan))
    # Recovery that goes on beyond the backup gets all its WAL from the repository.
    for segment in [] if plan.recover and plan.wal_beyond else manifest.wal_segments:
        job.report(
            "writing WAL", segment.start - manifest.start_lsn.segment_start(segment.size), plan.wal_bytes
        )
        failpoint("restore.wal")
        write_wal(repository, directory, segment, job)
    if manifest.timeline_history:
        directory.write_file(b"pg_wal/%08X.history" % manifest.timeline, manifest.timeline_history)
    failpoint("restore.complete")
    job.report("syncing")
    directory.sync()
    failpoint("restore.synced")
    return directory


def write_control_file(directory: DataDirectory, essentials: Essentials) -> None:
    """The last file: from here on PostgreSQL would start."""
    failpoint("restore.control")
    directory.write_file(CONTROL_FILE, essentials.control, essentials.control_mode)
    failpoint("restore.control.written")
    directory.sync_file(CONTROL_FILE)


class _Writer:
    """Counts what is written; makes a sink for each pack."""

    def __init__(self, directory: DataDirectory, manifest: Manifest, recover: bool, job: Job) -> None:
        self._directory = directory
        self._manifest = manifest
        # Without recovery the server's manifest goes with the files, for pg_verifybackup.
        withheld = {CONTROL_FILE, TABLESPACE_MAP}
        self._withheld = withheld | {SERVER_MANIFEST} if recover else withheld
        self._job = job
        self._lock = threading.Lock()
        self.written = 0

    def sink(self) -> _FileSink:
        return _FileSink(self, OpenFiles(self._directory), self._manifest.block_size)

    def withheld(self, entry: FileEntry) -> bool:
        """pg_control comes last, and the tablespace map is written anew."""
        return entry.path in self._withheld

    def count(self, nbytes: int) -> None:
        with self._lock:
            self.written += nbytes

    def report(self) -> None:
        self._job.report("restoring", min(self.written, self._manifest.size_bytes), self._manifest.size_bytes)


class _FileSink:
    def __init__(self, writer: _Writer, files: OpenFiles, block_size: int) -> None:
        self._writer = writer
        self._files = files
        self._block_size = block_size

    def take(self, entry: FileEntry, file_page: int, pages: memoryview) -> None:
        if self._writer.withheld(entry):
            return
        offset = file_page * self._block_size
        data = pages[: entry.size - offset]
        self._files.write(entry.path, entry.size, entry.mode, offset, data)
        self._writer.count(len(data))

    def close(self) -> None:
        self._files.close()


def write_wal(repository: Repository, directory: DataDirectory, segment: WalSegment, job: Job) -> None:
    """One segment, in full length, into pg_wal."""
    reader = repository.open_wal(segment)
    if reader.index.plain_size > segment.size:
        key = repository.layout.segment(segment)
        raise DataError("a WAL segment is longer than it may be", key=key)
    path = b"pg_wal/" + segment.name.encode()
    # The server will use the file again for other WAL, and relies on its room being there.
    directory.reserve(path, segment.size)
    files, offset = OpenFiles(directory), 0
    try:
        for frame in range(len(reader.index.codecs)):
            job.checkpoint()
            data = reader.frame(frame, repository.hashes)
            files.write(path, segment.size, directory.file_mode, offset, memoryview(data))
            offset += len(data)
    finally:
        files.close()


def find_file(repository: Repository, manifest: Manifest, path: bytes) -> tuple[Segment, FileEntry] | None:
    """The entry of one file and the map segment it is in; reads that segment alone."""
    candidates = [ref for ref in manifest.maps if ref.first <= path]
    if not candidates:
        return None
    segment = repository.segment(candidates[-1], manifest.block_size, manifest.backup_id)
    return next(((segment, entry) for entry in segment.files if entry.path == path), None)
