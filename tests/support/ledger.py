"""The ledger: clients that commit, remember where in the WAL they did, and an oracle that compares.

Each commit appends one row to its client's hash chain, adds to its client's counter, and moves its
client's window of recent rows: the newest is inserted, the oldest deleted. The journal notes the WAL
position before COMMIT was sent and after it returned, so for any position to which a cluster was
recovered it is known which commits must be there.
"""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import psycopg

from pgproof.model.lsn import Lsn
from tests.support import chains, machine
from tests.support.chains import GENESIS, WINDOW, Commit, Entry
from tests.support.postgres import Cluster


class Ledger:
    """Client threads that append to their chains until they are stopped.

    With `survive_crashes` clients reconnect after the server went away, and find out whether the commit
    in doubt happened; otherwise its going away is an error that `stop` raises. `pause` seconds lie
    between a client's commits. The journal is kept in memory and, as JSON lines, in the file `journal`.
    """

    def __init__(
        self,
        clients: int = 4,
        *,
        dbname: str = "postgres",
        payload_bytes: int = 200,
        pause: float = 0.0,
        survive_crashes: bool = False,
        seed: int = 0,
    ) -> None:
        self.dbname = dbname
        self.journal = machine.new_dir("ledger") / "journal.jsonl"
        self.survive_crashes = survive_crashes
        self.pause = pause
        self._clients = [_Client(self, number, payload_bytes, seed) for number in range(clients)]
        self._commits: list[Commit] = []
        self._changed = threading.Condition()
        self._running: list[Future[None]] = []
        self.stopping = threading.Event()

    def start(self, cluster: Cluster) -> Self:
        """Create the tables where they are missing and start the clients, which continue their chains."""
        assert not self._running, "the ledger is running"
        self.stopping.clear()
        with cluster.connect(self.dbname) as connection:
            connection.execute(chains.SCHEMA)
        pool = ThreadPoolExecutor(len(self._clients), thread_name_prefix="ledger")
        self._running = [pool.submit(client.serve, cluster) for client in self._clients]
        for future in self._running:
            future.add_done_callback(self._wake)
        pool.shutdown(wait=False)
        return self

    def stop(self) -> None:
        """Stop the clients. Raises what went wrong in one of them."""
        self.stopping.set()
        running, self._running = self._running, []
        for ended in [future.exception() for future in running]:
            if ended:
                raise ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def commits(self) -> list[Commit]:
        """The acknowledged commits so far, in the order of their acknowledgement."""
        with self._changed:
            return list(self._commits)

    def wait_for(self, commits: int, timeout: float = 60) -> None:
        """Wait until so many further commits are acknowledged."""
        with self._changed:
            target = len(self._commits) + commits
            self._changed.wait_for(lambda: len(self._commits) >= target or self._failed(), timeout)
            if failed := self._failed():
                raise failed[0]
            if len(self._commits) < target:
                raise TimeoutError(f"the ledger did not make {commits} commits in {timeout:.0f} s")

    def record(self, commit: Commit) -> None:
        """Note an acknowledged commit."""
        facts = {"client": commit.client, "seq": commit.seq, "hash": commit.hash}
        line = json.dumps({**facts, "before": str(commit.before), "after": str(commit.after)})
        with self._changed, self.journal.open("a") as file:
            file.write(line + "\n")
            self._commits.append(commit)
            self._changed.notify_all()

    def _failed(self) -> list[BaseException]:
        ended = [future.exception() for future in self._running if future.done()]
        return [error for error in ended if error]

    def _wake(self, _ended: Future[None]) -> None:
        with self._changed:
            self._changed.notify_all()

    def check(self, connection: psycopg.Connection[Any], stop_lsn: Lsn, *, exact: bool = False) -> None:
        """Judge a cluster recovered to `stop_lsn`, or farther unless `exact`.

        Every commit acknowledged at or before `stop_lsn` is there with the content that was acknowledged,
        chains have no gap and no forged link, counters and windows agree with them. With `exact`, nothing
        that was committed after `stop_lsn` is there. Raises AssertionError naming what is wrong.
        `connection` must be in autocommit mode.
        """
        chains.check(connection, self.commits(), stop_lsn, exact=exact)


