"""What the fuzzer feeds: every parser of what an object store, a server or its log may bring.

A target is a function of any bytes. The errors it may end with are told beside it, the rest are defects.
Seals are no hurdle here: a target seals the fuzzer's bytes itself, so that the parsing behind the seal is
reached, and another one feeds the sealed object as it is.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import crc32c

from campaigns import fuzz_dump_targets as dump_targets
from campaigns import fuzz_wal_targets as wal_targets
from campaigns.fuzz_input import Input, mutate_json
from campaigns.small_repository import (
    PAGE,
    SEGMENT_SIZE,
    SYSTEM_IDENTIFIER,
    MemoryBucket,
    Small,
    control_file,
    make_small,
    wal_bytes,
)
from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.model.control_file import parse_control_file
from pgproof.model.filemap import check_path, decode_segment, numbers_of
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.manifest import Manifest
from pgproof.model.notices import damaged_file, finding_for
from pgproof.model.restore_plan import plan_restore, tablespace_map
from pgproof.model.server_log import created_tablespaces, end_of_redo, failed_server, missing_tablespace
from pgproof.model.server_manifest import ServerManifestReader
from pgproof.model.source_files import label_start, problem_with
from pgproof.model.wal_pages import check_first_page
from pgproof.postgres.tar import TarParser
from pgproof.postgres.wal_messages import decode
from pgproof.repository import keyring, layout
from pgproof.repository.blobs import decode_blob, decode_json, encode_blob
from pgproof.repository.catalog import find_backup, list_backups
from pgproof.repository.compression import zstd_frame
from pgproof.repository.integrity import check_frames, check_objects
from pgproof.repository.leases import hold_lease
from pgproof.repository.pack_reader import PackReader
from pgproof.repository.sealing import HEADER_LENGTH, Kind, RepositoryKey, Suite, unencrypted_key
from pgproof.repository.unlocking import damaged_slots, list_slots, unlock

_KEYS = (
    RepositoryKey(bytes(16), Suite.AES_256_GCM, bytes(range(32))),
    unencrypted_key(bytes(16)),
)
_CONTEXT = "clusters/main/packs/20261123T213000Z-full-3fa91c/00000000"
_SMALL = make_small(Random(1), encrypted=False)
_LOCKED = make_small(Random(2), encrypted=True)
_LEAST_KDF = {"memory_kib": 19456, "iterations": 1}


@dataclass(frozen=True)
class Target:
    """A parser, what it is fed at first, and the errors that are its answer to bytes it does not like."""

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    refusals: tuple[type[Exception], ...] = (DataError, PreconditionError)

    def try_one(self, data: bytes) -> bool:
        """Whether the bytes were accepted; whatever is no refusal comes out as it is."""
        try:
            self.run(data)
        except self.refusals:
            return False
        return True


# Manifests and the other JSON behind seals


def _manifest(data: bytes) -> None:
    payload = mutate_json(data, _manifest_json())
    manifest = Manifest.from_json(decode_json(payload, "a/manifest"))
    manifest.info().to_json()
    assert len(manifest.wal_segments) < 1 << 21, "more WAL than memory for its names"
    for bitmap in manifest.packs.values():
        numbers_of(bitmap)
    plan = plan_restore(manifest, Path("/nowhere/data"), {}, recover=True, owner=None)
    tablespace_map(plan)
    plan.lines(datetime.now(UTC))
    json.dumps(plan.to_json())


def _manifest_json() -> bytes:
    key = _SMALL.open().layout.manifest(_SMALL.backups[0])
    found = json.loads(decode_blob(_SMALL.open().key, Kind.MANIFEST, key, _SMALL.bucket.read(key)))
    found["tablespaces"] = [{"oid": 16385, "location": "L3Q=", "size_bytes": 5}]
    found["external_config"] = [{"setting": "config_file", "path": "/etc/p", "content": "eA=="}]
    found["findings"] = [{"kind": "notice", "message": "text", "degrades": True}]
    return json.dumps(found).encode()


def _verification(data: bytes) -> None:
    repository = _SMALL.open(_SMALL.bucket.copy())
    (key,) = [i.key for i in repository.bucket.list(repository.layout.verifications(_SMALL.backups[0]))]
    payload = mutate_json(data, json.dumps(repository.read_json(Kind.VERIFICATION, key)).encode())
    _replace(_SMALL, repository.bucket, Kind.VERIFICATION, key, payload)
    (info,) = list_backups(repository)
    json.dumps(info.to_json())


def _lease(data: bytes) -> None:
    repository = _SMALL.open(_SMALL.bucket.copy())
    key = f"{repository.layout.leases('backup')}0000000001"
    payload = mutate_json(data, json.dumps(repository.read_json(Kind.LEASE, key)).encode())
    _replace(_SMALL, repository.bucket, Kind.LEASE, key, payload)
    with hold_lease(repository, "backup") as lease:
        lease.check()


def _small_json(data: bytes) -> None:
    """The intent and the cluster's description, as a verification reads them."""
    repository = _SMALL.open(_SMALL.bucket.copy())
    choice = Input(data)
    kind, key = choice.one_of(
        [
            (Kind.INTENT, repository.layout.intent(_SMALL.backups[0])),
            (Kind.CLUSTER, repository.layout.cluster),
        ]
    )
    payload = mutate_json(choice.rest(), json.dumps(repository.read_json(kind, key)).encode())
    _replace(_SMALL, repository.bucket, kind, key, payload)
    check_frames(repository, find_backup(repository, "latest"), Job())


