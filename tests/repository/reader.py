"""A second reader of the repository format, written from docs/format.md alone.

It shares no code with the engine, so that the page is shown to be enough: if both read the same content, whoever
has the page, the files and a key gets the data back. Comments give the section that says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PACK, MAP, MANIFEST, INTENT, WAL, CLUSTER, LEASE, VERIFICATION = range(1, 9)
ZEROS = 65535


class Unreadable(Exception):
    """The repository does not say what the page says it would."""


def need(condition: bool, what: str) -> None:
    if not condition:
        raise Unreadable(what)


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length=length, salt=salt, info=info).derive(ikm)


def unzstd(frame: bytes, length: int) -> bytes:
    need(zstandard.frame_content_size(frame) == length, "content size")
    return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)


def checksum_fits(value: dict[str, Any]) -> bool:
    rest = {name: item for name, item in value.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return bool(hashlib.sha256(text.encode()).hexdigest() == value["checksum"])


@dataclass
class Object:
    """Section 3: an opened object; `open` undoes `seal`."""

    suite: int
    key: bytes
    base: bytes

    def open(self, counter: int, aad: bytes, sealed: bytes) -> bytes:
        nonce = bytes(a ^ b for a, b in zip(self.base, counter.to_bytes(12, "big"), strict=True))
        if self.suite == 1:
            return AESGCM(self.key).decrypt(nonce, sealed, aad)
        data, tag = sealed[:-16], sealed[-16:]
        mac = blake3.blake3(nonce + struct.pack("<I", len(aad)) + aad + data, key=self.key).digest()[:16]
        need(mac == tag, "tag")
        return data


@dataclass
class Pack:
    """Section 5: the plain frames of a pack, None for one that was left out, and their lengths."""

    page_size: int
    lengths: tuple[int, ...]
    frames: list[bytes | None]

    def page(self, number: int) -> bytes:
        for length, frame in zip(self.lengths, self.frames, strict=True):
            pages = -(-length // self.page_size)
            if number < pages:
                if frame is None:
                    raise Unreadable("a page that was left out")
                return frame[number * self.page_size : (number + 1) * self.page_size]
            number -= pages
        raise Unreadable("a page beyond the pack")


class Reader:
    """Reads one cluster's backups from a repository in a directory."""

    def __init__(self, root: Path, cluster: str, secret: str | None) -> None:
        self.root = root
        self.cluster = cluster
        self.place = f"clusters/{cluster}"
        described = (root / "repository.json").read_bytes()
        facts = json.loads(described)
        need(facts["format"] == 1 and checksum_fits(facts), "format")
        self.repository_id = bytes.fromhex(facts["repository_id"])
        self.digest = hashlib.sha256(described).digest()
        if facts["suite"] == "none":
            need(secret is None, "encryption was expected")
            self.master = hashlib.sha256(b"pgproof/1 unencrypted" + self.repository_id).digest()
        else:
            need(facts["suite"] == "aes-256-gcm" and secret is not None, "suite")
            self.master = self._unwrap(facts["repository_id"], secret or "")
        name = cluster.encode()
        keys = hkdf(
            self.master,
            self.repository_id,
            b"pgproof/1 hash" + struct.pack("<H", len(name)) + name,
            64,
        )
        self.page_key, self.frame_key = keys[:32], keys[32:]
        self._packs: dict[tuple[str, int], Pack] = {}

    # Section 2

    def _unwrap(self, repository_id: str, secret: str) -> bytes:
        for path in sorted((self.root / "keys").iterdir()):
            slot = json.loads(path.read_bytes())
            if slot["repository_id"] != repository_id:
                continue
            need(checksum_fits(slot), f"checksum of {path.name}")
            kek = self._kek(slot, secret)
            if kek is None:
                continue
            kdf = json.dumps(slot["kdf"], sort_keys=True, separators=(",", ":"))
            context = b"pgproof/1 slot" + self.digest + (slot["slot"] + slot["kind"] + kdf).encode()
            if hkdf(kek, self.digest, b"commit" + context, 32) != base64.b64decode(slot["commit"]):
                continue
            nonce, wrapped = base64.b64decode(slot["nonce"]), base64.b64decode(slot["wrapped"])
            return AESGCM(kek).decrypt(nonce, wrapped, context)
        raise Unreadable("no slot opens")

    def _kek(self, slot: dict[str, Any], secret: str) -> bytes | None:
        kdf = slot["kdf"]
        salt = base64.b64decode(kdf["salt"])
        if slot["kind"] == "recovery":
            if not secret.startswith("PGP1-"):
                return None
            key = base64.b32decode(secret.removeprefix("PGP1-").replace("-", ""))
            return hkdf(key, salt, b"pgproof/1 recovery", 32)
        return Argon2id(
            salt=salt,
            length=32,
            iterations=kdf["iterations"],
            lanes=kdf["lanes"],
            memory_cost=kdf["memory_kib"],
        ).derive(unicodedata.normalize("NFC", secret).encode())

    # Section 3

    def _object(self, data: bytes, kind: int, context: str) -> Object:
        version, word, suite, found, zero, salt, commitment = struct.unpack("<B7sBBH32s32s", data[:76])
        need((version, word, found, zero) == (1, b"pgproof", kind, 0), f"header of {context}")
        place = context.encode()
        info = b"pgproof/1 object" + bytes([suite, kind]) + self.repository_id
        info += struct.pack("<H", len(place)) + place
        derived = hkdf(self.master, salt, info, 76)
        need(derived[44:] == commitment, f"commitment of {context}")
        return Object(suite, derived[:32], derived[32:44])

    # Section 4

    def blob(self, key: str, kind: int, context: str | None = None) -> bytes:
        data = (self.root / key).read_bytes()
        opened = self._object(data, kind, context or key)
        prefix = data[76:81]
        codec, length = struct.unpack("<BI", prefix)
        body = opened.open(0, b"blob" + prefix, data[81:])
        payload = unzstd(body, length) if codec == 1 else body
        need(len(payload) == length and codec in (0, 1), f"length of {key}")
        return payload

    def json(self, key: str, kind: int) -> dict[str, Any]:
        found = json.loads(self.blob(key, kind))
        assert isinstance(found, dict)
        return found

    # Section 5

    def pack(self, key: str, kind: int, context: str) -> Pack:
        data = (self.root / key).read_bytes()
        sealed_length, plain_length, total = struct.unpack("<IIQ", data[-16:])
        need(total == len(data), f"length of {key}")
        opened = self._object(data, kind, context)
        at = len(data) - 16 - sealed_length
        aad = b"index" + struct.pack("<IQ", plain_length, at)
        index = unzstd(opened.open(2**64 - 1, aad, data[at:-16]), plain_length)
        count, page_size, pages, flags = struct.unpack_from("<IIII", index)
        sealed = struct.unpack_from(f"<{count}I", index, 16)
        plain = struct.unpack_from(f"<{count}I", index, 16 + 4 * count)
        codecs = index[16 + 8 * count : 16 + 9 * count]
        hashes = index[16 + 9 * count : 16 + 41 * count]
        tags = index[16 + 41 * count :]
        need(len(tags) == (8 * pages if flags & 1 else 0), f"tags of {key}")
        need(76 + sum(sealed) == at, f"frames of {key}")
        frames: list[bytes | None] = []
        offset, found_tags = 76, b""
        for number in range(count):
            aad = b"frame" + struct.pack("<BI", codecs[number], plain[number])
            body = opened.open(number, aad, data[offset : offset + sealed[number]])
            if not body:
                offset += sealed[number]
                frames.append(None)
                found_tags += bytes(8 * -(-plain[number] // page_size)) if flags & 1 else b""
                need(hashes[32 * number : 32 * number + 32] == bytes(32), f"left-out frame of {key}")
                continue
            frame = unzstd(body, plain[number]) if codecs[number] else body
            digests = [
                blake3.blake3(frame[begin : begin + page_size], key=self.page_key).digest()
                for begin in range(0, len(frame), page_size)
            ]
            whole = blake3.blake3(b"".join(digests), key=self.frame_key).digest()
            need(whole == hashes[32 * number : 32 * number + 32], f"hash of frame {number} of {key}")
            found_tags += b"".join(digest[:8] for digest in digests) if flags & 1 else b""
            frames.append(frame)
            offset += sealed[number]
        need(found_tags == tags, f"tags of {key}")
        return Pack(page_size, plain, frames)

    def _pack_of(self, owner: str, number: int) -> Pack:
        if (owner, number) not in self._packs:
            context = f"{self.place}/packs/{owner}/{number:08d}"
            paths = sorted((self.root / self.place / "packs" / owner).glob(f"{number:08d}[-.]*"))
            frames: list[bytes | None] = []
            # The one with the greatest name, and where that left frames out the one before it.
            for path in reversed(paths):
                name = path.name.partition("-")[2]
                need(blake3.blake3(path.read_bytes()).hexdigest() == name, f"name of {path.name}")
                found = self.pack(str(path.relative_to(self.root)), PACK, context)
                frames = [
                    old if old is not None else new
                    for old, new in zip(frames or [None] * len(found.frames), found.frames, strict=True)
                ]
                self._packs[owner, number] = Pack(found.page_size, found.lengths, frames)
        return self._packs[owner, number]

    # Section 6

    def files(self, manifest: dict[str, Any]) -> Iterator[tuple[bytes, int, int, bytes]]:
        """Path, kind, mode and content of everything in the backup."""
        for segment in manifest["maps"]:
            payload = self.blob(f"{self.place}/maps/{segment['hash']}", MAP, f"{self.place}/maps")
            need(blake3.blake3(payload, key=self.frame_key).hexdigest() == segment["hash"], "name of a map")
            yield from self._segment(payload, manifest["block_size"], segment)

    def _segment(
        self, payload: bytes, page_size: int, described: dict[str, Any]
    ) -> Iterator[tuple[bytes, int, int, bytes]]:
        files, runs, owner_count, paths_length = struct.unpack_from("<IIII", payload)
        at = 16
        owners = []
        for _ in range(owner_count):
            owners.append(payload[at + 1 : at + 1 + payload[at]].decode())
            at += 1 + payload[at]

        def column(code: str, count: int) -> tuple[int, ...]:
            nonlocal at
            values = struct.unpack_from(f"<{count}{code}", payload, at)
            at += struct.calcsize(f"<{count}{code}")
            return values

        path_ends, run_ends, sizes, modes, kinds = (column(code, files) for code in "IIQHB")
        firsts, pages, whose, packs, pack_pages = (column(code, runs) for code in "IIHII")
        paths = payload[at:]
        need(len(paths) == paths_length, "paths")
        need(
            (files, sum(sizes), sum(pages)) == tuple(described[k] for k in ("files", "bytes", "pages")), "map"
        )
        path_start = run_start = 0
        for number in range(files):
            path = paths[path_start : path_ends[number]]
            content = bytearray()
            for run in range(run_start, run_ends[number]):
                need(firsts[run] * page_size == len(content), "order of runs")
                for page in range(pages[run]):
                    content += (
                        bytes(page_size)
                        if whose[run] == ZEROS
                        else self._pack_of(owners[whose[run]], packs[run]).page(pack_pages[run] + page)
                    )
            need(0 <= len(content) - sizes[number] < page_size or not content, "size of a file")
            need(not any(content[sizes[number] :]), "padding")
            yield path, kinds[number], modes[number], bytes(content[: sizes[number]])
            path_start, run_start = path_ends[number], run_ends[number]
        need(described["first"] == base64.b64encode(paths[: path_ends[0]]).decode(), "first path of a map")

    # Sections 5 and 7

    def manifest(self, backup_id: str) -> dict[str, Any]:
        return self.json(f"{self.place}/backups/{backup_id}/manifest", MANIFEST)

    def wal(self, manifest: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of every segment from start to stop."""
        size = manifest["wal_segment_size"]
        start, stop = (
            int(high, 16) << 32 | int(low, 16)
            for high, _slash, low in (manifest[name].partition("/") for name in ("start_lsn", "stop_lsn"))
        )
        timeline = manifest["timeline"]
        for number in range(start // size, (stop - 1) // size + 1):
            per = 2**32 // size
            name = f"{timeline:08X}{number // per:08X}{number % per:08X}"
            key = f"{self.place}/wal/{timeline:08X}/{name}"
            content = b"".join(self.pack(key, WAL, key).frames)
            yield name, content + bytes(size - len(content))
