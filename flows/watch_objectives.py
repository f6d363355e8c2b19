"""Watch over the objectives of a cluster: tell what is newly broken, once, and its recovery, once."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.support.engine import engine_task, run_engine
from flows.support.lateness import reason_to_skip
from flows.support.objectives_reports import standing_message, standing_report
from flows.support.publishing import publish_event, publish_report
from flows.support.run_names import run_name
from flows.support.settings import backup_manager
from flows.support.telling import block_teller
from pgproof.actions.watch import Watched


def _run_name() -> str:
    return run_name("objectives")


@engine_task("look-and-tell", retries=2, delay=5)
def look_and_tell(server: str, repository: str, notification_block: str) -> Watched:
    """What was told is remembered before this returns, so a repetition tells nothing twice."""
    manager = backup_manager(server, repository)
    tell = block_teller(notification_block) if notification_block else None
    notify = tell is None and manager.config.notify_url is not None
    return run_engine(lambda _progress: manager.watch(notify=notify, tell=tell))


@flow(name="watch-objectives", flow_run_name=_run_name, result_serializer="json", validate_parameters=True)
def watch_objectives(
    server: str = "main",
    repository: str = "main",
    notification_block: str = "",
    max_lateness_hours: float = 1,
) -> dict[str, Any] | State[Any]:
    """Hold what is measured against the objectives, and tell what is newly broken or has recovered, each once.

    Args:
        server: Name of the PostgreSQL Server block; empty for the worker's PG* environment.
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        notification_block: Who is told: type and name of a notification block, such as slack-webhook/ops. Empty for the
            notification URL of the repository block or the environment; without that too, a run fails
            while something is broken.
        max_lateness_hours: Skip a scheduled run that starts later than this; 0 never skips for age.

    Returns:
        How the cluster stands, or a state named Skipped, ObjectiveBroken (completed: somebody was told) or NobodyTold (failed).
    """
    if reason := reason_to_skip(max_lateness_hours):
        return Completed(name="Skipped", message=f"nothing was looked at: {reason}")
    watched = look_and_tell(server, repository, notification_block)
    config = backup_manager(server, repository).config
    message = standing_message(config.cluster, watched)
    publish_report(
        "objectives", config.cluster, standing_report(config.cluster, watched, config.objectives), message
    )
    publish_event(
        "pgproof.objectives.looked", config.cluster, {"broken": [each.key for each in watched.broken]}
    )
    for told in watched.told:
        publish_event("pgproof.objectives.told", config.cluster, {"subject": told.subject, "body": told.body})
    if not watched.broken:
        return watched.standing.to_json() if watched.standing is not None else {}
    if notification_block or config.notify_url:
        # Not failed: the automation for failed runs would tell the same thing once more, every hour.
        return Completed(name="ObjectiveBroken", message=message)
    return Failed(
        name="NobodyTold",
        message=f"{message}\nHINT: name a notification_block, so that this is told once and not at every run",
    )


if __name__ == "__main__":
    watch_objectives()
