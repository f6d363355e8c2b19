"""Back up many clusters: a run for each, not all at once, each failing for itself."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

from prefect import flow, runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks import BackupRepository, PostgresServer
from flows.support.fleet_runs import FleetRuns, Outcome
from flows.support.lateness import reason_to_skip
from flows.support.publishing import publish_table
from flows.support.reports import human_duration
from pgproof.errors import PreconditionError
from pgproof.model.fleet import FleetLimits, Target, may_start, select

_PAUSE_SECONDS = 2.0


@flow(name="fleet", result_serializer="json", validate_parameters=True)
def fleet(
    name: str = "all",
    targets: list[str] = ["*"],  # noqa: B006 # Prefect shows it in its form, and nothing changes it
    deployment: str = "backup/fleet-member",
    type: Literal["full", "differential", "incremental"] = "incremental",
    verify: Literal["none", "objects", "frames", "start", "full"] = "frames",
    spread_minutes: float = 40,
    at_once: int = 20,
    per_host: int = 1,
    per_store: int = 10,
    hours_for_each: float = 12,
    max_lateness_hours: float = 1,
) -> dict[str, Any] | State[Any]:
    """Take a backup of each cluster of an inventory of blocks.

    A target is a PostgreSQL Server block and the Backup Repository block of the same name. If this run is cancelled, what has
    begun goes on, and nothing more begins.

    Args:
        name: Name of this fleet in reports.
        targets: Names of blocks, or patterns such as "shop-*".
        deployment: What is run for each; it must have no concurrency limit.
        type: What to store of each.
        verify: How far to verify each new backup at once.
        spread_minutes: Starts are spread over so long; a cluster has always the same place in it.
        at_once: At most so many at a time.
        per_host: And so many of one database host.
        per_store: And so many into one bucket or directory.
        hours_for_each: One that takes longer is cancelled and has failed.
        max_lateness_hours: Skip a scheduled run that starts later than this; 0 never skips for age.

    Returns:
        What became of each target, or a state named Skipped or FleetFailed.
    """
    if reason := reason_to_skip(max_lateness_hours):
        return Completed(name="Skipped", message=f"nothing was backed up: {reason}")
    limits = FleetLimits(at_once, per_host, per_store, timedelta(minutes=spread_minutes))
    with get_client(sync_client=True) as client:
        waiting = inventory(client, targets)
        parameters = {"type": type, "verify": verify, "max_lateness_hours": 0}
        key = str(runtime.flow_run.id)
        runs = FleetRuns(client, deployment, parameters, key, timedelta(hours=hours_for_each))
        outcomes = _run_all(waiting, limits, runs)
    outcomes.sort(key=lambda outcome: (outcome.ok, outcome.target))
    failed = [outcome for outcome in outcomes if not outcome.ok]
    summary = f"{len(outcomes) - len(failed)} of {len(outcomes)} clusters backed up"
    publish_table("fleet", name, [_row(outcome) for outcome in outcomes], summary)
    if failed:
        lines = "\n".join(
            f"{outcome.target}: {outcome.state}, {outcome.message.splitlines()[0] if outcome.message else ''}"
            for outcome in failed
        )
        return Failed(name="FleetFailed", message=f"{summary}; failed:\n{lines}")
    return {"targets": [outcome.target for outcome in outcomes]}


def inventory(client: SyncPrefectClient, patterns: list[str]) -> list[Target]:
    """The clusters that blocks describe. Raises PreconditionError if there are none: a fleet of nobody is a mistake."""
    documents = client.read_block_documents_by_type(PostgresServer.get_block_type_slug())
    names = select([document.name for document in documents if document.name], patterns)
    if not names:
        raise PreconditionError(
            "no PostgreSQL Server block fits",
            hint="save a block of each kind for each cluster, under one name (docs/growing.md)",
            targets=", ".join(patterns),
        )
    return [Target(name, _host(name), _store(name)) for name in names]


def _run_all(waiting: list[Target], limits: FleetLimits, runs: FleetRuns) -> list[Outcome]:
    outcomes: list[Outcome] = []
    begun = time.monotonic()
    while waiting or runs.running:
        elapsed = timedelta(seconds=time.monotonic() - begun)
        for target in may_start(waiting, runs.running, limits, elapsed):
            waiting.remove(target)
            if refused := runs.start(target):
                outcomes.append(refused)
        time.sleep(_PAUSE_SECONDS)
        outcomes += runs.ended()
    return outcomes


def _host(name: str) -> str:
    try:
        block = PostgresServer.load(name)
    except ValueError:  # its own run says so
        return ""
    assert isinstance(block, PostgresServer)  # load() is typed as maybe awaitable
    return f"{block.host or ''}:{block.port or ''}"


def _store(name: str) -> str:
    try:
        block = BackupRepository.load(name)
    except ValueError:
        return ""
    assert isinstance(block, BackupRepository)
    # Directories are told apart by their parent: those of a fleet usually lie side by side on one disk.
    directory = (block.directory or "").rstrip("/").rpartition("/")[0]
    return urlsplit(block.url).netloc if block.url else block.bucket or directory


def _row(outcome: Outcome) -> dict[str, str]:
    return {
        "cluster": outcome.target,
        "result": outcome.state if outcome.ok else f"✗ {outcome.state}",
        "duration": human_duration(outcome.seconds),
        "message": outcome.message,
        "run": outcome.run_id,
    }


if __name__ == "__main__":
    fleet()