def _replace(small: Small, bucket: Any, kind: Kind, key: str, payload: bytes) -> None:
    bucket.put(key, encode_blob(small.open().key, kind, key, payload))


# Maps, packs, blobs


def _map(data: bytes) -> None:
    choice = Input(data)
    page_size = choice.one_of([8192, 1024, 4096, 32768])
    segment = decode_segment(choice.rest(), page_size)
    for entry in segment.files:
        check_path(entry.path)
        segment.runs_of(entry)


def _map_seeds() -> list[bytes]:
    repository = _SMALL.open()
    manifest = find_backup(repository, "latest")
    return [b"\0" + repository.read_map(ref.hash) for ref in manifest.maps]


def _pack_index(data: bytes) -> None:
    """An index of the fuzzer's behind a frame region whose length fits it or not, sealed as ours are."""
    choice = Input(data)
    key, flags = choice.one_of(_KEYS), choice.number(1)
    claimed = choice.number(4)
    index = choice.rest()
    header, seal = key.new_seal(Kind.PACK, _CONTEXT)
    region = bytes(_fitting(index) if flags & 1 else claimed % (1 << 16))
    at, plain = HEADER_LENGTH + len(region), len(index) if not flags & 2 else claimed
    body = zstd_frame(index) if not flags & 4 else index
    sealed = seal.seal((1 << 64) - 1, b"index" + struct.pack("<IQ", plain & 0xFFFFFFFF, at), body)
    trailer = struct.pack(
        "<IIQ", len(sealed), plain & 0xFFFFFFFF, at + len(sealed) + 16 + (claimed if flags & 8 else 0)
    )
    _read_pack(key, header + region + sealed + trailer)


def _fitting(index: bytes) -> int:
    """How long the frames are of which this index tells, if that is not too long to try."""
    count = int.from_bytes(index[:4], "little")
    if len(index) < 16 or count > len(index) // 4:
        return 0
    lengths: tuple[int, ...] = struct.unpack_from(f"<{min(count, (len(index) - 16) // 4)}I", index, 16)
    return min(sum(lengths), 1 << 20)


def _pack_index_seeds() -> list[bytes]:
    found = []
    for frames, pages in ((1, 1), (2, 3)):
        head = struct.pack("<IIII", frames, PAGE, pages, 1)
        plain = struct.pack(f"<{frames}I", *([PAGE * (pages - frames + 1)] + [PAGE] * (frames - 1)))
        index = (
            head
            + struct.pack(f"<{frames}I", *[40] * frames)
            + plain
            + bytes(frames + 32 * frames + 8 * pages)
        )
        found += [bytes([number, 1]) + bytes(4) + index for number in range(2)]
    return found


