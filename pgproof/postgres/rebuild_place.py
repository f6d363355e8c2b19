"""The place beside a data directory where a rebuild keeps what must survive it, and how far it has got.

    NAME.pgproof-rebuild/stage     how far it has got
    NAME.pgproof-rebuild/own/      what in the directory is the replica's own: its configuration, keys, logs
    NAME.pgproof-rebuild/data      the directory itself while it is rewound, so that nobody starts it meanwhile

pg_rewind copies whatever lies in the source's data directory, its configuration included, and removes what the source has
not; a backup brings its configuration too. So what is the replica's own is moved out first and moved back at the end. Each
step may be the last one of a process: the next rebuild goes on from what it finds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import ConflictError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.delta_plan import MARKER, belongs_to_postgres, is_fixed_directory
from pgproof.model.rebuild_evidence import Stage
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.osuser import OsUser, give_to
from pgproof.postgres.programs import run
from pgproof.postgres.scratch_files import sync_directory

AUTO_CONF = "postgresql.auto.conf"


@dataclass(frozen=True, slots=True)
class RebuildPlace:
    """Of one data directory, which belongs to `user`."""

    data_dir: Path
    user: OsUser | None

    @property
    def root(self) -> Path:
        return self.data_dir.with_name(f"{self.data_dir.name}.pgproof-rebuild")

    @property
    def aside(self) -> Path:
        """The directory while it is rewound."""
        return self.root / "data"

    @property
    def own(self) -> Path:
        return self.root / "own"

    @property
    def stage(self) -> Stage:
        with on_disk(self.root):
            try:
                return Stage((self.root / "stage").read_text().strip())
            except FileNotFoundError:
                return Stage.NONE

    def make(self) -> None:
        with on_disk(self.root):
            self.root.mkdir(mode=0o700, exist_ok=True)
            give_to(self.user, self.root)
            sync_directory(self.root.parent)

    def reach(self, stage: Stage) -> None:
        """From now on the next rebuild goes on from this stage."""
        with on_disk(self.root):
            new = self.root / "stage.new"
            with new.open("w") as file:
                file.write(f"{stage}\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.root / "stage")
            sync_directory(self.root)
        failpoint(f"rebuild.{stage}")

    def require_room(self) -> None:
        """Raises PreconditionError where nothing can be made beside the data directory."""
        if not self.root.exists() and not os.access(self.root.parent, os.W_OK | os.X_OK):
            raise PreconditionError(
                "nothing can be kept beside the data directory",
                hint=f"let yourself write in {self.root.parent}, or run this as root",
                path=self.root,
            )

    @property
    def fixed(self) -> str:
        """Why the directory cannot be moved aside; empty if it can."""
        if self.aside.is_dir():
            return ""
        if os.path.ismount(self.data_dir) or self.data_dir.is_symlink():
            return "the directory is a mount point or a link, so it cannot be moved aside for pg_rewind"
        return ""

    def move_aside(self) -> None:
        """Take the directory away from where its server would be started."""
        with on_disk(self.data_dir):
            if not self.aside.is_dir():
                self.data_dir.rename(self.aside)
                sync_directory(self.root)
                sync_directory(self.root.parent)
        failpoint("rebuild.aside")

    def move_back(self) -> None:
        with on_disk(self.data_dir):
            if self.aside.is_dir():
                self.aside.rename(self.data_dir)
                sync_directory(self.root)
                sync_directory(self.root.parent)
        failpoint("rebuild.back")

    def make_unusable(self, system_identifier: int) -> None:
        """Make of a directory that was moved aside one that no server starts on and a delta restore takes up, and move it
        back."""
        with on_disk(self.data_dir):
            if self.aside.is_dir():
                mark(self.aside, system_identifier, self.user)
                (self.aside / "global" / "pg_control").unlink(missing_ok=True)
                sync_directory(self.aside / "global")
        self.move_back()

    def park_own(self) -> None:
        """Move out what is not PostgreSQL's. What was moved out before is not looked for again."""
        with on_disk(self.data_dir):
            if self.own.is_dir():
                return
            _remove(self.root / "back")
            part = self.root / "own.part"
            part.mkdir(mode=0o700, exist_ok=True)
            give_to(self.user, part)
            source = self.aside if self.aside.is_dir() else self.data_dir
            for entry in sorted(source.iterdir()) if source.is_dir() else []:
                if is_own(entry.name):
                    _move(entry, part / entry.name)
                    failpoint("rebuild.parked")
            part.rename(self.own)
            sync_directory(self.root)

    def put_back_own(self) -> None:
        """Replace by it what lies in its place; what the source or the backup brought besides goes.

        Where there was nothing, as in a new directory, what came stays.
        """
        with on_disk(self.data_dir):
            own = {entry.name for entry in self.own.iterdir()} if self.own.is_dir() else set()
            if not own:
                return
            for entry in sorted(self.data_dir.iterdir()):
                if is_own(entry.name) and entry.name not in own and not self._was_put_back(entry.name):
                    _remove(entry)
            for name in sorted(own):
                _remove(self.data_dir / name)
                self._note(name)
                _move(self.own / name, self.data_dir / name)
                failpoint("rebuild.unparked")
            sync_directory(self.data_dir)
            # All of it is back: a later rebuild moves it out again.
            self.own.rmdir()
            sync_directory(self.root)

    def _was_put_back(self, name: str) -> bool:
        return (self.root / "back" / name).exists()

    def _note(self, name: str) -> None:
        (self.root / "back").mkdir(exist_ok=True)
        (self.root / "back" / name).touch()

    def remove(self) -> None:
        with on_disk(self.root):
            if self.root.exists():
                shutil.rmtree(self.root)
                sync_directory(self.root.parent)


@contextlib.contextmanager
def alone_in(parent: Path) -> Iterator[None]:
    """No other rebuild works beside us here. Raises ConflictError if one does; it ends with its process."""
    with on_disk(parent):
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                "another rebuild works here", hint="wait for its end, then look again", path=parent
            ) from error
        yield
    finally:
        os.close(descriptor)


def is_own(name: str) -> bool:
    """Whether an entry of a data directory is the replica's own and not PostgreSQL's."""
    path = os.fsencode(name)
    return name == AUTO_CONF or not (
        belongs_to_postgres(path) or is_fixed_directory(path) or path == MARKER or name == "lost+found"
    )


def put_file(path: Path, content: bytes, user: OsUser | None) -> None:
    """A file whole and on disk, or not at all."""
    new = path.with_name(f"{path.name}.pgproof-new")
    new.unlink(missing_ok=True)
    with new.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    give_to(user, new)
    new.replace(path)
    sync_directory(path.parent)


def mark(data_dir: Path, system_identifier: int, user: OsUser | None) -> None:
    """Let a delta restore take the directory for what one of its own kind has left."""
    path = data_dir / os.fsdecode(MARKER)
    put_file(path, f"{system_identifier}\n".encode(), user)


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The directory is a file system of its own: a copy with owners and modes, under its name only when it is whole.
        part = target.with_name(f"{target.name}.part")
        _remove(part)
        run(
            ["/bin/cp", "-a", "--", source, part],
            user=None,
            timeout=None,
            what="moving the replica's own files",
        )
        part.rename(target)
        _remove(source)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
