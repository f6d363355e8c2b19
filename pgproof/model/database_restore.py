"""What is asked for when a database is restored into a running server or cloned, what will happen, and what happened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgproof.errors import PreconditionError
from pgproof.model.fingerprints import FingerprintComparison
from pgproof.model.recovery_request import EVERYTHING, RecoveryRequest
from pgproof.model.report import Finding

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a database is built at its target. `owners`, `privileges` and `tablespaces` False leave those out.

    `disconnect` ends the connections of others where the database is needed alone; `jobs` is how many indexes are
    made, and of a logical backup tables read, at a time; `mask` is a file of SQL that runs before anybody can connect.
    """

    jobs: int = 2
    disconnect: bool = False
    owners: bool = True
    privileges: bool = True
    tablespaces: bool = True
    subscriptions: bool = True
    mask: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.jobs <= 64:
            raise PreconditionError(
                "the number of jobs is out of range", hint="choose 1 to 64; 2 is the default", jobs=self.jobs
            )


AS_IT_WAS = BuildOptions()


@dataclass(frozen=True, slots=True)
class DatabaseRequest:
    """The database `database` of a backup, to be `target` of a server.

    Without `clean` what the target has stays as it is, and only what is missing is added. `drop_old` drops the
    database that was replaced. With `new` there must be none of this name.
    """

    database: str
    target: str
    backup_id: str | None = None
    recovery: RecoveryRequest = EVERYTHING
    clean: bool = True
    drop_old: bool = False
    new: bool = False
    options: BuildOptions = AS_IT_WAS

    def __post_init__(self) -> None:
        if not self.clean and self.drop_old:
            raise PreconditionError(
                "without cleaning nothing is replaced", hint="leave out --drop-old or --no-clean"
            )


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """The database `source` of a server, to be `target`. `fast` copies its files, and needs it without connections."""

    source: str
    target: str
    fast: bool = False
    options: BuildOptions = AS_IT_WAS

    def __post_init__(self) -> None:
        if not self.source:
            raise PreconditionError("no database to clone is named", hint="name the source")
        if self.options.disconnect and not self.fast:
            raise PreconditionError(
                "only a fast clone needs its source alone", hint="leave out --disconnect, or add --fast"
            )


@dataclass(frozen=True, slots=True)
class DatabasePlan:
    """What a restore of a database would do. Sizes are bytes; `old_size` is None where there is no such database.

    `size` is that of the whole backup where it is physical: all of it is restored to scratch first.
    """

    backup_id: str
    method: str
    database: str
    target: str
    server: str
    point: str
    size: int
    old_size: int | None
    clean: bool
    drop_old: bool
    disconnect: bool
    connected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        yield f"database {self.database} of the {self.method} backup {self.backup_id}, as of {self.point}"
        if self.method == "physical":
            yield (
                f"restores the whole cluster ({_size(self.size)}) into a scratch place on this machine, and copies "
                "the database from there"
            )
        else:
            yield f"reads the dump ({_size(self.size)}) from the repository"
        where = f"{self.target} on {self.server}"
        if self.old_size is None:
            yield f"makes the database {where}, which does not exist"
        elif not self.clean:
            yield f"adds to {where} ({_size(self.old_size)}) what it lacks; what is there stays as it is"
        else:
            old = "is dropped then" if self.drop_old else f"is kept as {self.target}_before_<time>"
            yield (
                f"builds a new database beside {where}, which needs room there (the old one has {_size(self.old_size)})"
            )
            yield f"swaps the two by renaming when it is complete; the old one {old}"
            if self.connected:
                ended = "will be ended" if self.disconnect else "must end first, or add --disconnect"
                yield f"{len(self.connected)} connections to it {ended}: {'; '.join(self.connected[:5])}"
        yield from (f"note: {note}" for note in self.notes)

    def to_json(self) -> dict[str, Any]:
        return {
            "backup_id": self.backup_id,
            "method": self.method,
            "database": self.database,
            "target": self.target,
            "server": self.server,
            "point": self.point,
            "size_bytes": self.size,
            "old_size_bytes": self.old_size,
            "clean": self.clean,
            "drop_old": self.drop_old,
            "disconnect": self.disconnect,
            "connected": list(self.connected),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class DatabaseReport:
    """A database that was built. `source` is a backup or a server; `kept` is what the old one is called now.

    `comparison` compares it with what was copied, where there was something to ask. `conflicts` are the things that
    existed already and were left as they were.
    """

    database: str
    target: str
    server: str
    source: str
    backup_id: str | None
    point: str
    size_bytes: int
    seconds: float
    kept: str | None = None
    dropped: bool = False
    masked: bool = False
    comparison: FingerprintComparison | None = None
    added: int | None = None
    conflicts: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        if self.comparison is not None:
            yield f"the same as its source: {self.comparison.summary()}"
        if self.masked:
            yield "masked before anybody could connect"
        if self.kept:
            yield f"the old database is kept as {self.kept}"
        if self.dropped:
            yield "the old database is dropped"
        if self.added is not None:
            things = "thing was" if self.added == 1 else "things were"
            yield f"{self.added:,} {things} added; {len(self.conflicts):,} existed already and stayed as they were"
            yield from (f"existed already: {each}" for each in self.conflicts[:_SHOWN])
            if len(self.conflicts) > _SHOWN:
                yield f"and {len(self.conflicts) - _SHOWN:,} more (--json has them all)"
        yield from (f"note: {finding.message}" for finding in self.findings)
        yield from (f"note: {note}" for note in self.notes)

    def to_json(self) -> dict[str, Any]:
        return {
            "database": self.database,
            "target": self.target,
            "server": self.server,
            "source": self.source,
            "backup_id": self.backup_id,
            "point": self.point,
            "size_bytes": self.size_bytes,
            "seconds": round(self.seconds, 3),
            "kept": self.kept,
            "dropped": self.dropped,
            "masked": self.masked,
            "comparison": self.comparison.to_json() if self.comparison else None,
            "added": self.added,
            "conflicts": list(self.conflicts),
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
        }


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
