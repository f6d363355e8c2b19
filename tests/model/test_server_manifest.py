"""The server's manifest is read in any pieces, and none that was changed or cut is believed."""

from __future__ import annotations

import json
import random

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.job import Job
from pgproof.model.server_manifest import ManifestFile, ServerManifestReader
from pgproof.postgres.base_backup import BackupOptions, ManifestBegins, stream_base_backup
from tests.support.faults import flip_bit
from tests.support.postgres import Cluster


@pytest.fixture(scope="module")
def real(pg18: Cluster) -> bytes:
    """The manifest of a base backup."""
    taken, inside = bytearray(), False
    connection = psycopg.connect(
        host=str(pg18.socket_dir), port=pg18.port, user="postgres", autocommit=True, replication="true"
    )
    with connection:
        for event in stream_base_backup(connection.pgconn, BackupOptions("manifest"), Job()):
            inside = inside or isinstance(event, ManifestBegins)
            if inside and isinstance(event, memoryview):
                taken += event
    return bytes(taken)


def _read(data: bytes, cuts: list[int]) -> list[ManifestFile]:
    reader = ServerManifestReader()
    files: list[ManifestFile] = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        files += reader.feed(data[start:end])
    return [*files, *reader.finish()]


def test_a_real_manifest_in_any_pieces(real: bytes) -> None:
    whole = _read(real, [])
    assert len(whole) > 900
    assert {b"backup_label", b"global/pg_control", b"PG_VERSION"} <= {file.path for file in whole}
    for count in (1, 10, 1000):
        assert _read(real, sorted(random.choices(range(len(real)), k=count))) == whole


def test_it_is_read_as_the_json_that_it_is(real: bytes) -> None:
    listed = json.loads(real)["Files"]
    assert _read(real, []) == [
        ManifestFile(
            file["Path"].encode(), file["Size"], int.from_bytes(bytes.fromhex(file["Checksum"]), "little")
        )
        for file in listed
    ]


def test_a_real_manifest_byte_by_byte(real: bytes) -> None:
    start = real.index(b'{ "Path"')
    head = real[: start + 2000]
    reader = ServerManifestReader()
    found = [file for at in range(len(head)) for file in reader.feed(head[at : at + 1])]
    assert found == list(ServerManifestReader().feed(head))


def test_a_changed_manifest_is_refused(real: bytes) -> None:
    for at in random.sample(range(len(real)), 60):
        with pytest.raises(DataError):
            _read(flip_bit(real, at), [])


def test_a_cut_or_longer_manifest_is_refused(real: bytes) -> None:
    for end in [0, len(real) - 80, *random.sample(range(len(real) - 70), 20)]:
        with pytest.raises(DataError):
            _read(real[:end], [])
    with pytest.raises(DataError):
        _read(real + b'{ "Path": "more", "Size": 0 }\n', [])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        _read(data, [])


def test_a_name_that_is_no_utf8() -> None:
    line = b'{ "Encoded-Path": "62617365ff", "Size": 3, "Last-Modified": "x", '
    line += b'"Checksum-Algorithm": "CRC32C", "Checksum": "01020304" },\n'
    assert list(ServerManifestReader().feed(line)) == [ManifestFile(b"base\xff", 3, 0x04030201)]
    for wrong in (
        line.replace(b"CRC32C", b"NONE"),
        line.replace(b": 3", b': "x"'),
        line.replace(b"62", b"6"),
    ):
        with pytest.raises(DataError):
            list(ServerManifestReader().feed(wrong))
