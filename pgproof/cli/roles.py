"""`roles`: the roles with the least rights for this server."""

from __future__ import annotations

import argparse

from pgproof.cli.engine import open_backups, open_postgres
from pgproof.cli.exits import Exit
from pgproof.cli.options import Subparsers, add_command
from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError

_PURPOSES = "physical, wal, health, restore-points, logical, fingerprints, find-damage, failover"
_DESCRIPTION = f"""Print the roles with the least rights that do the work, as SQL for this server's version that may be run
again, and the lines for pg_hba.conf. No role is a superuser, and no password is set.

Purposes are {_PURPOSES}; `all` means all of them."""


def add_commands(commands: Subparsers) -> None:
    parser = add_command(commands, "roles", roles, "print the least-privilege roles", _DESCRIPTION)
    parser.add_argument(
        "--for",
        dest="purposes",
        metavar="PURPOSES",
        default="physical,wal,health",
        help="what is to be done, separated by commas (physical,wal,health)",
    )
    parser.add_argument(
        "--prefix", metavar="NAME", default="pgproof", help="begins the roles' names (pgproof)"
    )
    parser.add_argument("--address", metavar="NET", help="where workers come from; by default this machine")
    parser.add_argument("--apply", action="store_true", help="run the SQL as well; asks before")


def roles(args: argparse.Namespace, screen: Screen) -> int:
    from pgproof.actions.roles import server_roles
    from pgproof.model.roles import Purpose, RolePlan

    names = [str(each) for each in Purpose] if args.purposes == "all" else args.purposes.split(",")
    try:
        purposes = [Purpose(name.strip()) for name in names]
    except ValueError as error:
        raise PreconditionError(
            "not a purpose", hint=f"use {_PURPOSES}, or all", purposes=args.purposes
        ) from error
    postgres = open_postgres(args)

    def plan_them(apply: bool) -> RolePlan:
        return server_roles(postgres, purposes, prefix=args.prefix, address=args.address, apply=apply)

    if args.apply:
        screen.confirm(f"Make or change roles {args.prefix}_… on {postgres}?")
        changing = open_backups(args).run_recorded(
            "roles --apply",
            lambda _job: plan_them(True),
            lambda made: f"{', '.join(made.roles)} on {postgres}",
            asked=f"{args.prefix}_… on {postgres}",
            apart=True,
        )
        plan = wait_for(changing)
    else:
        plan = plan_them(False)
    screen.document({**plan.to_json(), "applied": args.apply})
    screen.say(f"-- {'Done' if args.apply else 'Run this'} as whoever administers the server:")
    for statement in plan.statements:
        screen.say(f"{statement};")
    screen.say("\n-- Add these lines to pg_hba.conf, and reload:")
    for line in plan.hba:
        screen.say(line)
    screen.say()
    for note in plan.notes:
        screen.say(f"-- {note}")
    return Exit.OK
