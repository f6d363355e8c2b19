"""What somebody asks of a rebuild, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgproof.errors import PreconditionError
from pgproof.model.lsn import Lsn
from pgproof.model.rebuild_evidence import Source
from pgproof.model.rebuild_loss import Tail
from pgproof.model.rebuild_plan import Way


@dataclass(frozen=True, slots=True)
class RebuildRequest:
    """Make the replica `node` again in `data_dir`, on this machine.

    `source` None chooses the best way. `primary_conninfo` is how the replica reaches its primary, without a password, and
    `slot` its slot there; by default as it was, else from the configuration and the node's name. The commands are lines
    for the shell that stop and start its server; without them pg_ctl does. `timeout` is how many seconds it may take to
    catch up once it was started.
    """

    node: str
    data_dir: Path
    source: Source | None = None
    slot: str | None = None
    primary_conninfo: str | None = None
    start_command: str | None = None
    stop_command: str | None = None
    owner: str | None = None
    timeout: float = 3600.0

    @staticmethod
    def commands(environ: Mapping[str, str]) -> dict[str, str | None]:
        """The commands that this machine has for its replica: REPLICA_START_COMMAND and REPLICA_STOP_COMMAND."""
        return {
            "start_command": environ.get("REPLICA_START_COMMAND") or None,
            "stop_command": environ.get("REPLICA_STOP_COMMAND") or None,
        }

    def __post_init__(self) -> None:
        if not 0 < self.timeout < float("inf"):
            raise PreconditionError(
                "not a usable time limit", hint="give seconds above 0", timeout=self.timeout
            )


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """`steps` are what was done, each with its seconds. `way` is the one that led there: a rewind that failed is followed by
    a restore. The primary saw the replica streaming, and had `caught_up` acknowledged; it stood there when the replica
    was started."""

    node: str
    primary: str
    data_dir: str
    way: Way
    timeline: int
    slot: str
    slot_made: bool
    backup_id: str | None
    caught_up: Lsn | None
    tail: Tail | None
    steps: tuple[tuple[str, float], ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "primary": self.primary,
            "data_dir": self.data_dir,
            "way": str(self.way),
            "timeline": self.timeline,
            "slot": self.slot,
            "slot_made": self.slot_made,
            "backup_id": self.backup_id,
            "caught_up_lsn": None if self.caught_up is None else str(self.caught_up),
            "lost": None if self.tail is None else self.tail.to_json(),
            "steps": [{"step": name, "seconds": round(seconds, 3)} for name, seconds in self.steps],
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }
