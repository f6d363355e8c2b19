"""Look at a data directory that is to become a replica: whose it is, how it ended, and whether a server runs on it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from pgproof.errors import ConflictError, DataError, PreconditionError
from pgproof.model.control_file import ControlFile, parse_control_file
from pgproof.model.delta_plan import MARKER
from pgproof.model.lsn import Lsn, WalSegment
from pgproof.model.rebuild_evidence import Directory, Stage
from pgproof.model.source_files import CONTROL_FILE
from pgproof.model.timelines import TimelineHistory
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.rebuild_place import RebuildPlace
from pgproof.postgres.scratch_files import exclusive

WAL_PAGE = 8192
_PAGE_HEADER = struct.Struct("<HHIQ")  # XLogPageHeaderData: magic, info, timeline, the page's own place


def look_at_directory(place: RebuildPlace) -> Directory:
    """What lies there, or beside it where a rewind was broken off. Writes nothing.

    Raises PreconditionError for a directory that does not say whose cluster it is, and is not empty.
    """
    path = place.data_dir
    stage = place.stage
    where = place.aside if place.aside.is_dir() else path
    if where != path and path.is_dir() and any(path.iterdir()):
        raise PreconditionError(
            "there are files in the directory, and others that an earlier rebuild had moved aside",
            hint=f"if those in the directory are the good ones, remove {place.root}, else move them away",
            path=path,
            aside=place.aside,
        )
    with on_disk(where):
        control = _control(where, stage)
        running = control is not None and is_running(where)
        # What a restore or a rewind has left stands until its server has begun to recover it.
        if all((where / name).is_file() for name in ("backup_label", "standby.signal")):
            stage = Stage.READY
        elif stage is Stage.READY:
            stage = Stage.NONE
        if control is None:
            marked = _marked(where)
            return Directory(path, stage=stage if marked is None else Stage.RESTORING, marked=marked)
        return Directory(
            path,
            control,
            running=running,
            stoppable=not running or _ours_to_stop(where),
            history=_history(where, max(control.timeline, control.min_recovery_timeline)),
            tablespaces=len(list((where / "pg_tblspc").iterdir())) if (where / "pg_tblspc").is_dir() else 0,
            stage=stage,
            fixed=place.fixed,
            written=_end_of_wal(where, control),
        )


def read_control(data_dir: Path) -> ControlFile:
    with on_disk(data_dir):
        return parse_control_file((data_dir / os.fsdecode(CONTROL_FILE)).read_bytes())


def is_running(data_dir: Path) -> bool:
    """Whether a server works on these files, in a container as well."""
    try:
        with on_disk(data_dir), exclusive(data_dir, look_only=True):
            return False
    except ConflictError:
        return True


def refuse_started(data_dir: Path) -> None:
    """Raises ConflictError if a server works on these files: after it was stopped somebody has started it again."""
    if is_running(data_dir):
        raise ConflictError(
            "a server was started in the directory meanwhile; its files were not changed",
            hint="see that nothing starts it by itself (Restart= of a systemd unit), then run this again",
            path=data_dir,
        )


def _control(where: Path, stage: Stage) -> ControlFile | None:
    try:
        return parse_control_file((where / os.fsdecode(CONTROL_FILE)).read_bytes())
    except FileNotFoundError:
        names = sorted(entry.name for entry in where.iterdir()) if where.is_dir() else []
        strange = [name for name in names if name != "lost+found"]
        if strange and not (where / os.fsdecode(MARKER)).is_file() and stage is not Stage.RESTORING:
            raise PreconditionError(
                "the directory is not empty and does not say whose cluster it is: it has no pg_control",
                hint="look at --data-dir again, or move what is there away",
                path=where,
                found=", ".join(strange[:3]),
            ) from None
        return None
    except NotADirectoryError:
        raise PreconditionError(
            "this is not a directory", hint="look at --data-dir again", path=where
        ) from None
    except DataError as error:
        raise PreconditionError(
            "the directory does not say whose cluster it is: its pg_control is damaged",
            hint="move it away: then the replica is restored into a new directory",
            path=where,
            reason=error.message,
        ) from error


def _marked(where: Path) -> int | None:
    """Whose cluster a restore that was broken off has begun to write there; 0 if that cannot be read, which is nobody's."""
    try:
        text = (where / os.fsdecode(MARKER)).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isascii() and text.isdigit() else 0


def _history(where: Path, timeline: int) -> TimelineHistory | None:
    try:
        content = (where / "pg_wal" / f"{timeline:08X}.history").read_bytes()
        return TimelineHistory.parse(timeline, content)
    except (FileNotFoundError, DataError):
        return None  # gone, or cut by a crash: then it says nothing


def _end_of_wal(where: Path, control: ControlFile) -> Lsn:
    """How far the WAL goes on from the last checkpoint, to a page: one that was not written yet has another place in it.

    Behind a switch of segments the rest of a segment is empty, and the WAL goes on in the next one.
    """
    end = control.checkpoint_lsn
    segment = WalSegment.containing(control.timeline, end, control.wal_segment_size)
    position = Lsn(end.value // WAL_PAGE * WAL_PAGE)
    while True:
        try:
            with (where / "pg_wal" / segment.name).open("rb") as file:
                while position < segment.end:
                    file.seek(position - segment.start)
                    header = file.read(_PAGE_HEADER.size)
                    if len(header) < _PAGE_HEADER.size:
                        break
                    _magic, _info, timeline, place = _PAGE_HEADER.unpack(header)
                    if (timeline, place) != (control.timeline, position.value):
                        break
                    position += WAL_PAGE
        except FileNotFoundError:
            return end
        if position <= max(end, segment.start):
            return end
        end, segment = position, segment.next()
        position = segment.start


def _ours_to_stop(where: Path) -> bool:
    """Whether the number in postmaster.pid is a process here that works in this directory."""
    try:
        pid = int((where / "postmaster.pid").read_text().split("\n", 1)[0])
        return os.path.samestat(Path(f"/proc/{pid}/cwd").stat(), where.stat())
    except (OSError, ValueError):
        return False
