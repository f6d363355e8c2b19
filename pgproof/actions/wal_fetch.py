"""Fetch what PostgreSQL asks for, and the segments that it will ask for next.

A file is told absent only when that is proven: by a list of a repository that is there, without a sign of WAL
behind. Whatever else keeps a file away is an error, because PostgreSQL takes an absence for the end of the WAL
and opens the cluster there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from pgproof.errors import DataError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.timelines import TimelineHistory
from pgproof.model.wal_coverage import Coverage, Promise, Verdict, judge
from pgproof.model.wal_names import WalFile, WalName, parse_wal_name
from pgproof.model.wal_pages import check_first_page
from pgproof.repository.catalog import committed_ids
from pgproof.repository.wal_archive import WalArchive
from pgproof.repository.wal_inventory import StoredWal

# Segments are pushed several at once: one that is missing may be on its way.
GRACE_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """A file's bytes, in pieces; `whole` is a segment that will never be longer."""

    chunks: Iterable[bytes]
    whole: bool = True


class WalFetcher:
    """Finds files by PostgreSQL's names. `promise` is what a planned recovery relies on.

    `truth` is the repository without the mirror that `archive` may have behind it: a mirror may lag behind, so that
    it proves nothing absent.
    """

    def __init__(
        self,
        archive: WalArchive,
        promise: Promise | None = None,
        *,
        truth: WalArchive | None = None,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self.archive = archive
        self._truth = truth or archive
        self._promise = promise
        self._grace = grace

    def find(self, text: str) -> Found | None:
        """The file of this name, or None if it is proven not to be there.

        Raises PreconditionError for what is no name of PostgreSQL's, DataError for damage, for a hole in the WAL
        and for a repository that belongs to others, and the bucket's errors.
        """
        name = parse_wal_name(text)
        failpoint("fetch.begun")
        if name.kind is WalFile.HISTORY:
            return self._history(name.timeline)
        if name.kind is WalFile.BACKUP:
            return None  # never stored: manifests say the same
        segment = self.segment(name.segment)
        return self._partial(segment, name) if name.kind is WalFile.PARTIAL else self._segment(segment)

    def segment(self, name: str) -> WalSegment:
        try:
            return WalSegment.parse(name, self.archive.segment_size)
        except ValueError as error:
            raise PreconditionError(
                "no segment of this cluster has such a name",
                hint="check that the repository and --cluster are those of this server",
                reason=error,
            ) from error

    def whole(self, segment: WalSegment) -> Found | None:
        """A complete segment, or None: for looking ahead, where silence is no matter."""
        pieces = self.archive.pieces_of(segment)
        if len(pieces) != 1 or not pieces[0].range.whole:
            return None
        return Found(self._checked(pieces[0]))

    # segments

    def _segment(self, segment: WalSegment) -> Found | None:
        found = self.whole(segment)
        if found is not None:
            return found
        deadline = time.monotonic() + self._grace
        while True:
            inventory = self.archive.later_than(segment)
            verdict = self._verdict(inventory.stored(), segment)
            if verdict is Verdict.SERVED:
                pieces = [each for each in inventory.pieces if each.range.segment == segment]
                read = self.archive.read_segment(segment, pieces)
                if read is None:
                    raise DataError("a WAL segment has no beginning", segment=segment.name)
                check_first_page(read.data, segment, self.archive.system_identifier, segment.name)
                return Found([read.data], whole=False)
            if verdict is Verdict.ABSENT:
                # A promise was made by what both copies hold, and is kept as far as it goes.
                if self._truth is not self.archive and not self._promise:
                    verdict = self._verdict(self._truth.later_than(segment).stored(), segment)
                self._truth.prove_present()
                if verdict is Verdict.ABSENT:
                    return None
            if time.monotonic() > deadline:
                raise DataError(
                    "WAL is missing in the middle: there is more behind it",
                    hint="`pgproof wal status` names the gaps; restore to a target before this one",
                    segment=segment.name,
                    cluster=self.archive.repository.cluster,
                )
            time.sleep(min(_LOOK_AGAIN_SECONDS, self._grace))

    def _verdict(self, coverage: Coverage, segment: WalSegment) -> Verdict:
        # Only where there are parts does it matter where the timeline begins.
        parts = any(s.start < segment.end for s in coverage.of_timeline(segment.timeline))
        begin = self._begin(segment.timeline) if parts else segment.start
        return judge(coverage, segment, begin, self._promise)

    def _begin(self, timeline: int) -> Lsn:
        return self.archive.history(timeline).begin

    def _checked(self, stored: StoredWal) -> Iterator[bytes]:
        frames = self.archive.plain(stored)
        first = next(frames)
        segment = stored.range.segment
        check_first_page(first, segment, self.archive.system_identifier, stored.info.key)
        return chain([first], frames)

    def _partial(self, segment: WalSegment, name: WalName) -> Found | None:
        """What a server archived of its old timeline's last segment: a last resort, for whoever names it."""
        found = self.archive.partials_of(segment)
        if len(found) > 1:
            raise PreconditionError(
                "several servers stored such a file",
                hint="they were promoted from the same segment; the next timelines' segments hold what counts",
                name=name.name,
            )
        if not found:
            self._truth.prove_present()
            return None
        return Found(self._checked(found[0]))

    # history files

    def _history(self, timeline: int) -> Found | None:
        content = self.archive.read_history(timeline)
        if content is None:
            content = self._history_of_a_backup(timeline)
        if content is None and self._truth is not self.archive:
            content = self._truth.read_history(timeline)
        if content is None:
            self._truth.prove_present()
            return None
        TimelineHistory.parse(timeline, content)
        return Found([content])

    def _history_of_a_backup(self, timeline: int) -> bytes | None:
        """A timeline that began before its first backup has its history in that backup's manifest."""
        if timeline == 1 or not self.archive.inventory(timeline).pieces:
            return None
        repository = self.archive.repository
        for backup_id in sorted(committed_ids(repository.bucket, repository.layout), reverse=True):
            manifest = repository.read_manifest(backup_id)
            if manifest is not None and manifest.timeline == timeline and manifest.timeline_history:
                return manifest.timeline_history
        # Told absent, the number would be taken again by the next server that is promoted.
        raise DataError(
            "a timeline has WAL in the repository but no history file",
            hint=f"bring pg_wal/{timeline:08X}.history of one of its servers: `pgproof wal push FILE`",
            timeline=timeline,
        )
