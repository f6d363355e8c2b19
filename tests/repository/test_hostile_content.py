"""Content that only an enemy writes: what the campaigns found once, each in its smallest form."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from campaigns.hostile_objects import Entry, encode_map, read_map
from campaigns.rot_judge import contents_of
from campaigns.small_repository import PAGE, MemoryBucket, Small, make_small
from pgproof.actions.materialise import read_essentials, write_control_file, write_files
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.errors import ConflictError, DataError, PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.model.filemap import DIRECTORY, FILE, ZEROS, decode_segment
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest, is_backup_id
from pgproof.model.restore_plan import plan_restore
from pgproof.model.server_log import end_of_redo, missing_tablespace
from pgproof.model.source_files import label_start
from pgproof.repository import layout
from pgproof.repository.blobs import encode_blob
from pgproof.repository.bucket import MAX_WHOLE
from pgproof.repository.catalog import find_backup, list_backups
from pgproof.repository.integrity import check_frames, check_objects
from pgproof.repository.keyring import with_checksum
from pgproof.repository.leases import hold_lease
from pgproof.repository.local import LocalBucket
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.unlocking import list_slots, unlock
from tests.support.faults import flip_bit

TABLESPACE = {"oid": 16385, "location": base64.b64encode(b"/tablespace").decode(), "size_bytes": 5}


@pytest.fixture(scope="module")
def made() -> Small:
    return make_small(Random(1), encrypted=False)


@pytest.fixture
def small(made: Small) -> Small:
    """A repository of a test's own."""
    return Small(made.bucket.copy(), made.secret, made.cluster, made.backups, made.contents)


def put_json(small: Small, kind: Kind, key: str, value: dict[str, Any]) -> Repository:
    """Seal any JSON under any key, as whoever can write to the store can."""
    repository = small.open()
    small.bucket.put(key, encode_blob(repository.key, kind, key, json.dumps(value).encode()))
    return repository


def put_manifest(small: Small, **fields: object) -> Repository:
    repository = small.open()
    key = repository.layout.manifest(small.backups[0])
    return put_json(small, Kind.MANIFEST, key, {**repository.read_json(Kind.MANIFEST, key), **fields})


def put_map(small: Small, entries: list[Entry], owner: bytes = b"", **fields: object) -> Repository:
    """Make `entries` the whole backup."""
    repository = small.open()
    payload = encode_map(entries, [owner or small.backups[0].encode()])
    name, _stored = repository.create_map(payload)
    reference = {
        "hash": name,
        "first": base64.b64encode(entries[0].path).decode(),
        "files": len(entries),
        "bytes": sum(entry.size for entry in entries),
        "pages": sum(run[1] for entry in entries for run in entry.runs),
    }
    return put_manifest(small, **{"maps": [reference], **fields})


def with_entry(small: Small, *new: Entry) -> list[Entry]:
    entries = {entry.path: entry for entry in (*read_map(small), *new)}
    return [entries[path] for path in sorted(entries)]


def restore(
    small: Small, repository: Repository, target: Path, mapping: dict[str, str] | None = None
) -> None:
    manifest = find_backup(repository, small.backups[0])
    plan = plan_restore(manifest, target, mapping or {}, recover=True, owner=None)
    essentials = read_essentials(repository, manifest)
    write_control_file(write_files(repository, manifest, plan, essentials, None, Job()), essentials)


# Manifests


@pytest.mark.parametrize(
    "fields",
    [
        {"size_bytes": 10**400},
        {"size_bytes": 2**63},
        {"timeline": 0},
        {"timeline": 2**32},
        {"start_lsn": "0/0", "stop_lsn": "FFFFFFFF/FFFFFFFF"},
        {"packs": {"20261123T213000Z-full-3fa91c": base64.b64encode(b"\xff" * (1 << 20)).decode()}},
        {"seconds": {"data": float("nan")}},
        {"seconds": {"data": 10**400}},
        {"seconds": {"data": "1"}},
        {"method": "\ud800"},
        {"started_at": "0001-01-01T00:00:00+23:59"},
        {"tablespaces": [TABLESPACE] * 2},
        {"tablespaces": [TABLESPACE, {**TABLESPACE, "oid": 2}]},
        {"tablespaces": [{**TABLESPACE, "oid": n} for n in range(1001)]},
        {"external_config": [{"setting": "a", "path": "b", "content": None}] * 1001},
        {"cluster": "x" * (1 << 20)},
        {"backup_id": ["x" * (1 << 20)]},
    ],
    ids=str,
)
def test_a_manifest_that_no_backup_has(small: Small, fields: dict[str, object]) -> None:
    repository = put_manifest(small, **fields)
    with pytest.raises(DataError, match=repository.layout.manifest(small.backups[0])) as refused:
        find_backup(repository, small.backups[0])
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":[' + b"[]," * (2 << 20) + b"[]]}",
        b'{"a":"' + b"x" * (64 << 20) + b'"}',
    ],
    ids=["values", "bytes"],
)
def test_json_that_would_fill_the_memory_is_not_parsed(small: Small, payload: bytes) -> None:
    repository = small.open()
    key = repository.layout.manifest(small.backups[0])
    small.bucket.put(key, encode_blob(repository.key, Kind.MANIFEST, key, payload))
    with pytest.raises(DataError, match="too large"):
        repository.read_manifest(small.backups[0])


