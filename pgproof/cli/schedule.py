"""`schedule`: the whole service of one cluster in one process."""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from pgproof.cli.engine import open_backups, replication_config
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command, whole_number
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.service import DEFAULT_UI_PORT, HANDED_OVER, ServiceOptions, hand_over

if TYPE_CHECKING:
    from pgproof.actions.run_service import ServiceNews
    from pgproof.backup import BackupManager

_DESCRIPTION = """Take backups by their schedules, verify, prove and clean them up, and stream WAL, for ever.

The configured Prefect API (PREFECT_API_URL or the active profile) is used; without one a
Prefect server is started on this machine, on loopback, with a password. What ends is started
again. SIGTERM ends all of it cleanly; runs at work are stopped and leave nothing behind.

An interval is hourly, daily, weekly, monthly, never, a length such as 90m or 6h, or five fields
of cron in UTC."""


def add_commands(commands: Subparsers) -> None:
    parser = add_command(commands, "schedule", schedule, "run the whole service, for ever", _DESCRIPTION)
    group = parser.add_argument_group("service options")
    for kind, usual in (("full", "daily"), ("differential", "never"), ("incremental", "hourly")):
        dest = "full_backup_interval" if kind == "full" else f"{kind}_interval"
        group.add_argument(
            f"--{kind}", dest=dest, metavar="INTERVAL", help=f"when {kind} backups are taken ({usual})"
        )
    group.add_argument("--no-wal", action="store_true", help="do not stream WAL")
    group.add_argument(
        "--at-once",
        metavar="N",
        type=whole_number,
        default=2,
        help="run so many at a time, beside the watches (2)",
    )
    group.add_argument(
        "--state-dir", metavar="DIR", help="for the Prefect server ($STATE_DIRECTORY, ~/.local/state/pgproof)"
    )
    group.add_argument(
        "--ui-port",
        metavar="PORT",
        type=whole_number,
        default=DEFAULT_UI_PORT,
        help=f"the Prefect server's port ({DEFAULT_UI_PORT})",
    )
    group.add_argument("--plan", action="store_true", help="show what would be scheduled, and stop")


def schedule(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    options = ServiceOptions(args.state_dir, args.ui_port, args.at_once, stream=not args.no_wal)
    if args.plan:
        return _show_plan(manager, replication_config(args), options, screen)
    from pgproof.scheduler import BackupScheduler

    # Whoever looks after a service wants to see what it started, and what ended.
    logger = logging.getLogger("pgproof")
    logger.setLevel(min(logger.level, logging.INFO))
    wait_for(
        BackupScheduler(manager, options, replication_config(args)).run(lambda news: _tell(screen, news))
    )
    return Exit.OK


def _tell(screen: Screen, news: ServiceNews) -> None:
    screen.document(news.to_json())
    own = " (our own)" if news.own_server else ""
    screen.say(f"✓ The service is up. Prefect: {news.api_url.removesuffix('/api')}{own}", "green")
    if news.env_file is not None:
        screen.say(
            f"  its password: {news.env_file.with_name('password')}; for `prefect` commands: . {news.env_file}"
        )
    screen.say("  WAL is streamed." if news.streams else "  WAL is not streamed.")


def _show_plan(
    manager: BackupManager, replication: ReplicationConfig, options: ServiceOptions, screen: Screen
) -> int:
    from pgproof.actions.run_service import checkout

    wal = ["--wal"] if options.stream and not manager.config.logical_only else []
    done = subprocess.run(
        [sys.executable, "-m", "deployments.serve", "--plan", *wal],
        cwd=checkout(),
        env={**os.environ, HANDED_OVER: hand_over(manager.postgres, manager.config, replication)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PreconditionError(
            "the schedules cannot be read",
            hint="compare prefect.yaml with the one of the release",
            reason=done.stderr.strip()[-400:],
        )
    plan = json.loads(done.stdout)
    screen.document({"cluster": manager.config.cluster, "deployments": plan})
    screen.table(plan_table(plan))
    return Exit.OK


def plan_table(plan: list[dict[str, Any]]) -> Table:
    """What runs when; last what only runs when somebody starts it."""
    rows = [(each["deployment"], _when(each["schedules"]), each["description"]) for each in plan]
    return Table(
        columns=[Column("deployment"), Column("when (UTC)"), Column("what")],
        rows=sorted(rows, key=lambda row: row[1] == _BY_HAND),
    )


_BY_HAND = "when started"


def _when(schedules: list[dict[str, Any]]) -> str:
    active = [each for each in schedules if each.get("active", True)]
    words = [each["cron"] if "cron" in each else f"every {each['interval']:g} s" for each in active]
    return ", ".join(words) or _BY_HAND
