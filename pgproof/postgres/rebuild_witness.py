"""Whose data directory it is, proven by a witness: a slot that is made on a server for a moment has a folder in that server's
own directory, whatever address, host or container the server has."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.postgres.connection import connect_replication
from pgproof.postgres.wal_stream import create_temporary_slot


def is_directory_of(config: PostgresConfig, data_dir: Path) -> bool:
    """Whether `data_dir` is where this very server keeps its files. Raises the engine's errors if it makes no slot for us."""
    name = f"pgproof_probe_{secrets.token_hex(8)}"
    with closing(connect_replication(config)) as connection:
        create_temporary_slot(connection.pgconn, name)
        return (data_dir / "pg_replslot" / name).exists()


def refuse_directory_of_primary(config: PostgresConfig, data_dir: Path) -> None:
    """Raises PreconditionError if `data_dir` is the directory of this server."""
    if is_directory_of(config, data_dir):
        raise PreconditionError(
            "this is the data directory of the primary itself; nothing was changed",
            hint="look at --data-dir again",
            path=data_dir,
        )


def refuse_directory_of_another(node: str, servers: Mapping[str, PostgresConfig], data_dir: Path) -> str:
    """Raises PreconditionError if the server that runs in `data_dir` is not `node`, as far as `servers`, which answer, prove.

    Returns why nothing could be proven; empty if it was.
    """
    unproven = ""
    for name, config in servers.items():
        try:
            found = is_directory_of(config, data_dir)
        except EngineError as error:
            # A server whose replicas none of ours shall be need not let us make a slot.
            unproven = f"nothing proves whether {name} is the server in the directory: {error.message}"
            continue
        if found != (name == node):
            raise PreconditionError(
                "the server in this directory is not this node; nothing was changed",
                hint="look at the node's name and --data-dir again",
                node=node,
                path=data_dir,
                **({"found": name} if found else {}),
            )
        if found:
            return ""
    return unproven
