"""`create --via prefect`: start the deployed backup flow through Prefect's own command line.

A subprocess, because the engine never imports Prefect. Only the type travels as a parameter:
parameters are readable in the Prefect UI, and the blocks there configure the rest.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys

from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError

DEPLOYMENT = "backup/daily-full"
_NOT_PASSED_ON = (
    "cluster", "config", "repository", "host", "port", "user", "dbname", "max_rate", "compression_level",
    "change_detection", "standby", "max_standby_lag_mb", "method", "databases", "tables", "exclude_tables",
)  # fmt: skip


def create_via_prefect(args: argparse.Namespace, screen: Screen) -> int:
    """Run the deployment, wait for it and pass Prefect's exit status through."""
    given = [f"--{name.replace('_', '-')}" for name in _NOT_PASSED_ON if getattr(args, name) is not None]
    if given:
        raise PreconditionError(
            "with --via prefect the run is configured by its Prefect blocks",
            hint="leave these options out, or run without --via",
            options=", ".join(given),
        )
    if importlib.util.find_spec("prefect") is None:
        raise PreconditionError("Prefect is not installed here", hint="run without --via prefect")
    command = deployment_command(args.type)
    status = wait_for(_run(command, to_stderr=screen.as_json))
    screen.document({"deployment": DEPLOYMENT, "exit_status": status})
    return status


def deployment_command(backup_type: str | None) -> list[str]:
    parameters = ["--param", f"type={json.dumps(backup_type)}"] if backup_type else []
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    return [*prefect, "deployment", "run", DEPLOYMENT, *parameters, "--watch"]


async def _run(command: list[str], *, to_stderr: bool) -> int:
    import asyncio
    import subprocess

    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=sys.stderr if to_stderr else None
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
