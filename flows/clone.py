"""Clone a database, for development or tests; masked before anybody can connect."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE

from flows.support.engine import run_engine
from flows.support.publishing import publish_event, publish_report
from flows.support.reports import database_report
from flows.support.settings import backup_config, backup_manager, postgres_config
from pgproof.model.database_restore import BuildOptions, DatabaseReport
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import target_from
from pgproof.recovery import RecoveryManager


def _run_name() -> str:
    parameters = runtime.flow_run.parameters
    return f"{parameters['source']}-to-{parameters['target']}-{datetime.now(UTC):%Y-%m-%d-%H%M%S}"


# Not retried: after a lost connection it may have been completed.
@task(cache_policy=NO_CACHE, persist_result=False)
def clone_one_database(
    server: str, repository: str, source: str, target: str, options: dict[str, Any]
) -> DatabaseReport:
    manager = backup_manager(server, repository)
    recovery = RecoveryManager(manager.postgres, manager)
    point = target_from(time=options["time"] or None)
    return run_engine(
        lambda progress: recovery.clone_database(
            source,
            target,
            to=postgres_config(options["to_server"]) if options["to_server"] else None,
            fast=options["fast"],
            mask=options["mask"] or None,
            request=RecoveryRequest(point) if point else None,
            backup_id=options["backup_id"] or None,
            options=BuildOptions(jobs=options["jobs"], disconnect=options["disconnect"]),
            progress=progress,
        )
    )


@flow(name="clone", flow_run_name=_run_name, result_serializer="json", validate_parameters=True)
def clone(
    source: str,
    target: str,
    server: str = "main",
    repository: str = "main",
    to_server: str = "",
    mask: str = "",
    backup_id: str = "",
    to_time: str = "",
    fast: bool = False,
    disconnect: bool = False,
    jobs: int = 2,
) -> dict[str, Any]:
    """Copy a database under another name, to the same or another server. Nothing that exists is replaced.

    Args:
        source: The database to copy.
        target: What the copy will be called; there must be none of this name.
        server: Name of the PostgreSQL Server block; empty for the worker's PG* environment.
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        to_server: Block of the server it goes to, if that is another one.
        mask: A file of SQL on the worker's machine that runs in the copy before anybody can connect.
        backup_id: Copy it out of this backup; "latest" for the newest.
        to_time: Copy it out of a backup, as it was at this time.
        fast: Copy its files; needs the source without connections.
        disconnect: With fast: end the connections of others to the source.
        jobs: Indexes that are made at a time.

    Returns:
        The report's JSON description.
    """
    options = {
        "to_server": to_server,
        "mask": mask,
        "backup_id": backup_id,
        "time": to_time,
        "fast": fast,
        "disconnect": disconnect,
        "jobs": jobs,
    }
    report = clone_one_database(server, repository, source, target, options)
    cluster = backup_config(repository).cluster
    publish_report("clone", cluster, database_report(report), f"{source} as {target} on {report.server}")
    publish_event("pgproof.database.cloned", cluster, {"database": source, "target": target})
    return report.to_json()


if __name__ == "__main__":
    import sys

    clone(sys.argv[1], sys.argv[2])
