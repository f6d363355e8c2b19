"""Memory that this process and its frame workers share: slots, each with room for a frame on its way.

A slot holds the content of one frame, the digests of its pages, and what it compresses to. Who may write
where follows from the order of requests and replies, so there are no locks.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from dataclasses import dataclass

FRAME_SIZE = 512 << 10
DIGEST_LENGTH = 32
SMALLEST_PAGE = 512
_DIGESTS = FRAME_SIZE // SMALLEST_PAGE * DIGEST_LENGTH
_SLOT = 2 * FRAME_SIZE + _DIGESTS
# In front of the slots: what every worker needs to know. The key is here because arguments can be read by others.
_HEAD = struct.Struct("<32sI")
_HEAD_ROOM = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Slot:
    """Views of one slot: `content` of a frame, its pages' `digests`, and the compressed `body`."""

    number: int
    content: memoryview
    body: memoryview
    digests: memoryview


class Slots:
    """`count` slots in a file without a name; `descriptor` is it. The memory goes with the last view of it."""

    def __init__(self, descriptor: int, count: int) -> None:
        self.descriptor = descriptor
        self._memory = memoryview(mmap.mmap(descriptor, _HEAD_ROOM + count * _SLOT))
        self._slots = [self._slot(number) for number in range(count)]

    @classmethod
    def make(cls, count: int, page_key: bytes, page_size: int) -> Slots:
        descriptor = nameless_file()
        os.ftruncate(descriptor, _HEAD_ROOM + count * _SLOT)
        slots = cls(descriptor, count)
        _HEAD.pack_into(slots._memory, 0, page_key, page_size)
        return slots

    @property
    def head(self) -> tuple[bytes, int]:
        """The key of page hashes, and the page size."""
        page_key, page_size = _HEAD.unpack_from(self._memory)
        return page_key, page_size

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def _slot(self, number: int) -> Slot:
        start = _HEAD_ROOM + number * _SLOT
        body, digests, end = start + FRAME_SIZE, start + 2 * FRAME_SIZE, start + _SLOT
        return Slot(number, self._memory[start:body], self._memory[body:digests], self._memory[digests:end])


def nameless_file() -> int:
    """The descriptor of a new file in memory, or else on disk, that goes when nobody has it open."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pgproof-frames", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
