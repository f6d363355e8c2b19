"""A backup's files from a standby: which one, whether it is near enough to its primary, and its last WAL segment."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from pgproof.errors import EngineError, PreconditionError, TransientError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Standby
from pgproof.model.report import Finding
from pgproof.postgres.connection import connect, connect_replication, query
from pgproof.postgres.facts import ServerFacts
from pgproof.postgres.refusals import sql_name
from pgproof.postgres.wal_stream import identify_system

_SWITCH_EVERY = 5.0


def standby_server(primary: PostgresConfig, name: str) -> PostgresConfig:
    """The way to the standby: that to the primary, with another host and, behind a colon, port."""
    host, colon, port = name.rpartition(":")
    if not colon or not port.isdigit():
        host, port = name, ""
    if not host:
        raise PreconditionError(
            "the standby has no host", hint="give HOST or HOST:PORT to --from-standby", standby=name
        )
    return replace(primary, host=host.strip("[]"), port=int(port) if port else primary.port)


class StandbySource:
    """A standby that a backup is taken from, beside its primary; found fit when it is made.

    Raises PreconditionError for a server that is no standby, for one of another cluster or timeline than the
    primary, and for one that is too far behind.
    """

    def __init__(
        self, primary: PostgresConfig, server: PostgresConfig, facts: ServerFacts, config: BackupConfig
    ) -> None:
        self._primary = primary
        self._next_switch = 0.0
        self._refused = ""
        self._require_standby(server, facts)
        lag = self._lag(server, facts)
        most = config.max_standby_lag_mb * 1_000_000
        if lag > most:
            raise PreconditionError(
                "the standby is too far behind its primary",
                hint="wait until it has replayed, look for what holds it up (a paused replay, "
                "recovery_min_apply_delay), or raise --max-standby-lag",
                lag_bytes=lag,
                allowed_bytes=most,
            )
        self.described = Standby(str(server), lag)

    @property
    def finding(self) -> Finding:
        behind = f"{self.described.lag_bytes / 1e6:,.1f} MB of WAL behind"
        return Finding("standby", f"the files came from the standby {self.described.host}, then {behind}")

    def finish_segment(self) -> None:
        """On an idle primary the segment with the stop position ends only when somebody switches; called often."""
        if time.monotonic() < self._next_switch or self._refused:
            return
        self._next_switch = time.monotonic() + _SWITCH_EVERY
        try:
            with contextlib.closing(connect(self._primary)) as connection:
                query(connection, "SELECT pg_switch_wal()")
        except EngineError as error:
            self._refused = error.message

    @property
    def hint(self) -> str:
        """What to do if the last segment does not come."""
        grant = "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO " + sql_name(self._primary.user or "the role")
        return f"run on the primary as a superuser:  {grant}   or set archive_timeout there"

    def lost(self, error: EngineError) -> TransientError:
        """What it means that the standby broke the backup off, as it does when it is promoted."""
        return TransientError(
            "the standby broke the backup off, and nothing was kept",
            hint="if it was promoted, take the next backup from it as the primary, or from another standby",
            standby=self.described.host,
            reason=error.context.get("reason", error.message),
        )

    @staticmethod
    def _require_standby(server: PostgresConfig, facts: ServerFacts) -> None:
        if not facts.in_recovery:
            raise PreconditionError(
                "the server that was named as a standby is none",
                hint="correct --from-standby, or leave it out to back up the primary",
                server=str(server),
            )

    def _lag(self, server: PostgresConfig, facts: ServerFacts) -> int:
        with contextlib.closing(connect_replication(self._primary)) as connection:
            there = identify_system(connection.pgconn)
        if there.system_identifier != facts.system_identifier:
            raise PreconditionError(
                "standby and primary are two different clusters",
                hint="correct the host or --from-standby",
                primary=there.system_identifier,
                standby=facts.system_identifier,
            )
        try:
            with contextlib.closing(connect(server)) as ordinary:
                (row,) = query(ordinary, "SELECT pg_last_wal_replay_lsn()::text")
        except EngineError as error:
            raise PreconditionError(
                "how far the standby is behind cannot be seen",
                hint="let the role connect to a database of the standby (hot_standby = on)",
                reason=error.message,
            ) from error
        return max(0, there.position - Lsn.parse(str(row[0] or "0/0")))
