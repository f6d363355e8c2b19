"""The program `pgproof`: parse, run one command, turn what happened into an exit status.

Start-up stays cheap: nothing imported here may import a driver, an object store or rich, and of the modules of the
commands only that of the one that is run is imported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import TracebackType

from pgproof.cli.exits import EPILOG, Exit, UsageError, exit_status, failure, usage_status
from pgproof.cli.options import Parser
from pgproof.cli.screen import Screen
from pgproof.errors import Cancelled, EngineError
from pgproof.whoami import PROGRAM

# The modules of `pgproof.cli` in the order of the help, and the commands of each.
COMMANDS = {
    "repository": ("init", "check"),
    "backups": ("create", "mirror", "list"),
    "overview": ("stats",),
    "metrics": ("metrics",),
    "status": ("status",),
    "cleanup": ("cleanup", "keep"),
    "verify": ("verify",),
    "drill": ("drill",),
    "restore": ("restore",),
    "databases": ("clone",),
    "find_damage": ("find-damage",),
    "wal": ("wal", "restore-point"),
    "replicas": ("replicas",),
    "schedule": ("schedule",),
    "keys": ("keys",),
    "audit": ("audit",),
    "roles": ("roles",),
    "demo": ("demo",),
}


def run(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            # A terminal that cannot show a character gets another one, not a crash after the work.
            reconfigure(errors="replace")
    screen = Screen(as_json="--json" in arguments, assume_yes="--yes" in arguments)
    program = PROGRAM.set("cli")
    if screen.as_json:
        sys.excepthook = _report_bug
    try:
        args = build_parser(arguments).parse_args(arguments)
        _set_up_logging(getattr(args, "verbose", 0))
        return int(args.run(args, screen))
    except UsageError as error:
        screen.document(failure("usage", str(error), "see --help"))
        screen.warn(f"{error.usage}pgproof: {error}")
        return usage_status(arguments)
    except EngineError as error:
        screen.error(error)
        return exit_status(error)
    except (KeyboardInterrupt, Cancelled):
        screen.document(failure("interrupted", "interrupted"))
        screen.warn("pgproof: interrupted")
        return Exit.INTERRUPTED
    finally:
        PROGRAM.reset(program)


def build_parser(arguments: Sequence[str] = ()) -> Parser:
    """The parser for these arguments: if they begin with a command it knows that one only, else all."""
    parser = Parser(
        prog="pgproof",
        description="PostgreSQL backups that prove themselves by being restored.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and stop")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    named = [module for module, names in COMMANDS.items() if arguments and arguments[0] in names]
    for module in named or COMMANDS:
        import_module(f"pgproof.cli.{module}").add_commands(commands)
    return parser


class _ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for: the look-up reads the disk."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"pgproof {version('pgproof')}")
        parser.exit()


def _set_up_logging(verbosity: int) -> None:
    import logging

    logger = logging.getLogger("pgproof")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])


def _report_bug(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """With `--json` a bug is a document as well; the traceback goes to standard error as always."""
    Screen(as_json=True).document(failure("unexpected", f"{kind.__name__}: {error}", "please report this"))
    sys.__excepthook__(kind, error, traceback)


if __name__ == "__main__":
    sys.exit(run())
