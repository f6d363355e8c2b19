"""What is done to a frame that lies in a slot, by a worker or by whoever has few frames: hash and compress."""

from __future__ import annotations

import struct
from enum import IntFlag

from pgproof.repository.compression import Codec, compress
from pgproof.repository.frame_slots import Slot
from pgproof.repository.page_hash import page_digests

REQUEST = struct.Struct("<BbHI")  # Work, level or NOT_COMPRESSED, slot, length of the content
REPLY = struct.Struct("<BBHI")  # Work, codec, slot, length of the body
NOT_COMPRESSED = -128


class Work(IntFlag):
    HASH = 1
    COMPRESS = 2


def work_on(
    slot: Slot, length: int, work: Work, level: int | None, page_key: bytes, page_size: int
) -> tuple[Codec, int]:
    """Do `work` on the first `length` bytes of the slot's content.

    Page digests go into the slot, and so does a body that is shorter than the content; returns the codec and the
    body's length. A body that is RAW is the content itself.
    """
    content = slot.content[:length]
    if Work.HASH in work:
        digests = page_digests(content, page_size, page_key)
        slot.digests[: len(digests)] = digests
    if Work.COMPRESS not in work:
        return Codec.RAW, length
    codec, body = compress(content, level)
    if codec is not Codec.RAW:
        slot.body[: len(body)] = body
    return codec, len(body)
