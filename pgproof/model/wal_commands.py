"""The lines that PostgreSQL runs to get and to give WAL, as text: `restore_command` and `archive_command`.

PostgreSQL reads an exit status from 1 to 125 of a restore_command as "there is no such file", ends recovery and
opens the cluster. So a line of ours says 1 for a proven absence alone, and 255 for everything else: a store that
does not answer, a program that is killed or missing. A status above 125 of an archive_command ends the archiver,
so failures there are 1 to 125.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError, TransientError

# Relative to the data directory, in which PostgreSQL runs these lines. BASE_BACKUP sends nothing of pg_wal.
FOLDER = "pg_wal/pgproof"
# What a fetch says of a file that is proven not to be there.
ABSENT = 44
FAILED_FETCH = 255
_FAILED_PUSH: dict[type[EngineError], int] = {
    PreconditionError: 3,
    TransientError: 4,
    DataError: 5,
    ConflictError: 6,
}
SERVED = "served."
ASK = "ask"
ANSWER = "answer."
OPEN = "open"
SOCKET = "socket"
_POLL_SECONDS = 0.02
# Longer than a store is waited for.
_PATIENCE_SECONDS = 900


def failed_push(error: EngineError) -> int:
    """The exit status for an error of a push: that of every command (docs/cli.md)."""
    return next(status for kind, status in _FAILED_PUSH.items() if isinstance(error, kind))


def restore_command_by_file() -> str:
    """For a recovery that we run ourselves: asks by files, so that no interpreter need be there for the server.

    A file that was fetched ahead is moved; else the wish is written down and the answer waited for, as long as
    whoever answers is there.
    """
    tries = round(_PATIENCE_SECONDS / _POLL_SECONDS)
    return (
        f"d={FOLDER}; f=%f; p=%p; a=$d/{ANSWER}$f.$$; "
        '[ -f "$d/$f" ] && mv -f "$d/$f" "$p" && exit 0; '
        f'rm -f "$a" && echo "$f $$" > "$d/{ASK}.new" && mv -f "$d/{ASK}.new" "$d/{ASK}" || exit 255; '
        f'n=0; while [ ! -f "$a" ]; do n=$((n+1)); [ $n -lt {tries} ] && [ -f "$d/{OPEN}" ] '
        f"&& sleep {_POLL_SECONDS} || exit 255; done; "
        'read -r s < "$a" || exit 255; rm -f "$a"; '
        f'case "$s" in 0) mv -f "$d/{SERVED}$f" "$p" && exit 0;; {ABSENT}) exit 1;; esac; exit 255'
    )


def restore_command_by_client(client: Sequence[str], start: Sequence[str]) -> str:
    """For a server that runs by itself: `client` asks the resident worker, which `start` starts where none is."""
    return (
        f'd={FOLDER}; [ -f "$d/%f" ] && mv -f "$d/%f" "%p" && exit 0; '
        f'{_quoted(client)} fetch "%f" "%p" -- {_quoted(start)}; '
        f"case $? in 0) exit 0;; {ABSENT}) exit 1;; esac; exit 255"
    )


def archive_command(client: Sequence[str], start: Sequence[str]) -> str:
    """Ends with 1 to 125 whatever happens, so that PostgreSQL tries again and says why."""
    return f'{_quoted(client)} push "%p" -- {_quoted(start)}; s=$?; [ $s -le 125 ] || s=4; exit $s'


def as_setting(value: str) -> str:
    """A value as it stands in a configuration file."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _quoted(words: Sequence[str]) -> str:
    return shlex.join(words).replace("%", "%%")
