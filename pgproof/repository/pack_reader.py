"""Opens packs and their frames (docs/format.md, section 5), and looks elsewhere for what is damaged or was left out."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError, EngineError
from pgproof.repository.compression import Buffer, Codec, decompress
from pgproof.repository.packs import (
    FRAME,
    INDEX_AAD,
    INDEX_COUNTER,
    MAX_INDEX,
    MAX_OBJECT,
    TRAILER,
    TRAILER_LENGTH,
    Frame,
    PackIndex,
    make_frame,
    parse_index,
)
from pgproof.repository.sealing import HEADER_LENGTH, Hashes, Kind, RepositoryKey, Seal

_log = logging.getLogger(__name__)

# Of zstd, where a frame has to be compressed once more.
_LEVEL = 3


class PackReader:
    """Opens a pack's frames. `read(start, length)` brings bytes of the object; errors name `key`.

    A frame that turns out damaged is taken from the pack that `elsewhere` opens, if there is one, or from the one that
    `before` opens, which this was rewritten from; so is one that was left out.
    """

    def __init__(
        self,
        key: RepositoryKey,
        kind: Kind,
        context: str,
        size: int,
        read: Callable[[int, int], bytes],
        elsewhere: Callable[[], PackReader] | None = None,
        before: Callable[[], PackReader] | None = None,
    ) -> None:
        self._context = context
        self._read = read
        self._elsewhere = elsewhere
        self._before = before
        try:
            if not HEADER_LENGTH + TRAILER_LENGTH <= size <= MAX_OBJECT:
                raise DataError("an object is cut short", size=size)
            self._seal, self.index = self._open(key, kind, size)
        except DataError as error:
            raise self._named(error) from error

    def _open(self, key: RepositoryKey, kind: Kind, size: int) -> tuple[Seal, PackIndex]:
        tail_length = min(size, 64 << 10)
        tail = self._read(size - tail_length, tail_length)
        index_sealed, index_plain, total = TRAILER.unpack(tail[-TRAILER_LENGTH:])
        index_at = size - TRAILER_LENGTH - index_sealed
        if total != size or index_at < HEADER_LENGTH or index_plain > MAX_INDEX:
            raise DataError("an object is cut short or damaged", size=size)
        header = self._read(0, HEADER_LENGTH) if size > tail_length else tail[:HEADER_LENGTH]
        seal = key.open_seal(header, kind, self._context)
        if index_sealed + TRAILER_LENGTH <= tail_length:
            sealed = tail[-TRAILER_LENGTH - index_sealed : -TRAILER_LENGTH]
        else:
            sealed = self._read(index_at, index_sealed)
        body = seal.open(INDEX_COUNTER, b"index" + INDEX_AAD.pack(index_plain, index_at), sealed)
        index = parse_index(decompress(Codec.ZSTD, body, index_plain))
        if int(index.offsets[-1]) != index_at:
            raise DataError("an object's index does not fit its frames")
        return seal, index

    def read_frames(self, first: int, count: int) -> bytes:
        """The sealed bytes of `count` frames from `first`, for `open_frame`."""
        start, end = int(self.index.offsets[first]), int(self.index.offsets[first + count])
        return self._read(start, end - start)

    def open_frame(self, frame: int, sealed: Buffer, hashes: Hashes) -> bytes:
        """Open, decompress and check one frame. Raises DataError naming the object and the frame."""
        if self.index.left_out[frame]:
            return self._earlier(frame, hashes)
        try:
            return self._open_frame(frame, sealed, hashes)[1]
        except DataError as error:
            return self._other_copy(frame, hashes, self._named(error, frame=frame))

    def _open_frame(self, frame: int, sealed: Buffer, hashes: Hashes) -> tuple[Frame, bytes]:
        index = self.index
        codec, plain_length = int(index.codecs[frame]), int(index.plain_lengths[frame])
        body = self._seal.open(frame, b"frame" + FRAME.pack(codec, plain_length), sealed)
        plain = decompress(codec, body, plain_length)
        digests = hashes.page_digests(plain, index.page_size)
        if hashes.frame_hash(digests) != index.hash_of(frame):
            raise DataError("content does not have the hash it was stored with")
        return Frame(Codec(codec), body, plain_length, digests, index.hash_of(frame)), plain

    def frame(self, number: int, hashes: Hashes) -> bytes:
        return self.open_frame(number, self.read_frames(number, 1), hashes)

    def tags(self) -> npt.NDArray[np.uint64] | None:
        """Of all pages; those of frames that were left out are taken from the object before, and are zeros if it is gone."""
        index = self.index
        if index.tags is None or self._before is None or not index.left_out.any():
            return index.tags
        older = self._before().tags()
        if older is None or len(older) != len(index.tags):
            return index.tags
        return np.where(np.repeat(index.left_out, np.diff(index.first_pages)), older, index.tags)

    def sealable(self, number: int, sealed: Buffer, hashes: Hashes) -> Frame:
        """A frame as it was compressed, checked, for another pack. What this object lacks or has damaged is compressed anew."""
        try:
            if not self.index.left_out[number]:
                return self._open_frame(number, sealed, hashes)[0]
        except DataError as error:
            _log.warning("a frame is damaged, and sought elsewhere: %s", self._named(error, frame=number))
        return make_frame(hashes, self.index.page_size, _LEVEL, self.frame(number, hashes))

    def _earlier(self, frame: int, hashes: Hashes) -> bytes:
        if self._before is None:
            error = DataError(
                "a frame was left out when its pack was rewritten, because no backup needed it",
                hint="a backup that names it is not whole: restore another one, and run `pgproof verify`",
            )
            raise self._named(error, frame=frame)
        return self._before().frame(frame, hashes)

    def _other_copy(self, frame: int, hashes: Hashes, damage: DataError) -> bytes:
        for other in (self._elsewhere, self._before):
            if other is None:
                continue
            try:
                plain = other().frame(frame, hashes)
            except EngineError:
                continue
            _log.warning("the other copy of a frame was used: %s", damage)
            return plain
        raise damage

    def _named(self, error: DataError, **more: int) -> DataError:
        return DataError(error.message, hint=error.hint, **{"key": self._context, **error.context, **more})
