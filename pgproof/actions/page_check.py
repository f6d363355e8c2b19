"""Which pages of a stored backup fail their checksum: the server names only the first few of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgproof.model.filemap import FILE, FileEntry, Segment, printable
from pgproof.model.job import Job
from pgproof.model.notices import damaged_file
from pgproof.model.pages import bad_pages, segment_number
from pgproof.model.report import Finding
from pgproof.repository.content import Content
from pgproof.repository.map_store import StoredFiles
from pgproof.repository.repository import Repository

_SHOWN = 20
_PAGES_AT_ONCE = 512
# RELSEG_SIZE is a build option that nobody changes; segments are 1 GiB.
_SEGMENT_BYTES = 1 << 30


def damaged_pages(
    repository: Repository, files: StoredFiles, block_size: int, findings: Iterable[Finding], job: Job
) -> Iterator[Finding]:
    """For each file that `findings` name, the pages that really fail as they are stored."""
    wanted = {path.encode() for path in map(damaged_file, findings) if path}
    content = Content(repository)
    for ref in files.maps:
        segment = repository.segment(ref, block_size)
        for entry in segment.files:
            if entry.kind == FILE and entry.path in wanted:
                yield _finding(entry, list(_bad_blocks(content, segment, entry, block_size, job)))


def _finding(entry: FileEntry, blocks: list[int]) -> Finding:
    name = printable(entry.path)
    if not blocks:
        text = f"{name}: no page fails its checksum as it is stored; the server read one while it was written"
        return Finding("page-recheck", text)
    shown = ", ".join(map(str, blocks[:_SHOWN])) + (" …" if len(blocks) > _SHOWN else "")
    return Finding("page-checksum", f"{name}: {len(blocks)} damaged pages at the source: {shown}", True)


def _bad_blocks(
    content: Content, segment: Segment, entry: FileEntry, block_size: int, job: Job
) -> Iterator[int]:
    number = segment_number(entry.path)
    if number is None:
        return
    first = number * (_SEGMENT_BYTES // block_size)
    for page, data in content.pages(segment, entry, block_size, _PAGES_AT_ONCE):
        job.checkpoint()
        for bad in bad_pages(data, first + page, block_size):
            yield first + page + bad
