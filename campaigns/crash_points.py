"""The named points: those in the source, and those that a command really passes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from pgproof import failpoints

KILL, STOP, TELL = "kill", "stop", "tell"
KILLED = -9  # the status of a program that was
_SOURCE = Path(failpoints.__file__).parent
_LITERAL = re.compile(r'\bfailpoint\(\s*"([a-z.]+)"\s*\)')
_TOLD = re.compile(r"^failpoint ([a-z.]+)$", re.MULTILINE)


def names_in_source() -> set[str]:
    """Every name that stands in the engine's source; storage points are named by kind when they are reached."""
    return {name for path in _SOURCE.rglob("*.py") for name in _LITERAL.findall(path.read_text())}


def rules(name: str, nth: int = 1, action: str = KILL) -> dict[str, str]:
    """The environment that arms the program."""
    return {failpoints.VARIABLE: f"{name}@{nth}={action}"}


def passed(errors: str) -> Counter[str]:
    """How often each point was reached, by what a run with the rule `*=tell` wrote to its standard error."""
    return Counter(_TOLD.findall(errors))
