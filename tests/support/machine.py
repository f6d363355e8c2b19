"""What the tests ask of the operating system: a service user, ports, processes, short directories.

Every process started here dies with the test run, and every directory lies in one workspace that is
removed at its end. A workspace whose run was killed is removed by the next run.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_TMP = Path("/tmp")  # not TMPDIR: a Unix socket's path has about 100 characters
_PREFIX = "pgproof-t-"

# The kernel sends the parent-death signal when the *thread* that started the process ends, so one
# thread that lives as long as the run starts them all.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


@functools.cache
def service_user() -> pwd.struct_passwd | None:
    """The unprivileged user that runs the servers when we are root; None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("neither user postgres nor nobody exists; PostgreSQL refuses to run as root")


def as_service_user(command: Sequence[str], *, die_with_us: str | None = None) -> list[str]:
    """Prefix `command` so that it runs as the service user.

    `die_with_us` names the signal it gets when the test run ends, however that happens.
    """
    user = service_user()
    switch = [] if user is None else [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    if die_with_us:
        switch.append(f"--pdeathsig={die_with_us}")
    return ["setpriv", *switch, "--", *command] if switch else list(command)


def environment(**extra: str) -> dict[str, str]:
    """A clean environment for programs: none of the caller's PG*, AWS_* or locale settings."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "TZ": "UTC", **extra}


def run(command: Sequence[str], *, stdin: str = "", **extra_env: str) -> str:
    """Run a program as the service user and return its output. Raises RuntimeError with its messages."""
    done = subprocess.run(
        as_service_user(command),
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(**extra_env),
        cwd="/",
    )
    if done.returncode:
        name = Path(command[0]).name
        raise RuntimeError(f"{name} ended with status {done.returncode}:\n{done.stderr}{done.stdout}")
    return done.stdout


def spawn(command: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a long-running process, its output appended to `log`."""

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd="/",
                start_new_session=True,
            )

    return _spawner.submit(start).result()


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
    """Wait until `condition` holds. Raises TimeoutError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    """TCP ports on 127.0.0.1 that nobody listens on.

    They lie below the range that the kernel gives to clients, and are drawn from the system's
    randomness, because runs in other checkouts may have seeded `random` with the same number.
    """
    found: list[int] = []
    while len(found) < count:
        port = 15000 + secrets.randbelow(17000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                if port not in found:
                    found.append(port)
    return found


@functools.cache
def workspace() -> Path:
    """This run's directory: short, readable by the service user, removed when Python exits."""
    remove_abandoned()
    # It gets its final name only when it is locked, so that no other run takes it for abandoned.
    raw = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=_TMP))
    raw.chmod(0o755)
    lock = os.open(raw / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    path = raw.rename(_TMP / raw.name[1:])
    atexit.register(remove_workspace)
    return path


def remove_workspace() -> None:
    """At the end of a test session, too: a worker that takes long over it when Python exits is killed over it."""
    if workspace.cache_info().currsize:
        shutil.rmtree(workspace(), ignore_errors=True)


def new_dir(prefix: str, *, owned_by_service: bool = False) -> Path:
    """Make a directory in the workspace, mode 0755, or 0700 and the service user's own."""
    path = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=workspace()))
    if owned_by_service:
        give_to_service(path)
    else:
        path.chmod(0o755)
    return path


def give_to_service(path: Path) -> None:
    """Make the service user own `path` and everything below it; what vanishes meanwhile was somebody's temporary file."""
    user = service_user()
    if user is None:
        return
    os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    for each in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            os.chown(each, user.pw_uid, user.pw_gid, follow_symlinks=False)


def reachable(path: Path) -> bool:
    """Whether the service user can run programs that lie in `path`."""
    path = path.resolve()
    return service_user() is None or all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for (a zombie) does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def remove_abandoned() -> None:
    for path in _TMP.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or removed by its own run meanwhile
            # Created where it is missing: its run was killed while it removed everything.
            lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
