"""Replication messages: read as documented, and nothing but a DataError for other bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.lsn import Lsn
from pgproof.postgres.wal_messages import Keepalive, WalData, decode, encode_status

positions = st.integers(0, 2**64 - 1)
clocks = st.integers(-(2**63), 2**63 - 1)


@given(positions, positions, clocks, st.binary(max_size=50))
def test_wal(start: int, end: int, clock: int, data: bytes) -> None:
    message = b"w" + struct.pack("!QQq", start, end, clock) + data
    assert decode(memoryview(message)) == WalData(Lsn(start), memoryview(data))


@given(positions, clocks, st.booleans())
def test_keepalives(end: int, clock: int, reply: bool) -> None:
    message = b"k" + struct.pack("!QqB", end, clock, reply)
    assert decode(memoryview(message)) == Keepalive(Lsn(end), reply)


@given(st.binary(max_size=30))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        decode(memoryview(data))
    except DataError:
        return
    assert (data[:1], len(data) >= 25) == (b"w", True) or (data[:1], len(data) >= 18) == (b"k", True)


@pytest.mark.parametrize("data", [b"", b"w", b"w" + bytes(23), b"k" + bytes(16), b"s" + bytes(40)])
def test_cut_or_unknown_messages_are_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        decode(memoryview(data))


@given(positions, st.none() | positions)
def test_a_status_claims_what_is_durable_and_never_an_apply(written: int, durable: int | None) -> None:
    message = encode_status(Lsn(written), None if durable is None else Lsn(durable), 946_684_800_000_000)
    kind, wrote, flushed, applied, clock, reply = struct.unpack("!cQQQqB", message)
    assert (kind, wrote, flushed, applied, clock, reply) == (b"r", written, durable or 0, 0, 0, 0)
