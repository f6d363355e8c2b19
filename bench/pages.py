"""Which pages of a cluster changed, found by reading both versions, and what they are worth compressed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import zstandard
from blake3 import blake3

from bench.data import relation_files
from tests.support.postgres import Cluster

_PAGE = 8192
_DIGEST = 8
_PIECE = 512 * _PAGE

# Of each file by its path: the digests of its pages, one after the other.
Versions = Mapping[str, bytes]


def versions(source: Cluster) -> Versions:
    """Every page of the databases and the shared catalogs as it is on disk after a checkpoint."""
    source.psql("CHECKPOINT")
    return {
        name: b"".join(digest for digest, _page in _pages(source.data_dir / name))
        for name in relation_files(source.data_dir)
    }


def changed(source: Cluster, before: Versions) -> bytes:
    """The pages that are others than they were, or new, by file and place."""
    source.psql("CHECKPOINT")
    found = []
    for name in sorted(relation_files(source.data_dir)):
        old = before.get(name, b"")
        for number, (digest, page) in enumerate(_pages(source.data_dir / name)):
            if digest != old[number * _DIGEST : (number + 1) * _DIGEST]:
                found.append(bytes(page))
    return b"".join(found)


def compressed(pages: bytes) -> int:
    """Their size as one stream of `zstd -3`, which is a little less than in frames."""
    return len(zstandard.ZstdCompressor(level=3).compress(pages))


def _pages(file: Path) -> Iterator[tuple[bytes, memoryview]]:
    with file.open("rb") as opened:
        while piece := memoryview(opened.read(_PIECE)):
            for at in range(0, len(piece), _PAGE):
                page = piece[at : at + _PAGE]
                yield blake3(page).digest(_DIGEST), page
