"""The manifest that the server writes for a base backup, read a line at a time.

PostgreSQL documentation, "Backup Manifest Format". It is stored unchanged; here it is only compared with
what arrived. It holds one file per line, so nothing is read as a whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pgproof.errors import DataError
from pgproof.model.filemap import printable

_CHECKSUM_LINE = b'"Manifest-Checksum"'
# A file's line exactly as servers write it; for any other it is parsed as the JSON that it is, which takes many times longer.
_USUAL = re.compile(
    rb'\{ "Path": "([^"\\]+)", "Size": ([0-9]{1,19}), "Last-Modified": "[^"\\]*", '
    rb'"Checksum-Algorithm": "CRC32C", "Checksum": "([0-9a-f]{8})" \},?\Z'
)


@dataclass(frozen=True, slots=True)
class ManifestFile:
    path: bytes
    size: int
    crc32c: int


class ServerManifestReader:
    """Feed it the manifest; it yields the files, and `finish` checks the manifest's own checksum."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._rest = b""
        self._checksum = ""

    def feed(self, data: bytes) -> Iterator[ManifestFile]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            yield from self._line(line + b"\n")

    def finish(self) -> Iterator[ManifestFile]:
        """Raises DataError unless the manifest was complete and unharmed."""
        if self._rest:
            yield from self._line(self._rest)
        if not self._checksum or self._checksum != self._hash.hexdigest():
            raise DataError("the server's manifest is cut short or damaged")

    def _line(self, line: bytes) -> Iterator[ManifestFile]:
        if line.startswith(_CHECKSUM_LINE):
            # The checksum covers every byte before its own line.
            self._checksum = str(_parse(b"{" + line.strip().rstrip(b"}") + b"}").get("Manifest-Checksum"))
            return
        self._hash.update(line)
        text = line.strip()
        usual = _USUAL.match(text)
        if usual is not None:
            path, size, checksum = usual.groups()
            yield _described(path, int(size), checksum.decode())
        elif text.startswith((b'{ "Path"', b'{ "Encoded-Path"')):
            yield _file(_parse(text.rstrip(b",")))


def _file(value: dict[str, object]) -> ManifestFile:
    try:
        encoded = value.get("Encoded-Path")
        path = bytes.fromhex(str(encoded)) if encoded is not None else str(value["Path"]).encode()
        if value["Checksum-Algorithm"] != "CRC32C":
            raise DataError("the server used another checksum than it was asked for")
        return _described(path, int(str(value["Size"])), str(value["Checksum"]))
    except (KeyError, ValueError) as error:
        raise DataError("the server's manifest is damaged", reason=repr(error)) from error


def _described(path: bytes, size: int, checksum: str) -> ManifestFile:
    # Printed as the four bytes lie in memory.
    return ManifestFile(path, size, int.from_bytes(bytes.fromhex(checksum), "little"))


def _parse(text: bytes) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError("the server's manifest is damaged", line=printable(text[:100])) from error
    if not isinstance(value, dict):
        raise DataError("the server's manifest is damaged")
    return value
