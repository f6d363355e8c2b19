"""Exit statuses, and what an error looks like to a person and to a program. Documented in docs/cli.md."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError, TransientError


class Exit(IntEnum):
    OK = 0
    BUG = 1
    USAGE = 2
    PRECONDITION = 3
    TRANSIENT = 4
    DATA = 5
    CONFLICT = 6
    NOT_PASSED = 7
    ABSENT = 44
    INTERRUPTED = 130
    NOT_FETCHED = 255


EPILOG = """exit status:
  0  done
  1  unexpected error: a bug in pgproof
  2  wrong usage of the command line
  3  something must be changed first (a setting, a right, space, an argument)
  4  temporary failure (network, a server that is starting): try again
  5  stored data is missing or wrong
  6  somebody else holds the lease, or stored something different
  7  a verification or a check was carried out and did not pass
  44 `wal fetch`: the file is proven not to be in the repository
  255 `wal fetch`: any failure
  130  interrupted (Ctrl-C, SIGTERM); nothing half done is left

Settings come from the command line, else the environment (PG*, BACKUP_*, AWS_*),
else a configuration file (--config or PGPROOF_CONFIG), else the defaults."""

_BY_CLASS: tuple[tuple[type[EngineError], Exit, str], ...] = (
    (PreconditionError, Exit.PRECONDITION, "precondition"),
    (TransientError, Exit.TRANSIENT, "transient"),
    (DataError, Exit.DATA, "data"),
    (ConflictError, Exit.CONFLICT, "conflict"),
)


class UsageError(Exception):
    """The command line cannot be understood; `usage` is argparse's short text."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(message)
        self.usage = usage


def exit_status(error: EngineError) -> Exit:
    return next((status for kind, status, _ in _BY_CLASS if isinstance(error, kind)), Exit.BUG)


def usage_status(arguments: Sequence[str]) -> Exit:
    """The status of a command line that cannot be understood: PostgreSQL would read 2 as "no such file"."""
    return Exit.NOT_FETCHED if list(arguments[:2]) == ["wal", "fetch"] else Exit.USAGE


def error_document(error: EngineError) -> dict[str, Any]:
    """The JSON form of an engine error."""
    kind = next((word for cls, _, word in _BY_CLASS if isinstance(error, cls)), "unexpected")
    return failure(kind, error.message, error.hint, error.context)


def failure(kind: str, message: str, hint: str = "", facts: dict[str, Any] | None = None) -> dict[str, Any]:
    """Any failure as a JSON document; facts that JSON has no form for become text."""
    plain = {
        key: value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
        for key, value in (facts or {}).items()
    }
    return {"error": {"kind": kind, "message": message, "hint": hint, "facts": plain}}
