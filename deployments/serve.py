"""The single-host variant: one process schedules and runs the flows, without work pool or worker.

`pgproof schedule` starts it, looks after it and hands its settings over. By itself it serves what prefect.yaml says, with
the blocks that are named there:

    PREFECT_API_URL=http://127.0.0.1:4200/api python deployments/serve.py
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

# Read when Prefect sets up logging in the runs, which inherit this environment.
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "pgproof")

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.schedules import Schedule

from deployments.recommended import Recommended, for_service, recommended
from pgproof.errors import EngineError
from pgproof.model.service import handed_over

ROOT = Path(__file__).resolve().parent.parent
# A length of time counts from here, so that a restart moves no run.
_ANCHOR = datetime(2024, 1, 1, tzinfo=UTC)
# Runs may clean up when the service is gone.
_LAST_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--at-once", type=int, default=2, metavar="N", help="run so many at a time beside the watches (2)"
    )
    parser.add_argument("--wal", action="store_true", help="WAL is streamed: watch it")
    parser.add_argument(
        "--only-here", action="store_true", help="nobody else runs these deployments: none of them is at work"
    )
    parser.add_argument("--plan", action="store_true", help="print the deployments as JSON and stop")
    options = parser.parse_args(arguments)
    try:
        wanted = deployments(wal=options.wal)
    except EngineError as error:
        sys.exit(f"error: {error}")
    if options.plan:
        print(json.dumps([_described(each) for each in wanted]))
        return
    # Entrypoints are relative to here.
    os.chdir(ROOT)
    watches = [each for each in wanted if "watch" in each.tags]
    parts = {
        "pgproof": (options.at_once, [each for each in wanted if each not in watches]),
        # Apart, so that hours of backups, verifications and drills hold no watch up. Each runs once at a time.
        "pgproof-watches": (len(watches), watches),
    }
    runners: list[Runner] = []
    known: list[UUID] = []
    for name, (limit, served) in parts.items():
        # Schedules stay as they are when we stop: a run that nobody starts is shown as late, and skips itself in the end.
        runner = Runner(name=name, limit=limit, pause_on_shutdown=False)
        # Typed as maybe awaitable; here, where no loop runs, it is not.
        known += [cast(UUID, runner.add_deployment(_served(each))) for each in served]
        runners.append(runner)
    if options.only_here:
        _free_places(known)
    if ready := os.environ.get("PGPROOF_READY"):
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        Path(ready).touch()
    print(f"{len(wanted)} deployments are served", file=sys.stderr)
    asyncio.run(_run(runners))


async def _run(runners: Sequence[Runner]) -> None:
    """Until a signal ends them all, or one fails."""
    await asyncio.gather(*(each.start() for each in runners))


def _free_places(deployments: Sequence[UUID]) -> None:
    """Let none of these wait for a run that has died. A server keeps the leases of its limits in memory, and after it was
    killed together with a run, nobody would ever give that run's place back."""
    with get_client(sync_client=True) as client:
        for each in deployments:
            limit = client.read_deployment(each).global_concurrency_limit
            if limit is not None and limit.active_slots:
                client.update_global_concurrency_limit(
                    limit.name, GlobalConcurrencyLimitUpdate(active_slots=0)
                )


def _end_with(service: int) -> None:
    """A service that is killed has the kernel end us by SIGTERM. But its Prefect server ends as well, and a runner waits for
    ever to tell that server of its end."""
    while os.getppid() == service:
        time.sleep(1)
    time.sleep(_LAST_SECONDS)
    os._exit(1)


def deployments(*, wal: bool) -> list[Recommended]:
    """Those of prefect.yaml; for a service with its settings in place of blocks."""
    given = handed_over(os.environ)
    if given is None:
        return recommended()
    _postgres, config, replication = given
    return for_service(recommended(), config, wal=wal, replicas=bool(replication.replicas))


def _served(each: Recommended) -> RunnerDeployment:
    path, _, function = each.entrypoint.partition(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    limit = each.limit and ConcurrencyLimitConfig(
        limit=each.limit, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
    )
    return RunnerDeployment.from_flow(
        getattr(module, function),
        each.name,
        description=each.description,
        tags=list(each.tags),
        parameters=dict(each.parameters),
        schedules=[_schedule(schedule) for schedule in each.schedules],
        concurrency_limit=limit,
    )


def _schedule(given: Mapping[str, Any]) -> Schedule:
    common = {
        "active": given.get("active", True),
        "slug": given.get("slug"),
        "parameters": given.get("parameters", {}),
    }
    if "interval" in given:
        return Schedule(interval=given["interval"], anchor_date=_ANCHOR, timezone="UTC", **common)
    return Schedule(cron=given["cron"], timezone=given.get("timezone", "UTC"), **common)


def _described(each: Recommended) -> dict[str, Any]:
    schedules = [
        {
            **schedule,
            **({"interval": schedule["interval"].total_seconds()} if "interval" in schedule else {}),
        }
        for schedule in each.schedules
    ]
    flow = each.flow.replace("_", "-")
    return {
        "deployment": f"{flow}/{each.name}",
        "description": each.description,
        "parameters": dict(each.parameters),
        "schedules": schedules,
    }


if __name__ == "__main__":
    main()
