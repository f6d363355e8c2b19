"""The messages of physical replication, bytes to values and back; no sockets.

PostgreSQL documentation, "Streaming Replication Protocol", START_REPLICATION.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pgproof.errors import DataError
from pgproof.model.lsn import Lsn

_DATA_HEAD = struct.Struct("!QQq")
_KEEPALIVE = struct.Struct("!QqB")
_STATUS = struct.Struct("!cQQQqB")
# Microseconds between the Unix epoch and PostgreSQL's, 2000-01-01.
_EPOCH_US = 946_684_800_000_000


@dataclass(frozen=True, slots=True)
class WalData:
    """WAL bytes from `start` on."""

    start: Lsn
    data: memoryview


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The server's end of WAL; it closes the connection if a wanted reply does not come."""

    end: Lsn
    reply_wanted: bool


def decode(message: memoryview) -> WalData | Keepalive:
    """Raises DataError for a message that is cut or not known."""
    kind = bytes(message[:1])
    if kind == b"w" and len(message) > _DATA_HEAD.size:
        start, _end, _clock = _DATA_HEAD.unpack_from(message, 1)
        return WalData(Lsn(start), message[1 + _DATA_HEAD.size :])
    if kind == b"k" and len(message) > _KEEPALIVE.size:
        end, _clock, reply = _KEEPALIVE.unpack_from(message, 1)
        return Keepalive(Lsn(end), bool(reply))
    raise DataError("the server sent a replication message this version does not know", kind=kind.hex())


def encode_status(written: Lsn, durable: Lsn | None, unix_us: int) -> bytes:
    """A standby status update: `durable` is claimed as flushed and nothing as applied.

    None claims no flush at all: then the server never takes us for a synchronous standby, which
    would make its commits wait for our store.
    """
    flushed = durable.value if durable else 0
    return _STATUS.pack(b"r", written.value, flushed, 0, unix_us - _EPOCH_US, 0)
