#!/usr/bin/env python3
"""Restore a PostgreSQL backup from a pgproof repository, without pgproof.

Needs Python 3.11 or newer and three packages; nothing is asked of the network or of the old server:

    python3 -m venv venv && venv/bin/python -m pip install "cryptography>=44" zstandard blake3

    venv/bin/python restore-without-pgproof-3.py DIRECTORY --list
    venv/bin/python restore-without-pgproof-3.py DIRECTORY --target /var/lib/postgresql/18/restored

DIRECTORY is the repository: where repository.json lies. If it is in a bucket, download all of it first, for example
with `aws s3 sync s3://BUCKET/PREFIX DIRECTORY` or `rclone copy`. The passphrase or the recovery key (PGP1-…) is
taken from the variable BACKUP_PASSPHRASE or asked for. Options: --cluster NAME (main), --backup ID (latest),
--tablespace OLD=NEW for each tablespace that shall lie elsewhere, --unencrypted for a repository without encryption.
A backup is a cluster's files or, if its method is logical, dumps that PostgreSQL's own pg_restore reads.

This file was stored beside the backups, where whoever can write to the store could have changed it. Before you
type a passphrase, compare `sha256sum` of it with the line in pgproof's docs/recovery.md, or with your own note.

The format is described in pgproof's docs/format.md; the section numbers below are those of that page. Everything
that is read is checked: nothing that was changed, exchanged or cut short gets into the target.
"""

from __future__ import annotations

import argparse
import base64
import getpass
import hashlib
import hmac
import json
import os
import re
import shlex
import struct
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

try:
    import zstandard
    from blake3 import blake3
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as error:
    sys.exit(f'{error}\nRun: python -m pip install "cryptography>=44" zstandard blake3')

PACK, MAP, MANIFEST, WAL = 1, 2, 3, 5
DIRECTORY, ZEROS = 1, 65535
# A record holds at most 512 KiB with its length.
RECORD = 524284
RUNS_AT_ONCE = 200_000
BACKUP_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[a-z]+-[0-9a-f]{6}\Z")
DAMAGE = (InvalidTag, zstandard.ZstdError, struct.error, ValueError, LookupError, TypeError, AttributeError)


class Stop(Exception):
    """What a person has to know; the program ends with it."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Stop(f"{what} cannot be read: {error.strerror}") from error
    except (*DAMAGE, RecursionError) as error:
        raise Stop(f"{what} is damaged or not what its name says: {error or 'bytes were changed'}") from error


def need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length=length, salt=salt, info=info).derive(ikm)


def unpacked(codec: int, body: bytes, length: int) -> bytes:
    """A decompressor believes the frame's own size, so that one is compared with the sealed length first."""
    need(codec in (0, 1), "unknown compression")
    if codec == 1:
        need(zstandard.frame_content_size(body) == length, "compressed length")
        body = zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
    need(len(body) == length, "length")
    return body


class Sealed(NamedTuple):
    """Section 3: an object whose header was checked."""

    suite: int
    key: bytes
    base: bytes

    def open(self, counter: int, aad: bytes, sealed: bytes) -> bytes:
        nonce = (int.from_bytes(self.base, "big") ^ counter).to_bytes(12, "big")
        if self.suite == 1:
            return AESGCM(self.key).decrypt(nonce, sealed, aad)
        data, tag = sealed[:-16], sealed[-16:]
        mac = blake3(nonce + struct.pack("<I", len(aad)) + aad + data, key=self.key).digest(16)
        need(hmac.compare_digest(mac, tag), "it was changed")
        return data


