"""Packs: many sealed frames and their index in one object (docs/format.md, section 5). How they are read: pack_reader.py."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.repository.compression import Buffer, Codec, compress, zstd_frame
from pgproof.repository.frame_slots import DIGEST_LENGTH
from pgproof.repository.sealing import HEADER_LENGTH, TAG_LENGTH, Hashes, Kind, RepositoryKey

PAGE_TAG_LENGTH = 8
TRAILER_LENGTH = 16
MAX_FRAME = 4 << 20
MAX_FRAMES = 1 << 20
MAX_OBJECT = 2 << 30
MAX_INDEX = 64 << 20
INDEX_COUNTER = (1 << 64) - 1
_HAS_TAGS = 1
FRAME = struct.Struct("<BI")
_INDEX_HEAD = struct.Struct("<IIII")
INDEX_AAD = struct.Struct("<IQ")
TRAILER = struct.Struct("<IIQ")


@dataclass(frozen=True, slots=True)
class Frame:
    """A piece of content that is hashed and compressed, but not sealed into a pack yet."""

    codec: Codec
    body: Buffer
    plain_length: int
    digests: bytes
    hash: bytes

    @property
    def pages(self) -> int:
        return len(self.digests) // DIGEST_LENGTH


def make_frame(hashes: Hashes, page_size: int, level: int | None, data: Buffer) -> Frame:
    """Hash and compress; the costly part of a backup, safe to run in several threads."""
    digests = hashes.page_digests(data, page_size)
    codec, body = compress(data, level)
    return Frame(codec, body, len(data), digests, hashes.frame_hash(digests))


class PackBuilder:
    """Collects sealed frames; `finish`, called once, returns the object's bytes."""

    def __init__(self, key: RepositoryKey, kind: Kind, context: str, page_size: int, *, tags: bool) -> None:
        header, self._seal = key.new_seal(kind, context)
        self._page_size = page_size
        self._tags = tags
        self._parts: list[bytes] = [header]
        self._frames: list[tuple[int, int, int, bytes]] = []
        self._page_tags: list[bytes] = []
        self.size = len(header)
        self.pages = 0

    def add(self, frame: Frame) -> int:
        """Seal a frame into the pack; return the pack page number of its first page."""
        aad = b"frame" + FRAME.pack(frame.codec, frame.plain_length)
        sealed = self._seal.seal(len(self._frames), aad, frame.body)
        self._parts.append(sealed)
        self._frames.append((len(sealed), frame.plain_length, frame.codec, frame.hash))
        if self._tags:
            digests = np.frombuffer(frame.digests, np.uint8).reshape(-1, DIGEST_LENGTH)
            self._page_tags.append(digests[:, :PAGE_TAG_LENGTH].tobytes())
        first = self.pages
        self.pages += frame.pages
        self.size += len(sealed)
        return first

    def leave_out(self, plain_length: int) -> None:
        """A frame in name only, so that the pages behind it keep their numbers: no backup needs it any more."""
        pages = -(-plain_length // self._page_size)
        sealed = self._seal.seal(len(self._frames), b"frame" + FRAME.pack(Codec.RAW, plain_length), b"")
        self._parts.append(sealed)
        self._frames.append((len(sealed), plain_length, Codec.RAW, bytes(DIGEST_LENGTH)))
        if self._tags:
            self._page_tags.append(bytes(PAGE_TAG_LENGTH * pages))
        self.pages += pages
        self.size += len(sealed)

    @property
    def frame_hashes(self) -> list[bytes]:
        return [entry[3] for entry in self._frames]

    def finish(self) -> bytes:
        lengths = np.array([(f[0], f[1]) for f in self._frames], "<u4").reshape(-1, 2)
        codecs = np.array([f[2] for f in self._frames], "u1")
        head = _INDEX_HEAD.pack(
            len(self._frames), self._page_size, self.pages, _HAS_TAGS if self._tags else 0
        )
        hashes = b"".join(f[3] for f in self._frames)
        index = b"".join(
            [
                head,
                lengths[:, 0].tobytes(),
                lengths[:, 1].tobytes(),
                codecs.tobytes(),
                hashes,
                *self._page_tags,
            ]
        )
        aad = b"index" + INDEX_AAD.pack(len(index), self.size)
        sealed = self._seal.seal(INDEX_COUNTER, aad, zstd_frame(index))
        total = self.size + len(sealed) + TRAILER_LENGTH
        # The builder is done with: a pack is not held twice for longer than the join takes.
        parts, self._parts = self._parts, []
        return b"".join([*parts, sealed, TRAILER.pack(len(sealed), len(index), total)])


@dataclass(frozen=True)
class PackIndex:
    """Where a pack's frames are and what they hold; columns, one row per frame."""

    page_size: int
    page_count: int
    sealed_lengths: npt.NDArray[np.uint32]
    plain_lengths: npt.NDArray[np.uint32]
    codecs: npt.NDArray[np.uint8]
    hashes: bytes
    tags: npt.NDArray[np.uint64] | None

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """The place of each frame in the object, and of the index behind them."""
        return np.concatenate([[0], np.cumsum(self.sealed_lengths, dtype=np.int64)]) + HEADER_LENGTH

    @cached_property
    def first_pages(self) -> npt.NDArray[np.int64]:
        """The pack page number of each frame's first page, and the number of all pages."""
        pages = -(-self.plain_lengths.astype(np.int64) // self.page_size)
        return np.concatenate([[0], np.cumsum(pages)])

    @cached_property
    def left_out(self) -> npt.NDArray[np.bool_]:
        """Which frames have no body, because no backup needed them when the pack was rewritten."""
        found: npt.NDArray[np.bool_] = self.sealed_lengths == TAG_LENGTH
        return found

    def frames_of(self, firsts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which frames hold some of the pack pages from `firsts` up to, not including, `ends`: intervals, none of them empty.

        Raises DataError for pages that the pack does not have.
        """
        if len(ends) and int(ends.max()) > self.page_count:
            raise DataError("a map names pages that its pack does not have")
        change = np.zeros(len(self.codecs) + 1, np.int32)
        np.add.at(change, np.searchsorted(self.first_pages, firsts, "right") - 1, 1)
        np.add.at(change, np.searchsorted(self.first_pages, ends, "left"), -1)
        found: npt.NDArray[np.bool_] = np.cumsum(change)[:-1] > 0
        return found

    @property
    def plain_size(self) -> int:
        return int(self.plain_lengths.sum(dtype=np.int64))

    def hash_of(self, frame: int) -> bytes:
        return self.hashes[frame * DIGEST_LENGTH : (frame + 1) * DIGEST_LENGTH]


def parse_index(data: bytes) -> PackIndex:
    if len(data) < _INDEX_HEAD.size:
        raise DataError("a pack's index is cut short")
    frames, page_size, pages, flags = _INDEX_HEAD.unpack_from(data)
    tags_length = pages * PAGE_TAG_LENGTH if flags & _HAS_TAGS else 0
    expected = _INDEX_HEAD.size + frames * (4 + 4 + 1 + DIGEST_LENGTH) + tags_length
    if flags & ~_HAS_TAGS or frames > MAX_FRAMES or len(data) != expected or not 512 <= page_size <= 1 << 16:
        raise DataError("a pack's index is not well formed")
    at = _INDEX_HEAD.size
    sealed = np.frombuffer(data, "<u4", frames, at)
    plain = np.frombuffer(data, "<u4", frames, at + 4 * frames)
    codecs = np.frombuffer(data, "u1", frames, at + 8 * frames)
    hashes = data[at + 9 * frames : at + (9 + DIGEST_LENGTH) * frames]
    tags = np.frombuffer(data, "<u8", pages, expected - tags_length) if flags & _HAS_TAGS else None
    # A body is never longer than its content: where compression does not help, it is stored raw.
    if frames and (
        int(plain.max()) > MAX_FRAME
        or int(plain.min()) < 1
        or int(sealed.min()) < TAG_LENGTH
        or int(sealed.max()) > MAX_FRAME + TAG_LENGTH
    ):
        raise DataError("a pack's index is not well formed")
    index = PackIndex(page_size, pages, sealed, plain, codecs, hashes, tags)
    if int(index.first_pages[-1]) != pages:
        raise DataError("a pack's index is not well formed")
    return index
