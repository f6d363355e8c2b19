"""The options that every command has, and the parser class."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from pgproof.cli.exits import UsageError

if TYPE_CHECKING:
    from pgproof.cli.screen import Screen

Command: TypeAlias = "Callable[[argparse.Namespace, Screen], int]"
Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line is an exception, so that `--json` can report it too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            **{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs}
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self.format_usage())


def add_command(commands: Subparsers, name: str, run: Command, summary: str, description: str = "") -> Parser:
    """Add a subcommand with the common options; `run` is what it does."""
    parser: Parser = commands.add_parser(
        name, help=summary, description=description or f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(run=run)
    common = parser.add_argument_group("common options")
    common.add_argument("--cluster", metavar="NAME", help="the cluster's name in the repository (main)")
    common.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_argument("--yes", action="store_true", help="agree to questions beforehand")
    common.add_argument("--config", metavar="FILE", help="a TOML file with [postgres] and [backup]")
    common.add_argument(
        "--repository", metavar="PLACE", help="a directory, or a URL such as s3://bucket/prefix"
    )
    common.add_argument("-v", "--verbose", action="count", default=0, help="more log (-vv: all of it)")
    connection = parser.add_argument_group(
        "connection options", "Passwords come from PGPASSWORD, a password file or the configuration file."
    )
    connection.add_argument("--host", metavar="HOST", help="server's host or socket directory")
    connection.add_argument("--port", metavar="PORT", type=whole_number, help="server's port")
    connection.add_argument(
        "--user", metavar="USER", help="the role to connect as; create wants one with REPLICATION"
    )
    connection.add_argument("--dbname", metavar="DB", help="database for ordinary connections")
    return parser


def whole_number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"not a whole number: {text!r}")
    return int(text)
