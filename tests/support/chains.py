"""The ledger's rows, and the rules that a recovered ledger keeps."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from pgproof.model.lsn import Lsn

GENESIS = "0" * 64
WINDOW = 50  # so many of a client's newest rows stand in ledger.recent

# recent has no index on purpose: rows that come back from the dead in it are seen by no index check.
SCHEMA = """
CREATE SCHEMA IF NOT EXISTS ledger;
CREATE TABLE IF NOT EXISTS ledger.entries (
    client int, seq bigint, amount int NOT NULL, payload text NOT NULL,
    previous text NOT NULL, hash text NOT NULL, PRIMARY KEY (client, seq));
CREATE TABLE IF NOT EXISTS ledger.counters (
    client int PRIMARY KEY, entries bigint NOT NULL, total bigint NOT NULL);
CREATE TABLE IF NOT EXISTS ledger.recent (client int NOT NULL, seq bigint NOT NULL, payload text NOT NULL);
"""
_NAMED = 10  # how many facts a message names


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a chain, bound by its hash to the row before it."""

    client: int
    seq: int
    amount: int
    payload: str
    previous: str
    hash: str

    @classmethod
    def after(cls, previous: str, client: int, seq: int, amount: int, payload: str) -> Entry:
        return cls(client, seq, amount, payload, previous, _hash(previous, client, seq, amount, payload))

    @property
    def intact(self) -> bool:
        return self.hash == _hash(self.previous, self.client, self.seq, self.amount, self.payload)


@dataclass(frozen=True, slots=True)
class Commit:
    """One acknowledged commit: its record lies in the WAL between `before` and `after`."""

    client: int
    seq: int
    hash: str
    before: Lsn
    after: Lsn

    @property
    def key(self) -> tuple[int, int]:
        return self.client, self.seq

    def __str__(self) -> str:
        return f"client {self.client} seq {self.seq} (committed between {self.before} and {self.after})"


def check(
    connection: psycopg.Connection[Any], commits: Sequence[Commit], stop_lsn: Lsn, *, exact: bool
) -> None:
    """Compare the ledger that `connection` shows with the journal's `commits`; see `Ledger.check`."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        judge(connection, commits, stop_lsn, exact=exact)


def judge(
    connection: psycopg.Connection[Any], commits: Sequence[Commit], stop_lsn: Lsn, *, exact: bool
) -> None:
    """`check`, within the transaction that `connection` is in."""
    entries = _entries(connection)
    hashes = {(entry.client, entry.seq): entry.hash for entry in entries}
    required = [commit for commit in commits if commit.after <= stop_lsn]
    missing = [commit for commit in required if commit.key not in hashes]
    _complain(f"acknowledged commits are missing at {stop_lsn}", missing)
    changed = [commit for commit in required if hashes[commit.key] != commit.hash]
    _complain(f"acknowledged commits have another content at {stop_lsn}", changed)
    if exact:
        later = [commit for commit in commits if commit.before >= stop_lsn]
        present = [commit for commit in later if hashes.get(commit.key) == commit.hash]
        _complain(f"commits after {stop_lsn} are present", present)
    _check_chains(entries)
    _check_counters(connection, entries)
    _check_windows(connection, entries)


def _entries(connection: psycopg.Connection[Any]) -> list[Entry]:
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute("SELECT * FROM ledger.entries ORDER BY client, seq").fetchall()


def _complain(what: str, facts: Sequence[object]) -> None:
    named = "; ".join(map(str, facts[:_NAMED])) + ("; …" if len(facts) > _NAMED else "")
    assert not facts, f"{len(facts)} {what}: {named}"


def _check_chains(entries: Sequence[Entry]) -> None:
    """Require that each chain counts from 1 and that every entry follows from the one before it."""
    broken = []
    for client, chain in itertools.groupby(entries, key=lambda entry: entry.client):
        previous = GENESIS
        for expected, entry in enumerate(chain, start=1):
            if entry.seq != expected or entry.previous != previous or not entry.intact:
                broken.append(f"client {client} seq {entry.seq} does not follow seq {expected - 1}")
                break
            previous = entry.hash
    _complain("chains are broken", broken)


def _check_counters(connection: psycopg.Connection[Any], entries: Sequence[Entry]) -> None:
    counters = dict(_pairs(connection, "SELECT client, (entries, total)::text FROM ledger.counters"))
    sums = {}
    for client, chain in itertools.groupby(entries, key=lambda entry: entry.client):
        amounts = [entry.amount for entry in chain]
        sums[client] = f"({len(amounts)},{sum(amounts)})"
    wrong = [
        f"client {client} has the counter {counters.get(client)} and the entries {sums.get(client)}"
        for client in sorted(counters.keys() | sums.keys())
        if counters.get(client) != sums.get(client)
    ]
    _complain("counters differ from the sums", wrong)


def _check_windows(connection: psycopg.Connection[Any], entries: Sequence[Entry]) -> None:
    """Require exactly the newest rows of each client: a deleted row that is back is as bad as a lost one."""
    expected: set[tuple[int, int, str]] = set()
    for _, chain in itertools.groupby(entries, key=lambda entry: entry.client):
        expected.update((entry.client, entry.seq, entry.payload) for entry in list(chain)[-WINDOW:])
    found = connection.execute("SELECT client, seq, payload FROM ledger.recent").fetchall()
    _complain("recent rows are doubled", sorted({row[:2] for row in found if found.count(row) > 1}))
    _complain("deleted rows are back", sorted(row[:2] for row in set(found) - expected))
    _complain("recent rows are missing", sorted(row[:2] for row in expected - set(found)))


def _pairs(connection: psycopg.Connection[Any], query: str) -> list[tuple[int, str]]:
    return connection.execute(query.encode()).fetchall()


def _hash(previous: str, client: int, seq: int, amount: int, payload: str) -> str:
    return hashlib.sha256(f"{previous}|{client}|{seq}|{amount}|{payload}".encode()).hexdigest()
