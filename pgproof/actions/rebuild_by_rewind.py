"""Rewind a replica's files to its primary's, in a place where no server looks for them meanwhile."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass

from pgproof.actions.rebuild_clock import Clock
from pgproof.actions.rebuild_survey import Survey
from pgproof.actions.wal_serving import wal_source
from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.job import Job
from pgproof.model.node import record_end
from pgproof.model.rebuild_evidence import Stage
from pgproof.model.rebuild_loss import Tail, tail_of
from pgproof.model.wal_commands import FOLDER
from pgproof.postgres.disk_errors import on_disk
from pgproof.postgres.rebuild_place import put_file
from pgproof.postgres.replica_directory import read_control, refuse_started
from pgproof.postgres.rewinding import Rewound, end_well, rewind
from pgproof.postgres.temporary import temporary_directory


@dataclass(frozen=True, slots=True)
class RewindOutcome:
    """`done` is False if it failed and a restore shall follow; `tail` is what was lost, as far as it is known now."""

    done: bool
    tail: Tail | None
    notes: tuple[str, ...] = ()


def rebuild_by_rewind(survey: Survey, job: Job, clock: Clock) -> RewindOutcome:
    """Its files are a standby's afterwards, where its server looks. Raises PreconditionError if it fails and no restore can
    follow."""
    place, tail = survey.place, survey.plan.tail
    place.make()
    place.move_aside()
    try:
        refuse_started(place.aside)
    except ConflictError:
        place.move_back()
        raise
    # One that was broken off may have written: what this one says of itself does not tell.
    begun_before = survey.directory.stage is Stage.REWINDING
    changed = begun_before
    with clock.step("crash recovery"):
        failure = end_well(place.aside, survey.programs, survey.user, job)
    if not failure:
        tail = _measured_tail(survey)
        place.park_own()
        with clock.step("rewind"):
            rewound = _rewind(survey, job)
            failure, changed = rewound.failure, begun_before or rewound.changed
    if not failure:
        # A standby from the moment on when it is back where a server looks.
        put_file(place.aside / "standby.signal", b"", survey.user)
        place.reach(Stage.READY)
        place.move_back()
        needless = "it had written nothing of its own, so nothing had to be rewound"
        return RewindOutcome(True, tail, () if rewound.rewound else (needless,))
    if survey.plan.backup_id is None:
        if not changed:
            # As good or bad as it was before; should somebody start it, then it writes nothing.
            put_file(place.aside / "standby.signal", b"", survey.user)
            place.move_back()
            place.put_back_own()
            place.remove()
        raise PreconditionError(
            "the rewind failed, and there is no backup to restore instead",
            hint="take a backup of the primary with `pgproof create`, then run this again"
            + ("" if changed else "; the files are as they were"),
            path=place.aside if changed else place.data_dir,
            reason=failure,
        )
    return RewindOutcome(False, tail, (f"the rewind failed, so a backup was restored: {failure}",))


def _rewind(survey: Survey, job: Job) -> Rewound:
    target = survey.place.aside
    # A folder of ours there would stop pg_rewind at its end: the source has none, and it is not empty.
    with on_disk(target):
        shutil.rmtree(target / FOLDER, ignore_errors=True)
    with temporary_directory("rewind", survey.place.root, survey.user) as work:
        (work / "pg_wal").mkdir(mode=0o755)
        with contextlib.ExitStack() as stack:
            restore_command = ""
            if survey.repository is not None:
                source = stack.enter_context(wal_source(survey.repository, work, survey.user))
                restore_command = source.restore_command
            survey.place.reach(Stage.REWINDING)
            return rewind(
                target,
                survey.primary_config,
                survey.programs,
                survey.user,
                job,
                work=work,
                restore_command=restore_command,
            )


def _measured_tail(survey: Survey) -> Tail | None:
    """Now that it ended well it is known where."""
    control, planned = read_control(survey.place.aside), survey.plan.tail
    end = max(control.checkpoint_lsn, control.min_recovery_point)
    end = record_end(end, control.wal_segment_size)
    found = tail_of(survey.directory, survey.primary.history, end, survey.stored, exact=True)
    # What crash recovery itself has written is nobody's commit, and in no archive.
    return found if found is not None and (planned is None or not planned.exact) else planned
