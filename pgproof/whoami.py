"""Who runs this process, for records that people read."""

from __future__ import annotations

import getpass
import os
from contextvars import ContextVar

# What was run: a context of its own for each flow run of a process.
PROGRAM: ContextVar[str] = ContextVar("pgproof_program", default="python")


def whoami() -> str:
    """The operating system's `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a user without a name, as in containers
    return f"{user}@{os.uname().nodename}"
