"""Restore a backup over a replica's files, as a standby. Until it is whole no server starts on them: they have no pg_control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgproof.actions.rebuild_clock import Clock
from pgproof.actions.rebuild_survey import Survey
from pgproof.actions.restore_cluster import plan_cluster_restore, restore_cluster
from pgproof.model.job import Job
from pgproof.model.rebuild_evidence import Stage
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.postgres.rebuild_place import mark


def rebuild_by_restore(survey: Survey, job: Job, clock: Clock) -> tuple[str, ...]:
    """Returns what the restore has to say."""
    place = survey.place
    assert survey.repository is not None and survey.plan.backup_id is not None

    def arguments() -> Any:
        request = RecoveryRequest(
            timeline=survey.plan.timeline, standby=survey.standby, delta=_has_something(place.data_dir)
        )
        owner = survey.user.name if survey.user else None
        return {"tablespaces": {}, "recover": False, "owner": owner, "request": request, "job": job}

    if place.stage is not Stage.RESTORING:
        if not place.aside.is_dir():
            # What the restore itself would refuse is refused while the old files are whole.
            plan_cluster_restore(survey.repository, survey.plan.backup_id, place.data_dir, **arguments())
        place.make()
        place.park_own()
        if place.aside.is_dir():
            place.make_unusable(survey.primary.state.system_identifier)
        place.reach(Stage.RESTORING)
    if _has_something(place.data_dir) and not (place.data_dir / "global" / "pg_control").exists():
        mark(place.data_dir, survey.primary.state.system_identifier, survey.user)
    with clock.step("restore"):
        restored = restore_cluster(survey.repository, survey.plan.backup_id, place.data_dir, **arguments())
    place.reach(Stage.READY)
    return restored.notes


def _has_something(data_dir: Path) -> bool:
    return data_dir.is_dir() and any(entry.name != "lost+found" for entry in data_dir.iterdir())
