"""A client program and the processes that it starts, run beside us, stopped and continued as one, and ended with us.

They are a process group of our session. When we die, or their first process does, the kernel continues and ends what is left
of the group even if it was stopped (a process group that is orphaned, POSIX): nothing holds a snapshot or locks for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from pgproof.postgres.disk_errors import temporary_file
from pgproof.postgres.programs import as_user

PIPE = subprocess.PIPE
_PATIENCE = 10.0
_SAID = 1 << 20


class Running:
    """`command` with the whole of its environment, until the block ends; by default it gets no input."""

    def __init__(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        stdout: int = subprocess.DEVNULL,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self._command = as_user(command, None)
        self._env = env
        self._stdout = stdout
        self._stdin = stdin
        self._exits = contextlib.ExitStack()

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """The exit status of a program that closed its output, so that it is about to end."""
        return self._process.wait()

    @property
    def output(self) -> IO[bytes]:
        """What it prints, if `stdout` was a pipe."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def said(self) -> str:
        """The end of what it wrote to standard error."""
        size = os.fstat(self._errors).st_size
        return os.pread(self._errors, _SAID, max(0, size - _SAID)).decode(errors="replace")

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # Once its end was seen the number may be somebody else's.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        errors = self._exits.enter_context(temporary_file())
        self._errors = errors.fileno()
        self._process = subprocess.Popen(
            self._command,
            stdin=self._stdin,
            stdout=self._stdout,
            stderr=errors,
            env=dict(self._env),
            cwd="/",
            process_group=0,
        )
        return self

    def __exit__(self, *_exception: object) -> None:
        with self._exits:
            if self._process.poll() is None:
                self._signal(signal.SIGTERM)
                self._signal(signal.SIGCONT)
                try:
                    self._process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    self._signal(signal.SIGKILL)
                    self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
