"""The audit of a base that was made by WAL summaries (docs/decisions/0012): begun before the stream, told after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from pgproof.actions.materialise import find_file
from pgproof.errors import EngineError
from pgproof.model.config import PostgresConfig, VerifyLevel
from pgproof.model.filemap import ZEROS, printable
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.model.report import Finding, VerificationReport
from pgproof.model.summaries import LimitBlocks, SummariesUnusable
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.wal_summaries import limit_blocks, ordinary_connection
from pgproof.repository.audit import Audit, Omitted
from pgproof.repository.base import NOWHERE
from pgproof.repository.catalog import store_verification
from pgproof.repository.repository import Repository

_SEGMENT_BYTES = 1 << 30
_FILES_NAMED = 5
_PAGES_NAMED = 10


def audit_for(base: Manifest, facts: ServerFacts, timeline: int, history: bytes) -> Audit | None:
    """An audit of `base`, or None where its pages need not be what the server has.

    After a promotion or a recovery an old page may rightly differ, and after a switch of checksums every page does.
    """
    if base.change_detection != "summaries" or base.data_checksums != facts.data_checksums:
        return None
    if (base.timeline, base.timeline_history) != (timeline, history):
        return None
    pages = _SEGMENT_BYTES // facts.block_size
    return Audit(base.start_lsn, facts.block_size, pages, facts.data_checksums)


def limits_since(
    postgres: PostgresConfig, facts: ServerFacts, base: Manifest, start: Lsn
) -> LimitBlocks | None:
    """What was cut off between the starts of the two backups, or None if the server cannot tell any more."""
    if facts.major < 17:
        return None
    try:
        with ordinary_connection(postgres) as connection:
            return limit_blocks(connection, base.timeline, base.start_lsn, start)
    except SummariesUnusable:
        return None


def liars(
    repository: Repository, base: Manifest, owners: tuple[str, ...], audit: Audit
) -> Iterator[tuple[Manifest, list[Omitted]]]:
    """The base, and those before it by summaries from which it has the wrong pages; `owners` name owners' numbers."""
    backup: Manifest | None = base
    omitted = audit.omitted
    while backup is not None and backup.change_detection == "summaries":
        if backup is not base:
            omitted = [
                page
                for page in omitted
                if page.lsn < backup.start_lsn.value and _has(repository, backup, page, owners)
            ]
        if not omitted:
            return
        yield backup, omitted
        try:
            backup = repository.read_manifest(backup.parent_id) if backup.parent_id else None
        except EngineError:
            return  # retention may have removed it


def finding(liar: Manifest, omitted: list[Omitted]) -> Finding:
    return Finding(
        "omitted-blocks",
        f"backup {liar.backup_id} lacks changes that its WAL summaries left out: {named(omitted)}. "
        "This backup has them; do not use that one",
    )


def tell_on(repository: Repository, liar: Manifest, omitted: list[Omitted]) -> None:
    """Store beside the old backup that it is wrong, as a verification that it did not pass and never will."""
    report = VerificationReport(
        liar.backup_id,
        VerifyLevel.FRAMES,
        ok=False,
        proven=False,
        started_at=datetime.now(UTC),
        seconds=0.0,
        bytes_read=0,
        damage=(f"blocks were left out when it was made: {named(omitted)}",),
        refuted=True,
    )
    store_verification(repository, report)


def named(omitted: list[Omitted]) -> str:
    """Files with the first of their pages."""
    files = Counter(page.path for page in omitted)
    parts = []
    for path in sorted(files)[:_FILES_NAMED]:
        pages = sorted(page.page for page in omitted if page.path == path)
        more = " …" if len(pages) > _PAGES_NAMED else ""
        parts.append(f"{printable(path)} pages {', '.join(map(str, pages[:_PAGES_NAMED]))}{more}")
    more = f" and {len(files) - _FILES_NAMED:,} more files" if len(files) > _FILES_NAMED else ""
    return "; ".join(parts) + more


def _has(repository: Repository, backup: Manifest, page: Omitted, owners: tuple[str, ...]) -> bool:
    """Whether a backup has the same wrong page in that place."""
    try:
        found = find_file(repository, backup, page.path)
    except EngineError:
        return False
    if found is None:
        return False
    segment, entry = found
    for run in segment.runs_of(entry):
        at = page.page - int(run["file_page"])
        if 0 <= at < int(run["pages"]):
            if run["owner"] == ZEROS:
                return page.owner == ZEROS
            return page.owner < len(owners) and (
                segment.owners[int(run["owner"])],
                int(run["pack"]),
                int(run["pack_page"]) + at,
            ) == (owners[page.owner], page.pack, page.pack_page)
    return page.owner == NOWHERE
