"""Repository objects that no writer writes, sealed as a writer seals them.

Without encryption everybody who can write to the store can do that. The store of an encrypted repository can only
be given other bytes, names, descriptions and key slots.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import zstandard

from campaigns.fuzz_input import ODD_VALUES, mutate_json
from campaigns.small_repository import PAGE, Small, control_file, wal_bytes
from pgproof.model.filemap import DIRECTORY, FILE, ZEROS
from pgproof.model.lsn import WalSegment
from pgproof.repository import keyring, layout
from pgproof.repository.blobs import encode_blob
from pgproof.repository.compression import zstd_frame
from pgproof.repository.sealing import Kind, object_name

MB = 1 << 20


@dataclass
class Hostile:
    """What is written over a small repository: objects by key (None removes one), and other things on disk.

    `key` is the object that a refusal should name.
    """

    key: str
    objects: dict[str, bytes | None] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    pipes: list[str] = field(default_factory=list)
    sparse: dict[str, int] = field(default_factory=dict)


Maker = Callable[[Small, Random, Path], Hostile]


# Manifests and the other JSON


def manifest_of(small: Small) -> dict[str, Any]:
    repository = small.open()
    found = repository.read_json(Kind.MANIFEST, repository.layout.manifest(small.backups[0]))
    found["tablespaces"] = [{"oid": 16385, "location": _b64(b"/proc/nowhere/t"), "size_bytes": 5}]
    found["external_config"] = [{"setting": "config_file", "path": "/etc/p", "content": "eA=="}]
    found["findings"] = [{"kind": "notice", "message": "text", "degrades": True}]
    return found


def with_manifest(small: Small, value: Any) -> Hostile:
    payload = value if isinstance(value, bytes) else json.dumps(value).encode()
    key = small.open().layout.manifest(small.backups[0])
    return Hostile(key, {key: encode_blob(small.open().key, Kind.MANIFEST, key, payload)})


def odd_manifest(small: Small, random: Random, _root: Path) -> Hostile:
    """One to three fields hold what they should not."""
    return with_manifest(
        small, mutate_json(b"\1" + _changes(random), json.dumps(manifest_of(small)).encode())
    )


def _changes(random: Random) -> bytes:
    return b"".join(random.randbytes(random.randrange(2, 9)) for _ in range(random.randrange(1, 4)))


def odd_field(small: Small, random: Random, _root: Path) -> Hostile:
    """One field of the manifest, at any depth, holds one of the odd values, or is missing."""
    value = json.loads(json.dumps(manifest_of(small)))
    at, key = random.choice(list(_places(value)))
    if random.random() < 0.1:
        del at[key]
    else:
        at[key] = random.choice([*ODD_VALUES, *_LSNS, *_TEXTS])
    return with_manifest(small, value)


_LSNS = ("0/0", "FFFFFFFF/FFFFFFFF", "-1/0", "0/500000028", "G/1", "0/", "1/2/3", "0/500001")
_TEXTS = (
    "\x1b[2J\x1b]0;x\x07",
    "[red]x[/red]",
    "a\nb: c",
    "‮abc",
    "%s%n{0}",
    "'; DROP TABLE x; --",
    "$(touch x)",
    "x" * MB,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        found.append((value, key))
        if isinstance(item, dict | list):
            found += _places(item)
    return found


def huge_json(small: Small, random: Random, _root: Path) -> Hostile:
    """Up to 200 MB of JSON that compresses to nothing."""
    size = random.choice((1, 1, 20, 20, 60, 200)) * MB
    made = random.choice(
        (
            lambda: b'{"format":1,"x":[' + b"[]," * (size // 3) + b"[]]}",
            lambda: b"[" * min(size, 20 * MB),
            lambda: b'{"a":' * min(size // 5, 4 * MB) + b"1" + b"}" * min(size // 5, 4 * MB),
            lambda: b'{"x":"' + b"\\u0000" * (size // 6) + b'"}',
            lambda: b'{"x":' + b"9" * size + b"}",
            lambda: b"{" + b",".join(b'"%d":{}' % n for n in range(size // 12)) + b"}",
            lambda: b" " * size + b"{}",
            lambda: b'{"format":1,"format":1}',
            lambda: ('{"format": 1, "maps": [' + '"\U0001f4a9",' * (size // 20) + '""]}').encode("utf-16"),
        )
    )()
    return with_manifest(small, made)


def long_lists(small: Small, random: Random, root: Path) -> Hostile:
    """Fields of the right type, and many more of them than any cluster has."""
    value, count = manifest_of(small), random.choices((1000, 20_000, 400_000), (10, 10, 1))[0]
    which = random.choice(
        ("maps", "packs", "bitmap", "tablespaces", "external_config", "findings", "settings", "wal")
    )
    if which == "packs":
        value["packs"] = {f"20261123T213000Z-full-{n:06x}": "AQ==" for n in range(min(count, 100_000))}
    elif which == "bitmap":
        value["packs"] = {small.backups[0]: _b64(b"\xff" * count * 20)}
    elif which == "settings":
        value["settings"] = {f"s{n}": "x" for n in range(count)}
    elif which == "wal":
        value["start_lsn"], value["stop_lsn"] = "0/0", random.choice(("FF/0", "40/0", "FFFFFFFF/0"))
    elif which == "tablespaces":
        value["tablespaces"] = [
            {"oid": n, "location": _b64(f"{root}/announced/t{n}".encode()), "size_bytes": 0}
            for n in range(count // 100)
        ]
    else:
        value[which] = value[which][:1] * count
    return with_manifest(small, value)


def odd_small_json(small: Small, random: Random, _root: Path) -> Hostile:
    """The intent, the cluster's description or a verification's report."""
    repository = small.open()
    (report,) = (i.key for i in repository.bucket.list(repository.layout.verifications(small.backups[0])))
    kind, key = random.choice(
        (
            (Kind.INTENT, repository.layout.intent(small.backups[0])),
            (Kind.CLUSTER, repository.layout.cluster),
            (Kind.VERIFICATION, report),
            (Kind.VERIFICATION, report),
        )
    )
    payload = mutate_json(b"\1" + _changes(random), json.dumps(repository.read_json(kind, key)).encode())
    return Hostile(key, {key: encode_blob(repository.key, kind, key, payload)})


def places_of_tablespaces(small: Small, random: Random, root: Path) -> Hostile:
    """Tablespaces in the data directory, at the root, through links, relative, twice, with odd numbers."""
    spots = [
        "/", "//", "/..", "/etc", "/proc/self/fd", "/dev/shm", "", ".", "..", "relative", "\0", "/a\0b", "~", "/tmp",
        f"{root}/target", f"{root}/target/x", f"{root}/target/../target", f"{root}/outside/full",
        f"{root}/outside/link/x", f"{root}/outside/full/../../target/base", f"{root}/repository", f"{root}/new\nplace",
        f"{root}/outside/file", "/" + "x" * 300, "/x" * 3000, f"{root}/announced", f"{root}/announced/a/b",
        f"{root}/\x1b[2Jx",
    ]  # fmt: skip
    value = manifest_of(small)
    value["external_config"] = []
    count = random.randrange(1, 4)
    value["tablespaces"] = [
        {
            "oid": random.choice((0, 1, 16385, 16386, 2**32, 2**62, 16385)),
            "location": _b64(random.choice(spots).encode()),
            "size_bytes": random.choice((0, 5, 2**62)),
        }
        for _ in range(count)
    ]
    return with_manifest(small, value)


def odd_configuration(small: Small, random: Random, _root: Path) -> Hostile:
    """Configuration files with names and contents that would do harm if they were believed."""
    paths = [
        "/", "", ".", "..", "/etc/..", "a\0b", "/etc/\n", "x\narchive_command = 'touch /tmp/x' #", "/x" * 3000, "x" * 300,
        "postgresql.auto.conf", "../../PG_VERSION", "recovery.signal", "‮", "\x1b[2J", ".hidden", "...", "/etc/postgresql.conf",
    ]  # fmt: skip
    value = manifest_of(small)
    value["tablespaces"] = []
    value["external_config"] = [
        {
            "setting": random.choice(("config_file", "hba_file", "", "x\ny", "data_directory")),
            "path": random.choice(paths),
            "content": random.choice(
                (None, "", _b64(b"archive_command = 'touch /tmp/x'\n"), _b64(bytes(MB)))
            ),
        }
        for _ in range(random.randrange(1, 6))
    ]
    value["settings"] = {random.choice(paths): random.choice(paths) for _ in range(3)}
    return with_manifest(small, value)


# Maps


@dataclass
class Entry:
    """One file of a map: `runs` are (file page, pages, owner, pack, pack page)."""

    path: bytes
    kind: int = FILE
    size: int = 0
    mode: int = 0o600
    runs: tuple[tuple[int, int, int, int, int], ...] = ()


def encode_map(entries: list[Entry], owners: list[bytes], lies: dict[str, int] | None = None) -> bytes:
    """A map's payload without any of the writer's care; `lies` replace the counts in its head."""
    runs = [run for entry in entries for run in entry.runs]
    ends, run_ends, at, run_at = [], [], 0, 0
    for entry in entries:
        at, run_at = at + len(entry.path), run_at + len(entry.runs)
        ends.append(at)
        run_ends.append(run_at)
    counts = {"files": len(entries), "runs": len(runs), "owners": len(owners), "paths": at, **(lies or {})}
    columns = [
        *(struct.pack(f"<{len(entries)}I", *values) for values in (ends, run_ends)),
        struct.pack(f"<{len(entries)}Q", *(entry.size for entry in entries)),
        struct.pack(f"<{len(entries)}H", *(entry.mode for entry in entries)),
        bytes(entry.kind for entry in entries),
        *(
            struct.pack(f"<{len(runs)}{code}", *(run[number] for run in runs))
            for number, code in enumerate("IIHII")
        ),
    ]
    head = struct.pack("<4I", *(counts[name] & 0xFFFFFFFF for name in ("files", "runs", "owners", "paths")))
    named = b"".join(bytes([len(owner)]) + owner for owner in owners)
    return head + named + b"".join(columns) + b"".join(entry.path for entry in entries)


def read_map(small: Small) -> list[Entry]:
    """The files of the only backup."""
    repository = small.open()
    manifest = repository.read_manifest(small.backups[0])
    assert manifest is not None
    found = []
    for segment in repository.segments(manifest):
        for entry in segment.files:
            runs = tuple(tuple(int(v) for v in run) for run in segment.runs_of(entry).tolist())
            found.append(Entry(entry.path, entry.kind, entry.size, entry.mode, runs))  # type: ignore[arg-type]
    return found


def with_map(
    small: Small, payload: bytes, random: Random, claims: dict[str, int], first: bytes = b"PG_VERSION"
) -> Hostile:
    """Store a map and a manifest that names it, and it alone."""
    repository = small.open()
    name = repository.hashes.name_of(payload)
    key = repository.layout.map(name)
    value = manifest_of(small)
    value["tablespaces"] = random.choice(
        ([], [{"oid": 16385, "location": _b64(b"/proc/nowhere/t"), "size_bytes": 5}])
    )
    value["external_config"] = []
    reference = {"hash": name, "first": _b64(first), "files": 0, "bytes": 0, "pages": 0, **claims}
    value["maps"] = [reference]
    if random.random() < 0.1:
        value["maps"] = value["maps"] * 3
    made = with_manifest(small, value)
    made.objects[key] = encode_blob(repository.key, Kind.MAP, repository.layout.maps, payload)
    return Hostile(key, made.objects)


def _claims(entries: list[Entry]) -> dict[str, int]:
    pages = sum(run[1] for entry in entries for run in entry.runs)
    return {"files": len(entries), "bytes": sum(entry.size for entry in entries), "pages": pages}


ODD_PATHS = (
    b"../x", b"../../x", b"/etc/x", b"/", b"", b".", b"..", b"a/../../x", b"a/./b", b"a//b", b"a/", b"a\0b", b"\0",
    b"x" * 256, b"x" * 4097, b"/".join([b"d"] * 3000), b"base/1/empty/inside", b"nowhere/x", b"pg_tblspc/16385",
    b"pg_tblspc/16385/x", b"pg_tblspc/16385/PG_18_202506291", b"pg_tblspc/16385/PG_18_202506291/x",
    b"pg_tblspc/16385/.ssh", b"pg_tblspc/../x", b"pg_tblspc/0016385/x", b"pg_tblspc/x", b"pg_tblspc/" + b"9" * 4000,
    b"pg_wal/x", b"pg_wal/00000001.history", b"pg_wal/000000010000000000000005", b"postgresql.auto.conf",
    b"recovery.signal", b"standby.signal", b"postmaster.pid", b"tablespace_map", b"config-from-backup",
    b"config-from-backup/x", b"postgresql.auto.conf.parked", b"\xff\xfe", b"a\nb", b"\x1b[2J", b"global/pg_control",
    b"backup_label", b"backup_label.old", b"postgresql.conf", b"pg_wal", b"pg_tblspc", b"base", b"global",
)  # fmt: skip


def odd_paths(small: Small, random: Random, _root: Path) -> Hostile:
    """Paths that lead elsewhere, or are files where directories belong and the other way round."""
    entries = {entry.path: entry for entry in read_map(small)}
    for _ in range(random.randrange(1, 4)):
        path, kind = random.choice(ODD_PATHS), random.choice((FILE, DIRECTORY, FILE, DIRECTORY, 2, 255))
        kept = entries.pop(random.choice(list(entries))) if random.random() < 0.3 else Entry(path)
        size = random.choice((0, kept.size, 1)) if kind == FILE else 0
        runs = kept.runs if size == kept.size else ((0, 1, ZEROS, 0, 0),) if size else ()
        entries[path] = replace(
            kept, path=path, kind=kind, size=size, runs=runs, mode=random.choice((0, 0o7777))
        )
    if random.random() < 0.5:
        entries.setdefault(b"pg_tblspc/16385", Entry(b"pg_tblspc/16385", DIRECTORY))
    ordered = [entries[path] for path in sorted(entries)]
    if random.random() < 0.2:
        ordered.insert(random.randrange(len(ordered)), random.choice(ordered))
    owners = [small.backups[0].encode()]
    return with_map(small, encode_map(ordered, owners), random, _claims(ordered), ordered[0].path)


def odd_runs(small: Small, random: Random, _root: Path) -> Hostile:
    """Runs that overlap, run out of their pack, or name owners and packs that are none; huge and empty files."""
    entries, owners = read_map(small), [small.backups[0].encode()]
    for _ in range(random.randrange(1, 3)):
        number = random.randrange(len(entries))
        entry = entries[number]
        numbers = (0, 1, 2, 3, 7, 2**16 - 2, 2**31, 2**32 - 1)
        how = random.randrange(7)
        if how == 0 and entry.runs:
            run = list(entry.runs[0])
            run[random.randrange(5)] = random.choice(numbers) & 0xFFFF
            entries[number] = replace(entry, runs=(tuple(run), *entry.runs[1:]))  # type: ignore[arg-type]
        elif how == 1:
            entries[number] = replace(entry, size=random.choice((*numbers, 2**40, 2**63, 2**64 - 1)))
        elif how == 2:
            pages = random.choice((1, 1000, 2**32 - 1))
            runs = tuple(
                (n * pages & 0xFFFFFFFF, pages, ZEROS, 0, 0) for n in range(random.choice((1, 2, 300)))
            )
            size = sum(run[1] for run in runs) * PAGE
            entries[number] = replace(entry, runs=runs, size=size, kind=FILE)
        elif how == 3:
            shared = next(e for e in entries if e.runs and e.runs[0][2] != ZEROS)
            entries[number] = replace(entry, runs=shared.runs, size=shared.size, kind=FILE)
        elif how == 4:
            owners = [random.choice((b"", b"../../x", b"x", b"\xff" * 255, b"20269999T999999Z-full-3fa91c"))]
        elif how == 5:
            owners = owners[:1] * random.choice((2, 1000, 70_000))
        else:
            entries[number] = replace(entry, runs=entry.runs * 2)
    return with_map(small, encode_map(entries, owners), random, _claims(entries))


def lying_counts(small: Small, random: Random, _root: Path) -> Hostile:
    """A map, or what the manifest says of it, counts wrongly."""
    entries, lies, claims = read_map(small), {}, _claims(read_map(small))
    value = random.choice((0, 1, -1, 2**16, 2**31, 2**32 - 1, random.randrange(1 << 32)))
    if random.random() < 0.6:
        lies[random.choice(("files", "runs", "owners", "paths"))] = value
    else:
        claims[random.choice(("files", "bytes", "pages"))] = abs(value)
    payload = encode_map(entries, [small.backups[0].encode()], lies)
    if random.random() < 0.3:
        at = random.randrange(len(payload))
        payload = payload[:at] + random.randbytes(1) + payload[at + 1 :]
    return with_map(small, payload, random, claims)


def huge_map(small: Small, random: Random, _root: Path) -> Hostile:
    """Tens of megabytes of map that compress to nothing."""
    size = random.choice((10, 100, 250)) * MB
    how = random.randrange(4)
    if how == 0:
        payload = struct.pack("<4I", 0, 0, size - 16, 0) + bytes(size - 16)
    elif how == 1:
        count = size // 20
        payload = struct.pack("<4I", count, 0, 0, count) + bytes(20 * count)
    elif how == 2:
        count = size // 18
        payload = struct.pack("<4I", 0, count, 0, 0) + bytes(18 * count)
    else:
        payload = bytes(size)
    return with_map(small, payload, random, {}, b"a")


def odd_essentials(small: Small, random: Random, _root: Path) -> Hostile:
    """pg_control, backup_label and postgresql.auto.conf that are huge, absent, directories or somebody else's."""
    entries = {entry.path: entry for entry in read_map(small)}
    path = random.choice((b"global/pg_control", b"backup_label", b"postgresql.auto.conf"))
    how = random.randrange(4)
    pages = random.choice((100, 2**20, 2**32 - 1))
    if how == 0:
        entries[path] = Entry(path, FILE, pages * PAGE, 0o600, ((0, pages, ZEROS, 0, 0),))
    elif how == 1:
        entries.pop(path, None)
    elif how == 2:
        entries[path] = Entry(path, DIRECTORY)
    else:
        entries[path] = replace(random.choice([e for e in entries.values() if e.size]), path=path)
    ordered = [entries[name] for name in sorted(entries)]
    return with_map(
        small, encode_map(ordered, [small.backups[0].encode()]), random, _claims(ordered), ordered[0].path
    )


