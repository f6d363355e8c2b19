"""`restore` without a data directory, and `clone`: databases into running servers."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pgproof.cli import text
from pgproof.cli.engine import open_recovery
from pgproof.cli.exits import Exit
from pgproof.cli.options import Parser, Subparsers, add_command, whole_number
from pgproof.cli.progress import progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.settings import load_settings
from pgproof.cli.targets import add_targets, option, target_of
from pgproof.cli.text import printable
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError
from pgproof.model.recovery_request import RecoveryRequest

if TYPE_CHECKING:
    from pgproof.model.config import PostgresConfig
    from pgproof.model.database_restore import BuildOptions, DatabaseReport

_ONLY_DATABASES = (
    "target",
    "database",
    "drop_old",
    "disconnect",
    "to_host",
    "to_port",
    "to_user",
    "jobs",
    "no_owner",
    "no_privileges",
    "no_tablespaces",
)
_ONLY_CLUSTERS = ("tablespace", "standby", "primary", "slot", "delta", "owner")


def add_options(parser: Parser) -> None:
    """Those of `restore` for one database."""
    group = parser.add_argument_group(
        "one database",
        "Without --data-dir and --table a database comes back into the running server. It is built\n"
        "beside the old one, and takes its place when it is complete.",
    )
    group.add_argument("--target", metavar="DB", help="what it will be called (by default as in the backup)")
    group.add_argument("--database", metavar="NAME", help="its name in the backup (by default --dbname)")
    group.add_argument(
        "--no-clean",
        dest="clean",
        action="store_false",
        help="leave the existing database as it is, and add only what it lacks",
    )
    group.add_argument("--drop-old", action="store_true", help="drop the old one when it is replaced")
    group.add_argument(
        "--disconnect", action="store_true", help="end the connections of others to the old one"
    )
    _add_building(group)


def add_commands(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "clone",
        clone,
        "copy a database, of the server or of a backup",
        "Copy a database under another name, to the same or another server. Nobody can connect before it is complete.",
    )
    parser.add_argument("source", metavar="SOURCE", help="the database to copy")
    parser.add_argument("target_name", metavar="TARGET", help="what the copy will be called; must not exist")
    parser.add_argument(
        "--mask", metavar="FILE", help="SQL that runs in the copy before anybody can connect to it"
    )
    parser.add_argument(
        "--fast", action="store_true", help="copy its files; needs the source without connections"
    )
    parser.add_argument(
        "--disconnect", action="store_true", help="with --fast: end the connections of others to the source"
    )
    parser.add_argument("--backup", metavar="ID", help="copy it out of this backup")
    parser.add_argument("--bin-dir", metavar="DIR", help="where PostgreSQL's programs are")
    _add_building(parser)
    add_targets(parser, "One of them, or --backup: then the source is a backup and not the server.")


def _add_building(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--to-host",
        metavar="HOST",
        help="into the server at this host (by default --host); PGPASSWORD or a password file has its password",
    )
    group.add_argument("--to-port", metavar="PORT", type=whole_number, help="its port")
    group.add_argument("--to-user", metavar="USER", help="the role there")
    group.add_argument(
        "--jobs",
        metavar="N",
        type=whole_number,
        help="make so many indexes, or read so many tables, at a time (2)",
    )
    group.add_argument("--no-owner", action="store_true", help="everything belongs to the role that restores")
    group.add_argument("--no-privileges", action="store_true", help="leave rights (GRANT) out")
    group.add_argument("--no-tablespaces", action="store_true", help="everything into the default tablespace")


def refuse_with_cluster(args: argparse.Namespace) -> None:
    """Raise PreconditionError for options that mean something for one database only."""
    given = [name for name in _ONLY_DATABASES if getattr(args, name) not in (None, False)]
    if given or not args.clean:
        raise PreconditionError(
            "this option is for one database in a running server",
            hint="leave it out, or --data-dir and --table",
            option=option(given[0]) if given else "--no-clean",
        )


def restore_database(args: argparse.Namespace, screen: Screen) -> int:
    for name in _ONLY_CLUSTERS:
        if getattr(args, name, None):
            raise PreconditionError(
                "this option is for whole clusters",
                hint="add --data-dir DIR, or leave it out",
                option=option(name),
            )
    if not args.recover:
        raise PreconditionError(
            "a database comes from a recovered server", hint="leave --no-recover out", option="--no-recover"
        )
    if args.backup_id is None and target_of(args) is None:
        raise PreconditionError(
            "neither a backup nor a recovery target is named",
            hint="name one: pgproof restore latest, or add --to-time and the like; with --data-dir DIR the whole cluster",
        )
    if not args.plan:
        screen.refuse_unanswered()
    manager = open_recovery(args)
    wanted: dict[str, Any] = {
        "database": args.database,
        "to": _to(args),
        "request": RecoveryRequest(target_of(args), args.timeline),
        "clean": args.clean,
        "drop_old": args.drop_old,
        "options": _options(args),
    }
    with progress_bar(screen) as progress:
        plan = wait_for(
            manager.plan_database_restore(args.backup_id, args.target, progress=progress, **wanted)
        )
    if args.plan:
        screen.document(plan.to_json())
    for line in plan.lines():
        screen.say(_line(line))
    if args.plan:
        return Exit.OK
    if plan.old_size is not None:
        what = "Replace" if plan.clean else "Add to"
        screen.confirm(f"{what} the database {_line(plan.target)} on {_line(plan.server)}?")
    else:
        screen.confirm(f"Make the database {_line(plan.target)} on {_line(plan.server)}?")
    with progress_bar(screen) as progress:
        report = wait_for(manager.restore_database(args.backup_id, args.target, progress=progress, **wanted))
    return _show(report, screen, "is restored")


def clone(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_recovery(args)
    target = target_of(args)
    request = RecoveryRequest(target, args.timeline) if target or args.timeline or args.backup else None
    with progress_bar(screen) as progress:
        report = wait_for(
            manager.clone_database(
                args.source,
                args.target_name,
                to=_to(args),
                fast=args.fast,
                mask=args.mask,
                request=request,
                backup_id=args.backup,
                options=_options(args),
                progress=progress,
            )
        )
    return _show(report, screen, "is cloned")


def _options(args: argparse.Namespace) -> BuildOptions:
    from pgproof.model.database_restore import BuildOptions

    return BuildOptions(
        jobs=2 if args.jobs is None else args.jobs,
        disconnect=args.disconnect,
        owners=not args.no_owner,
        privileges=not args.no_privileges,
        tablespaces=not args.no_tablespaces,
    )


def _to(args: argparse.Namespace) -> PostgresConfig | None:
    """Another server than the configured one; its password is not that one's, unless libpq finds it."""
    if args.to_host is None and args.to_port is None and args.to_user is None:
        return None
    postgres = load_settings(args, os.environ).postgres
    hidden = {"hostaddr", "service", "servicefile"} if args.to_host else set()
    return replace(
        postgres,
        host=args.to_host or postgres.host,
        port=args.to_port or postgres.port,
        user=args.to_user or postgres.user,
        password=None,
        options={key: value for key, value in postgres.options.items() if key not in hidden},
    )


def _show(report: DatabaseReport, screen: Screen, done: str) -> int:
    screen.document(report.to_json())
    screen.say(f"The database {_line(report.target)} {done}.", "bold green")
    screen.figures(
        [
            ("from", _line(f"{report.database} of {report.source}")),
            ("as of", _line(report.point)),
            ("on", _line(report.server)),
            ("size", text.size(report.size_bytes)),
            ("duration", text.duration(report.seconds)),
        ]
    )
    for line in report.lines():
        screen.say(_line(f"{line[0].upper()}{line[1:]}"))
    return Exit.OK


def _line(said: str) -> str:
    """On one line, whatever names are in it."""
    return printable(said).replace("\n", "\\n")
