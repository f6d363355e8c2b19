"""`replicas`: what looks after the replicas of a cluster."""

from __future__ import annotations

from importlib import import_module

from pgproof.cli.options import Parser, Subparsers

# The modules of `pgproof.cli` that bring its commands, in the order of the help.
PARTS = ("replica_status", "replica_watch", "replica_promote", "replica_rebuild")


def add_commands(commands: Subparsers) -> None:
    replicas: Parser = commands.add_parser(
        "replicas",
        help="look after the replicas",
        description="The replicas of a cluster: how they stand, who is the primary, and what is wrong.\n"
        "They are named by READ_REPLICA_HOSTS or the table [replicas] of the configuration file.",
    )
    actions = replicas.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in PARTS:
        import_module(f"pgproof.cli.{module}").add_commands(actions)