# Packs and WAL


@dataclass
class Frame:
    body: bytes
    plain: int
    codec: int = 1
    hash: bytes = bytes(32)


def encode_pack(small: Small, kind: Kind, context: str, frames: list[Frame], lies: dict[str, int]) -> bytes:
    """A pack without the writer's care; `lies` replace numbers of its index and trailer."""
    header, seal = small.open().key.new_seal(kind, context)
    sealed = [
        seal.seal(number, b"frame" + struct.pack("<BI", frame.codec, frame.plain & 0xFFFFFFFF), frame.body)
        for number, frame in enumerate(frames)
    ]
    pages = lies.get("pages", sum(-(-frame.plain // PAGE) for frame in frames))
    head = (lies.get("frames", len(frames)), lies.get("page_size", PAGE), pages, lies.get("flags", 0))
    lengths = [len(part) for part in sealed]
    if "length" in lies and lengths:
        lengths[0] = lies["length"]
    index = struct.pack("<4I", *(number & 0xFFFFFFFF for number in head))
    index += struct.pack(f"<{len(frames)}I", *(length & 0xFFFFFFFF for length in lengths))
    index += struct.pack(f"<{len(frames)}I", *(frame.plain & 0xFFFFFFFF for frame in frames))
    index += bytes(frame.codec for frame in frames) + b"".join(frame.hash for frame in frames)
    index += bytes(lies.get("padding", 0))
    at = len(header) + sum(map(len, sealed))
    plain = lies.get("index_plain", len(index)) & 0xFFFFFFFF
    packed = seal.seal((1 << 64) - 1, b"index" + struct.pack("<IQ", plain, at), zstd_frame(index))
    total = at + len(packed) + 16
    trailer = (
        lies.get("index_sealed", len(packed)) & 0xFFFFFFFF,
        plain,
        lies.get("total", total) & 0xFFFFFFFFFFFFFFFF,
    )
    return b"".join([header, *sealed, packed, struct.pack("<IIQ", *trailer)])


def _bomb(random: Random) -> Frame:
    """A body that becomes much more than it is, and says so, or does not."""
    size = random.choice((10, 200, 1000)) * MB
    honest = zstd_frame(bytes(min(size, 200 * MB)))
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(min(size, 200 * MB)))
    claim = (
        b"\x28\xb5\x2f\xfd\xe0"
        + random.choice((4 << 30, 2**63, 2**64 - 1)).to_bytes(8, "little")
        + b"\x01\0\0"
    )
    # A window of gigabytes without a content size.
    window = b"\x28\xb5\x2f\xfd\0" + bytes([random.choice((0xA8, 0xFF))]) + b"\x01\0\0"
    body = random.choice((honest, streamed, claim, window, zstd_frame(b"x") * 1000, b""))
    return Frame(body, random.choice((0, 1, 4 * MB, 4 * MB + 1, 200 * MB, 2**32 - 1, PAGE)))


def _odd_frames(random: Random) -> tuple[list[Frame], dict[str, int]]:
    numbers = (0, 1, 2, 15, 76, 2**16, 2**20, 2**20 + 1, 2**31, 2**32 - 1, -1)
    lies: dict[str, int] = {}
    how = random.randrange(6)
    text = b"page " * 2000
    frames = [Frame(zstd_frame(text), len(text)), Frame(b"raw", 3, 0)]
    if how == 0:
        frames = [_bomb(random) for _ in range(random.randrange(1, 4))]
    elif how == 1:
        frames = frames[:1] * random.choice((100, 5000))
    elif how == 2:
        # Stored as it is, and far too long for a frame.
        frames = [Frame(bytes(random.choice((5, 100)) * MB), random.choice((3, 4 * MB)), 0)]
    elif how == 3:
        frames = [replace(frames[0], codec=random.choice((2, 255)))]
    elif how == 4:
        lies["padding"] = random.choice((1, 1000, 100 * MB))
    else:
        names = ("frames", "page_size", "pages", "flags", "length", "index_plain", "index_sealed", "total")
        for name in random.sample(names, random.randrange(1, 3)):
            lies[name] = random.choice(numbers)
    return frames, lies


def odd_pack(small: Small, random: Random, _root: Path) -> Hostile:
    """A pack whose index lies, or whose frames are bombs, in the place of one that the backup needs."""
    frames, lies = _odd_frames(random)
    old = random.choice([key for key in small.bucket.objects if "/packs/" in key])
    context = old.rpartition("-")[0]
    data = encode_pack(small, Kind.PACK, context, frames, lies)
    new = f"{context}-{object_name(data)}"
    return Hostile(context, {old: None, new: data})


def odd_wal(small: Small, random: Random, _root: Path) -> Hostile:
    frames, lies = _odd_frames(random)
    (key,) = (key for key in small.bucket.objects if "/wal/" in key)
    segment = WalSegment.parse(key.rpartition("/")[2], MB)
    if random.random() < 0.3:
        header = bytearray(wal_bytes(segment))
        header[random.randrange(40)] = random.randrange(256)
        frames = [Frame(bytes(header), len(header), 0)]
        hashes = small.open().hashes
        frames[0].hash = hashes.frame_hash(hashes.page_digests(bytes(header), PAGE))
    return Hostile(key, {key: encode_pack(small, Kind.WAL, key, frames, lies)})


def blob_bomb(small: Small, random: Random, _root: Path) -> Hostile:
    """A sealed object whose body becomes more than it says, or says too much."""
    repository = small.open()
    (report,) = (i.key for i in repository.bucket.list(repository.layout.verifications(small.backups[0])))
    kind, key = random.choice(
        (
            (Kind.MANIFEST, repository.layout.manifest(small.backups[0])),
            (Kind.INTENT, repository.layout.intent(small.backups[0])),
            (Kind.VERIFICATION, report),
        )
    )
    frame = _bomb(random)
    header, seal = repository.key.new_seal(kind, key)
    plain = random.choice((frame.plain, 256 * MB, 256 * MB + 1, 2**32 - 1, 2)) & 0xFFFFFFFF
    prefix = struct.pack("<BI", random.choice((0, 1, 1, 2)), plain)
    return Hostile(key, {key: header + prefix + seal.seal(0, b"blob" + prefix, frame.body)})


# Without any key


def odd_description(small: Small, random: Random, _root: Path) -> Hostile:
    """repository.json with other content, some with a fitting checksum; turned-off encryption; hundreds of megabytes."""
    key = layout.REPOSITORY
    value = json.loads(small.bucket.read(key))
    how = random.randrange(4)
    if how == 0:
        size = random.choice((1, 200)) * MB
        return Hostile(key, {key: random.choice((b" " * size, b"[" * size, b'{"a":"' + b"x" * size + b'"}'))})
    if how == 1:
        value["suite"] = "none" if small.encrypted else "aes-256-gcm"
    elif how == 2:
        value[random.choice(list(value))] = random.choice(ODD_VALUES)
    else:
        return Hostile(key, {key: mutate_json(b"\1" + _changes(random), small.bucket.read(key))})
    return Hostile(key, {key: _checked(value, random)})


def _checked(value: dict[str, Any], random: Random) -> bytes:
    return json.dumps(keyring.with_checksum(value) if random.random() < 0.8 else value).encode()


def odd_slot(small: Small, random: Random, _root: Path) -> Hostile:
    """Key slots with derivation parameters at and beyond their bounds, and every other field wrong."""
    if not small.encrypted:
        return odd_description(small, random, _root)
    (key,) = (info.key for info in small.bucket.list(layout.KEYS))
    value = json.loads(small.bucket.read(key))
    if random.random() < 0.5:
        value["kind"] = random.choice(("passphrase", "passphrase", "recovery", "x"))
        value["kdf"] = {
            "name": random.choice(("argon2id", "argon2id", "hkdf-sha256", "scrypt")),
            "memory_kib": random.choice(
                (0, 1, 19455, 19456, 65536, 2**20 + 1, 2**32, 2**63, -1, True, "65536", 1e5)
            ),
            "iterations": random.choice((0, 1, 2, 3, 11, 2**32, -1, None)),
            "lanes": random.choice((0, 1, 8, 9, 2**24, -1, 1.0)),
            "salt": _b64(bytes(random.choice((0, 15, 16, 32, 64, 65, MB)))),
        }
        if random.random() < 0.02:
            value["kdf"] |= {
                "name": "argon2id",
                "memory_kib": 2**20,
                "iterations": 1,
                "lanes": 8,
                "salt": _b64(bytes(16)),
            }
            value["kind"] = "passphrase"
    else:
        at, name = random.choice(list(_places(value)))
        at[name] = random.choice(ODD_VALUES)
    name = random.choice((key, key, "keys/00000000", "keys/x y", "keys/" + "x" * 200, "keys/a/b/c"))
    return Hostile(name, {name: _checked(value, random)})


def odd_names(small: Small, random: Random, _root: Path) -> Hostile:
    """Names that no writer gives, in every folder."""
    where = small.open().layout
    folders = (
        where.packs_of(small.backups[0]), where.backups, where.wal, f"{where.maps}/", where.leases("backup"),
        where.verifications(small.backups[0]), layout.KEYS, layout.CLUSTERS, "",
    )  # fmt: skip
    names = (
        "²²²²²²²²-" + "0" * 64, "٣٣٣٣٣٣٣٣٣٣", "00000000-" + "0" * 64, "x", "a b", "a\nb", "\x1b[2J", "-", "00000001-",
        "20269999T999999Z-full-000000/manifest", "20261123T213000Z-full-000000/manifest", "9999999999", "99999999999999999999",
        "0000000000", "clock-0", "x" * 255, "manifest", "verified/x", "20261123T213000Z-full-000000/verified/²", "%00", "con",
    )  # fmt: skip
    content = random.choice((b"", b"x", small.bucket.read(layout.REPOSITORY)))
    made = {random.choice(folders) + random.choice(names): content for _ in range(random.randrange(1, 5))}
    return Hostile(next(iter(made)), dict(made))


def not_files(small: Small, random: Random, root: Path) -> Hostile:
    """Links, named pipes, directories and files of a terabyte where objects belong."""
    key = random.choice([key for key in small.bucket.objects if "/leases/" not in key])
    made = Hostile(key, {key: None})
    how = random.randrange(4)
    if how == 0:
        made.links[key] = random.choice(
            ("/dev/zero", "/dev/null", "/proc/self/mem", str(root / "outside"), key, "/dev/tty")
        )
    elif how == 1:
        made.pipes.append(key)
    elif how == 2:
        made.objects[f"{key}/inside"] = b"x"
    else:
        made.sparse[key] = random.choice((1 << 30, 1 << 40, 2**31, 600 << 20))
    return made


def odd_bytes(small: Small, random: Random, _root: Path) -> Hostile:
    """Random bytes, and the objects of others, under any name."""
    key = random.choice([key for key in small.bucket.objects if "/leases/" not in key])
    other = random.choice(list(small.bucket.objects.values()))[0]
    content = random.choice(
        (random.randbytes(random.choice((0, 1, 76, 77, 100, 5000))), other, bytes(100), control_file())
    )
    head = small.bucket.read(key)[: random.choice((0, 76))]
    return Hostile(key, {key: head + content})


SEALED: dict[str, Maker] = {
    "odd manifest": odd_manifest,
    "odd field": odd_field,
    "huge JSON": huge_json,
    "long lists": long_lists,
    "other JSON": odd_small_json,
    "tablespaces": places_of_tablespaces,
    "configuration": odd_configuration,
    "paths": odd_paths,
    "runs": odd_runs,
    "lying counts": lying_counts,
    "huge map": huge_map,
    "essential files": odd_essentials,
    "packs": odd_pack,
    "WAL": odd_wal,
    "bombs": blob_bomb,
}
UNSEALED: dict[str, Maker] = {
    "description": odd_description,
    "key slots": odd_slot,
    "names": odd_names,
    "no files": not_files,
    "bytes": odd_bytes,
}
# Of a thousand cases; those that take seconds and gigabytes to make are few.
WEIGHTS = {
    "huge JSON": 8,
    "huge map": 8,
    "long lists": 20,
    "bombs": 25,
    "packs": 60,
    "WAL": 60,
    "no files": 25,
}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