class Repository:
    """Sections 2 to 5: one cluster of a repository in a directory."""

    def __init__(self, root: Path, cluster: str, unencrypted: bool) -> None:
        self.root, self.place = root, f"clusters/{cluster}"
        self.packs: dict[str, dict[str, list[str]]] = {}
        if not (root / "repository.json").is_file():
            raise Stop(f"{root} is no repository: it has no repository.json")
        with reading("repository.json"):
            stored = (root / "repository.json").read_bytes()
            described = checked_json(stored)
            self.id, self.digest = bytes.fromhex(described["repository_id"]), hashlib.sha256(stored).digest()
            self.suite = ("none", "aes-256-gcm").index(described["suite"])
        if not (root / self.place).is_dir():
            there = sorted(path.name for path in (root / "clusters").glob("*"))
            raise Stop(f"no cluster {cluster} here; --cluster takes one of: {', '.join(there) or '(none)'}")
        if self.suite == 0 and not unencrypted:
            raise Stop(
                "no encryption here: add --unencrypted if that is on purpose; else somebody exchanged it"
            )
        unlocked = hashlib.sha256(b"pgproof/1 unencrypted" + self.id).digest()
        self.master = self._unwrap() if self.suite else unlocked
        name = cluster.encode()
        info = b"pgproof/1 hash" + struct.pack("<H", len(name)) + name
        keys = hkdf(self.master, self.id, info, 64)
        self.page_key, self.frame_key = keys[:32], keys[32:]

    def _unwrap(self) -> bytes:
        secret = os.environ.get("BACKUP_PASSPHRASE") or getpass.getpass("Passphrase or recovery key: ")
        damaged = []
        for path in sorted((self.root / "keys").glob("*")):
            try:
                with reading(f"keys/{path.name}"):
                    master = self._open_slot(checked_json(path.read_bytes()), path.name, secret)
            except Stop as error:
                damaged.append(str(error))
                continue
            if master is not None:
                return master
        raise Stop("\n".join(["this passphrase opens none of the keys of the repository", *damaged]))

    def _open_slot(self, slot: dict[str, Any], name: str, secret: str) -> bytes | None:
        if slot["repository_id"] != self.id.hex():
            return None
        need(slot["slot"] == name, "it lies under another name")
        kdf, salt = slot["kdf"], base64.b64decode(slot["kdf"]["salt"], validate=True)
        need(16 <= len(salt) <= 64, "salt")
        if slot["kind"] == "recovery":
            words = re.sub(r"[\s-]", "", secret).upper()
            if not re.fullmatch(r"PGP1[A-Z2-7]{32}", words):
                return None
            kek = hkdf(base64.b32decode(words[4:]), salt, b"pgproof/1 recovery", 32)
        else:
            need((slot["kind"], kdf["name"]) == ("passphrase", "argon2id"), "kind")
            cost, rounds, lanes = kdf["memory_kib"], kdf["iterations"], kdf["lanes"]
            need(19456 <= cost <= 1 << 20 and 1 <= rounds <= 10 and 1 <= lanes <= 8, "out of bounds")
            argon = Argon2id(salt=salt, length=32, iterations=rounds, lanes=lanes, memory_cost=cost)
            kek = argon.derive(unicodedata.normalize("NFC", secret).encode())
        parameters = json.dumps(kdf, separators=(",", ":"), sort_keys=True)
        context = b"pgproof/1 slot" + self.digest + (slot["slot"] + slot["kind"] + parameters).encode()
        commit, nonce, wrapped = (base64.b64decode(slot[name]) for name in ("commit", "nonce", "wrapped"))
        if not hmac.compare_digest(commit, hkdf(kek, self.digest, b"commit" + context, 32)):
            return None
        return AESGCM(kek).decrypt(nonce, wrapped, context)

    def unseal(self, header: bytes, kind: int, context: str) -> Sealed:
        version, word, suite, found, zero, salt, commitment = struct.unpack("<B7sBBH32s32s", header)
        need((version, word) == (1, b"pgproof"), "not an object of format 1")
        need((suite, found, zero) == (self.suite, kind, 0), "another kind of object")
        place = context.encode()
        info = b"pgproof/1 object" + bytes([suite, kind]) + self.id + struct.pack("<H", len(place)) + place
        derived = hkdf(self.master, salt, info, 76)
        need(hmac.compare_digest(derived[44:], commitment), "it belongs somewhere else")
        return Sealed(suite, derived[:32], derived[32:44])

    def blob(self, key: str, kind: int, context: str) -> bytes:
        with reading(key):
            data = (self.root / key).read_bytes()
            codec, length = struct.unpack_from("<BI", data, 76)
            need(length <= 256 << 20, "length")
            body = self.unseal(data[:76], kind, context).open(0, b"blob" + data[76:81], data[81:])
            return unpacked(codec, body, length)

    def backups(self) -> list[str]:
        """The ids of all committed backups and of runs that were given up, oldest first."""
        found = (path.parent.name for path in (self.root / self.place / "backups").glob("*/manifest"))
        return sorted(name for name in found if BACKUP_ID.match(name))

    def manifest(self, backup_id: str) -> dict[str, Any] | None:
        """None for a run that was given up."""
        key = f"{self.place}/backups/{backup_id}/manifest"
        payload = self.blob(key, MANIFEST, key)
        with reading(key):
            found: dict[str, Any] = json.loads(payload)
            need(found["format"] == 1, "a newer format")
            if found.get("abandoned") is True:
                return None
            need(found["backup_id"] == backup_id, "another backup's")
            size = found["wal_segment_size"]
            need(found["block_size"] in (1024, 2048, 4096, 8192, 16384, 32768), "block size")
            need(1 << 20 <= size <= 1 << 30 and not size & (size - 1), "segment size")
            return found

    def pack(self, owner: str, number: int) -> Pack:
        context = f"{self.place}/packs/{owner}/{number:08d}"
        if owner not in self.packs:
            with reading(f"{self.place}/packs/{owner}"):
                need(BACKUP_ID.match(owner) is not None, "no such backup")
                found: dict[str, list[str]] = {}
                # One that was rewritten has a greater name, and lacks what is in those behind it only.
                for path in sorted((self.root / self.place / "packs" / owner).iterdir(), reverse=True):
                    ends = found.setdefault(path.name[:8], [])
                    need(
                        not (ends and ends[-1][0] == path.name[8:9] == "-"), "two packs have the same number"
                    )
                    ends.append(path.name[8:])
                self.packs[owner] = found
        if f"{number:08d}" not in self.packs[owner]:
            raise Stop(f"{context}-* is missing")
        return Pack(self, [context + end for end in self.packs[owner][f"{number:08d}"]], PACK, context)


