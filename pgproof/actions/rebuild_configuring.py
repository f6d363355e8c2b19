"""Make of files that are good a standby that is ready to be started: led to its primary, with its own configuration."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from pgproof.actions.rebuild_survey import Survey
from pgproof.actions.wal_serving import leave_wal_source
from pgproof.failpoints import failpoint
from pgproof.model.delta_plan import MARKER
from pgproof.model.lsn import WalSegment
from pgproof.model.rebuild_evidence import Stage
from pgproof.model.rebuild_plan import Way
from pgproof.model.replica_conf import following
from pgproof.model.wal_commands import FOLDER
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.rebuild_place import AUTO_CONF, put_file
from pgproof.postgres.scratch_files import exclusive, sync_directory


def configure_standby(survey: Survey, way: Way) -> tuple[str, ...]:
    """`way` is the one that its files came by. Returns what its operator should know.

    Raises ConflictError if a server has been started on them meanwhile.
    """
    place, data_dir = survey.place, survey.place.data_dir
    place.move_back()
    place.put_back_own()
    with on_disk(data_dir), exclusive(data_dir):
        restore_command = None
        shutil.rmtree(data_dir / FOLDER, ignore_errors=True)
        if survey.repository is not None and survey.fetches:
            restore_command = leave_wal_source(survey.repository, data_dir, survey.user)
        _leave_history(survey, way)
        auto_conf = data_dir / AUTO_CONF
        before = auto_conf.read_bytes() if auto_conf.is_file() else b""
        put_file(auto_conf, following(before, survey.standby, restore_command, survey.pinned), survey.user)
        put_file(data_dir / "standby.signal", b"", survey.user)
        for name in ("recovery.signal", os.fsdecode(MARKER)):
            (data_dir / name).unlink(missing_ok=True)
        sync_directory(data_dir)
        notes = _slots_of_its_own(survey, data_dir)
    failpoint("rebuild.configured")
    return notes


def _slots_of_its_own(survey: Survey, data_dir: Path) -> tuple[str, ...]:
    """A rewind and a restore leave none; what a primary had for its replicas would keep WAL for nobody."""
    slots = sorted(entry.name for entry in (data_dir / "pg_replslot").iterdir())
    if not slots or survey.directory.control is None or survey.directory.was_standby:
        return ()
    return (
        f"it has replication slots of its time as a primary ({', '.join(slots)}): drop those that nobody uses, "
        "or they keep WAL until its disk is full",
    )


def _leave_history(survey: Survey, way: Way) -> None:
    """With it the replica knows the primary's way from the start, and replays nothing beyond where it left a timeline."""
    history, wal = survey.primary.history, survey.place.data_dir / "pg_wal"
    if not history.switches:
        return
    put_file(wal / f"{history.timeline:08X}.history", survey.history, survey.user)
    before = survey.directory
    if way is not Way.START or before.stage is Stage.READY or not before.was_standby:
        return
    # What was received of a timeline that the primary has left, and is not replayed yet, may go on beyond that; up to
    # there the primary's own files hold the same.
    size = survey.primary.state.segment_size
    for path in wal.iterdir():
        with contextlib.suppress(ValueError):  # history files and folders
            segment = WalSegment.parse(path.name, size)
            if any(each.timeline == segment.timeline and segment.end > each.at for each in history.switches):
                path.unlink()
