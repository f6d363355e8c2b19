"""postgresql.auto.conf of a cluster whose recovery is left to its server: nothing inherited, everything said."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgproof.model.recovery_request import Standby
from pgproof.model.stop_point import StopPoint

# What a backup of a standby, or of a cluster that was itself restored, would bring along.
_INHERITED = re.compile(
    rb"\s*(?:restore_command|recovery_target\w*|recovery_end_command|recovery_min_apply_delay|"
    rb"archive_cleanup_command|primary_conninfo|primary_slot_name)\s*(?:=|\s)",
    re.IGNORECASE,
)


def without_recovery(auto_conf: bytes) -> bytes:
    """The file without the settings of an earlier recovery."""
    return b"".join(line for line in auto_conf.splitlines(keepends=True) if not _INHERITED.match(line))


def recovery_settings(restore_command: str, timeline: int, stop: StopPoint) -> dict[str, str]:
    """For a recovery that the server's first start carries out; it promotes by itself, whatever the source had."""
    return {
        "restore_command": restore_command,
        "recovery_target_timeline": str(timeline),
        "recovery_target_action": "promote",
        # Else replay would pause where the source had raised max_connections or the like, until somebody noticed.
        "hot_standby": "off",
        "recovery_end_command": "",
        "archive_cleanup_command": "",
        **stop.all_settings(),
    }


def standby_settings(restore_command: str, standby: Standby, timeline: int | None) -> dict[str, str]:
    """Without a timeline the standby follows its primary through promotions."""
    return {
        "restore_command": restore_command,
        "recovery_target_timeline": "latest" if timeline is None else str(timeline),
        "recovery_end_command": "",
        "archive_cleanup_command": "",
        "primary_conninfo": standby.primary,
        "primary_slot_name": standby.slot,
        **dict.fromkeys(StopPoint.TARGETS, ""),
    }


def with_settings(auto_conf: bytes, settings: Mapping[str, str], note: str) -> bytes:
    """The file with settings added, in their order, under a comment."""
    kept = without_recovery(auto_conf).rstrip(b"\n")
    lines = [f"# {note}", *(f"{name} = '{_quoted(value)}'" for name, value in settings.items())]
    return kept + b"\n" + "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
