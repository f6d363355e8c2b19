"""The tar parser reads what PostgreSQL writes however it is cut into pieces, and refuses everything else."""

from __future__ import annotations

import contextlib
import io
import random
import tarfile
from collections.abc import Iterable

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.job import Job
from pgproof.postgres.base_backup import ArchiveBegins, BackupOptions, ManifestBegins, stream_base_backup
from pgproof.postgres.tar import BLOCK, DIRECTORY, FILE, SYMLINK, Member, TarParser, parse_header
from tests.support.postgres import Cluster

Content = tuple[str, bytes, bytes]
names = st.text("abcxyz0189_.-", min_size=1, max_size=30).filter(lambda n: n.strip("."))
members = st.lists(
    st.tuples(st.sampled_from([FILE, DIRECTORY, SYMLINK]), names, st.binary(max_size=1300)), max_size=5
)


def _archive(entries: Iterable[tuple[str, str, bytes]]) -> bytes:
    """What Python's tarfile makes of it, in the format and with the end that PostgreSQL has."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for kind, name, content in entries:
            info = tarfile.TarInfo(name)
            info.type = kind.encode()
            info.mode = 0o640
            info.linkname = "/somewhere" if kind == SYMLINK else ""
            info.size = len(content) if kind == FILE else 0
            archive.addfile(info, io.BytesIO(content) if kind == FILE else None)
        end = archive.offset
    return out.getvalue()[:end] + bytes(2 * BLOCK)


def _parse(pieces: Iterable[bytes]) -> list[Content]:
    parser, found = TarParser(), []
    for piece in pieces:
        for item in parser.feed(memoryview(piece)):
            if isinstance(item, Member):
                found.append((item.type, item.name, bytearray()))
            else:
                found[-1][2].extend(item)
    assert parser.finished
    return [(kind, name, bytes(content)) for kind, name, content in found]


def _expected(entries: Iterable[tuple[str, str, bytes]]) -> list[Content]:
    return [(kind, name.encode(), content if kind == FILE else b"") for kind, name, content in entries]


@given(members, st.data())
def test_an_archive_is_read_in_any_pieces(entries: list[tuple[str, str, bytes]], data: st.DataObject) -> None:
    archive = _archive(entries)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(archive)), max_size=8)))
    pieces = [archive[a:b] for a, b in zip([0, *cuts], [*cuts, len(archive)], strict=True)]
    assert _parse(pieces) == _expected(entries)


def test_an_archive_is_read_byte_by_byte() -> None:
    entries = [
        (FILE, "a", b"x" * 513),
        (DIRECTORY, "base/1", b""),
        (FILE, "empty", b""),
        (SYMLINK, "pg_tblspc/5", b""),
    ]
    archive = _archive(entries)
    assert _parse(archive[n : n + 1] for n in range(len(archive))) == _expected(entries)


def test_what_the_server_sends_is_what_tarfile_reads(pg18: Cluster) -> None:
    archive, inside = io.BytesIO(), False
    with psycopg.connect(f"{_conninfo(pg18)} replication=true", autocommit=True) as connection:
        for event in stream_base_backup(connection.pgconn, BackupOptions("tar"), Job()):
            if isinstance(event, ArchiveBegins | ManifestBegins):
                inside = isinstance(event, ArchiveBegins)
            elif isinstance(event, memoryview) and inside:
                archive.write(event)
    data = archive.getvalue()
    pieces, at = [], 0
    while at < len(data):
        size = random.choice([1, 100, 511, 512, 513, 32768, 1 << 20])
        pieces.append(data[at : at + size])
        at += size
    archive.seek(0)
    expected = []
    with tarfile.open(fileobj=archive) as reference:
        for info in reference:
            file = reference.extractfile(info) if info.isfile() else None
            kind = FILE if info.isfile() else DIRECTORY if info.isdir() else SYMLINK
            expected.append((kind, info.name.removeprefix("./").encode(), file.read() if file else b""))
    assert _parse(pieces) == expected
    assert len(expected) > 900


def _conninfo(cluster: Cluster) -> str:
    parameters = cluster.config().parameters() | {"dbname": "postgres"}
    return " ".join(f"{name}={value}" for name, value in parameters.items())


@given(members, st.data())
def test_a_cut_archive_is_not_finished(entries: list[tuple[str, str, bytes]], data: st.DataObject) -> None:
    archive = _archive(entries)
    parser = TarParser()
    for _item in parser.feed(memoryview(archive)[: data.draw(st.integers(0, len(archive) - 1))]):
        pass
    assert not parser.finished


def test_more_after_the_end_is_refused() -> None:
    parser = TarParser()
    with pytest.raises(DataError, match="after the archive's end"):
        list(parser.feed(memoryview(_archive([]) + _archive([(FILE, "a", b"x")]))))
    parser = TarParser()
    list(parser.feed(memoryview(bytes(3 * BLOCK))))
    assert not parser.finished


def _header(**fields: tuple[int, bytes]) -> bytes:
    """A good header with fields replaced, and its checksum right again."""
    header = bytearray(_archive([(FILE, "a", b"x")])[:BLOCK])
    for at, value in fields.values():
        header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_sizes_beyond_eight_gigabytes() -> None:
    size = 20 << 30
    assert parse_header(_header(size=(124, b"\x80" + size.to_bytes(11, "big")))).size == size


@pytest.mark.parametrize(
    "header",
    [
        _header(kind=(156, b"1")),
        _header(kind=(156, b"x")),
        _header(kind=(156, b"\0")),
        _header(size=(124, b"-0000000001\0")),
        _header(size=(124, b"\xff" * 12)),
        _header(size=(124, b"\x80" + b"\xff" * 11)),
        _header(size=(124, b"00000_10000\0")),
        _header(size=(124, b"00000000009\0")),
        _header(mode=(100, b"0o00640\0")),
        _header(magic=(257, b"ustar ")),
        _header(prefix=(345, b"etc")),
        _header()[:-1] + b"\1",
    ],
    ids=[
        "hard-link",
        "pax",
        "old",
        "negative",
        "negative-256",
        "huge",
        "underscore",
        "decimal",
        "mode",
        "magic",
        "prefix",
        "checksum",
    ],
)
def test_what_postgresql_never_sends_is_refused(header: bytes) -> None:
    with pytest.raises(DataError):
        parse_header(header)


@given(st.binary(min_size=BLOCK, max_size=BLOCK), st.booleans())
def test_any_header_is_refused_or_read(header: bytes, mended: bool) -> None:
    if mended:
        header = header[:148] + b" " * 8 + header[156:]
        header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    with contextlib.suppress(DataError):
        assert parse_header(header).size >= 0
