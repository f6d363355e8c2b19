"""`demo`: a real PostgreSQL, a real Prefect server, one backup and its proof, in under a minute."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgproof.cli import text
from pgproof.cli.exits import Exit
from pgproof.cli.options import Parser, Subparsers
from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError
from pgproof.model.report import Check

if TYPE_CHECKING:
    from pgproof.cli.demo_run import DemoOutcome
    from pgproof.cli.demo_state import DemoState


def add_commands(commands: Subparsers) -> None:
    demo: Parser = commands.add_parser(
        "demo",
        help="try everything on a private PostgreSQL with sample data",
        description="Start a private PostgreSQL with sample data and a private Prefect server, take a\n"
        "backup, prove it by restoring it, and clean up. Nothing outside /tmp is touched.",
    )
    demo.set_defaults(run=run_demo)
    demo.add_argument("--keep", action="store_true", help="leave servers and repository up to look at")
    demo.add_argument("--stop", action="store_true", help="stop and remove a demo that was kept")
    demo.add_argument("--json", action="store_true", help="print one JSON document")
    demo.add_argument("--yes", action="store_true", help="accepted, nothing is asked")


def run_demo(args: argparse.Namespace, screen: Screen) -> int:
    from pgproof.cli.demo_state import load_state, remove_demo

    left_behind = load_state()
    if args.stop:
        if left_behind:
            remove_demo(left_behind)
        screen.document({"stopped": left_behind is not None})
        screen.say("The demo is stopped and removed." if left_behind else "There is no demo to stop.")
        return Exit.OK
    if left_behind:
        raise PreconditionError(
            "a demo is still there",
            hint="stop it first: pgproof demo --stop",
            work=left_behind.work,
            ui=left_behind.ui_url,
        )
    from pgproof.cli.demo_run import play

    outcome, state = wait_for(play(screen, keep=args.keep))
    screen.document(_document(outcome, state, keep=args.keep))
    _show(screen, outcome)
    if args.keep:
        _show_next(screen, outcome, state)
    else:
        _show_removed(screen, state)
    return Exit.OK


def _show_removed(screen: Screen, state: DemoState) -> None:
    program = Path(sys.executable).with_name("pgproof")
    screen.say(
        f"  repository  was in {state.repository}\n"
        f"  Prefect     was at {state.ui_url}\n"
        "Both are stopped and removed.\n\n"
        "Try next:\n"
        "  KEEP=1 make demo        # the same, left up to look around\n"
        f"  {program} --help\n"
        f"  PGHOST=… PGUSER=… BACKUP_DIR=… {program} check    # your own server"
    )


def _document(outcome: DemoOutcome, state: DemoState, *, keep: bool) -> dict[str, Any]:
    kept = {"repository": str(state.repository), "ui": state.ui_url, "env_file": str(state.env_file)}
    return {
        "backup": outcome.backup.value,
        "verification": outcome.verification.value,
        "seconds": {title: round(seconds, 3) for title, seconds in outcome.steps.seconds.items()},
        "kept": kept if keep else None,
    }


def _show(screen: Screen, outcome: DemoOutcome) -> None:
    backup, proof = outcome.backup.value, outcome.verification.value
    screen.table(outcome.steps.table())
    screen.say()
    screen.say(
        f"Backup {backup['backup_id']} of PostgreSQL {backup['server_version']}: "
        f"{text.size(backup['size_bytes'])}, stored encrypted in {text.size(backup['stored_bytes'])}."
    )
    if proof["proven"]:
        screen.say("It was proven by restoring it and starting PostgreSQL on the result:")
    screen.checks([Check(**step) for step in proof["checks"]])
    screen.say()


def _show_next(screen: Screen, outcome: DemoOutcome, state: DemoState) -> None:
    screen.figures(
        [
            ("repository", str(state.repository)),
            ("Prefect", state.ui_url),
            ("backup run", outcome.backup.url),
            ("verify run", outcome.verification.url),
        ]
    )
    screen.say()
    screen.say("Try next:")
    env = shlex.quote(str(state.env_file))
    target = shlex.quote(str(Path(state.work) / "restored"))
    for command in ("list", "verify latest --level full", f"restore latest --data-dir {target}"):
        screen.say(f"  . {env}; pgproof {command}", "bold")
    screen.say()
    program = shlex.quote(str(Path(sys.executable).parent / "pgproof"))
    screen.say(f"Stop and remove it all: {program} demo --stop")
