"""A primary and three replicas in streaming replication, and a network between all of them that can be cut.

Who is the primary here is what we have made of it, and so the truth that a router is judged by. Each server bears the name of its
node and a number (`cluster_name`, such as `b.2`), which is a new one whenever the node is made again: every row and every answer
tells which server it is from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.replication_config import ReplicaInfo
from tests.support import machine
from tests.support.postgres import STREAM_PASSWORD, STREAM_USER, Cluster
from tests.support.streaming import copy_of
from tests.support.tcp_proxy import Flow, Network

NODES = ("a", "b", "c", "d")
APPLICATION = "routing campaign"
_USER, _PASSWORD = "app", "application's test secret"
_SETTINGS = {
    "max_connections": 300,
    "wal_keep_size": "1GB",
    "wal_sender_timeout": "4s",
    "wal_receiver_timeout": "4s",
    "wal_retrieve_retry_interval": "200ms",
    "cluster_name": "a.0",
    "shared_buffers": "16MB",
}
_SCHEMA = f"""
    CREATE ROLE {_USER} LOGIN PASSWORD '{_PASSWORD.replace("'", "''")}';
    CREATE TABLE ledger (
        number bigint PRIMARY KEY, server text NOT NULL, at float8 NOT NULL, payload text NOT NULL);
    GRANT SELECT, INSERT ON ledger TO {_USER};
