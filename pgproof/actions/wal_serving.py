"""Let a server recover from the repository: what its restore_command is, and who answers it.

`wal_source` is for a recovery that this process runs and waits for: it answers by itself, for as long as the block
lasts. `leave_wal_source` is for a server that will start by itself later: what it needs lies in its pg_wal, and its
first wish starts a resident worker.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pgproof.actions import wal_client
from pgproof.actions.opening import open_for_reading, open_repository
from pgproof.actions.unlocking import passphrase_of
from pgproof.actions.wal_ahead import WalServer
from pgproof.actions.wal_fetch import GRACE_SECONDS, WalFetcher
from pgproof.errors import EngineError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.wal_commands import (
    ANSWER,
    ASK,
    FOLDER,
    OPEN,
    archive_command,
    restore_command_by_client,
    restore_command_by_file,
)
from pgproof.model.wal_coverage import Promise
from pgproof.postgres.osuser import OsUser, can_reach
from pgproof.postgres.wal_spool import Spool
from pgproof.repository.repository import Repository
from pgproof.repository.wal_archive import WalArchive

CONFIG = "config.toml"
# Where all WAL that was promised lies in pg_wal already, whatever is asked for beyond it is truly absent.
NOTHING_MORE = "exit 1"
_WISH = re.compile(r"([0-9A-Za-z.]{1,64}) ([0-9]{1,10})\n?\Z")
_POLL_SECONDS = 0.005
# Never written down: they concern this machine's work, not where the repository is.
_NOT_HANDED_ON = frozenset(
    {"passphrase", "passphrase_file", "checks", "bin_dir", "scratch_dir", "scratch_user", "backup_type"}
)


@dataclass(frozen=True, slots=True)
class WalSource:
    """A recovery's way to the repository. `restore_command` is PostgreSQL's, to be run in the data directory; it
    needs nothing but the data directory and `sh`."""

    restore_command: str
    _server: WalServer

    @property
    def failure(self) -> EngineError | None:
        """What the last wish failed with: why a server gave up its recovery."""
        return self._server.failure


def open_fetcher(
    config: BackupConfig, promise: Promise | None = None, grace: float = GRACE_SECONDS
) -> WalFetcher:
    """Raises the errors of opening, and PreconditionError if the repository does not know the cluster."""
    return _fetcher(open_for_reading(config), config, promise, grace)


def _fetcher(
    repository: Repository, config: BackupConfig, promise: Promise | None, grace: float
) -> WalFetcher:
    archive = WalArchive.open(repository)
    truth = archive
    # Without the directory the mirror is all there is; then only a promise tells where the WAL ends.
    if repository.mirror is not None and promise is None:
        truth = WalArchive.open(open_repository(config))
    return WalFetcher(archive, promise, truth=truth, grace=grace)


@contextlib.contextmanager
def wal_source(
    config: BackupConfig,
    data_dir: Path,
    user: OsUser | None,
    *,
    promise: Promise | None = None,
    grace: float = GRACE_SECONDS,
) -> Iterator[WalSource]:
    """Answer the server on `data_dir`, which runs as `user`, for as long as the block lasts.

    With a `promise` everything up to its end must be there, and what lies behind may be absent. Without one, WAL that
    is missing in the middle is an error. The errors are those of opening the repository.
    """
    fetcher = open_fetcher(config, promise, grace)
    with Spool.of(data_dir, user) as spool:
        spool.empty()
        try:
            with WalServer(fetcher, spool) as server:
                closing = threading.Event()
                post = threading.Thread(
                    target=_answer_wishes, args=(server, spool, closing), name="pgproof-wal", daemon=True
                )
                spool.open_for_wishes()
                post.start()
                failpoint("source.open")
                try:
                    yield WalSource(restore_command_by_file(), server)
                finally:
                    closing.set()
                    post.join()
        finally:
            spool.remove()


def _answer_wishes(server: WalServer, spool: Spool, closing: threading.Event) -> None:
    try:
        while not closing.wait(_POLL_SECONDS):
            wish = spool.take_note(ASK)
            found = _WISH.match(wish) if wish else None
            if found is None:
                continue
            status, _message = server.answer(found[1])
            try:
                spool.put(f"{ANSWER}{found[1]}.{found[2]}", [f"{status}\n".encode()])
            except EngineError as error:
                server.failure = error
                return
    finally:
        # Whoever waits for an answer now gives up, with 255.
        spool.drop(OPEN)


# servers that run by themselves


def leave_wal_source(config: BackupConfig, data_dir: Path, user: OsUser | None) -> str:
    """Put what `user`'s server needs to reach the repository into its pg_wal; return its restore_command.

    The configuration holds the secrets and can be read by that user alone; BASE_BACKUP leaves it out. Raises
    PreconditionError if that user cannot run pgproof.
    """
    interpreter = interpreter_for(user)
    with Spool.of(data_dir, user) as spool:
        spool.empty()
        spool.put(CONFIG, [config_as_toml(config).encode()])
    start = [*_start(interpreter), "--config", f"{FOLDER}/{CONFIG}"]
    return restore_command_by_client(_client(interpreter), start)


def restore_command_line(options: list[str]) -> str:
    """The restore_command for a standby that has these options of the command line configured."""
    interpreter = interpreter_for(None)
    return restore_command_by_client(_client(interpreter), [*_start(interpreter), *options])


def archive_command_line(options: list[str]) -> str:
    """The archive_command with these options of the command line."""
    interpreter = interpreter_for(None)
    return archive_command(_client(interpreter), [*_start(interpreter), *options])


def _client(interpreter: str) -> list[str]:
    return [interpreter, "-I", "-S", str(Path(wal_client.__file__).resolve())]


def _start(interpreter: str) -> list[str]:
    return [interpreter, "-I", "-m", "pgproof.cli.main", "wal", "worker"]


def interpreter_for(user: OsUser | None) -> str:
    """The Python that runs us, if `user` can run it as well. Raises PreconditionError if not."""
    interpreter, package = Path(sys.executable), Path(wal_client.__file__).parents[1]
    for path in (interpreter.parent, interpreter, package):
        if not can_reach(user, path):
            raise PreconditionError(
                "the server's user cannot run pgproof",
                hint="install it where that user may read it, such as a virtual environment in /opt; "
                "or restore with recovery, which needs nothing of the kind",
                user=user.name if user else None,
                path=path,
            )
    return str(interpreter)


def config_as_toml(config: BackupConfig) -> str:
    """The `[backup]` table that opens the same repository from anywhere."""
    values: dict[str, Any] = {"passphrase": passphrase_of(config)}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in _NOT_HANDED_ON and value not in (None, field.default) and value != {}:
            values[field.name] = value
    if config.backup_dir:
        values["backup_dir"] = str(Path(config.backup_dir).absolute())
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]
    return "\n".join(["[backup]", *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value).replace("\x7f", "\\u007f")
