"""The tar stream that BASE_BACKUP sends, parsed as it arrives.

Strict on purpose: it accepts what PostgreSQL's walsender writes (ustar, base-256 sizes) and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pgproof.errors import DataError

BLOCK = 512
FILE, DIRECTORY, SYMLINK = "0", "5", "2"
_MAX_SIZE = 1 << 46


@dataclass(frozen=True, slots=True)
class Member:
    """One entry: `type` is FILE, DIRECTORY or SYMLINK, `size` is 0 for all but files."""

    name: bytes
    type: str
    size: int
    mode: int
    link: bytes


class TarParser:
    """Feed it the stream in any pieces; it yields members and, after each file, its content.

    Content comes as memoryviews of what was fed.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0
        self._padding = 0
        self._zero_blocks = 0

    @property
    def finished(self) -> bool:
        """Whether the archive's end was seen: two blocks of zeros and nothing after them."""
        return self._zero_blocks == 2 and not self._header and not self._left and not self._padding

    def inside(self, data: memoryview) -> bool:
        """Whether all of `data` is content of the current file; then it counts as fed. Most of a stream is."""
        if len(data) > self._left:
            return False
        self._left -= len(data)
        return True

    def feed(self, data: memoryview) -> Iterator[Member | memoryview]:
        while data:
            if self._left:
                piece = data[: self._left]
                self._left -= len(piece)
                data = data[len(piece) :]
                yield piece
            elif self._padding:
                skipped = min(self._padding, len(data))
                self._padding -= skipped
                data = data[skipped:]
            else:
                wanted = BLOCK - len(self._header)
                self._header += data[:wanted]
                data = data[wanted:]
                if len(self._header) == BLOCK:
                    member = self._member(bytes(self._header))
                    self._header.clear()
                    if member is not None:
                        yield member

    def _member(self, header: bytes) -> Member | None:
        if header == bytes(BLOCK):
            self._zero_blocks += 1
            return None
        if self._zero_blocks:
            raise DataError("the server sent an archive member after the archive's end")
        member = parse_header(header)
        self._left = member.size
        self._padding = -member.size % BLOCK
        return member


def parse_header(header: bytes) -> Member:
    """Raises DataError for anything PostgreSQL would not have sent."""
    stored = _octal(header[148:156])
    if stored != sum(header) - sum(header[148:156]) + 8 * 0x20:
        raise DataError("an archive header has a wrong checksum")
    # The server writes pg_wal/archive_status with "./" before it.
    name = header[:100].split(b"\0", 1)[0].removeprefix(b"./")
    kind = chr(header[156])
    size = _size(header[124:136])
    if kind not in (FILE, DIRECTORY, SYMLINK) or not 0 <= size <= _MAX_SIZE:
        raise DataError("an archive member of a kind PostgreSQL does not send", kind=kind, size=size)
    if header[257:263] != b"ustar\0" or header[345:500].strip(b"\0"):
        raise DataError("not an archive in the ustar format that PostgreSQL writes")
    return Member(
        name.removesuffix(b"/") if kind == DIRECTORY else name,
        kind,
        size if kind == FILE else 0,
        _octal(header[100:108]) & 0o7777,
        header[157:257].split(b"\0", 1)[0],
    )


def _size(field: bytes) -> int:
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)


def _octal(field: bytes) -> int:
    text = field.strip(b"\0 ")
    if text.strip(b"01234567"):
        raise DataError("an archive header holds what is not a number")
    return int(text or b"0", 8)
