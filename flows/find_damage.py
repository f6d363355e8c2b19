"""Find what destroyed data, and where to restore to. Reads the repository and a scratch directory only."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from flows.support.engine import engine_task, run_engine
from flows.support.publishing import publish_table
from flows.support.reports import damage_rows, damage_summary
from flows.support.run_names import run_name
from flows.support.settings import backup_config, backup_manager
from pgproof.model.harm import DamageReport
from pgproof.recovery import RecoveryManager


def _run_name() -> str:
    return run_name("damage")


@engine_task()
def scan_wal(
    server: str, repository: str, since: str, until: str, min_rows: int, timeline: int | None, names: str
) -> DamageReport:
    manager = backup_manager(server, repository)
    recovery = RecoveryManager(manager.postgres, manager)
    return run_engine(
        lambda progress: recovery.find_damage(
            since or None,
            until or None,
            min_rows=min_rows,
            timeline=timeline,
            names=names,
            progress=progress,
        )
    )


@flow(name="find-damage", flow_run_name=_run_name, result_serializer="json", validate_parameters=True)
def find_damage(
    server: str = "",
    repository: str = "main",
    since: str = "",
    until: str = "",
    min_rows: int = 1000,
    timeline: int | None = None,
    names: Literal["auto", "server", "backup", "none"] = "auto",
) -> dict[str, Any]:
    """Find the transactions that dropped, truncated, deleted or updated much, with the restore before each.

    Args:
        server: Name of the PostgreSQL Server block that knows names; empty for the worker's PG* environment.
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        since: Commits from this time on, such as 2026-11-25 14:00:00+01:00; empty for 24 hours before the end.
        until: Commits until this time; empty for now.
        min_rows: Rows that one transaction deleted or updated.
        timeline: The timeline to look along; by default the newest that can be reached.
        names: Who knows the names of relations: the server, a backup, or the one and then the other (auto).

    Returns:
        The report's JSON description.
    """
    report = scan_wal(server, repository, since, until, min_rows, timeline, names)
    cluster = backup_config(repository).cluster
    publish_table("damage", cluster, damage_rows(report), damage_summary(report))
    return report.to_json()


if __name__ == "__main__":
    find_damage()
