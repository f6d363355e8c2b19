"""zstd, with the caps that a hostile frame needs.

A decompressor believes a frame's own size field over any limit it is given, so the field is compared
with the authenticated length first, and nothing may follow the frame.
"""

from __future__ import annotations

import threading
from enum import IntEnum

import zstandard

from pgproof.errors import DataError

Buffer = bytes | bytearray | memoryview


class Codec(IntEnum):
    RAW = 0
    ZSTD = 1


_threads = threading.local()


def compress(data: Buffer, level: int | None) -> tuple[Codec, Buffer]:
    """The shorter of `data` and its zstd frame; None as level stores it as it is."""
    if level is None:
        return Codec.RAW, data
    packed = zstd_frame(data, level)
    # Less than one part in 64 saved is not worth decompressing at the restore.
    return (Codec.ZSTD, packed) if len(packed) < len(data) - len(data) // 64 else (Codec.RAW, data)


def zstd_frame(data: Buffer, level: int = 3) -> bytes:
    """One zstd frame that carries its content size."""
    compressors: dict[int, zstandard.ZstdCompressor] | None = getattr(_threads, "compressors", None)
    if compressors is None:
        compressors = _threads.compressors = {}
    compressor = compressors.get(level)
    if compressor is None:
        compressor = compressors[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
    return compressor.compress(data)


def decompress(codec: int, body: bytes, plain_length: int) -> bytes:
    """Undo `compress`. Raises DataError unless exactly `plain_length` bytes come out."""
    if codec == Codec.RAW:
        if len(body) != plain_length:
            raise DataError("a stored part has the wrong length", length=len(body), expected=plain_length)
        return body
    if codec != Codec.ZSTD:
        raise DataError("unknown compression", codec=codec)
    try:
        if zstandard.frame_content_size(body) != plain_length:
            raise DataError("a compressed part does not have the promised length", expected=plain_length)
        decompressor: zstandard.ZstdDecompressor | None = getattr(_threads, "decompressor", None)
        if decompressor is None:
            decompressor = _threads.decompressor = zstandard.ZstdDecompressor()
        plain = decompressor.decompress(body, max_output_size=plain_length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DataError("a compressed part is damaged", reason=str(error)) from error
    if len(plain) != plain_length:
        raise DataError("a compressed part does not have the promised length", expected=plain_length)
    return plain
