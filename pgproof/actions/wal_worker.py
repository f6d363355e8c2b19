"""The resident worker of one data directory: it has the repository open, and answers over a socket in pg_wal.

It is started by the first client that finds none, one at a time by a lock, and ends when nobody has asked for a
while, when its server is gone or was started again, when its configuration changes, or when its folder is taken
away. A client that gets no answer, because the worker was killed, starts the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgproof.actions.opening import open_repository
from pgproof.actions.wal_ahead import WalServer
from pgproof.actions.wal_push import WalPusher, wal_level
from pgproof.actions.wal_serving import open_fetcher
from pgproof.errors import EngineError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.config import BackupConfig
from pgproof.model.wal_commands import FAILED_FETCH, SOCKET, failed_push
from pgproof.postgres.wal_spool import Spool
from pgproof.repository.wal_archive import WalArchive

_log = logging.getLogger(__name__)

IDLE_SECONDS = 300.0
AHEAD = 3
_LOCK = "lock"
_LOG = "log"
_LOOK_SECONDS = 0.5
_LINE = 8192
_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works: files pushed ahead of the server's asking, and how long it waits for work."""

    ahead: int = AHEAD
    idle_seconds: float = IDLE_SECONDS
    config_file: Path | None = None


def start_worker(config: BackupConfig, folder: Path, options: WorkerOptions) -> None:
    """Return when a worker listens in `folder`, started now or before; it outlives us.

    Raises what opening the repository raises, TransientError if the worker ended for a reason in its log.
    """
    folder = folder.absolute()
    said, says = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(said)
        _become_worker(config, folder, options, says)
    os.close(says)
    with os.fdopen(said, "rb") as reader:
        answer = reader.read()
    os.waitpid(child, 0)
    if answer != _READY:
        message = answer.decode(errors="replace").strip()
        raise TransientError(
            "the worker did not start" if not message else message.partition("\n")[0],
            hint=message.partition("HINT: ")[2] or f"see {folder / _LOG}",
        )


_READY = b"ready\n"


def _become_worker(config: BackupConfig, folder: Path, options: WorkerOptions, says: int) -> None:
    """The rest of the forked process; never returns."""
    status = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        _leave_terminal(folder)
        status = _run(config, folder, options, says)
    finally:
        # Not the interpreter's own end: whatever the parent registered there is the parent's.
        os._exit(status)


def _run(config: BackupConfig, folder: Path, options: WorkerOptions, says: int) -> int:
    def tell(message: bytes) -> None:
        os.write(says, message)
        os.close(says)

    try:
        with Spool(folder, None) as spool, _only_one(spool) as alone:
            if not alone:
                _wait_for_other(folder)
                tell(_READY)
                return 0
            spool.empty()
            with _services(config, spool, options) as worker:
                tell(_READY)
                worker.serve()
    except EngineError as error:
        _log.error("the worker ended: %s", error)
        with contextlib.suppress(OSError):  # it was told already, and nobody listens any more
            tell(str(error).encode())
        return 1
    return 0


