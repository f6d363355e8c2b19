"""Tablespaces that the replayed WAL creates: their locations may be in use by production on this machine.

In a sandbox a directory of ours is mounted at each such location. Without one, WAL that creates a tablespace
is not replayed at all.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pgproof.errors import EngineError, PreconditionError
from pgproof.model.job import Job
from pgproof.model.server_log import created_tablespaces, failed_server
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.osuser import OsUser, can_reach, give_to
from pgproof.postgres.programs import Programs, execute
from pgproof.postgres.scratch_files import sync_directory

_MAX_TABLESPACES = 20
_HOURS = 24 * 3600.0
_REFUSED = "pgproof: the WAL creates a tablespace"
# Each segment is looked at before the server may replay it, together with the one before it, because a
# record may begin there.
_GUARD = """\
case "$1" in *[!0-9A-F]*) exit 0 ;; esac
cd {dir} || exit 255
cp "$OLDPWD/$2" "$1" || exit 255
last=$(cat last 2>/dev/null)
found=$({waldump} --rmgr=Tablespace "$1"; {waldump} --rmgr=Tablespace "${{last:-$1}}" "$1")
case "$found" in *CREATE*) echo "{message}" >&2; exit 255 ;; esac
[ -z "$last" ] || [ "$last" = "$1" ] || rm -f "$last"
echo "$1" >last
"""


@dataclass(frozen=True, slots=True)
class Handover:
    """The cluster is somebody's afterwards, so the tablespaces that its WAL creates are kept.

    `places` maps locations to directories; any other location gets `default_dir`/<oid>.
    """

    default_dir: Path
    places: Mapping[str, Path] = field(default_factory=dict)


class NewTablespaces:
    """The directories that are mounted for one server. They are discarded with it without a `handover`.

    They live on disk and not in the sandbox's memory, because the server is started anew for each of them.
    """

    def __init__(self, data_dir: Path, user: OsUser | None, handover: Handover | None) -> None:
        self.made: dict[str, Path] = {}
        self._data_dir = data_dir
        self._user = user
        self._handover = handover
        self._discarded: Path | None = None

    def add(self, location: str, oid: int) -> bool:
        """Make a directory for `location`; False if there is one already, or there are too many."""
        if location in self.made or len(self.made) >= _MAX_TABLESPACES:
            return False
        with on_disk(self._data_dir):
            directory = self._kept(location, oid) if self._handover else self._disposable(oid)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            give_to(self._user, directory)
        refuse_unusable(self._user, directory)
        self.made[location] = directory
        return True

    def link(self) -> None:
        """Lead the links of a stopped cluster to where these tablespaces really are, on disk."""
        links = self._data_dir / "pg_tblspc"
        with on_disk(links):
            for link in list(links.iterdir()):
                directory = self.made.get(os.fspath(link.readlink())) if link.is_symlink() else None
                if directory is not None:
                    new = link.with_name(f"{link.name}.new")
                    new.symlink_to(directory)
                    give_to(self._user, new)
                    new.replace(link)
            for directory in (links, *self.made.values()):
                sync_directory(directory)
                sync_directory(directory.parent)

    def discard(self) -> None:
        if self._discarded is not None:
            with on_disk(self._discarded):
                shutil.rmtree(self._discarded)

    def _kept(self, location: str, oid: int) -> Path:
        assert self._handover is not None
        if location in self._handover.places:
            return self._handover.places[location]
        parent = self._handover.default_dir
        if not parent.exists():
            parent.mkdir(mode=0o700, parents=True)
            give_to(self._user, parent)
        # A restore that was killed may have left one.
        names = [str(oid), *(f"{oid}-{number}" for number in range(2, 100))]
        return next(parent / name for name in names if not (parent / name).exists())

    def _disposable(self, oid: int) -> Path:
        if self._discarded is None:
            prefix = f".{self._data_dir.name}-tablespaces-"
            self._discarded = Path(tempfile.mkdtemp(prefix=prefix, dir=self._data_dir.parent))
            give_to(self._user, self._discarded)
        return self._discarded / f"{oid}-{len(self.made)}"


def tablespaces_in_wal(
    programs: Programs, wal_dir: Path, timeline: int, user: OsUser | None, job: Job
) -> list[str]:
    """The locations of the tablespaces that the WAL in `wal_dir` creates.

    Raises PreconditionError if `user` cannot read it.
    """
    refuse_unusable(user, wal_dir)
    names = _segments(wal_dir, f"{timeline:08X}")
    if not names:
        return []
    done = execute(
        [programs.path("pg_waldump"), "--rmgr=Tablespace", "--path", wal_dir, names[0], names[-1]],
        user=user,
        timeout=_HOURS,
        what="looking for new tablespaces in the WAL",
        job=job,
    )
    return created_tablespaces(done.stdout)


def guard(
    programs: Programs, user: OsUser | None, data_dir: Path, private: Path, restore_command: str | None
) -> dict[str, str]:
    """Without a sandbox, refuse WAL that creates a tablespace: what is here and what is fetched later."""
    waldump = programs.path("pg_waldump")
    wal = data_dir / "pg_wal"
    names = _segments(wal)
    for previous, name in zip([*names[:1], *names], names, strict=False):
        done = execute(
            [waldump, "--rmgr=Tablespace", "--path", wal, previous, name],
            user=user,
            timeout=300,
            what="looking for new tablespaces in the WAL",
        )
        if "CREATE" in done.stdout:
            raise _unsafe()
    if restore_command is None:
        return {}
    seen = private / "seen"
    seen.mkdir(mode=0o700)
    give_to(user, seen)
    script = private / "guard.sh"
    places = {"dir": shlex.quote(str(seen)), "waldump": shlex.quote(str(waldump))}
    script.write_text(_GUARD.format(**places, message=_REFUSED))
    give_to(user, script)
    quoted = shlex.quote(str(script)).replace("%", "%%")
    return {"restore_command": f"({restore_command}) && sh {quoted} %f %p"}


def failure(log: str) -> EngineError:
    """Why a server ended by itself, if it was not for a tablespace that can be made."""
    return _unsafe() if _REFUSED in log else failed_server(log)


def refuse_unusable(user: OsUser | None, directory: Path) -> None:
    """Raises PreconditionError for a directory of a cluster that its server could not use."""
    if not can_reach(user, directory):
        raise PreconditionError(
            "the server's user cannot reach a directory of the cluster",
            hint="let it own the directory and everything in it, and search every directory above it",
            directory=directory,
            user=user.name if user else "",
        )


def _unsafe() -> PreconditionError:
    return PreconditionError(
        "cannot be checked safely here: the WAL creates a tablespace, whose directory may be in use",
        hint="install bubblewrap, so that the server gets a file system of its own",
    )


def _segments(wal_dir: Path, timeline: str = "") -> list[str]:
    found = (path.name for path in wal_dir.iterdir() if re.fullmatch("[0-9A-F]{24}", path.name))
    return sorted(name for name in found if name.startswith(timeline))