def test_a_backup_id_names_a_day_that_there_is() -> None:
    assert is_backup_id("20240229T213000Z-full-3fa91c")
    for wrong in (
        "20230229T213000Z-full-3fa91c",
        "20269999T999999Z-full-3fa91c",
        "20261123T250000Z-full-3fa91c",
    ):
        assert not is_backup_id(wrong)


@pytest.mark.parametrize("field", [{"started_at": "2026-11-23T21:30:00"}, {"ok": "false"}, {"level": "x"}])
def test_a_report_that_no_verification_wrote(small: Small, field: dict[str, str]) -> None:
    repository = small.open()
    (key,) = (info.key for info in small.bucket.list(repository.layout.verifications(small.backups[0])))
    put_json(small, Kind.VERIFICATION, key, {**repository.read_json(Kind.VERIFICATION, key), **field})
    (info,) = list_backups(repository)
    assert info.verified is None
    assert key in info.findings[-1].message


def test_a_manifest_that_names_packs_without_end_gets_a_short_answer(small: Small) -> None:
    repository = put_manifest(small, packs={small.backups[0]: base64.b64encode(b"\xff" * 10_000).decode()})
    _text, missing = check_objects(repository, find_backup(repository, "latest"), Job())
    assert len(missing) < 1100
    assert "more packs" in " ".join(missing)


# Maps


def test_a_pack_behind_a_damaged_map_is_looked_at_all_the_same(small: Small) -> None:
    repository = small.open()
    manifest = find_backup(repository, "latest")
    broken = [repository.layout.map(ref.hash) for ref in manifest.maps]
    broken += [key for key in small.bucket.objects if "/packs/" in key]
    for key in broken:
        small.bucket.put(key, flip_bit(small.bucket.read(key), 100, 0))
    _read, damage = check_frames(repository, manifest, Job())
    for key in broken:
        told = key.rpartition("-")[0] if "/packs/" in key else key
        assert told in " ".join(damage)


@pytest.mark.parametrize("owner", [b"../../../x", b"x", b"\xff" * 200, b"20269999T999999Z-full-3fa91c"])
def test_a_map_names_packs_of_backups_only(owner: bytes) -> None:
    with pytest.raises(DataError, match="no backup"):
        decode_segment(encode_map([Entry(b"a")], [owner]), PAGE)


@pytest.mark.parametrize("lies", [{"files": 1 << 17}, {"owners": 1 << 16}])
def test_a_map_with_more_than_any_writer_writes(lies: dict[str, int]) -> None:
    with pytest.raises(DataError):
        decode_segment(encode_map([Entry(b"a")], [], lies) + bytes(1 << 22), PAGE)


@pytest.mark.parametrize("claim", ["files", "bytes", "pages", "first"])
def test_a_map_that_is_not_as_the_manifest_says(small: Small, claim: str) -> None:
    repository = small.open()
    maps = repository.read_json(Kind.MANIFEST, repository.layout.manifest(small.backups[0]))["maps"]
    maps[0][claim] = "QQ==" if claim == "first" else maps[0][claim] + 1
    put_manifest(small, maps=maps)
    _read, damage = check_frames(repository, find_backup(repository, "latest"), Job())
    assert "what the manifest says of it" in " ".join(damage)
    assert repository.layout.map(maps[0]["hash"]) in " ".join(damage)


def test_maps_out_of_order_are_refused(small: Small) -> None:
    """A file that came twice would get the content of both; 400,000 times the same map took minutes to verify."""
    repository = small.open()
    maps = repository.read_json(Kind.MANIFEST, repository.layout.manifest(small.backups[0]))["maps"]
    put_manifest(small, maps=[*maps, maps[1]])
    with pytest.raises(DataError, match="does not hold what it should"):
        find_backup(repository, "latest")


def test_maps_that_overlap_are_refused(small: Small, tmp_path: Path) -> None:
    entries = read_map(small)
    repository = put_map(small, entries)
    first = repository.read_json(Kind.MANIFEST, repository.layout.manifest(small.backups[0]))["maps"]
    put_map(small, entries[5:])
    second = repository.read_json(Kind.MANIFEST, repository.layout.manifest(small.backups[0]))["maps"]
    put_manifest(small, maps=[*first, *second])
    with pytest.raises(DataError, match="not in order"):
        restore(small, repository, tmp_path / "target")