def _leave_terminal(folder: Path) -> None:
    """Our output goes to a file: the server's log would wait for us at its end."""
    folder.mkdir(mode=0o700, exist_ok=True)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(folder / _LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


@contextlib.contextmanager
def _only_one(spool: Spool) -> Iterator[bool]:
    lock = os.open(
        _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=spool.descriptor
    )
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(lock)


def _wait_for_other(folder: Path, seconds: float = 60) -> None:
    """The worker that holds the lock is opening the repository, or just about to end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            with _near(folder) as place:
                channel.connect(f"{place}/{SOCKET}")
            return
        time.sleep(0.02)
    raise TransientError(
        "another worker of this data directory does not answer", hint=f"see {folder / _LOG}", folder=folder
    )


@contextlib.contextmanager
def _near(folder: Path) -> Iterator[str]:
    """A short name for the folder: a socket's path has hardly a hundred bytes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _services(config: BackupConfig, spool: Spool, options: WorkerOptions) -> Iterator[_Worker]:
    with contextlib.ExitStack() as stack:
        archive = WalArchive.open(open_repository(config))
        level = wal_level(config)
        pusher = WalPusher(archive, level, options.ahead)
        stack.callback(pusher.close)
        server = stack.enter_context(WalServer(open_fetcher(config), spool))
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        spool.drop(SOCKET)
        listener.bind(f"/proc/self/fd/{spool.descriptor}/{SOCKET}")
        stack.callback(spool.drop, SOCKET)
        os.chmod(SOCKET, 0o600, dir_fd=spool.descriptor)
        listener.listen(16)
        yield _Worker(listener, pusher, server, spool, options)


class _Worker:
    def __init__(
        self,
        listener: socket.socket,
        pusher: WalPusher,
        server: WalServer,
        spool: Spool,
        options: WorkerOptions,
    ) -> None:
        self._listener = listener
        self._pusher = pusher
        self._server = server
        self._spool = spool
        self._options = options
        self._busy = 0
        self._last = time.monotonic()
        self._lock = threading.Lock()
        self._fetching = threading.Lock()
        self._world = self._look()

    def serve(self) -> None:
        """Answer until there is a reason to end, and then until everyone has an answer."""
        self._listener.settimeout(_LOOK_SECONDS)
        while not self._over():
            try:
                channel, _address = self._listener.accept()
            except TimeoutError:
                continue
            with self._lock:
                self._busy += 1
            threading.Thread(target=self._attend, args=(channel,), name="pgproof-wish", daemon=True).start()
        # Whoever comes now starts the next worker.
        self._spool.drop(SOCKET)
        while self._busy:
            time.sleep(0.01)

    def _over(self) -> bool:
        with self._lock:
            idle = not self._busy and time.monotonic() - self._last > self._options.idle_seconds
        return idle or self._look() != self._world

    def _look(self) -> tuple[object, ...]:
        """What must stay as it was: our folder, the server that we work for, our configuration."""
        folder = self._spool.folder
        return (
            _identity(folder, False),
            _identity(self._options.config_file, True) if self._options.config_file else None,
            _postmaster(folder.parent.parent),
        )

    def _attend(self, channel: socket.socket) -> None:
        try:
            with channel:
                channel.settimeout(30)
                _pid, uid, _gid = _CREDENTIALS.unpack(
                    channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                )
                if uid not in (os.geteuid(), 0):
                    return
                verb, _nul, subject = _request(channel).partition("\0")
                failpoint("worker.asked")
                status, message = self._answer(verb, subject)
                failpoint("worker.answering")
                text = message.replace("\nHINT: ", "; ").replace("\n", " ")
                with contextlib.suppress(OSError):  # the client was killed: it will ask again
                    channel.sendall(f"{status} {text}\n".encode())
        finally:
            with self._lock:
                self._busy -= 1
                self._last = time.monotonic()

    def _answer(self, verb: str, subject: str) -> tuple[int, str]:
        if verb == "fetch":
            with self._fetching:
                return self._server.answer(subject)
        if verb != "push":
            return FAILED_FETCH, "not a wish"
        path = Path(subject)
        try:
            if path.parent.resolve() != self._spool.folder.parent.resolve():
                raise PreconditionError(
                    "this worker works for another data directory",
                    hint="run archive_command with %p, in the data directory",
                    file=path,
                )
            self._pusher.push(path)
        except EngineError as error:
            return failed_push(error), str(error)
        return 0, ""


def _request(channel: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\n") and len(data) < _LINE:
        more = channel.recv(_LINE)
        if not more:
            break
        data += more
    return data.decode(errors="replace").rstrip("\n")


def _identity(path: Path, content: bool) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return None
        raise
    own = (status.st_dev, status.st_ino)
    return (*own, status.st_size, status.st_mtime_ns) if content else own


def _postmaster(data_dir: Path) -> tuple[str, bool]:
    """The server's process id as its file says, and whether there is such a process."""
    try:
        pid = (data_dir / "postmaster.pid").read_text().split("\n", 1)[0].strip()
    except OSError:
        return "", False
    return pid, Path("/proc", pid).is_dir() if pid.isdigit() else False
