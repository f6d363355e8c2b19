"""Secrets on the terminal: new passphrases are asked for, a recovery key is shown once."""

from __future__ import annotations

import sys
from pathlib import Path

from pgproof.cli.screen import Screen
from pgproof.errors import PreconditionError

_ATTEMPTS = 3


def can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask_new_passphrase(what: str = "passphrase") -> str:
    """Ask twice, without echo. Raises PreconditionError if the answers never agree."""
    import getpass

    for _attempt in range(_ATTEMPTS):
        first = getpass.getpass(f"New {what}: ", stream=sys.stderr)
        if not first:
            print("An empty passphrase protects nothing.", file=sys.stderr)
        elif first == getpass.getpass(f"The same {what} again: ", stream=sys.stderr):
            return first
        else:
            print("The two are not the same.", file=sys.stderr)
    raise PreconditionError("no passphrase was given", hint="run the command again")


def new_passphrase(file: str | None) -> str:
    """The new passphrase from the first line of `file`, else from the terminal."""
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise PreconditionError(
                "the passphrase file cannot be read", hint="check its path and rights", file=file
            ) from error
        if text:
            return text
        raise PreconditionError("the passphrase file is empty", hint="put it on the first line", file=file)
    if can_ask():
        return ask_new_passphrase()
    raise PreconditionError(
        "there is no terminal to ask for the new passphrase on",
        hint="give a file with --new-passphrase-file",
    )


def show_recovery_key(screen: Screen, key: str) -> None:
    """Once: it is stored nowhere."""
    screen.say()
    screen.say("RECOVERY KEY, shown only this once:", "bold")
    screen.say()
    screen.say(f"    {key}", "bold green")
    screen.say()
    screen.say("Print it or write it down and keep it away from this machine. If the passphrase is lost,")
    screen.say("it is the only way to your backups: give it in place of the passphrase.")
    screen.say("Whoever has it can read every backup in this repository.")
