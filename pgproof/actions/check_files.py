"""The questions that a user has written into a folder: `NAME.sql`, and `DATABASE/NAME.sql` for another database."""

from __future__ import annotations

from pathlib import Path

from pgproof.errors import PreconditionError
from pgproof.model.config import UserCheck

_LARGEST = 1 << 20


def read_checks(folder: Path, database: str) -> tuple[UserCheck, ...]:
    """Files in the folder itself are asked in `database`. Raises PreconditionError where there is nothing to ask."""
    try:
        if not folder.is_dir():
            raise PreconditionError(
                "there is no folder of checks", hint="correct --checks, or leave it out", folder=folder
            )
        files = sorted([*folder.glob("*.sql"), *folder.glob("*/*.sql")])
        found = tuple(_read(path, folder, database) for path in files)
    except OSError as error:
        raise PreconditionError(
            "a check cannot be read",
            hint="correct its owner or mode",
            file=error.filename,
            reason=error.strerror,
        ) from error
    if not found:
        raise PreconditionError(
            "there are no checks in this folder",
            hint="write queries that return true into files NAME.sql, or DATABASE/NAME.sql",
            folder=folder,
        )
    return found


def _read(path: Path, folder: Path, database: str) -> UserCheck:
    name = path.relative_to(folder)
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    try:
        sql = content.decode()
    except UnicodeDecodeError as error:
        raise PreconditionError("a check is not text", hint="write it as UTF-8", file=path) from error
    if len(content) > _LARGEST or "\0" in sql:
        raise PreconditionError("a check is no query", hint="write one query of at most 1 MB", file=path)
    return UserCheck(str(name), name.parent.name or database, sql)