class _Client:
    """One client: its chain's newest known entry, and the commit whose answer has not come yet."""

    def __init__(self, ledger: Ledger, number: int, payload_bytes: int, seed: int) -> None:
        self.number = number
        self._ledger = ledger
        self._payload_bytes = payload_bytes
        self._chance = random.Random(f"{seed}/{number}")
        self._acknowledged: tuple[int, str] | None = None
        self._in_doubt: tuple[Entry, Lsn] | None = None

    def serve(self, cluster: Cluster) -> None:
        """Append until the ledger stops; the body of the client's thread."""
        stopping = self._ledger.stopping
        while not stopping.is_set():
            try:
                with cluster.connect(self._ledger.dbname) as connection:
                    seq, previous = self._tip(connection)
                    while not stopping.is_set():
                        seq, previous = self._append(connection, self._next(previous, seq + 1))
                        stopping.wait(self._ledger.pause)
            except psycopg.OperationalError:
                if not self._ledger.survive_crashes:
                    raise
                stopping.wait(0.05)

    def _tip(self, connection: psycopg.Connection[Any]) -> tuple[int, str]:
        """Find the chain's end, and whether a commit in doubt happened."""
        row = connection.execute(
            "SELECT seq, hash FROM ledger.entries WHERE client = %s ORDER BY seq DESC LIMIT 1", [self.number]
        ).fetchone()
        tip: tuple[int, str] = row or (0, GENESIS)
        if self._in_doubt and tip == (self._in_doubt[0].seq, self._in_doubt[0].hash):
            self._acknowledge(connection, *self._in_doubt)
        self._in_doubt = None
        assert self._acknowledged in (None, tip), (
            f"the server lost acknowledged commits of client {self.number}: "
            f"its chain ends at {tip}, acknowledged was {self._acknowledged}"
        )
        return tip

    def _next(self, previous: str, seq: int) -> Entry:
        # One row in 25 is long enough for TOAST; random text, so that it stays long when compressed.
        size = self._payload_bytes * (40 if seq % 25 == 0 else 1)
        payload = self._chance.randbytes(size // 2).hex()
        return Entry.after(previous, self.number, seq, self._chance.randint(-1000, 1000), payload)

    def _append(self, connection: psycopg.Connection[Any], entry: Entry) -> tuple[int, str]:
        with connection.transaction():
            connection.execute(
                "INSERT INTO ledger.entries VALUES (%s, %s, %s, %s, %s, %s)",
                [entry.client, entry.seq, entry.amount, entry.payload, entry.previous, entry.hash],
            )
            connection.execute(
                "INSERT INTO ledger.counters AS c VALUES (%s, 1, %s) ON CONFLICT (client)"
                " DO UPDATE SET entries = c.entries + 1, total = c.total + excluded.total",
                [entry.client, entry.amount],
            )
            connection.execute(
                "INSERT INTO ledger.recent VALUES (%s, %s, %s)", [entry.client, entry.seq, entry.payload]
            )
            connection.execute(
                "DELETE FROM ledger.recent WHERE client = %s AND seq <= %s",
                [entry.client, entry.seq - WINDOW],
            )
            self._in_doubt = entry, _insert_lsn(connection)
        self._acknowledge(connection, *self._in_doubt)
        self._in_doubt = None
        return entry.seq, entry.hash

    def _acknowledge(self, connection: psycopg.Connection[Any], entry: Entry, before: Lsn) -> None:
        after = _insert_lsn(connection)
        self._acknowledged = entry.seq, entry.hash
        self._ledger.record(Commit(entry.client, entry.seq, entry.hash, before, after))


def _insert_lsn(connection: psycopg.Connection[Any]) -> Lsn:
    row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return Lsn.parse(row[0])
