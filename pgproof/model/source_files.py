"""Small files whose damage is told by their own form, checked while a backup is taken.

Servers before their November 2026 minors could copy a file torn that was replaced just then, without
noticing; such a backup has to be taken again.
"""

from __future__ import annotations

import re
import struct

import crc32c

from pgproof.errors import DataError
from pgproof.model.control_file import parse_control_file
from pgproof.model.lsn import Lsn

BACKUP_LABEL = b"backup_label"
TABLESPACE_MAP = b"tablespace_map"
SERVER_MANIFEST = b"backup_manifest"
CONTROL_FILE = b"global/pg_control"
AUTO_CONF = b"postgresql.auto.conf"
SIGNAL_FILES = frozenset((b"standby.signal", b"recovery.signal"))
_FILENODE_MAGIC = 0x592717
_START = re.compile(rb"^START WAL LOCATION: ([0-9A-F]{1,8}/[0-9A-F]{1,8}) ", re.MULTILINE)
MOST_READ = 1 << 20


def worth_reading(path: bytes, size: int) -> bool:
    """Whether a file is small and tells something about itself."""
    name = path.rpartition(b"/")[2]
    return size <= MOST_READ and (
        path in (BACKUP_LABEL, CONTROL_FILE, AUTO_CONF) or name in (b"PG_VERSION", b"pg_filenode.map")
    )


def problem_with(path: bytes, content: bytes) -> str:
    """What is wrong with a file that was just received, or an empty string."""
    name = path.rpartition(b"/")[2]
    if path == CONTROL_FILE:
        try:
            parse_control_file(content)
        except DataError as error:
            return error.message
    elif name == b"PG_VERSION":
        return "" if content.strip().isdigit() else "it holds no version"
    elif name == b"pg_filenode.map":
        return _filenode_map(content)
    elif path == AUTO_CONF:
        return "it holds zero bytes" if b"\0" in content else ""
    return ""


def label_start(content: bytes) -> Lsn:
    """The start position in a backup_label. Raises DataError if there is none."""
    found = _START.search(content)
    if found is None:
        raise DataError("the backup_label names no start position")
    return Lsn.parse(found[1].decode())


def without_incremental_lines(label: bytes) -> bytes:
    """A backup_label without what says that the backup is incremental: PostgreSQL would not start on it."""
    return b"".join(
        line for line in label.splitlines(keepends=True) if not line.startswith(b"INCREMENTAL FROM ")
    )


def _filenode_map(content: bytes) -> str:
    # RelMapFile: magic, count, 62 mappings (64 from version 16 on), then the CRC of all before it.
    at = {512: 504, 524: 520}.get(len(content))
    if at is None:
        return "its length is wrong"
    magic, count = struct.unpack_from("<ii", content)
    (stored,) = struct.unpack_from("<I", content, at)
    if magic != _FILENODE_MAGIC or not 0 <= count <= 64 or crc32c.crc32c(content[:at]) != stored:
        return "its checksum does not fit"
    return ""
