"""How far a cluster is to be recovered, and in what form it is to be handed over."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgproof.errors import PreconditionError
from pgproof.model.recovery_target import BACKUP_END, LATEST, RecoveryTarget

_SLOT = re.compile(r"[a-z0-9_]{1,63}\Z")


@dataclass(frozen=True, slots=True)
class Standby:
    """The cluster becomes a standby: `primary` is its primary_conninfo, `slot` its slot there, or empty."""

    primary: str
    slot: str = ""

    def __post_init__(self) -> None:
        if self.slot and not _SLOT.match(self.slot):
            raise PreconditionError(
                "not a name of a replication slot",
                hint="it has lower-case letters, digits and underscores",
                slot=self.slot,
            )
        if not self.primary or any(char in self.primary for char in "\0\n\r"):
            raise PreconditionError(
                "a standby needs to know its primary", hint="give --primary 'host=… port=… user=…'"
            )


@dataclass(frozen=True, slots=True)
class RecoveryRequest:
    """`target` None means: everything there is. `timeline` None means the newest that can be reached.

    With `delta` the target directory holds an older state of the same cluster, and is overwritten.
    """

    target: RecoveryTarget | None = None
    timeline: int | None = None
    standby: Standby | None = None
    delta: bool = False

    def __post_init__(self) -> None:
        if self.standby is not None and self.target is not None:
            raise PreconditionError(
                "a standby follows its primary and stops nowhere",
                hint="leave the recovery target out, or restore without --standby",
                target=self.target,
            )
        if self.timeline is not None and not 1 <= self.timeline < 1 << 32:
            raise PreconditionError("not a timeline", hint="give a number from 1 on", timeline=self.timeline)
        if self.target == BACKUP_END and self.timeline is not None:
            raise PreconditionError(
                "the end of a backup lies on the backup's own timeline", hint="leave the timeline out"
            )

    @property
    def wanted(self) -> RecoveryTarget:
        return self.target or LATEST


EVERYTHING = RecoveryRequest()
