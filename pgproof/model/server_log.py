"""What PostgreSQL's server and programs print, and what it means in the words of our errors."""

from __future__ import annotations

import os
import re

from pgproof.errors import DataError, EngineError, PreconditionError, TransientError
from pgproof.model.lsn import Lsn

_REDO_DONE = re.compile(r"redo done at ([0-9A-F]{1,8}/[0-9A-F]{1,8})\b")
_REDO_TOOK = re.compile(r"redo done at [0-9A-F/]+ .*elapsed: ([0-9]+\.[0-9]+) s")
_REDO_PROGRESS = re.compile(r"redo in progress, .*current LSN: ([0-9A-F]{1,8}/[0-9A-F]{1,8})\b")
# Paths are bytes of any encoding, so this one looks at the log as it was written.
_MISSING_TABLESPACE = re.compile(
    rb'FATAL:  directory "(/.*)" does not exist\n.*(?:\n.*)?Tablespace/CREATE: (\d{1,10}) '
)
_CREATED_TABLESPACE = re.compile(r'desc: CREATE \d+ "(/.*)"$', re.MULTILINE)
_CANNOT_CHECK = "cannot be checked here"
# What the server or a program prints, in English, and what it means. The first match counts. Compiled when they are
# first looked for: most of our programs never do, and would start later by that.
_EXPLANATIONS: tuple[tuple[str, type[EngineError], str, str], ...] = (
    (
        r'could not (?:access file|load library) "([^"]+)"',
        PreconditionError,
        f"{_CANNOT_CHECK}: a library is missing",
        "install the extension that brings {0} for this PostgreSQL version",
    ),
    (
        r"resource manager with ID (\d+) not registered|resource manager ID (\d+)",
        PreconditionError,
        f"{_CANNOT_CHECK}: an extension writes its own kind of WAL records",
        "install that extension and name its library in the libraries to preload",
    ),
    (
        r"ICU is not supported in this build|could not open collator for locale",
        PreconditionError,
        f"{_CANNOT_CHECK}: these programs lack ICU or the locale",
        "install PostgreSQL from your distribution, which is built with ICU",
    ),
    (
        r"compressed with (\w+) not supported by build|compression method (\w+) not supported"
        r"|(?:with|requires) (lz4|zstd) support",
        PreconditionError,
        f"{_CANNOT_CHECK}: these programs lack a compression method",
        "install PostgreSQL from your distribution, which is built with lz4 and zstd",
    ),
    (
        r"database locale is incompatible|is not recognized by setlocale|could not create locale"
        r'|invalid value for parameter "lc_|locale name "[^"]*" is not valid',
        PreconditionError,
        f"{_CANNOT_CHECK}: the cluster uses a locale this machine does not have",
        "generate the locale, for example with `locale-gen`",
    ),
    (
        r"database files are incompatible with server|is not compatible with this version",
        PreconditionError,
        f"{_CANNOT_CHECK}: the programs do not fit these files",
        "install the PostgreSQL version the backup was taken from, built with the same block sizes",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        PreconditionError,
        "there is no space left",
        "free space, or choose another directory",
    ),
    (
        r"Input/output error|Read-only file system",
        TransientError,
        "a disk failed under the server",
        "check the disk (the kernel's log tells more), then try again",
    ),
    (
        r"could not create any Unix-domain sockets",
        PreconditionError,
        f"{_CANNOT_CHECK}: no socket can be made in the temporary directory",
        "set TMPDIR to a directory on an ordinary local disk",
    ),
    (
        r"could not map anonymous shared memory|could not create shared memory|Cannot allocate memory"
        r"|could not resize shared memory",
        PreconditionError,
        "there is not enough memory to start the server",
        "free memory, or lower shared_buffers",
    ),
    (
        r"recovery ended before configured recovery target was reached",
        PreconditionError,
        "the WAL ends before the recovery target",
        "choose an earlier target, or recover to the latest position",
    ),
    (
        r'could not restore file "([^"]+)" from archive',
        TransientError,
        "the server could not get the WAL it needs",
        "make the repository reachable, then try again",
    ),
    (
        r'unrecognized configuration parameter "([^"]+)"|invalid value for parameter "([^"]+)"',
        PreconditionError,
        "the server does not accept a setting",
        "correct the setting {0}",
    ),
    (
        r"has wrong ownership|has invalid permissions|could not open file \S+ Permission denied"
        r"|could not access directory",
        PreconditionError,
        "the server may not use the data directory",
        "let its user own the directory and everything in it, with mode 0700",
    ),
)


def explain(text: str) -> EngineError | None:
    """The error that a server's or a program's output stands for; None if it says nothing we know."""
    for pattern, kind, message, hint in _EXPLANATIONS:
        found = re.search(pattern, text)
        if found:
            name = next((group for group in found.groups() if group), "")
            return kind(message, hint=hint.format(name), detail=_line_of(text, found.start()))
    return None


def last_lines(text: str, count: int = 8) -> str:
    """The end of a log, fit for an error."""
    return "\n".join(line[:500] for line in text.strip().splitlines()[-count:])


def failed_server(text: str) -> EngineError:
    """The error for a server that ended by itself, from its log; unknown reasons are damage."""
    return explain(text) or DataError(
        "the server could not start on these files",
        hint=f"try another backup, or an earlier target; the server said:\n{last_lines(text)}",
    )


def end_of_redo(text: str) -> Lsn | None:
    """Where replay ended for the last time; None if nothing was replayed."""
    found = _REDO_DONE.findall(text)
    return Lsn.parse(found[-1]) if found else None


def redo_seconds(text: str) -> float:
    """How long replay took, fetching WAL included; 0 if nothing was replayed."""
    found = _REDO_TOOK.findall(text)
    return float(found[-1]) if found else 0.0


def replay_position(text: str) -> Lsn | None:
    """How far a server that is still recovering says it is."""
    found = _REDO_PROGRESS.findall(text)
    return Lsn.parse(found[-1]) if found else None


def missing_tablespace(log: bytes) -> tuple[str, int] | None:
    """The directory and oid of the tablespace whose creation the server could not replay last."""
    found = _MISSING_TABLESPACE.findall(log)
    return (os.fsdecode(found[-1][0]), int(found[-1][1])) if found else None


def created_tablespaces(waldump: str) -> list[str]:
    """The locations of the tablespaces that WAL creates, from what pg_waldump printed of it."""
    return _CREATED_TABLESPACE.findall(waldump)


def _line_of(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    return text[start:].splitlines()[0][:500]
