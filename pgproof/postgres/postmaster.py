"""The process of a scratch server: how it is started inside its sandbox, and how it is stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.postgres.disk_errors import temporary_file
from pgproof.postgres.programs import environment, execute
from pgproof.postgres.sandbox import Sandbox

_STATUS_LIMIT = 4096
# Each program on the way to the server asks the kernel to be killed when its parent ends. A parent that ends
# before that would leave an orphan, so the server waits until all of them have asked: it runs when we say so, and
# not at all when we are gone.
_WAIT = 'echo >&0 && read -r line && exec "$@" </dev/null'


@dataclass(frozen=True, slots=True)
class Launcher:
    """Everything one start of the server needs; the same for each start."""

    sandbox: Sandbox
    arguments: list[str]
    data_dir: Path
    writable: Sequence[Path]
    readable: Sequence[Path]
    mounted: Mapping[str, Path]
    log: int

    def command(self, program: Sequence[str], *last: str, status_fd: int | None = None) -> list[str]:
        """How `program`, a way to run `postgres`, is run in the sandbox on these files."""
        return self.sandbox.command(
            [*program, "-D", self.data_dir, *self.arguments, *last],
            writable=self.writable,
            readable=self.readable,
            mounted=self.mounted,
            status_fd=status_fd,
        )

    @property
    def _postgres(self) -> str:
        return str(self.sandbox.programs.path("postgres"))

    def start(self) -> Postmaster:
        """Start the server. It cannot outlive us, even if we are killed in the middle of this."""
        ours, theirs = socket.socketpair()
        # A file, because bwrap would break off in the middle if nobody read a pipe any more.
        with temporary_file() as status, ours:
            with theirs:
                process = subprocess.Popen(
                    self.command(["/bin/sh", "-c", _WAIT, "sh", self._postgres], status_fd=status.fileno()),
                    stdin=theirs.fileno(),
                    stdout=self.log,
                    stderr=self.log,
                    env=environment(),
                    cwd="/",
                    pass_fds=[status.fileno()],
                )
            failpoint("server.launched")
            # Nothing comes if the program fails before; what it says is in the log, and that it ended is seen.
            if ours.recv(1):
                with contextlib.suppress(OSError):
                    ours.sendall(b"\n")
            failpoint("server.released")
            said = os.pread(status.fileno(), _STATUS_LIMIT, 0).splitlines()
        pid = json.loads(said[0])["child-pid"] if said else process.pid
        return Postmaster(process, pid)

    def ask_for_superuser(self) -> str:
        """Find a superuser who may log in, in PostgreSQL's single-user mode."""
        query = (
            "SELECT rolname FROM pg_authid WHERE rolsuper AND rolcanlogin ORDER BY oid <> 10, oid LIMIT 1\n"
        )
        for dbname in ("template1", "postgres"):
            done = execute(
                self.command([self._postgres, "--single"], dbname),
                user=None,
                timeout=300,
                what="looking for a superuser",
                stdin=query,
            )
            found = re.search(r'1: rolname = "(.*)"\t', done.stdout)
            if found:
                return found[1]
        raise PreconditionError(
            "the cluster has no superuser who may log in",
            hint="let one log in on the source (ALTER ROLE … LOGIN), then take another backup",
        )


class Postmaster:
    """The server's first process, and the program of ours that waits for it."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int) -> None:
        self._process = process
        self._pidfd: int | None
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = None

    def ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self, patience: float) -> bool:
        """Stop it: a fast shutdown, then an immediate one, then by force. True if the first sufficed."""
        clean = True
        try:
            for number, seconds in (
                (signal.SIGINT, patience),
                (signal.SIGQUIT, 10.0),
                (signal.SIGKILL, 10.0),
            ):
                self._send(number)
                try:
                    self._process.wait(seconds)
                    return clean
                except subprocess.TimeoutExpired:
                    clean = False
        finally:
            self._process.kill()
            self._process.wait()
            if self._pidfd is not None:
                os.close(self._pidfd)
                self._pidfd = None
        return False

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile: that is what we want
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
