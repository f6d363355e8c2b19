"""The single-host variant: one process schedules and runs the flows, without work pool or worker.

    PREFECT_API_URL=http://127.0.0.1:4200/api python deployments/serve.py

The blocks must exist (`python deployments/bootstrap.py --blocks-from-env --no-deploy`).
"""

from __future__ import annotations

import os

# Read when Prefect sets up logging in the runs, which inherit this environment.
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "pgproof")

from prefect import serve
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron

from flows.backup import backup
from flows.cleanup import cleanup
from flows.verify import verify


def main() -> None:
    serve(
        RunnerDeployment.from_flow(
            backup,
            "served-daily-full",
            tags=["pgproof", "backup"],
            parameters={"server": "main", "repository": "main", "type": "full"},
            schedules=[Cron("30 2 * * *", timezone="UTC", slug="nightly")],
            concurrency_limit=1,
        ),
        RunnerDeployment.from_flow(
            backup,
            "served-hourly-incremental",
            tags=["pgproof", "backup"],
            parameters={
                "server": "main",
                "repository": "main",
                "type": "incremental",
                "max_lateness_hours": 1,
            },
            schedules=[Cron("5 * * * *", timezone="UTC", slug="hourly")],
            concurrency_limit=1,
        ),
        RunnerDeployment.from_flow(
            verify,
            "served-daily",
            tags=["pgproof", "verify"],
            parameters={"repository": "main", "backup_id": "latest", "level": "start"},
            schedules=[
                Cron("30 4 * * 1-6", timezone="UTC", slug="start"),
                Cron("30 4 * * 0", timezone="UTC", slug="full", parameters={"level": "full"}),
            ],
            concurrency_limit=1,
        ),
        RunnerDeployment.from_flow(
            cleanup,
            "served-weekly",
            tags=["pgproof", "cleanup"],
            parameters={"repository": "main"},
            schedules=[Cron("0 3 * * 0", timezone="UTC", slug="sunday")],
            concurrency_limit=1,
        ),
        limit=2,
    )


if __name__ == "__main__":
    main()
