"""`init` and `check`: the repository itself and whether backups can work here."""

from __future__ import annotations

import argparse
import os

from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command
from pgproof.cli.passphrase import ask_new_passphrase, can_ask, show_recovery_key
from pgproof.cli.screen import Screen
from pgproof.cli.settings import load_settings
from pgproof.cli.waiting import wait_for


def add_commands(commands: Subparsers) -> None:
    init = add_command(
        commands,
        "init",
        initialise,
        "make a new repository",
        "Make a new repository and print its recovery key, once.\nNo other command ever makes one.",
    )
    init.add_argument(
        "--no-encryption",
        dest="encryption",
        action="store_const",
        const=False,
        help="store backups readable by anyone who can read the repository",
    )
    add_command(commands, "check", check, "look whether server, repository and programs are ready")


def initialise(args: argparse.Namespace, screen: Screen) -> int:
    wanted = load_settings(args, os.environ).backup
    asked = wanted.encryption and not wanted.passphrase and not wanted.passphrase_file and can_ask()
    if asked:
        args.passphrase = ask_new_passphrase()
    report = wait_for(open_backups(args).init_repository())
    screen.document(
        {
            "location": report.location,
            "repository_id": report.repository_id,
            "encrypted": report.encrypted,
            "recovery_key": report.recovery_key,
            "guarantees": [check.to_json() for check in report.guarantees],
        }
    )
    screen.say(f"Repository {report.repository_id} made in {report.location}")
    screen.checks(report.guarantees)
    if report.recovery_key:
        show_recovery_key(screen, report.recovery_key)
    elif not report.encrypted:
        screen.warn("Without encryption: whoever can read the repository can read your data.")
    if asked:
        screen.say("Other commands take the passphrase from BACKUP_PASSPHRASE or BACKUP_PASSPHRASE_FILE.")
    return Exit.OK


def check(args: argparse.Namespace, screen: Screen) -> int:
    checks = wait_for(open_backups(args).check())
    passed = all(check.ok is not False for check in checks)
    screen.document({"ok": passed, "checks": [check.to_json() for check in checks]})
    screen.checks(checks)
    return Exit.OK if passed else Exit.NOT_PASSED
