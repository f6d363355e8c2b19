"""Who runs this process, for records that people read."""

from __future__ import annotations

import getpass
import os


def whoami() -> str:
    """The operating system's `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # a user without a name, as in containers
    return f"{user}@{os.uname().nodename}"
