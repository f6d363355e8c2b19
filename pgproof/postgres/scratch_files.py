"""What surrounds a scratch server on disk: a lock on its files, a private directory, its own configuration."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pgproof.errors import ConflictError
from pgproof.failpoints import failpoint
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.osuser import OsUser, can_reach, give_to
from pgproof.postgres.temporary import temporary_directory

# PostgreSQL's socket path is limited to 107 bytes; our directory's and the socket's name take 38.
_TEMPORARY_DIR_LIMIT = 69
_AUTO_CONF = "postgresql.auto.conf"
_PARKED = "postgresql.auto.conf.parked"
_FORBIDDEN = """\
# A restore into this directory was not finished: remove the directory and restore again.
shared_preload_libraries = 'pgproof-this-restore-is-not-finished'
"""


@contextlib.contextmanager
def exclusive(data_dir: Path, *, look_only: bool = False) -> Iterator[None]:
    """Hold the data directory: in its own namespaces a server cannot see that another one uses it.

    Raises ConflictError if one does. With `look_only` nothing is changed.
    """
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(data_dir) from error
        if _server_runs_in(os.fstat(descriptor)):
            raise _in_use(data_dir)
        # It was copied along, or its server crashed, or had numbers of another namespace.
        if not look_only:
            (data_dir / "postmaster.pid").unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def private_dir(user: OsUser | None) -> Iterator[Path]:
    """A directory for socket, configuration and log that only the server's user and root can enter."""
    parent = Path(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _TEMPORARY_DIR_LIMIT or not can_reach(user, parent):
        parent = Path("/tmp")
    with temporary_directory("server", parent, user) as path:
        yield path


def own_configuration(data_dir: Path, private: Path, user: OsUser | None, *, handed_over: bool) -> None:
    """Write our configuration, and take the cluster's automatic one and its signal files out of the way.

    A cluster that is handed over has had its automatic one replaced by `forbid_start`.
    """
    # Whoever reaches the socket is the server's user or root: see the mode of its directory.
    for name, text in (
        ("postgresql.conf", ""),
        ("pg_hba.conf", "local all all trust\n"),
        ("pg_ident.conf", ""),
    ):
        path = private / name
        path.write_text(text)
        give_to(user, path)
    for name in ("standby.signal", "recovery.signal"):
        (data_dir / name).unlink(missing_ok=True)
    if not handed_over:
        _replace(data_dir / _AUTO_CONF, "", user)


def forbid_start(data_dir: Path, user: OsUser | None) -> None:
    """From now until `allow_start` only a scratch server starts on these files, whatever happens to us.

    The cluster's automatic settings wait in another file. In their place PostgreSQL is told to preload a
    library that does not exist; a scratch server's own settings beat that.
    """
    auto_conf, parked = data_dir / _AUTO_CONF, data_dir / _PARKED
    with on_disk(data_dir):
        if auto_conf.exists():
            auto_conf.replace(parked)
        else:
            _replace(parked, "", user)
        failpoint("forbid.parked")
        _replace(auto_conf, _FORBIDDEN, user)
        sync_directory(data_dir)


def allow_start(data_dir: Path) -> None:
    """Put the cluster's own settings back: from now on it starts, even after a crash of this machine."""
    with on_disk(data_dir):
        (data_dir / _PARKED).replace(data_dir / _AUTO_CONF)
        failpoint("allow.replaced")
        sync_directory(data_dir)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str, user: OsUser | None) -> None:
    """Make the file anew, so that no link is followed."""
    path.unlink(missing_ok=True)
    with path.open("x") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())
    give_to(user, path)


def _server_runs_in(directory: os.stat_result) -> bool:
    """Look for a server by its working directory: that finds those in containers and namespaces, too."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or its owner is not the one who owns the directory
            same = os.path.samestat((process / "cwd").stat(), directory)
            if same and "postgres" in (process / "comm").read_text():
                return True
    return False


def _in_use(data_dir: Path) -> ConflictError:
    return ConflictError(
        "a server uses this data directory", hint="stop it first, or work on a copy", data_dir=data_dir
    )
