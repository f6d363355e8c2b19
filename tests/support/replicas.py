"""A primary and streaming replicas that find it by postgresql.auto.conf, as pg_basebackup -R leaves them.

What stands there can be changed while they run (ALTER SYSTEM), unlike the settings of `streaming.standby_of`, which come by
command line and win over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgproof.model.config import PostgresConfig
from pgproof.model.replication_config import ReplicaInfo, ReplicationConfig
from tests.support import machine
from tests.support.postgres import Cluster, ClusterFactory, Setting
from tests.support.streaming import copy_of


@dataclass(frozen=True)
class Replicated:
    """`primary` and its replicas by name; all of them are reached by their sockets, as the superuser."""

    primary: Cluster
    replicas: Mapping[str, Cluster]

    @property
    def all(self) -> dict[str, Cluster]:
        return {"primary": self.primary, **self.replicas}

    @property
    def postgres(self) -> PostgresConfig:
        return self.primary.config()

    def config(self, **settings: Any) -> ReplicationConfig:
        """The replicas as they are configured; `settings` are further fields of ReplicationConfig."""
        listed = (ReplicaInfo(name, str(each.socket_dir), each.port) for name, each in self.replicas.items())
        return ReplicationConfig(**{"replicas": tuple(listed), **settings})

    def wait_for_replay(self, *names: str, timeout: float = 60) -> None:
        """Until these replicas, by default all, have replayed what the primary has written now."""
        target = self.primary.psql("SELECT pg_current_wal_flush_lsn()")
        for name in names or self.replicas:
            machine.wait_until(
                lambda each=self.replicas[name]: (
                    each.psql(  # type: ignore[misc]
                        f"SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '{target}') >= 0"
                    )
                    == "t"
                ),
                f"{name} to replay {target}",
                timeout,
            )


def replicated(
    cluster_factory: ClusterFactory,
    major: int = 18,
    *,
    replicas: int = 2,
    settings: Mapping[str, Setting] | None = None,
    initdb_args: tuple[str, ...] = (),
    replica_settings: Mapping[str, Setting] | None = None,
) -> Replicated:
    """A primary and `replica1`, `replica2`, …, each with a slot of its name, streaming when this returns.

    `settings` are the primary's, and by the copy every replica's; `replica_settings` win over them by command line.
    """
    primary = cluster_factory(major, settings=settings, initdb_args=initdb_args)
    made: dict[str, Cluster] = {}
    for number in range(1, replicas + 1):
        name = f"replica{number}"
        primary.psql(f"SELECT pg_create_physical_replication_slot('{name}', true)")
        base = copy_of(primary)
        (base / "standby.signal").touch()
        with (base / "postgresql.auto.conf").open("a") as file:
            place = f"host={primary.socket_dir} port={primary.port} user=postgres application_name={name}"
            file.write(f"primary_conninfo = '{place}'\nprimary_slot_name = '{name}'\n")
        machine.give_to_service(base)
        made[name] = cluster_factory.adopt(base, major, settings=replica_settings)
    for name in made:
        machine.wait_until(
            lambda name=name: (
                primary.psql(  # type: ignore[misc]
                    f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming'"
                )
                == "1"
            ),
            f"{name} to stream",
        )
    return Replicated(primary, made)


def stop_command(cluster: Cluster, mode: str = "fast") -> str:
    """A shell command that ends the server from outside: "fast" cleanly, "kill" by SIGKILL. It returns when it is down, at
    once if it was."""
    file = cluster.data_dir / "postmaster.pid"
    begin = f'pid=$(head -n 1 {file}) && kill -0 "$pid" || exit 0'
    if mode == "kill":
        # Sessions outlive a postmaster that was killed for as long as they are busy.
        return f'{begin}; kill -STOP "$pid"; pkill -KILL -P "$pid"; kill -KILL "$pid"'
    return f'{begin}; kill -INT "$pid"; while [ -e {file} ]; do sleep 0.1; done'
