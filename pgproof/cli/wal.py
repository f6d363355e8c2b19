"""`wal`: what keeps the write-ahead log in the repository, and brings it back."""

from __future__ import annotations

import argparse
from pathlib import Path

from pgproof.cli import wal_stream
from pgproof.cli.engine import backup_config, open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Parser, Subparsers, add_command, whole_number
from pgproof.cli.screen import Screen
from pgproof.cli.waiting import wait_for
from pgproof.errors import EngineError

_PUSH = """Store one file of pg_wal; done when it is durable.

For archive_command, whose working directory is the data directory. A resident worker is
faster: `pgproof wal archive-command` prints the line for it."""

_FETCH = """Bring one WAL file back, whole or not at all.

Ends with 0, with 44 if the file is proven not to be in the repository, and with 255 for
everything else, so that PostgreSQL never takes an outage for the end of the WAL.
`pgproof wal restore-command` prints a faster line that also holds when this program
is killed or missing."""


def add_commands(commands: Subparsers) -> None:
    wal: Parser = commands.add_parser(
        "wal",
        help="keep the write-ahead log in the repository",
        description="The write-ahead log (WAL): pushed or streamed in, looked after, fetched back.",
    )
    actions = wal.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wal_stream.add_commands(actions)
    push_parser = add_command(actions, "push", push, "store one WAL file (for archive_command)", _PUSH)
    push_parser.add_argument("path", metavar="PATH", help="such as %%p gives it")
    fetch_parser = add_command(
        actions, "fetch", fetch, "bring one WAL file back (for restore_command)", _FETCH
    )
    fetch_parser.add_argument("name", metavar="NAME", help="such as %%f gives it")
    fetch_parser.add_argument("target", metavar="DEST", help="such as %%p gives it")
    for name, run, what in (
        ("archive-command", archive_command, "print an archive_command that uses a resident worker"),
        ("restore-command", restore_command, "print a restore_command that uses a resident worker"),
    ):
        parser = add_command(actions, name, run, what)
        _add_worker_options(parser)
    worker_parser = add_command(actions, "worker", worker, "start the resident worker of a data directory")
    worker_parser.add_argument("folder", metavar="DIR", help="its folder, such as pg_wal/pgproof")
    _add_worker_options(worker_parser)
    wal_stream.add_restore_point(commands)


def _add_worker_options(parser: Parser) -> None:
    parser.add_argument(
        "--ahead", metavar="N", type=whole_number, help="WAL files pushed before they are asked for (3)"
    )
    parser.add_argument(
        "--idle",
        metavar="SECONDS",
        type=whole_number,
        help="the worker ends after so long without work (300)",
    )


def push(args: argparse.Namespace, screen: Screen) -> int:
    try:
        stored = wait_for(open_backups(args).push_wal(args.path))
    except KeyboardInterrupt:
        # A status above 125 would end the archiver.
        screen.warn("pgproof: interrupted")
        return Exit.TRANSIENT
    screen.document({"pushed": Path(args.path).name, "stored_bytes": stored})
    return Exit.OK


def fetch(args: argparse.Namespace, screen: Screen) -> int:
    try:
        found = wait_for(open_backups(args).fetch_wal(args.name, args.target))
    except EngineError as error:
        screen.error(error)
        return Exit.NOT_FETCHED
    except KeyboardInterrupt:
        screen.warn("pgproof: interrupted")
        return Exit.NOT_FETCHED
    screen.document({"name": args.name, "found": found})
    if not found:
        screen.warn(f"pgproof: {args.name} is not in the repository")
    return Exit.OK if found else Exit.ABSENT


def archive_command(args: argparse.Namespace, screen: Screen) -> int:
    from pgproof.actions.wal_serving import archive_command_line

    return _print_line("archive_command", archive_command_line(_given(args)), screen)


def restore_command(args: argparse.Namespace, screen: Screen) -> int:
    from pgproof.actions.wal_serving import restore_command_line

    return _print_line("restore_command", restore_command_line(_given(args)), screen)


def worker(args: argparse.Namespace, screen: Screen) -> int:
    config = backup_config(args)
    from pgproof.actions.wal_worker import AHEAD, IDLE_SECONDS, WorkerOptions, start_worker

    options = WorkerOptions(
        AHEAD if args.ahead is None else args.ahead,
        IDLE_SECONDS if args.idle is None else float(args.idle),
        Path(args.config).absolute() if args.config else None,
    )
    start_worker(config, Path(args.folder), options)
    return Exit.OK


def _print_line(setting: str, value: str, screen: Screen) -> int:
    from pgproof.model.wal_commands import as_setting

    screen.document({setting: value})
    screen.say(f"{setting} = {as_setting(value)}")
    return Exit.OK


def _given(args: argparse.Namespace) -> list[str]:
    """The options of this command line that the worker needs, places made absolute."""
    options = []
    if args.config:
        options += ["--config", str(Path(args.config).absolute())]
    if args.repository:
        there = args.repository
        options += ["--repository", there if "://" in there else str(Path(there).expanduser().absolute())]
    for name in ("cluster", "ahead", "idle"):
        value = getattr(args, name)
        if value is not None:
            options += [f"--{name}", str(value)]
    return options
