"""The looks at a cluster's replicas, in a file of the state directory; a week of them (decision 0018)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pgproof.errors import DataError, PreconditionError
from pgproof.model.replica_history import KEEP, Look
from pgproof.repository.durable import fsync_folder, write_durably

# So much more than is kept may lie in the file before it is written anew.
_SLACK = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Remembered:
    """Looks, the oldest first. `note` is why some are missing: a damaged file, which was moved aside."""

    looks: tuple[Look, ...]
    note: str = ""


class ReplicaHistory:
    """One file for each cluster below the state directory. Workers on one machine may use it at the same time."""

    def __init__(self, state: Path, cluster: str) -> None:
        # A cluster may be called anything; two names must not share a file.
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", cluster)[:40]
        folder = state / "replicas"
        self._path = folder / f"{plain}-{hashlib.sha256(cluster.encode()).hexdigest()[:8]}.jsonl"

    @property
    def path(self) -> Path:
        return self._path

    def read(self) -> Remembered:
        """What is remembered; nothing where nothing was ever written.

        What cannot be read is moved aside, and the rest goes on. Raises PreconditionError for a directory that may not be used.
        """
        with self._translated():
            if not self._path.exists():
                return Remembered(())
            with self._locked():
                return self._read()

    def append(self, look: Look) -> Remembered:
        """Add a look, durably, and return all that is remembered now. Raises PreconditionError as `read` does."""
        with self._translated():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                found = self._read()
                looks = (*found.looks, look)
                if found.looks and found.looks[0].at < look.at - KEEP - _SLACK:
                    looks = tuple(each for each in looks if each.at >= look.at - KEEP)
                    self._write(looks)
                else:
                    self._add(look)
                return Remembered(looks, found.note)

    def _read(self) -> Remembered:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Remembered(())
        looks, bad = [], 0
        for line in data.splitlines():
            try:
                looks.append(Look.parse(line.decode("utf-8", "replace")))
            except DataError:
                bad += 1
        if bad or (data and not data.endswith(b"\n")):
            aside = self._path.with_suffix(f".damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
            os.link(self._path, aside)
            self._write(tuple(looks))
            lines = "1 line" if bad == 1 else f"{bad} lines"
            return Remembered(
                tuple(looks),
                f"the history of the replicas had {lines} that cannot be read; it was moved to {aside}",
            )
        return Remembered(tuple(looks))

    def _add(self, look: Look) -> None:
        new = not self._path.exists()
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(f"{look.line()}\n".encode())
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        if new:
            fsync_folder(self._path.parent)

    def _write(self, looks: tuple[Look, ...]) -> None:
        staged = self._path.with_suffix(".new")
        staged.unlink(missing_ok=True)
        write_durably(staged, "".join(f"{each.line()}\n" for each in looks).encode())
        staged.replace(self._path)
        fsync_folder(self._path.parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # A file of its own: the history's is replaced when it is trimmed.
        fd = os.open(self._path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PreconditionError(
                "the history of the replicas cannot be read or written",
                hint="set BACKUP_STATE_DIR to a directory that this user may write, with free space",
                file=self._path,
                reason=error.strerror,
            ) from error
