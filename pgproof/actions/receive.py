"""What BASE_BACKUP sends, taken into the repository."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import crc32c

from pgproof.errors import DataError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.filemap import printable
from pgproof.model.incremental_file import HEAD_LENGTH, head_length, parse_head
from pgproof.model.manifest import Tablespace
from pgproof.model.relation_files import without_prefix
from pgproof.model.server_manifest import ManifestFile, ServerManifestReader
from pgproof.model.source_files import (
    BACKUP_LABEL,
    CONTROL_FILE,
    MOST_READ,
    SERVER_MANIFEST,
    SIGNAL_FILES,
    label_start,
    problem_with,
    without_incremental_lines,
    worth_reading,
)
from pgproof.postgres.base_backup import ArchiveBegins, Ended, Event, ManifestBegins, Started
from pgproof.postgres.tar import DIRECTORY, FILE, Member, TarParser
from pgproof.repository.intake import FileIntake
from pgproof.repository.rebuild import Rebuild

_SPOOLED = 8 << 20


@dataclass
class IncrementalBeginning:
    """What comes before the blocks of an incremental file; `sent_path` is its name with the prefix."""

    sent_path: bytes
    path: bytes
    member: Member
    segment_pages: int
    _length: int = HEAD_LENGTH
    _measured: bool = False
    _content: bytearray = field(default_factory=bytearray)

    @property
    def head(self) -> bytes:
        return bytes(self._content)

    def feed(self, piece: memoryview, page_size: int) -> memoryview | None:
        """What is left of `piece` when the head is complete, None before."""
        while True:
            wanted = self._length - len(self._content)
            self._content += piece[:wanted]
            piece = piece[wanted:]
            if len(self._content) < self._length:
                return None
            if self._measured:
                return piece
            self._measured = True
            self._length = head_length(self.head, self.member.size, page_size, self.segment_pages)


@dataclass
class Receiver:
    """Takes the events of one base backup; `started` and `ended` are its first and last.

    `on_start` is told when it begins, and gives what makes whole files of incremental ones.
    """

    intake: FileIntake
    on_start: Callable[[Started], Rebuild | None] = lambda _started: None
    started: Started | None = None
    ended: Ended | None = None
    received: int = 0
    tablespaces: list[Tablespace] = field(default_factory=list)
    _parser: TarParser | None = None
    _prefix: bytes = b""
    _last: bytes = b""
    _kept: bytearray | None = None
    _kept_path: bytes = b""
    _label: bytes = b""
    _label_left: int = 0
    _label_mode: int = 0
    _kept_size: int = 0
    _rebuild: Rebuild | None = None
    _head: IncrementalBeginning | None = None

    def take(self, events: Iterator[Event]) -> Iterator[int]:
        """Consume everything; yields the bytes received so far, about every 32 KiB.

        Raises DataError if what came is not what its own manifest says, TransientError if the server
        copied a file while it was being replaced (then the backup has to be taken again).
        """
        in_manifest = False
        with tempfile.SpooledTemporaryFile(_SPOOLED) as manifest:
            for event in events:
                if isinstance(event, memoryview):
                    if in_manifest:
                        manifest.write(event)
                    else:
                        self._content(event)
                    self.received += len(event)
                    yield self.received
                elif isinstance(event, ArchiveBegins):
                    self._end_archive()
                    self._begin_archive(event)
                elif isinstance(event, ManifestBegins):
                    self._end_archive()
                    in_manifest = True
                elif isinstance(event, Started):
                    self.started = event
                    self._note_tablespaces(event)
                    self._rebuild = self.on_start(event)
                else:
                    self.ended = event
            if not in_manifest or self.ended is None or self.started is None:
                raise DataError("the base backup ended without its manifest")
            failpoint("receive.complete")
            self._check(manifest)
            failpoint("receive.checked")
            if self._rebuild is not None:
                for number, runs in self._rebuild.deferred():
                    self.intake.put_runs(number, runs)
            self._store_manifest(manifest)
            failpoint("receive.listed")

    def _note_tablespaces(self, started: Started) -> None:
        for tablespace in started.tablespaces:
            if not tablespace.location.startswith(b"/"):
                raise PreconditionError(
                    "in-place tablespaces cannot be backed up",
                    hint="move it to a directory of its own (allow_in_place_tablespaces is for developers)",
                    oid=tablespace.oid,
                )
            self.tablespaces.append(Tablespace(tablespace.oid, tablespace.location, tablespace.size_bytes))

    def _begin_archive(self, event: ArchiveBegins) -> None:
        self._parser = TarParser()
        self._prefix = b""
        if event.oid:
            self._prefix = b"pg_tblspc/%d/" % event.oid
            self.intake.directory(self._prefix.rstrip(b"/"), 0o700)

    def _end_archive(self) -> None:
        if self._parser is not None and not self._parser.finished:
            raise DataError("an archive was cut short", after=printable(self._last))
        self._parser = None

    def _content(self, data: memoryview) -> None:
        if self._parser is None:
            raise DataError("the server sent data outside an archive")
        for item in [data] if self._parser.inside(data) else self._parser.feed(data):
            if isinstance(item, Member):
                self._member(item)
            elif self._head is not None:
                self._blocks(self._head, item)
            elif self._label_left:
                self._label_comes(item)
            else:
                self.intake.data(item)
                if self._kept is not None:
                    self._kept += item
                    self._judge()

    def _member(self, member: Member) -> None:
        failpoint("receive.file")
        path = self._prefix + member.name
        self._last = path
        if member.type == DIRECTORY:
            self.intake.directory(path, member.mode)
        elif member.type == FILE and self._rebuild is not None and self._comes_otherwise(path, member):
            pass
        elif member.type == FILE and path in SIGNAL_FILES and member.size == 0:
            # Of the standby that sends: what is restored is none, unless somebody asks for one.
            self.intake.skip_empty(path)
        elif member.type == FILE:
            self.intake.begin(path, member.size, member.mode)
            self._kept = bytearray() if worth_reading(path, member.size) else None
            self._kept_path, self._kept_size = path, member.size
            if member.size == 0:
                self._judge()
        elif not self._is_tablespace_link(path):
            raise DataError("the server sent a link where none belongs", path=printable(path))

    def _comes_otherwise(self, path: bytes, member: Member) -> bool:
        """Whether the file is not stored as it is sent, in an incremental backup of the server's making."""
        assert self._rebuild is not None
        whole = without_prefix(path)
        if whole is not None:
            self._head = IncrementalBeginning(path, whole, member, self._rebuild.segment_pages)
            return True
        self._rebuild.whole(path, -(-member.size // self.intake.page_size))
        if path == BACKUP_LABEL and 0 < member.size <= MOST_READ:
            self._label_left, self._label_mode, self._label = member.size, member.mode, b""
            return True
        return False

    def _blocks(self, beginning: IncrementalBeginning, piece: memoryview) -> None:
        """The head of an incremental file, until it is complete, and what of `piece` is behind it."""
        assert self._rebuild is not None
        rest = beginning.feed(piece, self.intake.page_size)
        if rest is None:
            return
        self._head = None
        head = parse_head(beginning.head, self.intake.page_size, self._rebuild.segment_pages)
        patch = self._rebuild.patch(self.intake.next_file(), beginning.path, head)
        sent = beginning.sent_path, beginning.member.size
        self.intake.begin_patch(beginning.path, beginning.member.mode, sent, beginning.head, patch)
        if rest:
            self.intake.data(rest)

    def _label_comes(self, piece: memoryview) -> None:
        """A backup_label that says "incremental" is refused at a start: what we store is whole."""
        self._label += piece
        self._label_left -= len(piece)
        if not self._label_left:
            sent, stored = self._label, without_incremental_lines(self._label)
            self.intake.begin(BACKUP_LABEL, len(stored), self._label_mode)
            self.intake.data(memoryview(stored))
            self.intake.sent_as(BACKUP_LABEL, len(sent), crc32c.crc32c(sent))

    def _is_tablespace_link(self, path: bytes) -> bool:
        folder, _slash, oid = path.partition(b"/")
        return folder == b"pg_tblspc" and oid.isdigit() and int(oid) in {t.oid for t in self.tablespaces}

    def _judge(self) -> None:
        """Look at a small file once it is complete."""
        if self._kept is None or len(self._kept) < self._kept_size:
            return
        content, path, self._kept = bytes(self._kept), self._kept_path, None
        if path == BACKUP_LABEL:
            self._label = content
        problem = problem_with(path, content)
        if problem:
            raise TransientError(
                "the server copied a file while it was being replaced",
                hint="run the backup again; PostgreSQL's minor releases of November 2026 mend this",
                path=printable(path),
                reason=problem,
            )

    def _check(self, manifest: tempfile.SpooledTemporaryFile[bytes]) -> None:
        """Everything the server lists has come, unharmed, and nothing else."""
        if not self._label or self.started is None or label_start(self._label) != self.started.lsn:
            raise DataError("the base backup has no backup_label, or that of another backup")
        received = self.intake.checksum_of()
        if CONTROL_FILE not in received:
            raise DataError("the base backup has no pg_control")
        for listed in _listed_files(manifest):
            if received.pop(listed.path, None) != (listed.size, listed.crc32c):
                raise DataError(
                    "a file did not arrive as the server sent it",
                    hint="take the backup again; if it stays, check memory and network",
                    path=printable(listed.path),
                )
        if received:
            raise DataError(
                "a file came that the server's manifest does not list", path=printable(next(iter(received)))
            )

    def _store_manifest(self, manifest: tempfile.SpooledTemporaryFile[bytes]) -> None:
        size = manifest.seek(0, 2)
        manifest.seek(0)
        self.intake.begin(SERVER_MANIFEST, size, 0o600)
        while piece := manifest.read(1 << 20):
            self.intake.data(memoryview(piece))


def _listed_files(manifest: tempfile.SpooledTemporaryFile[bytes]) -> Iterator[ManifestFile]:
    reader = ServerManifestReader()
    manifest.seek(0)
    while piece := manifest.read(1 << 20):
        yield from reader.feed(piece)
    yield from reader.finish()
