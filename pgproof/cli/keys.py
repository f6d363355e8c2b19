"""`keys`: the passphrases and recovery keys that open the repository."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from pgproof.cli import text
from pgproof.cli.engine import open_backups
from pgproof.cli.exits import Exit
from pgproof.cli.options import Parser, Subparsers, add_command
from pgproof.cli.passphrase import new_passphrase, show_recovery_key
from pgproof.cli.screen import Screen
from pgproof.cli.text import Column, Table
from pgproof.cli.waiting import wait_for
from pgproof.errors import PreconditionError


def add_commands(commands: Subparsers) -> None:
    keys: Parser = commands.add_parser(
        "keys",
        help="list and change what opens the repository",
        description="Passphrases and recovery keys. Stored data is never rewritten when they change.",
    )
    actions = keys.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_command(actions, "list", list_keys, "list the key slots")
    add = add_command(actions, "add", add_key, "let one more passphrase open the repository")
    remove = add_command(actions, "remove", remove_key, "remove a key slot")
    remove.add_argument("slot_id", metavar="SLOT", help="as shown by 'keys list'")
    change = add_command(actions, "change", change_key, "replace the passphrase that is in use")
    add.add_argument(
        "--recovery",
        action="store_true",
        help="make one more recovery key in place of a passphrase, and print it once",
    )
    for parser in (add, change):
        parser.add_argument(
            "--new-passphrase-file", metavar="FILE", help="read it from a file's first line, do not ask"
        )


def list_keys(args: argparse.Namespace, screen: Screen) -> int:
    slots = wait_for(open_backups(args).list_keys())
    screen.document([slot.to_json() for slot in slots])
    now = datetime.now(UTC)
    screen.table(
        Table(
            columns=[Column("slot"), Column("kind"), Column("made")],
            rows=[(slot.slot_id, slot.kind, text.when(slot.created_at, now)) for slot in slots],
        )
    )
    return Exit.OK


def add_key(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    if args.recovery:
        if args.new_passphrase_file:
            raise PreconditionError(
                "a recovery key is made, not chosen",
                hint="take --recovery or --new-passphrase-file, not both",
            )
        slot, recovery_key = wait_for(manager.add_recovery_key())
        screen.document({**slot.to_json(), "recovery_key": recovery_key})
        screen.say(f"Key slot {slot.slot_id} added.")
        show_recovery_key(screen, recovery_key)
        return Exit.OK
    slot = wait_for(manager.add_key(new_passphrase(args.new_passphrase_file)))
    screen.document(slot.to_json())
    screen.say(f"Key slot {slot.slot_id} added.")
    return Exit.OK


def remove_key(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    screen.confirm(f"Remove key slot {args.slot_id}? Whoever uses it can then no longer open the repository.")
    wait_for(manager.remove_key(args.slot_id))
    screen.document({"removed": args.slot_id})
    screen.say(f"Key slot {args.slot_id} removed.")
    return Exit.OK


def change_key(args: argparse.Namespace, screen: Screen) -> int:
    manager = open_backups(args)
    slot = wait_for(manager.change_key(new_passphrase(args.new_passphrase_file)))
    screen.document(slot.to_json())
    screen.say(f"The passphrase is changed; its key slot is {slot.slot_id}.")
    screen.say("Change BACKUP_PASSPHRASE, the passphrase file and the Prefect block before the next run.")
    return Exit.OK