def test_files_of_zeros_are_restored_although_no_pack_has_them(small: Small, tmp_path: Path) -> None:
    runs = ((0, 3, ZEROS, 0, 0),)
    repository = put_map(small, with_entry(small, Entry(b"base/1/zeros", FILE, 2 * PAGE + 1, 0o600, runs)))
    restore(small, repository, tmp_path / "target")
    assert contents_of(tmp_path / "target")[b"base/1/zeros"] == bytes(2 * PAGE + 1)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(b"nowhere/x"),
        Entry(b"base/1/empty/x"),
        Entry(b"postgresql.auto.conf", DIRECTORY),
        Entry(b"recovery.signal", DIRECTORY),
        Entry(b"pg_tblspc/16385/x"),
        Entry(b"base/" + b"x" * 256),
    ],
    ids=lambda entry: entry.path[:40].decode(),
)
def test_what_no_data_directory_has(small: Small, tmp_path: Path, entry: Entry) -> None:
    repository = put_map(small, with_entry(small, entry))
    with pytest.raises(DataError, match="path="):
        restore(small, repository, tmp_path / "target")
    assert not (tmp_path / "target/global/pg_control").exists()


@pytest.mark.parametrize("name", [b".ssh", b"authorized_keys", b"cron", b"PG_18_1x"])
def test_a_tablespace_holds_what_postgresql_puts_there(small: Small, tmp_path: Path, name: bytes) -> None:
    """The manifest names the place, so it must not choose the names in it as well."""
    entries = with_entry(small, Entry(b"pg_tblspc/16385", DIRECTORY), Entry(b"pg_tblspc/16385/" + name))
    repository = put_map(small, entries, tablespaces=[TABLESPACE])
    with pytest.raises(DataError, match="no tablespace has"):
        restore(small, repository, tmp_path / "target", {"/tablespace": str(tmp_path / "place")})
    assert not list((tmp_path / "place").iterdir())


def test_a_file_in_place_of_a_tablespace(small: Small, tmp_path: Path) -> None:
    repository = put_map(small, with_entry(small, Entry(b"pg_tblspc/16385")), tablespaces=[TABLESPACE])
    with pytest.raises(PreconditionError, match="cannot be written"):
        restore(small, repository, tmp_path / "target", {"/tablespace": str(tmp_path / "place")})


def test_an_essential_file_of_gigabytes_is_not_read(small: Small, tmp_path: Path) -> None:
    pages = 1 << 20
    huge = Entry(b"global/pg_control", FILE, pages * PAGE, 0o600, ((0, pages, ZEROS, 0, 0),))
    repository = put_map(small, with_entry(small, huge))
    with pytest.raises(DataError, match=r"larger than it can be.*pg_control"):
        restore(small, repository, tmp_path / "target")


def test_names_of_configuration_files_stay_names(small: Small, tmp_path: Path) -> None:
    paths = [
        "/etc/x\narchive_command = 'false' #",
        "..",
        "/",
        "a\0b",
        "x" * 300,
        "recovery.signal",
        "x",
        "/y/x",
    ]
    put_manifest(
        small, external_config=[{"setting": "config_file", "path": path, "content": "eA=="} for path in paths]
    )
    store = tmp_path / "repository"
    for key, (data, _at) in small.bucket.objects.items():
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(data)
    config = BackupConfig.from_mapping({"backup_dir": str(store), "encryption": False})
    target = tmp_path / "target"
    restore_cluster(config, "latest", target, tablespaces={}, recover=False, owner=None, job=Job())
    found = {path.name for path in (target / "config-from-backup").iterdir()}
    assert len(found) == len(paths)
    assert all(
        name.replace("_", "").replace(".", "").replace("-", "").isalnum() or name == "_" for name in found
    )
    lines = (target / "postgresql.conf").read_text().splitlines()
    assert not any(line.startswith("archive_command") for line in lines)


# Names, and what is no object


def test_numbers_of_other_alphabets_are_no_numbers(small: Small) -> None:
    repository = small.open()
    small.bucket.put(f"{repository.layout.leases('backup')}²²²²²²²²²²", b"")
    with hold_lease(repository, "backup"):
        pass
    small.bucket.put(f"{repository.layout.packs_of(small.backups[0])}²²²²²²²²-{'0' * 64}", b"")
    with pytest.raises(DataError, match="a name that no pack has"):
        repository.pack_objects(small.backups[0])


