"""A replica's own configuration files: what they say of its primary, and how they are led to another one. Pure."""

from __future__ import annotations

import re

from pgproof.model.recovery_request import Standby
from pgproof.model.recovery_settings import standby_settings, with_settings

_VALUE = r"\s*(?:=\s*|\s)(?:'((?:[^'\\\n]|''|\\.)*)'|([^\s#']+))"
_DELAY = re.compile(rb"\s*recovery_min_apply_delay\s*(?:=|\s)", re.IGNORECASE)
_NOTE = "Added by a rebuild: how this replica gets its WAL."
_OURS = ("# Added by a rebuild:", "# Added by a restore:")


def setting(files: list[str], name: str) -> str:
    """The value of a setting in configuration files, of which later ones win; empty if it is not there."""
    pattern = re.compile(rf"^[ \t]*{re.escape(name)}{_VALUE}", re.MULTILINE | re.IGNORECASE)
    found = ""
    for text in files:
        for quoted, plain in pattern.findall(text):
            found = re.sub(r"\\(.)", r"\1", quoted.replace("''", "'")) if quoted else plain
    return found


def following(
    auto_conf: bytes, standby: Standby, restore_command: str | None, timeline: int | None = None
) -> bytes:
    """postgresql.auto.conf of a replica that follows `standby.primary`, with all else as it is.

    Its delay stays, unlike after a restore. Without a `restore_command` there is none. Without a `timeline` it follows its
    primary through promotions.
    """
    delays = [line for line in auto_conf.splitlines(keepends=True) if _DELAY.match(line)]
    rest = b"".join(
        line
        for line in auto_conf.splitlines(keepends=True)
        if not line.startswith(tuple(each.encode() for each in _OURS))
    )
    settings = standby_settings(restore_command or "", standby, timeline)
    return with_settings(rest.rstrip(b"\n") + b"\n" if rest.strip() else b"", settings, _NOTE) + b"".join(
        delay if delay.endswith(b"\n") else delay + b"\n" for delay in delays[-1:]
    )