"""
# A router sees a standby's timeline at once with the second, and a timeline's history with the third.
RIGHTS = {
    "none": "",
    "pg_monitor": f"GRANT pg_monitor TO {_USER}",
    "replication": f"GRANT pg_monitor TO {_USER}; ALTER ROLE {_USER} REPLICATION",
}
_PEOPLE_LEFT = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{APPLICATION}'"


@dataclass(frozen=True, slots=True)
class Promotion:
    """A server has taken over. Moments are of time.time(): the promotion was asked for, and the server is writable.

    `deposed` is the server that was primary, `fenced` whether it had ended before. What lies behind `branch` on timeline
    `parent` is lost to the new one.
    """

    server: str
    deposed: str
    fenced: bool
    parent: int
    timeline: int
    branch: Lsn
    begun: float
    done: float


@dataclass
class World:
    """The application's role has one of `RIGHTS`. Entering it starts everything."""

    major: int
    rights: str
    primary: str = "a"
    timeline: int = 1
    promotions: list[Promotion] = field(default_factory=list)
    _servers: dict[str, Cluster] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _ports: dict[str, int] = field(default_factory=dict)
    _frozen: dict[str, list[int]] = field(default_factory=dict)
    _made: int = 0
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Self:
        try:
            self.network = self._stack.enter_context(Network())
            first = Cluster(self.major, settings=_SETTINGS)
            self._servers["a"], self._names["a"] = first, "a.0"
            first.start()
            first.psql(_SCHEMA)
            first.psql(RIGHTS[self.rights])
            for node in NODES:
                self._ports[node] = self.network.link(node, first.port)
                for other in set(NODES) - {node}:
                    self._ports[_wal(node, other)] = self.network.link(_wal(node, other), first.port)
            for node in NODES[1:]:
                self.clone(node)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for node in list(self._servers):
            self._remove(node)
        self._stack.close()

    # What the router is given.

    def primary_config(self) -> PostgresConfig:
        return PostgresConfig(
            "127.0.0.1",
            self._ports["a"],
            _USER,
            _PASSWORD,
            "postgres",
            {"application_name": APPLICATION, "connect_timeout": "5"},
        )

    def replicas(self, weights: dict[str, float] | None = None) -> tuple[ReplicaInfo, ...]:
        return tuple(
            ReplicaInfo(node, "127.0.0.1", self._ports[node], weight=(weights or {}).get(node, 1))
            for node in NODES[1:]
        )

    # What is.

    def server(self, node: str) -> str:
        """The name of the server that is the node now."""
        return self._names[node]

    def running(self, node: str) -> bool:
        return self._servers[node].running

    def standbys(self) -> list[str]:
        return [node for node in NODES if node != self.primary]

    def psql(self, node: str, statement: str) -> str:
        return self._servers[node].psql(statement)

    def numbers(self, node: str) -> set[int]:
        """What the ledger on this node holds."""
        with self._servers[node].connect() as connection:
            return {row[0] for row in connection.execute("SELECT number FROM ledger")}

    def rows(self, node: str, since: float) -> list[tuple[int, str, float]]:
        """Number, server and moment of what was written since a moment."""
        with self._servers[node].connect() as connection:
            return connection.execute(
                "SELECT number, server, at FROM ledger WHERE at > %s", [since]
            ).fetchall()

    def connections(self) -> dict[str, int]:
        """The router's, on every server."""
        return {node: int(server.psql(_PEOPLE_LEFT)) for node, server in self._servers.items()}

    def wait_until_whole(self, timeout: float = 120) -> None:
        """Every other node streams from the primary and has replayed what it has written by now."""
        leader = self._servers[self.primary]
        lsn = leader.psql("SELECT pg_current_wal_flush_lsn()")
        query = (
            "SELECT count(DISTINCT application_name) FROM pg_stat_replication"
            f" WHERE state = 'streaming' AND replay_lsn >= '{lsn}'"
        )
        machine.wait_until(
            lambda: leader.psql(query) == str(len(NODES) - 1), "all to stream from the primary", timeout
        )

    def show_timelines(self) -> None:
        """Without pg_monitor nobody sees the timeline that a standby follows to before its next restartpoint: make one."""
        if self.rights != "none":
            return
        for node in (self.primary, *self.standbys()):
            if self.running(node):
                self.psql(node, "CHECKPOINT")

    # What may happen.

    def kill(self, node: str) -> None:
        self._servers[node].kill9()

    def stop(self, node: str, *, clean: bool) -> None:
        self._servers[node].stop("fast" if clean else "immediate")

    def start(self, node: str) -> None:
        """Start a node again as it was."""
        self._servers[node].start()

    def freeze(self, node: str) -> None:
        """Stop every process of a node in the middle of what it does."""
        postmaster = self._servers[node].pid
        os.kill(postmaster, signal.SIGSTOP)
        family = [postmaster, *machine.children(postmaster)]
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self._frozen[node] = family

    def thaw(self, node: str) -> None:
        for pid in reversed(self._frozen.pop(node)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def cut_off(self, node: str, flow: Flow) -> None:
        """A partition between the router and a node."""
        self.network.set(node, flow)

    def slow_down(self, node: str, delay: float) -> None:
        self.network.set(node, Flow.PASS, delay=delay)

    def cut_wal(self, node: str, flow: Flow, *, of: str = "") -> None:
        """A partition between a standby and a primary, the present one if none is named."""
        self.network.set(_wal(node, of or self.primary), flow)

    def pause_replay(self, node: str) -> None:
        self.psql(node, "SELECT pg_wal_replay_pause()")

    def resume_replay(self, node: str) -> None:
        self.psql(node, "SELECT pg_wal_replay_resume()")

    def promote(self, node: str, *, fenced: bool) -> Promotion:
        """Let a standby take over. Who follows whom is left as it is."""
        deposed, begun = self.server(self.primary), time.time()
        promotion = self._promoted(node, deposed, fenced, begun)
        self.primary, self.timeline = node, promotion.timeline
        self.promotions.append(promotion)
        return promotion

    def promote_twins(self, node: str, twin: str) -> tuple[Promotion, Promotion]:
        """Let two standbys take over that know nothing of each other. The first is ours until `prefer` says otherwise."""
        deposed, begun = self.server(self.primary), time.time()
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(lambda each: self._promoted(each, deposed, True, begun), (node, twin))
        self.promotions.append(one)
        self.prefer(node, one)
        return one, other

    def prefer(self, node: str, promotion: Promotion) -> None:
        """Of two that took over at the same time, this one is the primary."""
        self.primary, self.timeline = node, promotion.timeline
        self.promotions[-1:] = [promotion]

    def _promoted(self, node: str, deposed: str, fenced: bool, begun: float) -> Promotion:
        server = self._servers[node]
        assert server.psql("SELECT pg_promote(true, 60)") == "t", "it was not promoted"
        done = time.time()
        branch, file = server.psql(
            "SELECT pg_last_wal_replay_lsn() || ' ' || pg_walfile_name(pg_current_wal_lsn())"
        ).split()
        timeline = int(file[:8], 16)
        return Promotion(
            self.server(node), deposed, fenced, self.timeline, timeline, Lsn.parse(branch), begun, done
        )

    def gather(self, old: str, nodes: Sequence[str] = ()) -> int:
        """Let these standbys follow the new primary, all but the old one if none are named. Those that are past the branch are
        made again; returns how many."""
        branch, made = self.promotions[-1].branch, 0
        for node in [each for each in nodes or self.standbys() if each not in (old, self.primary)]:
            self.cut_wal(node, Flow.FROZEN, of=old)
            # What has come after the branch would have to be taken back, and replay cannot.
            held = self.psql(node, "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())")
            if Lsn.parse(held) > branch:
                self.clone(node)
                made += 1
            else:
                self.follow(node)
            self.cut_wal(node, Flow.PASS, of=old)
        return made

    def most_advanced(self, nodes: Sequence[str] = ()) -> str:
        """Of these standbys, all if none are named, the one that has received the most."""
        query = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
        return max(nodes or self.standbys(), key=lambda node: Lsn.parse(self.psql(node, query)))

    def behind(self, node: str) -> int:
        """How many bytes a standby has not replayed."""
        lsn = Lsn.parse(self.psql(self.primary, "SELECT pg_current_wal_lsn()"))
        return lsn - Lsn.parse(self.psql(node, "SELECT pg_last_wal_replay_lsn()"))

    def follow(self, node: str) -> None:
        """Let a running standby stream from the primary."""
        with self._servers[node].connect() as connection:
            value = sql.Literal(self._conninfo(node))
            connection.execute(sql.SQL("ALTER SYSTEM SET primary_conninfo = {}").format(value))
            connection.execute("SELECT pg_reload_conf()")

    def come_back_as_standby(self, node: str) -> None:
        """Start a primary that was stopped cleanly as a standby of its successor."""
        server = self._servers[node]
        (server.data_dir / "standby.signal").touch()
        self._write_conninfo(node)
        server.start()

    def clone(self, node: str) -> None:
        """Make a node again as a standby of the primary, whatever it was, and start it."""
        if node in self._servers:
            self._remove(node)
        base = copy_of(self._servers[self.primary])
        (base / "standby.signal").touch()
        self._made += 1
        name = f"{node}.{self._made}"
        # It stands in the primary's configuration, and the command line wins over that.
        server = Cluster.adopt(base, self.major, settings={"cluster_name": name})
        self._servers[node], self._names[node] = server, name
        self._write_conninfo(node)
        server.start()
        self.network.lead(node, server.port)
        for other in set(NODES) - {node}:
            self.network.lead(_wal(other, node), server.port)

    def _conninfo(self, node: str) -> str:
        return make_conninfo(
            "",
            host="127.0.0.1",
            port=self._ports[_wal(node, self.primary)],
            user=STREAM_USER,
            password=STREAM_PASSWORD,
            application_name=node,
            connect_timeout=3,
        )

    def _write_conninfo(self, node: str) -> None:
        data_dir = self._servers[node].data_dir
        value = self._conninfo(node).replace("\\", "\\\\").replace("'", "''")
        with (data_dir / "postgresql.auto.conf").open("a") as file:
            file.write(f"primary_conninfo = '{value}'\n")
        machine.give_to_service(data_dir)

    def _remove(self, node: str) -> None:
        server = self._servers.pop(node)
        self._frozen.pop(node, None)
        if server.running:
            server.kill9()
        server.remove()
        if server.data_dir.parent != server.root:
            shutil.rmtree(server.data_dir.parent)


def _wal(to: str, of: str) -> str:
    return f"wal of {of} to {to}"
