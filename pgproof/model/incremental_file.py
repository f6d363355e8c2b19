"""The head of a file that PostgreSQL 17 and later send in an incremental backup (`INCREMENTAL.16384`).

Magic, number of blocks, truncation block length, the numbers of the blocks, then zeros up to a whole block if any
blocks follow. What comes from a server is checked before it is used: every number has its bound.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError

MAGIC = 0xD3AE1F0D
_HEAD = struct.Struct("<III")
HEAD_LENGTH = _HEAD.size


@dataclass(frozen=True, slots=True)
class IncrementalHead:
    """`blocks` are sent, ascending within the file; blocks below `truncation` that are not sent are the base's."""

    blocks: npt.NDArray[np.uint32]
    truncation: int
    length: int

    @property
    def pages(self) -> int:
        """How many pages the whole file has."""
        highest = int(self.blocks[-1]) + 1 if len(self.blocks) else 0
        return max(self.truncation, highest)


def head_length(start: bytes, file_size: int, page_size: int, segment_pages: int) -> int:
    """How many bytes come before the first page, from the first HEAD_LENGTH of them."""
    magic, count, truncation = _HEAD.unpack(start)
    if magic != MAGIC or count > segment_pages or truncation > segment_pages:
        raise DataError("an incremental file begins with what the server does not send")
    length: int = HEAD_LENGTH + 4 * count
    if count:
        length = -(-length // page_size) * page_size
    if file_size != length + count * page_size:
        raise DataError(
            "an incremental file does not have the length that its beginning tells", size=file_size
        )
    return length


def parse_head(head: bytes, page_size: int, segment_pages: int) -> IncrementalHead:
    """`head` is all that comes before the first page. Raises DataError for what the server would not send."""
    _magic, count, truncation = _HEAD.unpack_from(head)
    blocks = np.frombuffer(head, "<u4", count, HEAD_LENGTH).astype(np.uint32)
    if count and (int(blocks[-1]) >= segment_pages or np.any(np.diff(blocks.astype(np.int64)) <= 0)):
        raise DataError("an incremental file's blocks are not in order")
    if head[HEAD_LENGTH + 4 * count :].strip(b"\0"):
        raise DataError("an incremental file has something where zeros belong")
    return IncrementalHead(blocks, truncation, len(head))
