"""Keyed hashes of pages (docs/format.md, section 5)."""

from __future__ import annotations

from blake3 import blake3

from pgproof.repository.compression import Buffer


def page_digests(data: Buffer, page_size: int, key: bytes) -> bytes:
    """32 bytes for each page of `data`, in order; the last page may be short."""
    view = memoryview(data)
    return b"".join(
        [blake3(view[at : at + page_size], key=key).digest() for at in range(0, len(view), page_size)]
    )
