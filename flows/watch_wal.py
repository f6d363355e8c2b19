"""Watch over the WAL of a cluster: a table of its state, and an event for each thing that is wrong."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.support.engine import engine_task, run_engine
from flows.support.lateness import reason_to_skip
from flows.support.publishing import publish_event, publish_table
from flows.support.run_names import run_name
from flows.support.settings import backup_manager
from flows.support.wal_reports import wal_message, wal_rows
from pgproof.model.wal_status import WalLimits, WalStatus


def _run_name() -> str:
    return run_name("wal")


@engine_task("wal-status", retries=2, delay=5)
def look_at_wal(server: str, repository: str, slot: str, limits: WalLimits, free_bytes: int) -> WalStatus:
    manager = backup_manager(server, repository)
    return run_engine(
        lambda _progress: manager.wal_status(slot=slot or None, limits=limits, free_bytes=free_bytes or None),
        hours=0.25,
    )


@flow(
    name="watch-wal",
    flow_run_name=_run_name,
    result_serializer="json",
    validate_parameters=True,
)
def watch_wal(
    server: str = "main",
    repository: str = "main",
    slot: str = "",
    max_lag_seconds: float = 60,
    max_lag_bytes: int = 256 << 20,
    hours_to_full: float = 24,
    free_bytes: int = 0,
    max_lateness_hours: float = 0.5,
) -> dict[str, Any] | State[Any]:
    """Look how the WAL stands. The run fails while something is wrong, so that its failure notifies.

    Args:
        server: Name of the PostgreSQL Server block; empty for the worker's PG* environment.
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        slot: The streamer's replication slot; empty for its usual name.
        max_lag_seconds: So far behind is a problem.
        max_lag_bytes: So much WAL that is not stored is a problem.
        hours_to_full: A WAL disk that is full sooner is a problem while nobody streams.
        free_bytes: Free space of the server's WAL disk where it cannot be seen from the worker; 0 if unknown.
        max_lateness_hours: Skip a scheduled run that starts later than this; 0 never skips for age.

    Returns:
        The status's JSON description, or a state named Skipped or WalInDanger.
    """
    if reason := reason_to_skip(max_lateness_hours):
        return Completed(name="Skipped", message=f"nothing was looked at: {reason}")
    status = look_at_wal(
        server, repository, slot, WalLimits(max_lag_bytes, max_lag_seconds, hours_to_full), free_bytes
    )
    publish_table("wal", status.cluster, wal_rows(status), wal_message(status))
    for problem in status.problems:
        publish_event(f"pgproof.wal.{problem.kind}", status.cluster, problem.to_json())
    if not status.ok:
        return Failed(name="WalInDanger", message=wal_message(status))
    publish_event("pgproof.wal.ok", status.cluster, {"at": status.at.isoformat()})
    return status.to_json()


if __name__ == "__main__":
    watch_wal()