def test_a_lease_whose_nonce_is_no_text(small: Small) -> None:
    repository = small.open()
    key = f"{repository.layout.leases('backup')}0000000001"
    put_json(small, Kind.LEASE, key, {**repository.read_json(Kind.LEASE, key), "nonce": {}})
    with hold_lease(repository, "backup") as lease:
        assert lease.epoch == 2


def test_a_lease_of_another_host_is_waited_for(small: Small) -> None:
    repository = small.open()
    key = f"{repository.layout.leases('backup')}0000000001"
    put_json(small, Kind.LEASE, key, {"format": 1, "host": ["x"], "pid": "²"})
    with pytest.raises(ConflictError), hold_lease(repository, "backup"):
        pass


@pytest.mark.parametrize("content", [b"{}", b"", b"[" * 70_000, b"{" * 1000, b" " * 70_000])
def test_slots_of_a_repository_that_describes_nothing(content: bytes) -> None:
    small = make_small(Random(2), encrypted=True)
    small.bucket.put(layout.REPOSITORY, content)
    with pytest.raises(DataError, match=r"repository\.json"):
        list_slots(small.bucket)
    with pytest.raises(DataError, match=r"repository\.json"):
        unlock(small.bucket, small.secret, True)


@pytest.mark.parametrize("key", [layout.REPOSITORY, "slot"])
@pytest.mark.parametrize("change", [lambda d: d + b"\n", lambda d: b" " + d, lambda d: d + b" " * 70_000])
def test_nothing_surrounds_a_description(key: str, change: Callable[[bytes], bytes]) -> None:
    """The bytes of repository.json are part of every slot's context, so that a line end more would lock it."""
    small = make_small(Random(3), encrypted=True)
    (slot,) = (info.key for info in small.bucket.list(layout.KEYS))
    key = slot if key == "slot" else key
    small.bucket.put(key, change(small.bucket.read(key)))
    with pytest.raises(DataError, match=key):
        small.open()


def test_descriptions_nested_too_deep_for_their_checksum() -> None:
    small = make_small(Random(4), encrypted=True)
    (key,) = (info.key for info in small.bucket.list(layout.KEYS))
    slot = json.loads(small.bucket.read(key))
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    small.bucket.put(key, json.dumps(with_checksum({**slot, "kdf": {**slot["kdf"], "x": deep}})).encode())
    with pytest.raises((DataError, PreconditionError)):
        small.open()


@pytest.mark.parametrize("what", ["pipe", "zeros", "directory"])
def test_what_is_no_file_is_no_object(tmp_path: Path, what: str) -> None:
    """A named pipe would be waited for, and /dev/zero has no end."""
    path = tmp_path / "object"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "zeros":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    bucket = LocalBucket(tmp_path)
    with pytest.raises(DataError, match="key=object"):
        bucket.read("object")
    with pytest.raises(DataError, match="key=object"):
        bucket.read_range("object", 0, 1)


def test_a_file_of_gigabytes_is_no_object(tmp_path: Path) -> None:
    with (tmp_path / "object").open("wb") as file:
        file.truncate(MAX_WHOLE + 1)
    with pytest.raises(DataError, match="too large"):
        LocalBucket(tmp_path).read("object")


# What a server says


def test_positions_in_a_servers_words_that_are_none() -> None:
    assert end_of_redo("LOG:  redo done at 0/123456789 system") is None
    assert end_of_redo("LOG:  redo done at 0/12345678\nLOG: redo done at 1111111111/0") is not None
    with pytest.raises(DataError):
        label_start(b"START WAL LOCATION: 0/123456789 (file x)\n")
    log = (
        b'FATAL:  directory "/t" does not exist\nCONTEXT:  WAL redo for Tablespace/CREATE: '
        + b"9" * 5000
        + b' "/t"'
    )
    assert missing_tablespace(log) is None


def test_any_manifest_of_a_writer_is_accepted(small: Small) -> None:
    """The bounds refuse nothing that is real."""
    repository = put_manifest(
        small,
        tablespaces=[
            {**TABLESPACE, "oid": n, "location": base64.b64encode(b"/%d" % n).decode()} for n in range(1000)
        ],
        start_lsn="0/500028",
        stop_lsn="1/500028",
        seconds={"data": 1, "WAL": 0.5},
    )
    manifest = find_backup(repository, "latest")
    assert isinstance(manifest, Manifest)
    assert len(manifest.wal_segments) == 4097
    assert isinstance(repository.bucket, MemoryBucket)


def test_what_could_not_be_read_is_not_committed(small: Small) -> None:
    repository = small.open()
    manifest = find_backup(repository, "latest")
    small.bucket.delete(repository.layout.manifest(manifest.backup_id))
    with pytest.raises(DataError):
        repository.commit(dataclasses.replace(manifest, size_bytes=2**63))
    assert not list_backups(repository)