def _frame(data: bytes) -> None:
    """One frame whose codec, length, hash and body the fuzzer chooses, in a pack that is else correct."""
    choice = Input(data)
    key, codec, plain = choice.one_of(_KEYS), choice.number(1), choice.number(3)
    body = choice.rest()
    header, seal = key.new_seal(Kind.PACK, _CONTEXT)
    frame = seal.seal(0, b"frame" + struct.pack("<BI", codec, plain), body)
    pages = -(-plain // PAGE)
    index = (
        struct.pack("<IIII", 1, PAGE, pages, 0) + struct.pack("<IIB", len(frame), plain, codec) + bytes(32)
    )
    at = HEADER_LENGTH + len(frame)
    sealed = seal.seal((1 << 64) - 1, b"index" + struct.pack("<IQ", len(index), at), zstd_frame(index))
    trailer = struct.pack("<IIQ", len(sealed), len(index), at + len(sealed) + 16)
    _read_pack(key, header + frame + sealed + trailer)


def _frame_seeds() -> list[bytes]:
    text = b"page " * 2000
    return [
        bytes([0, 1]) + len(text).to_bytes(3, "little") + zstd_frame(text),
        bytes([1, 0]) + (5).to_bytes(3, "little") + b"plain",
    ]


def _pack(data: bytes) -> None:
    """A whole object, as the store gives it."""
    choice = Input(data)
    _read_pack(choice.one_of(_KEYS), choice.rest())


def _read_pack(key: RepositoryKey, data: bytes) -> None:
    def read(start: int, length: int) -> bytes:
        assert start >= 0
        assert start + length <= len(data), "read behind the end"
        return data[start : start + length]

    reader = PackReader(key, Kind.PACK, _CONTEXT, len(data), read)
    hashes = key.hashes("main")
    for number in range(len(reader.index.codecs)):
        reader.frame(number, hashes)


def _pack_seeds() -> list[bytes]:
    packs = [
        data for key, (data, _at) in _SMALL.bucket.objects.items() if "/packs/" in key and len(data) < 1000
    ]
    return [b"\1" + pack for pack in packs]


def _blob(data: bytes) -> None:
    choice = Input(data)
    decode_blob(choice.one_of(_KEYS), choice.one_of(list(Kind)), "a/b", choice.rest())


def _blob_body(data: bytes) -> None:
    """What lies behind the seal of a blob: a codec, a length and a body that fit or do not."""
    choice = Input(data)
    key, codec, plain = choice.one_of(_KEYS), choice.number(1), choice.number(4)
    header, seal = key.new_seal(Kind.MAP, "a/b")
    prefix = struct.pack("<BI", codec, plain)
    sealed = seal.seal(0, b"blob" + prefix, choice.rest())
    assert len(decode_blob(key, Kind.MAP, "a/b", header + prefix + sealed)) == plain


def _blob_body_seeds() -> list[bytes]:
    text = b"payload " * 50
    return [
        bytes([0, 1]) + struct.pack("<I", len(text)) + zstd_frame(text),
        bytes([1, 0]) + struct.pack("<I", len(text)) + text,
    ]


# What is read before any key is known


def _repository_json(data: bytes) -> None:
    choice = Input(data)
    payload = _with_checksum(
        choice.number(1), mutate_json(choice.rest(), _LOCKED.bucket.read(layout.REPOSITORY))
    )
    bucket = _LOCKED.bucket.copy()
    bucket.put(layout.REPOSITORY, payload)
    _unlock(bucket, _LOCKED.secret)


def _key_slot(data: bytes) -> None:
    choice = Input(data)
    (key,) = [info.key for info in _LOCKED.bucket.list(layout.KEYS)]
    flags = choice.number(1)
    payload = mutate_json(choice.rest(), _LOCKED.bucket.read(key))
    bucket = _LOCKED.bucket.copy()
    bucket.put(key, _with_checksum(flags, _cheap(payload)))
    _unlock(bucket, _LOCKED.secret)


def _unlock(bucket: MemoryBucket, secret: str | None) -> None:
    try:
        unlock(bucket, secret, True)
    finally:
        for damaged in damaged_slots(bucket):
            str(damaged)
        for slot in list_slots(bucket):
            json.dumps(slot.to_json())


def _with_checksum(flags: int, payload: bytes) -> bytes:
    """The checksum guards from accidents only, so the fuzzer, like an intruder, may mend it."""
    try:
        value = json.loads(payload)
        return json.dumps(keyring.with_checksum(value)).encode() if flags & 1 else payload
    except (ValueError, RecursionError, TypeError):
        return payload


def _cheap(payload: bytes) -> bytes:
    """Key derivations that are allowed to take a gigabyte are not repeated a million times here."""
    try:
        slot = json.loads(payload)
        for name, least in _LEAST_KDF.items():
            if slot["kdf"][name] > least:
                slot["kdf"][name] = least
        return json.dumps(slot).encode()
    except (ValueError, RecursionError, TypeError, KeyError):
        return payload


def _slot_seeds() -> list[bytes]:
    described = _LOCKED.bucket.read(layout.REPOSITORY)
    _id, passphrase = keyring.make_slot(
        described, bytes(32), "secret", keyring.PASSPHRASE, _LOCKED.bucket.now
    )
    return [b"\0\0" + passphrase, *_json_seeds()]


def _names(data: bytes) -> None:
    """Names that a store lists: whoever can write there chooses them freely."""
    bucket = _SMALL.bucket.copy()
    repository = _SMALL.open(bucket)
    places = (
        repository.layout.packs_of(_SMALL.backups[0]),
        repository.layout.backups,
        repository.layout.leases("backup"),
        repository.layout.verifications(_SMALL.backups[0]),
        layout.KEYS,
    )
    choice = Input(data)
    while choice.left:
        place = choice.one_of(places)
        name = choice.piece().decode("utf-8", "ignore")
        bucket.put(place + name, b"")
    for backup in list_backups(repository):
        json.dumps(backup.to_json())
    manifest = find_backup(repository, _SMALL.backups[0])
    check_objects(repository, manifest, Job())
    check_frames(repository, manifest, Job())
    with hold_lease(repository, "backup"):
        pass


def _name_seeds() -> list[bytes]:
    names = ["00000001-" + "0" * 64, "0000000002", "20261123T213000Z-full-3fa91c/manifest", "clock-00"]
    return [bytes([number, len(name)]) + name.encode() for number, name in enumerate(names)]


# What a server sends, and says


def _server_manifest(data: bytes) -> None:
    choice = Input(data)
    reader, cut, rest = ServerManifestReader(), choice.number(1) + 1, choice.rest()
    for at in range(0, len(rest), cut):
        list(reader.feed(rest[at : at + cut]))
    list(reader.finish())


def _server_manifest_seeds() -> list[bytes]:
    from hashlib import sha256

    file = '"Size": 3, "Last-Modified": "2026-11-23 21:30:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00ff00ff"'
    text = (
        '{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": 7,\n"Files": [\n'
        f'{{ "Path": "base/1/2", {file} }},\n{{ "Encoded-Path": "ff2f", {file} }}\n],\n'
        '"WAL-Ranges": [\n{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000120" }\n],\n'
    )
    end = f'"Manifest-Checksum": "{sha256(text.encode()).hexdigest()}"}}\n'
    return [bytes([cut]) + text.encode() + end.encode() for cut in (255, 6)]


def _tar(data: bytes) -> None:
    choice = Input(data)
    flags, parser = choice.number(1), TarParser()
    cut, rest = choice.number(1) + 1, bytearray(choice.rest())
    if flags & 1:
        for at in range(0, len(rest) - 511, 512):
            # A checksum that fits, so that what it covers is looked at.
            rest[at + 148 : at + 156] = b" " * 8
            rest[at + 148 : at + 156] = b"%06o\0 " % sum(rest[at : at + 512])
    for at in range(0, len(rest), cut):
        list(parser.feed(memoryview(bytes(rest[at : at + cut]))))


def _tar_seeds() -> list[bytes]:
    header = bytearray(512)
    header[:8] = b"base/1/2"
    header[100:108], header[124:136], header[156:157] = b"0000600\0", b"00000000003\0", b"0"
    header[257:265] = b"ustar\x0000"
    return [bytes([1, cut]) + bytes(header) + b"abc" + bytes(509 + 1024) for cut in (255, 99)]


def _source_file(data: bytes) -> None:
    choice = Input(data)
    path = choice.one_of(
        [
            b"backup_label",
            b"global/pg_control",
            b"postgresql.auto.conf",
            b"base/1/PG_VERSION",
            b"global/pg_filenode.map",
        ]
    )
    flags, content = choice.number(1), choice.rest()
    if path == b"global/pg_control" and flags & 1:
        content = _with_crc(content)
        parse_control_file(content)
    problem_with(path, content)
    label_start(content)


def _with_crc(content: bytes) -> bytes:
    whole = bytearray(content.ljust(512, b"\0"))
    version = struct.unpack_from("<I", whole, 8)[0]
    at = {1300: 288, 1700: 288, 1800: 292}.get(version, 288)
    struct.pack_into("<I", whole, at, crc32c.crc32c(bytes(whole[:at])))
    return bytes(whole)


def _source_seeds() -> list[bytes]:
    mapping = struct.pack("<ii", 0x592717, 3).ljust(512, b"\0")
    label = b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n"
    return [b"\1\1" + control_file()[:512], b"\4\0" + mapping, b"\0\0" + label, b"\3\x0018\n"]


def _wal(data: bytes) -> None:
    segment = WalSegment.containing(1, Lsn(5 * SEGMENT_SIZE), SEGMENT_SIZE)
    try:
        decode(memoryview(data))
    finally:
        check_first_page(data, segment, str(SYSTEM_IDENTIFIER), "clusters/main/wal/00000001/000")


def _wal_seeds() -> list[bytes]:
    segment = WalSegment.containing(1, Lsn(5 * SEGMENT_SIZE), SEGMENT_SIZE)
    return [wal_bytes(segment)[:64], b"w" + bytes(24) + b"x", b"k" + bytes(17)]


def _server_text(data: bytes) -> None:
    """A server's log and notices, whose texts a restored cluster may choose."""
    text = data.decode("utf-8", "replace")
    str(failed_server(text))
    end_of_redo(text)
    missing_tablespace(data)
    created_tablespaces(text)
    finding = finding_for(text[:7], text)
    if finding is not None:
        damaged_file(finding)


def _text_seeds() -> list[bytes]:
    return [
        b'FATAL:  could not load library "/x.so": no\n',
        b"LOG:  redo done at 0/2000120 system usage: CPU\n",
        b'FATAL:  directory "/t" does not exist\nCONTEXT:  WAL redo at 0/1 for Tablespace/CREATE: 16385 "/t"\n',
        b'rmgr: Tablespace len: 1, desc: CREATE 16385 "/t"\n',
        b'WARNING:  file "base/1/2" has a total of 5 checksum verification failures',
        b'PANIC:  checksum verification failed in file "./base/1/2", block 1: calculated 1 but expected 2',
    ]


def _json_seeds() -> list[bytes]:
    # Raw text; a few single changes; two changes at once.
    return [b"\0\0{}", b"\1\1\3\5", b"\1\2\7\1\1\4"]


TARGETS: dict[str, Target] = {
    "manifest": Target(_manifest, lambda: [b"\0" + _manifest_json(), *_json_seeds()]),
    "verification": Target(_verification, _json_seeds),
    "lease": Target(_lease, _json_seeds, (ConflictError,)),
    "small_json": Target(_small_json, _json_seeds),
    "map": Target(_map, _map_seeds),
    "pack_index": Target(_pack_index, _pack_index_seeds),
    "frame": Target(_frame, _frame_seeds),
    "pack": Target(_pack, _pack_seeds),
    "blob": Target(_blob, lambda: [b"\0\1", b"\1\2" + _SMALL.bucket.read(_SMALL.open().layout.cluster)]),
    "blob_body": Target(_blob_body, _blob_body_seeds),
    "repository_json": Target(_repository_json, _json_seeds),
    "key_slot": Target(_key_slot, _slot_seeds),
    "names": Target(_names, _name_seeds, (DataError, PreconditionError, ConflictError)),
    "server_manifest": Target(_server_manifest, _server_manifest_seeds),
    "tar": Target(_tar, _tar_seeds),
    "source_file": Target(_source_file, _source_seeds),
    "wal": Target(_wal, _wal_seeds),
    "timeline_history": Target(wal_targets.timeline_history, wal_targets.timeline_seeds),
    "wal_name": Target(wal_targets.wal_name, wal_targets.wal_name_seeds),
    "incremental_file": Target(wal_targets.incremental_file, wal_targets.incremental_seeds),
    "waldump_line": Target(wal_targets.waldump_line, wal_targets.waldump_seeds),
    "dump_cuts": Target(dump_targets.dump_cuts, dump_targets.cut_seeds),
    "dump_records": Target(dump_targets.dump_records, dump_targets.record_seeds),
    "dump_map": Target(dump_targets.dump_map, dump_targets.dump_map_seeds),
    "map_store": Target(dump_targets.map_store, dump_targets.map_store_seeds),
    "globals_sql": Target(dump_targets.globals_sql, dump_targets.globals_seeds),
    "dump_log": Target(dump_targets.dump_log, dump_targets.log_seeds),
    "dump_list": Target(dump_targets.dump_list, dump_targets.list_seeds),
    "logical_manifest": Target(dump_targets.logical_manifest, dump_targets.logical_manifest_seeds),
    "fingerprint": Target(dump_targets.fingerprint, dump_targets.fingerprint_seeds),
    "server_text": Target(_server_text, _text_seeds, (DataError, PreconditionError, TransientError)),
}
