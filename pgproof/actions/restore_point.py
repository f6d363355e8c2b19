"""A named place in the WAL, to which a restore can go."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.lsn import Lsn
from pgproof.postgres.connection import connect, query
from pgproof.postgres.refusals import sql_name

_LONGEST = 63  # MAXFNAMELEN in the server, without its end
_NO_RIGHT = "42501"


@dataclass(frozen=True, slots=True)
class RestorePoint:
    name: str
    lsn: Lsn
    at: datetime

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "lsn": str(self.lsn), "at": self.at.isoformat()}


def create_restore_point(postgres: PostgresConfig, name: str) -> RestorePoint:
    """Make a named restore point. Raises PreconditionError where the role may not, or the server is a standby."""
    if not name.strip() or len(name.encode()) > _LONGEST or not name.isprintable():
        raise PreconditionError(
            "not a usable name of a restore point",
            hint=f"use up to {_LONGEST} bytes of printable text, such as before-the-migration",
            name=name[:100],
        )
    with closing(connect(postgres)) as connection:
        try:
            if query(connection, "SELECT pg_is_in_recovery()")[0][0]:
                raise PreconditionError("this server is a standby", hint="connect to the primary")
            rows = query(connection, "SELECT pg_create_restore_point(%s)::text, clock_timestamp()", name)
        except EngineError as error:
            if error.context.get("sqlstate") != _NO_RIGHT:
                raise
            raise PreconditionError(
                "the role may not create restore points",
                hint="run as a superuser:  GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO "
                f"{sql_name(connection.info.user)}",
            ) from error
        lsn, at = rows[0]
        return RestorePoint(name, Lsn.parse(lsn), at.astimezone(UTC))
