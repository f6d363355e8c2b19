"""The nodes beside the primary, and what is configured about them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from pgproof.errors import PreconditionError
from pgproof.model.config import PostgresConfig

PRIMARY = "primary"
_NAME = re.compile(r"[!-~]{1,255}\Z")
_PLACE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^\s:\[\]]+))(?::(?P<port>[0-9]{1,5}))?\Z")


class ReplicaType(StrEnum):
    """What a replica is for.

    READ_ONLY answers reads. STANDBY is there to take over and answers none. DELAYED stays behind on purpose
    (recovery_min_apply_delay): it answers none, and is never chosen to take over.
    """

    READ_ONLY = "read_only"
    STANDBY = "standby"
    DELAYED = "delayed"


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """One replica. What is left out of database, username, password and options is taken from the primary's configuration.

    `weight` is its share of the reads beside the others'; 0 takes none while another one serves. `options` are further
    libpq parameters.
    Raises PreconditionError for what cannot be meant.
    """

    id: str
    host: str
    port: int = 5432
    database: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    replica_type: ReplicaType = ReplicaType.READ_ONLY
    weight: float = 1
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.match(self.id) or self.id == PRIMARY:
            raise PreconditionError(
                "not a usable name of a replica",
                hint="give it one without blanks, such as 'replica1'; 'primary' is taken",
                id=self.id,
            )
        if not self.host or not 1 <= self.port <= 65535:
            raise PreconditionError(
                "the replica has no host, or its port is not from 1 to 65535",
                hint="give both, such as host='replica1', port=5432",
                id=self.id,
            )
        if not 0 <= self.weight <= 1_000_000:
            raise PreconditionError(
                "the replica's weight is out of range",
                hint="choose 0 to 1000000; 1 is the default",
                id=self.id,
            )

    def config(self, primary: PostgresConfig) -> PostgresConfig:
        """How to reach it."""
        options = {key: value for key, value in primary.options.items() if key not in _OF_THE_PRIMARY}
        return PostgresConfig(
            host=self.host,
            port=self.port,
            user=self.username or primary.user,
            password=self.password if self.username or self.password else primary.password,
            database=self.database or primary.database,
            options={**options, **self.options},
        )


# They say which server, so they are no part of the way to another one.
_OF_THE_PRIMARY = (
    "host",
    "hostaddr",
    "port",
    "service",
    "servicefile",
    "target_session_attrs",
    "load_balance_hosts",
)


@dataclass(frozen=True, slots=True)
class ReplicationConfig:
    """The replicas of a cluster, the limits of their lag, and how a failover may go.

    A replica is used for reads while it is behind by at most `max_lag_bytes` and `max_lag_seconds`.
    `fence_command` is run by the shell to end the old primary before another one takes over; it finds FENCE_HOST and
    FENCE_PORT in its environment, and must exit with 0 once that server can write no more. `patroni_urls` are the REST
    endpoints of a Patroni that manages this cluster: then we follow its decisions and take none.
    """

    replicas: tuple[ReplicaInfo, ...] = ()
    max_lag_bytes: int = 64 << 20
    max_lag_seconds: float = 30.0
    fence_command: str | None = None
    patroni_urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [each.id for each in self.replicas]
        if len(set(names)) != len(names):
            raise PreconditionError(
                "two replicas have the same name", hint="give each its own", ids=", ".join(names)
            )
        if self.max_lag_bytes < 0 or not 0 < self.max_lag_seconds < float("inf"):
            raise PreconditionError(
                "a limit of the lag is out of range", hint="give bytes from 0 and seconds above 0"
            )
        if any(not url.startswith(("http://", "https://")) for url in self.patroni_urls):
            raise PreconditionError(
                "not the address of a Patroni",
                hint="write it as http://host:8008",
                urls=", ".join(self.patroni_urls),
            )

    def servers(self, primary: PostgresConfig) -> dict[str, PostgresConfig]:
        """How to reach every node, by its name; the configured primary is `primary`."""
        return {PRIMARY: primary, **{each.id: each.config(primary) for each in self.replicas}}

    def replica(self, name: str) -> ReplicaInfo:
        """Raises PreconditionError for a name that is not there."""
        for each in self.replicas:
            if each.id == name:
                return each
        raise PreconditionError(
            "there is no replica of this name",
            hint=f"there are {', '.join(each.id for each in self.replicas) or 'none: set READ_REPLICA_HOSTS'}",
            name=name,
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read READ_REPLICA_HOSTS (`replica1:5432,replica2:5432`), READ_REPLICA_USER and READ_REPLICA_PASSWORD, and
        REPLICA_MAX_LAG_BYTES, REPLICA_MAX_LAG_SECONDS, REPLICA_FENCE_COMMAND and REPLICA_PATRONI_URLS.

        Raises PreconditionError for a value that cannot be read.
        """
        if environ is None:
            import os

            environ = os.environ
        values = {key: environ[name] for name, key in VARIABLES.items() if environ.get(name, "").strip()}
        return cls.from_mapping(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build from the settings of a file or a block: `hosts` (a list, or text with commas) with `user` and `password` for all
        of them, or `replicas` (tables with the fields of ReplicaInfo), and the rest by name.

        Raises PreconditionError for an unknown setting and for one of the wrong form.
        """
        known = {*(each.name for each in fields(cls)), "hosts", "user", "password"}
        if unknown := sorted(set(values) - known):
            raise PreconditionError(
                "unknown setting of the replicas",
                hint=f"known settings are {', '.join(sorted(known))}",
                settings=", ".join(unknown),
            )
        replicas = [_from_table(each) for each in values.get("replicas", ())]
        for place in _listed(values.get("hosts", ())):
            host, port = parse_place(place)
            replicas.append(
                ReplicaInfo(place, host, port, username=values.get("user"), password=values.get("password"))
            )
        rest: dict[str, Any] = {"replicas": tuple(replicas)}
        if "max_lag_bytes" in values:
            rest["max_lag_bytes"] = int(_number(values["max_lag_bytes"], "max_lag_bytes"))
        if "max_lag_seconds" in values:
            rest["max_lag_seconds"] = _number(values["max_lag_seconds"], "max_lag_seconds")
        if values.get("fence_command"):
            rest["fence_command"] = str(values["fence_command"])
        rest["patroni_urls"] = tuple(url.rstrip("/") for url in _listed(values.get("patroni_urls", ())))
        return cls(**rest)


VARIABLES = {
    "READ_REPLICA_HOSTS": "hosts",
    "READ_REPLICA_USER": "user",
    "READ_REPLICA_PASSWORD": "password",
    "REPLICA_MAX_LAG_BYTES": "max_lag_bytes",
    "REPLICA_MAX_LAG_SECONDS": "max_lag_seconds",
    "REPLICA_FENCE_COMMAND": "fence_command",
    "REPLICA_PATRONI_URLS": "patroni_urls",
}


def parse_place(text: str) -> tuple[str, int]:
    """Host and port of `replica1:5432`, `10.0.0.7` or `[::1]:5433`; the port is 5432 if there is none.

    Raises PreconditionError for anything else.
    """
    found = _PLACE.match(text)
    port = int(found["port"] or 5432) if found else 0
    if found is None or not 1 <= port <= 65535:
        raise PreconditionError(
            "not the place of a replica",
            hint="write HOST or HOST:PORT, and an IPv6 address in brackets: [::1]:5432",
            replica=text,
        )
    return found["six"] or found["host"], port


def _listed(value: str | Sequence[str]) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else [str(each) for each in value]
    return [each.strip() for each in parts if each.strip()]


def _from_table(table: Any) -> ReplicaInfo:
    if isinstance(table, ReplicaInfo):
        return table
    try:
        values = dict(table)
        if "replica_type" in values:
            values["replica_type"] = ReplicaType(values["replica_type"])
        return ReplicaInfo(**values)
    except (TypeError, ValueError) as error:
        raise PreconditionError(
            "a replica of the configuration is not complete, or has an unknown setting",
            hint=f"give each an id and a host; its settings are {', '.join(each.name for each in fields(ReplicaInfo))}, "
            f"and its type is one of {', '.join(ReplicaType)}",
        ) from error


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise PreconditionError(
            "a setting of the replicas is not a number", hint=f"correct {name}", value=value
        ) from None
