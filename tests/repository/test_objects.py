"""Sealed objects: every byte of them counts, and each opens only where and as what it was made."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.repository.blobs import decode_blob, decode_json, encode_blob, encode_json
from pgproof.repository.compression import Codec, compress, decompress, zstd_frame
from pgproof.repository.pack_reader import PackReader
from pgproof.repository.packs import MAX_FRAME, PackBuilder, make_frame
from pgproof.repository.sealing import Kind, RepositoryKey, Suite, unencrypted_key
from tests.support.faults import flip_bit

PAGE = 8192
KEYS = {
    "aes": RepositoryKey(bytes(range(16)), Suite.AES_256_GCM, bytes(range(32))),
    "none": unencrypted_key(bytes(range(16))),
}
CONTEXT = "clusters/main/packs/20261123T213000Z-full-3fa91c/00000000"


@pytest.fixture(params=KEYS)
def key(request: pytest.FixtureRequest) -> RepositoryKey:
    return KEYS[request.param]


def build(
    key: RepositoryKey, contents: list[bytes], *, kind: Kind = Kind.PACK, context: str = CONTEXT
) -> bytes:
    builder = PackBuilder(key, kind, context, PAGE, tags=kind is Kind.PACK)
    for number, content in enumerate(contents):
        builder.add(make_frame(key.hashes("main"), PAGE, None if number % 2 else 3, content))
    return builder.finish()


def contents_of(
    key: RepositoryKey, data: bytes, *, kind: Kind = Kind.PACK, context: str = CONTEXT, cluster: str = "main"
) -> list[bytes]:
    reader = PackReader(key, kind, context, len(data), lambda start, length: data[start : start + length])
    return [reader.frame(number, key.hashes(cluster)) for number in range(len(reader.index.codecs))]


# Compressible, incompressible and a single byte: every codec and a short last page.
CONTENTS = [b"page " * 2000, random.Random(1).randbytes(300), b"x"]


@given(st.lists(st.binary(min_size=1, max_size=3 * PAGE), max_size=4))
def test_a_pack_is_read_as_it_was_written(contents: list[bytes]) -> None:
    for key in KEYS.values():
        assert contents_of(key, build(key, contents)) == contents


@given(st.binary(max_size=5000))
def test_a_blob_is_read_as_it_was_written(payload: bytes) -> None:
    for key in KEYS.values():
        assert decode_blob(key, Kind.MAP, "a/b", encode_blob(key, Kind.MAP, "a/b", payload)) == payload


def test_every_byte_of_a_blob_counts(key: RepositoryKey) -> None:
    data = encode_blob(key, Kind.MANIFEST, "a/manifest", b'{"some": "payload"}' * 5)
    for at in range(len(data)):
        with pytest.raises(DataError, match="a/manifest"):
            decode_blob(key, Kind.MANIFEST, "a/manifest", flip_bit(data, at))


def test_every_byte_of_a_pack_counts(key: RepositoryKey) -> None:
    data = build(key, CONTENTS)
    for at in range(len(data)):
        with pytest.raises(DataError, match=CONTEXT):
            contents_of(key, flip_bit(data, at))


def test_every_byte_of_a_wal_object_counts(key: RepositoryKey) -> None:
    data = build(key, CONTENTS, kind=Kind.WAL)
    for at in range(len(data)):
        with pytest.raises(DataError, match=CONTEXT):
            contents_of(key, flip_bit(data, at), kind=Kind.WAL)


@pytest.mark.parametrize("change", [lambda d, n: d[:n], lambda d, n: d + d[-n:], lambda d, n: d[n + 1 :]])
def test_objects_cut_or_made_longer_anywhere(
    key: RepositoryKey, change: Callable[[bytes, int], bytes]
) -> None:
    blob, pack = encode_blob(key, Kind.MAP, "a/b", b"payload " * 9), build(key, CONTENTS)
    for at in range(1, len(blob)):
        with pytest.raises(DataError):
            decode_blob(key, Kind.MAP, "a/b", change(blob, at))
    for at in range(1, len(pack)):
        with pytest.raises(DataError):
            contents_of(key, change(pack, at))


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    for key in KEYS.values():
        with pytest.raises(DataError):
            decode_blob(key, Kind.MAP, "a/b", data)
        with pytest.raises(DataError):
            contents_of(key, data)


OTHER_PLACES: list[dict[str, Any]] = [
    {"context": CONTEXT[:-1] + "1"},
    {"context": CONTEXT.replace("main", "other")},
    {"context": ""},
    {"kind": Kind.WAL},
    {"key": RepositoryKey(bytes(16), Suite.AES_256_GCM, bytes(range(32)))},
    {"key": RepositoryKey(bytes(range(16)), Suite.AES_256_GCM, bytes(32))},
    {"key": RepositoryKey(bytes(range(16)), Suite.NONE, bytes(range(32)))},
]


@pytest.mark.parametrize("place", OTHER_PLACES)
def test_a_pack_opens_nowhere_else(place: dict[str, Any]) -> None:
    data = build(KEYS["aes"], CONTENTS)
    with pytest.raises(DataError):
        contents_of(**{"key": KEYS["aes"], "data": data, **place})


def test_contents_of_another_cluster_are_not_taken_for_ours() -> None:
    """Their hashes are keyed by the cluster, whatever the seal says."""
    with pytest.raises(DataError, match="hash"):
        contents_of(KEYS["aes"], build(KEYS["aes"], CONTENTS), cluster="other")


@pytest.mark.parametrize("kind", set(Kind) - {Kind.MANIFEST})
def test_a_manifest_is_nothing_else(key: RepositoryKey, kind: Kind) -> None:
    data = encode_blob(key, Kind.MANIFEST, "a/b", b"{}")
    with pytest.raises(DataError):
        decode_blob(key, kind, "a/b", data)


def test_frames_that_changed_places(key: RepositoryKey) -> None:
    data = bytearray(build(key, [b"a" * 100, b"b" * 100]))
    length = len(zstd_frame(b"a" * 100)) + 16
    first, second = data[76 : 76 + length], data[76 + length : 76 + length + 116]
    assert len(second) == 116
    with pytest.raises(DataError):
        contents_of(key, bytes(data[:76] + second + first + data[76 + length + 116 :]))


def test_a_newer_format_is_said_to_be_one(key: RepositoryKey) -> None:
    data = encode_blob(key, Kind.MANIFEST, "a/b", b"{}")
    with pytest.raises(DataError, match="newer pgproof"):
        decode_blob(key, Kind.MANIFEST, "a/b", b"\2" + data[1:])


def test_nothing_is_sealed_twice_alike(key: RepositoryKey) -> None:
    assert encode_blob(key, Kind.MAP, "a/b", b"x") != encode_blob(key, Kind.MAP, "a/b", b"x")


def test_plain_content_does_not_show_when_encrypted() -> None:
    assert b"canary" in build(KEYS["none"], [b"c", b"canary"])
    assert b"canary" not in build(KEYS["aes"], [b"c", b"canary"])
    assert repr(KEYS["aes"].master)[2:10] not in repr(KEYS["aes"])


@given(st.binary(max_size=3000), st.sampled_from([None, 1, 3, 19]))
def test_compression_is_undone(data: bytes, level: int | None) -> None:
    codec, body = compress(data, level)
    assert decompress(codec, bytes(body), len(data)) == data
    assert len(body) <= len(data)


def test_a_frame_that_claims_four_gigabytes_is_refused_before_memory_is_taken() -> None:
    # Magic, a descriptor with an 8-byte content size and a single segment, the size, an empty last block.
    bomb = b"\x28\xb5\x2f\xfd" + b"\xe0" + (4 << 30).to_bytes(8, "little") + b"\x01\0\0"
    assert zstandard.frame_content_size(bomb) == 4 << 30
    for promised in (1000, MAX_FRAME):
        with pytest.raises(DataError, match="promised length"):
            decompress(Codec.ZSTD, bomb, promised)


def test_a_small_frame_of_many_zeros_is_refused() -> None:
    with pytest.raises(DataError, match="promised length"):
        decompress(Codec.ZSTD, zstd_frame(bytes(200_000_000)), 1000)


@pytest.mark.parametrize(
    "body",
    [
        zstd_frame(b"x" * 100) + b"\0",
        zstd_frame(b"x" * 100) * 2,
        zstd_frame(b"x" * 100)[:-1],
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100),
        zstd_frame(b"x" * 99),
        zstd_frame(b"x" * 101),
        b"",
    ],
    ids=["byte-after", "frame-after", "cut", "no-size", "shorter", "longer", "empty"],
)
def test_a_frame_that_is_not_exactly_what_was_promised(body: bytes) -> None:
    with pytest.raises(DataError):
        decompress(Codec.ZSTD, body, 100)


@pytest.mark.parametrize("codec", [2, 255])
def test_an_unknown_codec(codec: int) -> None:
    with pytest.raises(DataError, match="unknown compression"):
        decompress(codec, b"x", 1)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"null", b'{"a": 1, "a": 2}', b"\xff", b"[" * 100_000, b"{} {}"]
)
def test_json_that_no_writer_writes(payload: bytes) -> None:
    with pytest.raises(DataError, match="key=a/b"):
        decode_json(payload, "a/b")


@given(st.dictionaries(st.text(), st.integers() | st.text(st.characters(exclude_categories=["Cs"]))))
def test_json_is_read_as_it_was_written(value: dict[str, Any]) -> None:
    assert decode_json(encode_json(value), "a/b") == value
