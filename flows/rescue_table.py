"""Bring one table back beside the live one, and compare them. Rows are put back only when a person has approved it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.input import RunInput
from prefect.states import Cancelled
from pydantic import Field

from flows.support.approval import once_per_run, wait_for_answer
from flows.support.engine import engine_task, run_engine
from flows.support.publishing import publish_event, publish_report
from flows.support.rescue_reports import merge_question, merge_report, rescue_report
from flows.support.settings import backup_config, backup_manager
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import target_from
from pgproof.model.table_rescue import Merge, MergeReport, refuse_merge
from pgproof.recovery import RecoveryManager


class ApproveMerge(RunInput):
    """What the form in the UI asks for."""

    approve: bool = Field(default=False, description="Put these rows back into the live table.")
    table: str = Field(default="", description="Type the table's name again.")


def _run_name() -> str:
    table = runtime.flow_run.parameters["table"]
    return f"{table}-rescue-{datetime.now(UTC):%Y-%m-%d-%H%M%S}"


@engine_task()
def bring_back(
    server: str, repository: str, table: str, backup_id: str, options: dict[str, Any]
) -> dict[str, Any]:
    manager = backup_manager(server, repository)
    recovery = RecoveryManager(manager.postgres, manager)
    target = target_from(
        time=options["time"] or None,
        lsn=options["lsn"] or None,
        xid=options["xid"] or None,
        name=options["name"] or None,
        backup_end=options["backup_end"],
        inclusive=options["inclusive"],
    )
    report = run_engine(
        lambda progress: recovery.rescue_table(
            table,
            backup_id or None,
            request=RecoveryRequest(target, options["timeline"]),
            into=options["into"] or None,
            rows_shown=options["rows_shown"],
            progress=progress,
        )
    )
    cluster = backup_config(repository).cluster
    publish_report("rescue", cluster, rescue_report(report), f"{report.table} as {report.rescued}")
    comparison = report.comparison
    if options["merge"] and comparison is not None:
        refuse_merge(comparison.common, Merge(options["merge"]), comparison.violations)
    found = report.to_json()
    if found["comparison"]:
        found["comparison"]["first"] = []
        found["comparison"]["violations"] = []
    return found


@engine_task()
def put_back(
    server: str, repository: str, table: str, rescued: str, merge: str, written_by: list[int]
) -> MergeReport:
    manager = backup_manager(server, repository)
    recovery = RecoveryManager(manager.postgres, manager)
    return run_engine(
        lambda progress: recovery.merge_rescued(
            table, rescued, merge, written_by=written_by, progress=progress
        )
    )


@flow(
    name="rescue-table",
    flow_run_name=_run_name,
    result_serializer="json",
    validate_parameters=True,
    persist_result=True,
)
def rescue_table(
    table: str,
    server: str = "",
    repository: str = "main",
    backup_id: str = "",
    to_time: str = "",
    to_lsn: str = "",
    to_xid: str = "",
    to_name: str = "",
    to_backup_end: bool = False,
    exclusive: bool = False,
    timeline: int | None = None,
    into: str = "",
    rows_shown: int = 5,
    merge: Literal["", "missing", "changed", "both"] = "",
    written_by: list[int] | None = None,
    approved: bool = False,
) -> dict[str, Any] | State[Any]:
    """Bring one table back as it was at a point, under another name, and compare it with the live one.

    Args:
        table: Schema and name, such as public.orders; in the database that the server block names.
        server: Name of the PostgreSQL Server block; empty for the worker's PG* environment.
        repository: Name of the Backup Repository block; empty for the worker's BACKUP_* environment.
        backup_id: Which backup; empty picks the one that leads to the target, or the newest without a target.
        to_time: As it was at this time, ISO 8601; without an offset it is the worker's local time.
        to_lsn: As it was at this position in the WAL.
        to_xid: As it was at the end of this transaction.
        to_name: As it was at this restore point.
        to_backup_end: As early as the backup allows.
        exclusive: Stop before the target and not behind it.
        timeline: The timeline to recover along; by default the newest that can be reached.
        into: Name of the table that is made; empty for a name with the time in it.
        rows_shown: So many rows of each kind are shown in the report, with all their values; 0 for none.
        merge: Put these rows back into the live table. The run waits until somebody approves it.
        written_by: Of the changed rows only those that one of these transactions wrote last.
        approved: Do not wait for an approval.

    Returns:
        The report's JSON description without rows, or the state Cancelled if the merge was refused.
    """
    options = {
        "time": to_time,
        "lsn": to_lsn,
        "xid": to_xid,
        "name": to_name,
        "backup_end": to_backup_end,
        "inclusive": not exclusive,
        "timeline": timeline,
        "into": into,
        "rows_shown": rows_shown,
        "merge": merge,
    }
    anywhere = not (to_time or to_lsn or to_xid or to_name or to_backup_end)
    wanted = backup_id or ("latest" if anywhere else "")
    # Once, so that a run that waited goes on with the table that it asked about. It holds names and counts, and no rows.
    found = once_per_run("rescue", lambda: bring_back(server, repository, table, wanted, options))
    comparison = found["comparison"]
    if not merge or not comparison:
        return {**found, "merge": None}
    if not approved:
        question = merge_question(found["rescued"], found["table"], merge, comparison)
        answer = wait_for_answer(ApproveMerge, question)
        if not answer.approve or answer.table not in (table, found["table"]):
            reason = "its name was not typed as it is" if answer.approve else "it was not approved"
            return Cancelled(message=f"no row was put back: {reason}; the table is in {found['rescued']}")
    report = put_back(server, repository, found["table"], found["rescued"], merge, written_by or [])
    cluster = backup_config(repository).cluster
    publish_report("rescue-merge", cluster, merge_report(report), f"{report.inserted + report.updated} rows")
    publish_event(
        "pgproof.table.merged",
        cluster,
        {"table": str(report.table), "inserted": report.inserted, "updated": report.updated},
    )
    return {**found, "merge": report.to_json()}


if __name__ == "__main__":
    import sys

    rescue_table(sys.argv[1])
