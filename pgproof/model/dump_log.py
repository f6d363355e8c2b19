"""What pg_dump, pg_dumpall and pg_restore say, and what it means in the words of our errors."""

from __future__ import annotations

import re

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.model.report import Finding
from pgproof.model.server_log import explain, last_lines


class NotRestored(PreconditionError):
    """The server refuses what the dump says, or pg_restore breaks off for a reason of its own."""


_WARNING = re.compile(r"^pg_(?:dump|dumpall|restore): warning: (.*)", re.MULTILINE)
# Circular foreign keys are no problem: constraints are restored behind the data.
_HARMLESS = re.compile(r"circular foreign-key constraints|errors ignored on restore")
_FAILURES: tuple[tuple[re.Pattern[str], type[EngineError], str, str], ...] = tuple(
    (re.compile(pattern), kind, message, hint)
    for pattern, kind, message, hint in (
        (
            r"row-level security policy for table \"([^\"]*)\"",
            PreconditionError,
            "row-level security hides rows from this role",
            "run as a superuser:  ALTER ROLE … BYPASSRLS  or leave the table out with --exclude-table",
        ),
        (
            r"permission denied for large object (\d+)",
            PreconditionError,
            "the role may not read a large object",
            "take the backup as its owner or as a superuser, or run:  GRANT SELECT ON LARGE OBJECT {0} TO …",
        ),
        (
            r"permission denied for (?:table|view|sequence|relation|schema|materialized view|foreign table) (\S+)",
            PreconditionError,
            "the role may not read everything",
            "run as a superuser:  GRANT pg_read_all_data TO …",
        ),
        (
            r"canceling statement due to (?:statement|lock) timeout|could not obtain lock on relation",
            TransientError,
            "a lock was not to be had: somebody changes tables",
            "run it again when ALTER TABLE, VACUUM FULL and their like have ended",
        ),
        (
            r"server version: (\S+); pg_\w+ version: \S+",
            PreconditionError,
            "the programs do not fit the server's version",
            "install the client programs of PostgreSQL {0}",
        ),
        (
            r"no matching \S+ were found(?: for pattern \"(.*)\")?|improper qualified name|invalid (?:regular expression|name)",
            PreconditionError,
            "no table fits a pattern",
            "correct --table; patterns are those of pg_dump: 'schema.name*'",
        ),
        (
            r"could not read block|invalid page in block|(?:missing|unexpected) chunk number|data is corrupt"
            r"|could not access status of transaction|invalid memory alloc request",
            DataError,
            "the server found damaged data",
            "look at the server's log; a physical backup keeps what can still be read",
        ),
        (
            r"could not open (?:relation|large object)|does not exist$|cache lookup failed|concurrently (?:updated|deleted)",
            TransientError,
            "something was dropped while it was dumped",
            "run it again",
        ),
        (
            r"too many (?:clients|connections)|remaining connection slots",
            TransientError,
            "the server has no connection left for us",
            "try again when fewer clients are connected, or dump fewer tables at a time (dump_jobs)",
        ),
        (
            r"server closed the connection|terminating connection|connection to server .* failed|lost synchronization"
            r"|the database system is (?:starting|shutting)|SSL (?:error|SYSCALL)|conflict with recovery",
            TransientError,
            "the connection to the server was lost",
            "run it again; if it happens again, see the server's log",
        ),
    )
)


_RESTORE_FAILURES: tuple[tuple[re.Pattern[str], type[EngineError], str, str], ...] = tuple(
    (re.compile(pattern), kind, message, hint)
    for pattern, kind, message, hint in (
        (
            r'extension "([^"]*)" is not available|could not open extension control file "[^"]*/([^/"]*)\.control"',
            PreconditionError,
            "the server lacks an extension that the database uses",
            "install the extension {0} for this PostgreSQL version",
        ),
        (
            r"unsupported version \(\S+\) in file header",
            PreconditionError,
            "pg_restore is older than the pg_dump that wrote this",
            "install the client programs of the backup's PostgreSQL version or a later one",
        ),
        (
            r'ERROR: +role "([^"]*)" does not exist',
            NotRestored,
            "a role that the backup names does not exist here",
            "create the role {0}, or restore without owners and rights",
        ),
        (
            r'ERROR: +tablespace "([^"]*)" does not exist',
            NotRestored,
            "a tablespace that the backup names does not exist here",
            "create the tablespace {0}, or restore without tablespaces",
        ),
        (
            r"ERROR: +(?:permission denied|must be (?:owner|superuser|member)|must be able to)",
            NotRestored,
            "the role may not create everything that the backup has",
            "restore as a superuser or as the owner, or without owners and rights",
        ),
        (
            r"ERROR: +.* already exists",
            NotRestored,
            "something of the backup exists there already",
            "restore into an empty database",
        ),
    )
)


def restore_failure(status: int, text: str) -> EngineError:
    """The error for a pg_restore that ended with this status and said this."""
    known = _first(_RESTORE_FAILURES, "pg_restore", text) or explain(text)
    known = known or _first(_FAILURES, "pg_restore", text)
    return known or NotRestored(
        "pg_restore failed",
        hint=last_lines(text) or "it said nothing; look at the server's log",
        status=status,
    )


def dump_failure(program: str, status: int, text: str) -> EngineError:
    """The error for pg_dump or pg_dumpall that ended with this status and said this."""
    known = _first(_FAILURES, program, text) or explain(text)
    if known is not None:
        return known
    return PreconditionError(
        f"{program} failed",
        hint=last_lines(text) or "it said nothing; look at the server's log",
        status=status,
    )


def _first(
    table: tuple[tuple[re.Pattern[str], type[EngineError], str, str], ...], program: str, text: str
) -> EngineError | None:
    for pattern, kind, message, hint in table:
        found = pattern.search(text)
        if found:
            name = next((group for group in found.groups() if group), "…")
            return kind(message, hint=hint.format(name), program=program, reason=_reason(text))
    return None


def dump_warnings(text: str) -> list[Finding]:
    """What it said and went on."""
    found = dict.fromkeys(line.strip() for line in _WARNING.findall(text) if not _HARMLESS.search(line))
    return [Finding("dump-warning", line) for line in found]


def _reason(text: str) -> str:
    """The first line that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [line for line in lines if "error:" in line or "ERROR:" in line]
    return (wrong or lines or [""])[0][:500]