def checked_json(data: bytes) -> dict[str, Any]:
    """repository.json and key slots: a checksum tells a rotten bit from a wrong passphrase."""
    value: dict[str, Any] = json.loads(data)
    need(value["format"] == 1, "a newer format")
    rest = {name: item for name, item in value.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    need(hashlib.sha256(text.encode()).hexdigest() == value["checksum"], "its checksum does not fit")
    return value


class Pack:
    """Section 5: reads one frame at a time, from the first of `keys` that has it. The file is closed by `with`."""

    def __init__(self, repository: Repository, keys: list[str], kind: int, context: str) -> None:
        key, self.older = keys[0], keys[1:]
        self.repository, self.key, self.kind, self.context = repository, key, kind, context
        with reading(key):
            self.file = (repository.root / key).open("rb")
            size = os.fstat(self.file.fileno()).st_size
            need(92 <= size <= 2 << 30, "cut short")
            sealed_length, length, total = struct.unpack("<IIQ", self._at(size - 16, 16))
            at = size - 16 - sealed_length
            need(total == size and at >= 76 and max(length, sealed_length) <= 65 << 20, "cut short")
            self.sealed = repository.unseal(self._at(0, 76), kind, context)
            aad = b"index" + struct.pack("<IQ", length, at)
            index = unpacked(1, self.sealed.open(2**64 - 1, aad, self._at(at, sealed_length)), length)
            count, self.page_size, self.pages, flags = struct.unpack_from("<IIII", index)
            lengths = struct.unpack_from(f"<{2 * count}I", index, 16)
            self.plain, self.codecs = lengths[count:], index[16 + 8 * count : 16 + 9 * count]
            self.hashes = index[16 + 9 * count : 16 + 41 * count]
            need(len(index) == 16 + 41 * count + 8 * self.pages * (flags & 1) and flags < 2, "its index")
            need(512 <= self.page_size <= 65536 and max(self.plain, default=1) <= 4 << 20, "its index")
            self.places = list(accumulate(lengths[:count], initial=76))
            self.first_pages = list(accumulate((-(-n // self.page_size) for n in self.plain), initial=0))
            need((self.places[-1], self.first_pages[-1]) == (at, self.pages), "its index does not fit")

    def frame(self, number: int) -> bytes:
        with reading(f"frame {number} of {self.key}"):
            place, length = self.places[number], self.plain[number]
            if self.places[number + 1] - place == 16:
                need(bool(self.older), "it was left out when the pack was rewritten")
                with Pack(self.repository, self.older, self.kind, self.context) as older:
                    return older.frame(number)
            aad = b"frame" + struct.pack("<BI", self.codecs[number], length)
            body = self.sealed.open(number, aad, self._at(place, self.places[number + 1] - place))
            plain = unpacked(self.codecs[number], body, length)
            pages = (plain[at : at + self.page_size] for at in range(0, length, self.page_size))
            digests = b"".join(blake3(page, key=self.repository.page_key).digest() for page in pages)
            found = blake3(digests, key=self.repository.frame_key).digest()
            need(found == self.hashes[32 * number : 32 * number + 32], "its hash")
            return plain

    def _at(self, place: int, length: int) -> bytes:
        self.file.seek(place)
        data = self.file.read(length)
        need(len(data) == length, "cut short")
        return data

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()


class File(NamedTuple):
    """Section 6: a file or directory of a backup. Runs: owner, pack, first page in it, pages, first page in file."""

    path: bytes
    kind: int
    mode: int
    size: int
    runs: list[tuple[str, int, int, int, int]]


def files_of(repository: Repository, manifest: dict[str, Any]) -> Iterator[File]:
    """Everything in the backup in the order of its paths, one map at a time."""
    before = b""
    for described in manifest["maps"]:
        key = f"{repository.place}/maps/{described['hash']}"
        payload = repository.blob(key, MAP, f"{repository.place}/maps")
        with reading(key):
            need(blake3(payload, key=repository.frame_key).hexdigest() == described["hash"], "another map")
            for file in segment_of(payload, manifest["block_size"]):
                need(file.path > before, "its files are not in order")
                yield file
                before = file.path


def segment_of(payload: bytes, page_size: int) -> Iterator[File]:
    count, run_count, owner_count, paths_length = struct.unpack_from("<IIII", payload)
    at, owners = 16, []
    for _ in range(owner_count):
        owners.append(payload[at + 1 : at + 1 + payload[at]].decode())
        at += 1 + payload[at]

    def column(code: str, length: int) -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from(f"<{length}{code}", payload, at)
        at += struct.calcsize(f"<{length}{code}")
        return values

    path_ends, run_ends, sizes, modes, kinds = (column(code, count) for code in "IIQHB")
    firsts, pages, whose, packs, pack_pages = (column(code, run_count) for code in "IIHII")
    paths = payload[at:]
    need(len(paths) == paths_length, "cut short")
    path_start = run_start = 0
    for number in range(count):
        path, done, runs = paths[path_start : path_ends[number]], 0, []
        need(not any(part in (b"", b".", b"..") for part in path.split(b"/")) and b"\0" not in path, "a path")
        for run in range(run_start, run_ends[number]):
            need(firsts[run] == done and pages[run] > 0, "a file is not covered")
            if whose[run] != ZEROS:
                runs.append((owners[whose[run]], packs[run], pack_pages[run], pages[run], done))
            done += pages[run]
        need(
            kinds[number] in (0, DIRECTORY) and done == -(-sizes[number] // page_size),
            "a file is not covered",
        )
        yield File(path, kinds[number], modes[number], sizes[number], runs)
        path_start, run_start = path_ends[number], run_ends[number]


CONTROL, UNFINISHED = "global/pg_control", "global/pg_control.unfinished"
NOT_RESTORED = (b"backup_manifest", b"tablespace_map")
AUTO_CONF = """
# Added by the restore. Remove these lines once the server has started and you know that it is the only one:
# it may otherwise archive its WAL to where the old server does.
archive_mode = off
restore_command = 'exit 1'
recovery_target_timeline = '{timeline}'
"""


class Target:
    """The new data directory. pg_control gets its name last: without it PostgreSQL does not start."""

    def __init__(self, root: Path, tablespaces: dict[str, Path]) -> None:
        self.root, self.tablespaces = root.absolute(), tablespaces
        self.roots = [self.root, *tablespaces.values()]
        for place in self.roots:
            if sum(place in (other, *other.parents) for other in self.roots) > 1:
                raise Stop(f"{place} is meant for two things; give each tablespace a directory of its own")
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if [each for each in place.iterdir() if each.name != "lost+found"]:
                raise Stop(f"{place} is not empty; choose an empty or new directory")

    def place(self, path: str) -> Path:
        """Where a path of the backup goes; a tablespace's files not through its link."""
        folder, oid, *inner = [*path.split("/"), ""]
        if folder != "pg_tblspc" or not oid:
            return self.root / (UNFINISHED if path == CONTROL else path)
        if oid not in self.tablespaces:
            raise Stop(f"the backup has {path}, but no such tablespace")
        return self.tablespaces[oid].joinpath(*inner)

    def make(self, path: str, file: File) -> None:
        if file.kind != DIRECTORY:
            self.write(path, [], file.size, file.mode)
        elif path.startswith("pg_tblspc/") and path.count("/") == 1:
            (self.root / path).symlink_to(self.place(path))
        else:
            self.place(path).mkdir(0o700)
            self.place(path).chmod(0o750 if file.mode & 0o050 == 0o050 else 0o700)
        if path == CONTROL:
            for place in self.roots:
                place.chmod(0o750 if file.mode & 0o040 else 0o700)

    def write(self, path: str, pieces: Iterable[bytes], size: int = 0, mode: int = 0o600) -> None:
        """A new file; what the pieces leave open is zeros."""
        with self.place(path).open("xb") as file:
            os.fchmod(file.fileno(), mode & 0o040 | 0o600)
            if size:  # so that a full disk shows now
                os.posix_fallocate(file.fileno(), 0, size)
            file.writelines(pieces)

    def finish(self) -> None:
        """Everything is on disk before pg_control has its name, and that name is on disk before we say so."""
        for root in self.roots:
            for place in (root.parent, root, *root.rglob("*")):
                if not place.is_symlink():
                    sync(place)
        (self.root / UNFINISHED).rename(self.root / CONTROL)
        sync(self.root / "global")


def sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_files(repository: Repository, manifest: dict[str, Any], target: Target) -> None:
    """Files first, and their pages some hundred thousand runs at a time, in the order of the packs."""
    runs: list[PlacedRun] = []
    for file in files_of(repository, manifest):
        if file.path not in NOT_RESTORED:
            path = os.fsdecode(file.path)
            target.make(path, file)
            runs += [PlacedRun(*run, target.place(path), file.size) for run in file.runs]
        if len(runs) >= RUNS_AT_ONCE:
            write_pages(repository, runs, manifest["block_size"])
            runs = []
    write_pages(repository, runs, manifest["block_size"])


class PlacedRun(NamedTuple):
    owner: str
    pack: int
    page: int
    pages: int
    file_page: int
    place: Path
    size: int


def write_pages(repository: Repository, runs: list[PlacedRun], page_size: int) -> None:
    """Each frame is read once, and given to every run that has pages in it."""
    runs.sort(key=lambda run: run[:3], reverse=True)
    while runs:
        (owner, number), begun = runs[-1][:2], list[PlacedRun]()
        with repository.pack(owner, number) as pack:
            for frame, (first, end) in enumerate(pairwise(pack.first_pages)):
                while runs and runs[-1][:2] == (owner, number) and runs[-1].page < end:
                    begun.append(runs.pop())
                plain = pack.frame(frame) if begun else b""
                for run in begun:
                    start = max(run.page, first)
                    data = plain[(start - first) * page_size : (run.page + run.pages - first) * page_size]
                    offset = (run.file_page + start - run.page) * page_size
                    with run.place.open("r+b") as file:
                        file.seek(offset)
                        file.write(data[: run.size - offset])
                begun = [run for run in begun if run.page + run.pages > end]
        if pack.page_size != page_size or begun or (runs and runs[-1][:2] == (owner, number)):
            raise Stop(f"{pack.key} lacks pages that a map names")


def restore_dumps(repository: Repository, manifest: dict[str, Any], target: Target) -> None:
    """The files of pg_dump: what is stored are records, each beginning on a page (section 6)."""
    write_files(repository, manifest, target)
    places = [place for place in target.root.rglob("*") if place.is_file()]
    for place in places:
        unpacked = place.with_name(f"{place.name}.unpacked")
        with place.open("rb") as stored, unpacked.open("xb") as content:
            while head := stored.read(4):
                (length,) = struct.unpack("<I", head)
                padding = -(4 + length) % manifest["block_size"]
                if not 1 <= length <= RECORD or place.stat().st_size - stored.tell() < length + padding:
                    raise Stop(f"{place.name} is not made of records")
                content.write(stored.read(length))
                stored.seek(padding, os.SEEK_CUR)
        unpacked.replace(place)
    for place in (*target.root.rglob("*"), target.root):
        sync(place)
    print(f"""
The dumps are complete. Into a running server of PostgreSQL {manifest["server_version"]} or later:
  1. Make the roles that are missing. {target.root / "globals.sql"} has them as psql reads them: look at it first.
  2. For each database: createdb --template=template0 NAME, and then""")
    for database in manifest["databases"]:
        place = target.root / f"databases/{int(database['oid'])}"
        print(
            f"     pg_restore --exit-on-error --jobs=4 --dbname=NAME {shlex.quote(str(place))}   # {database['name']!r}"
        )


def position(lsn: str) -> int:
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


def write_wal(repository: Repository, manifest: dict[str, Any], target: Target) -> None:
    """Every segment from the start to the stop of the backup, and how its timeline came to be."""
    size, timeline = manifest["wal_segment_size"], manifest["timeline"]
    start, stop = position(manifest["start_lsn"]), position(manifest["stop_lsn"])
    for number in range(start // size, max(start // size, (stop - 1) // size) + 1):
        name = f"{timeline:08X}{number // (2**32 // size):08X}{number % (2**32 // size):08X}"
        key = f"{repository.place}/wal/{timeline:08X}/{name}"
        with Pack(repository, [key], WAL, key) as pack:
            if not min(size, stop - number * size) <= sum(pack.plain) <= size:
                raise Stop(f"{key} has a wrong length")
            target.write(f"pg_wal/{name}", map(pack.frame, range(len(pack.plain))), size)
    if manifest["timeline_history"]:
        target.write(f"pg_wal/{timeline:08X}.history", [base64.b64decode(manifest["timeline_history"])])


def write_configuration(manifest: dict[str, Any], target: Target) -> None:
    """What makes the first start recover to the end of the backup, and what lay outside the data directory."""
    links = {oid: re.sub(r"([\\\n\r])", r"\\\1", str(place)) for oid, place in target.tablespaces.items()}
    if links:
        target.write("tablespace_map", [os.fsencode(f"{oid} {place}\n") for oid, place in links.items()])
    with target.place("postgresql.auto.conf").open("a") as auto_conf:
        auto_conf.write(AUTO_CONF.format(timeline=manifest["timeline"]))
    target.write("recovery.signal", [])
    for number, each in enumerate(manifest["external_config"]):
        if each["content"] is not None:
            target.place("config-from-backup").mkdir(mode=0o700, exist_ok=True)
            name = f"config-from-backup/{number}-{Path(each['path']).name}"
            target.write(name, [base64.b64decode(each["content"])])
    if not target.place("postgresql.conf").exists():
        # With hot_standby off, recovery asks for no more connections and locks than these defaults have.
        prepared = int(manifest["settings"].get("max_prepared_transactions", 0))
        least = 2 * manifest["wal_segment_size"] >> 20
        lines = (
            f"hot_standby = off\nmax_prepared_transactions = {prepared}\nmin_wal_size = {max(80, least)}MB\n"
        )
        head = "# The source kept its configuration elsewhere; what could be read of it is in config-from-backup/.\n"
        target.write("postgresql.conf", [f"{head}{lines}max_wal_size = {max(1024, least)}MB\n".encode()])
        target.write("pg_hba.conf", [b"local all all peer\n"])


def tablespaces_of(manifest: dict[str, Any], moves: list[str]) -> dict[str, Path]:
    """Where each tablespace goes, by its oid."""
    moved = dict(move.partition("=")[::2] for move in moves)
    found = {str(t["oid"]): os.fsdecode(base64.b64decode(t["location"])) for t in manifest["tablespaces"]}
    for old, new in moved.items():
        if old not in found.values() or not new.startswith("/"):
            there = ", ".join(found.values()) or "(none)"
            raise Stop(f"--tablespace {old}={new}: not OLD=/NEW with OLD one of: {there}")
    return {oid: Path(moved.get(place, place)) for oid, place in found.items()}


def show(repository: Repository) -> None:
    for backup_id in repository.backups():
        try:
            if manifest := repository.manifest(backup_id):
                size = f"{manifest['size_bytes'] / 1e6:,.1f} MB"
                kind = f"{manifest['method']}  {manifest['status']}"
                print(f"{backup_id}  {kind}  PostgreSQL {manifest['server_version']}  {size}")
        except Stop as error:
            print(f"{backup_id}  {error}")


def choose(repository: Repository, wanted: str) -> dict[str, Any]:
    for backup_id in reversed(repository.backups()):
        if wanted in ("latest", backup_id) and (manifest := repository.manifest(backup_id)):
            return manifest
    raise Stop(f"there is no backup {wanted}; --list shows all")


def restore_cluster(repository: Repository, manifest: dict[str, Any], target: Target) -> None:
    write_files(repository, manifest, target)
    for needed in ("backup_label", CONTROL):
        if not target.place(needed).exists():
            raise Stop(f"the backup has no {needed}: use another one")
    write_wal(repository, manifest, target)
    write_configuration(manifest, target)
    print("writing everything to disk", flush=True)
    target.finish()
    print(f"""
The files are complete. Before you start the server:
  1. Give them to its user, for example: chown -R postgres {shlex.join(map(str, target.roots))}
  2. Look at postgresql.conf and postgresql.auto.conf: they are those of the old server (port, primary_conninfo,
     shared_preload_libraries), with archiving turned off at the end of the latter.
  3. A tablespace that was created while the backup ran will be written to where it was.
Then start PostgreSQL {manifest["server_version"]}, or another minor release of it, as that user:
     pg_ctl -D {shlex.quote(str(target.root))} start
It recovers to the end of the backup ({manifest["stop_lsn"]}) and opens.""")


def main() -> None:
    parser = argparse.ArgumentParser(description="Restore a PostgreSQL backup from a pgproof repository.")
    parser.add_argument("directory", type=Path, help="the repository")
    parser.add_argument("--cluster", default="main")
    parser.add_argument("--list", action="store_true", help="show the backups and end")
    parser.add_argument("--backup", default="latest", metavar="ID")
    parser.add_argument("--target", type=Path, metavar="DIR", help="the new data directory, missing or empty")
    parser.add_argument("--tablespace", action="append", default=[], metavar="OLD=NEW")
    parser.add_argument("--unencrypted", action="store_true", help="it has no encryption, on purpose")
    options = parser.parse_args()
    if not options.list and options.target is None:
        parser.error("give --list or --target DIR")
    try:
        repository = Repository(options.directory, options.cluster, options.unencrypted)
        if options.list:
            return show(repository)
        manifest = choose(repository, options.backup)
        restore = restore_dumps if manifest["method"] == "logical" else restore_cluster
        target = Target(options.target, tablespaces_of(manifest, options.tablespace))
        print(f"restoring {manifest['backup_id']}, {manifest['size_bytes'] / 1e6:,.1f} MB", flush=True)
        restore(repository, manifest, target)
    except Stop as error:
        sys.exit(f"STOPPED: {error}")
    except OSError as error:
        sys.exit(f"STOPPED: {error.filename or options.target}: {error.strerror}")
    except DAMAGE as error:
        sys.exit(f"STOPPED: the manifest does not hold what it should: {error!r}")


if __name__ == "__main__":
    main()
