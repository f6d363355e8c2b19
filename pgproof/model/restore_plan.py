"""What a restore would do, decided before anything is written."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pgproof.errors import DataError, PreconditionError
from pgproof.model.delta_plan import DeltaPlan
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest, Tablespace
from pgproof.model.recovery_request import EVERYTHING, RecoveryRequest
from pgproof.model.stop_point import StopPoint

# Room beyond the files themselves: WAL, and what recovery and the first checkpoint write.
_SPARE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """Where everything of a backup will go. `tablespaces` maps oids to directories; sizes are bytes.

    `needed` is the room each of the directories has to offer, by directory. `new_tablespaces` maps locations
    of tablespaces that the WAL creates; others of that kind go to `new_tablespaces_dir`/<oid>.
    """

    backup_id: str
    cluster: str
    server_version: str
    data_dir: Path
    tablespaces: dict[int, Path]
    moved: dict[str, str]
    size_bytes: int
    wal_bytes: int
    needed: dict[Path, int]
    recover: bool
    stop_lsn: Lsn
    owner: str | None
    notes: tuple[str, ...] = ()
    new_tablespaces: dict[str, Path] = field(default_factory=dict)
    request: RecoveryRequest = EVERYTHING
    timeline: int = 0
    stop: StopPoint | None = None
    wal_end: Lsn | None = None
    delta: DeltaPlan | None = None

    @property
    def wal_beyond(self) -> bool:
        """Whether more WAL is replayed than the backup brought itself."""
        return self.wal_end is not None

    @property
    def new_tablespaces_dir(self) -> Path:
        return self.data_dir.with_name(f"{self.data_dir.name}-tablespaces")

    def lines(self, now: datetime) -> list[str]:
        """The plan for people, a fact per line; `now` is what ages are counted from."""
        text = [
            f"backup            {self.backup_id} of cluster {self.cluster} (PostgreSQL {self.server_version})",
            f"data directory    {self.data_dir}",
            *(f"tablespace        {old} → {new}" for old, new in self.moved.items()),
            f"to write          {self.size_bytes / 1e6:,.1f} MB, and {self.wal_bytes / 1e6:,.1f} MB of WAL",
            *(f"room needed       {size / 1e6:,.1f} MB in {place}" for place, size in self.needed.items()),
            f"owner             {self.owner or 'the user who runs this'}",
            f"target            {self.request.wanted}",
            f"timeline          {self.timeline}",
            f"recovery          {self._recovery()}",
        ]
        if self.stop is not None:
            text += self.stop.lines(now)
        if self.delta is not None:
            text += self.delta.lines()
        return text + [f"note              {note}" for note in self.notes]

    def _recovery(self) -> str:
        if self.request.standby is not None:
            return "as a standby, when its server is started"
        if not self.recover:
            return "left to the server's first start"
        if self.wal_end is None:
            return f"to {self.stop_lsn}, the end of the backup; then a clean shutdown"
        megabytes = (self.wal_end - self.stop_lsn) / 1e6
        return f"from {self.stop_lsn} on, up to {megabytes:,.1f} MB of WAL; then a clean shutdown"

    def to_json(self) -> dict[str, Any]:
        return {
            "backup_id": self.backup_id,
            "cluster": self.cluster,
            "server_version": self.server_version,
            "data_dir": str(self.data_dir),
            "tablespaces": dict(self.moved),
            "size_bytes": self.size_bytes,
            "wal_bytes": self.wal_bytes,
            "needed_bytes": {str(place): size for place, size in self.needed.items()},
            "recover": self.recover,
            "stop_lsn": str(self.stop_lsn),
            "owner": self.owner,
            "target": self.request.wanted.to_json(),
            "timeline": self.timeline,
            "stop": self.stop.to_json() if self.stop else None,
            "wal_end": str(self.wal_end) if self.wal_end else None,
            "standby": self.request.standby is not None,
            "delta": self.delta.to_json() if self.delta else None,
            "notes": list(self.notes),
        }


def plan_restore(
    manifest: Manifest,
    data_dir: Path,
    mapping: Mapping[str, str],
    *,
    recover: bool,
    owner: str | None,
    in_wal: Collection[str] = (),
) -> RestorePlan:
    """Decide where the files go. `mapping` moves tablespaces: old location to new.

    `in_wal` are the locations of tablespaces that the backup's WAL creates, as far as they are known.
    Raises PreconditionError for a mapping that does not fit the backup or places that overlap.
    """
    locations = {_text(t.location): t for t in manifest.tablespaces}
    if len(locations) != len(manifest.tablespaces):
        raise DataError("two tablespaces of the backup have one location", backup=manifest.backup_id)
    unknown = sorted(set(mapping) - set(locations) - set(in_wal))
    if unknown:
        raise PreconditionError(
            "the backup has no tablespace at this location",
            hint=f"its tablespaces are: {', '.join([*locations, *in_wal]) or 'none'}",
            location=unknown[0],
        )
    moved = {old: mapping.get(old, old) for old in locations} | dict(mapping)
    for new in moved.values():
        if not new.startswith("/") or "\0" in new:
            raise PreconditionError(
                "a tablespace needs an absolute path", hint="give --tablespace OLD=/new/path", location=new
            )
    tablespaces = {t.oid: Path(moved[old]) for old, t in locations.items()}
    new_tablespaces = {old: Path(new) for old, new in mapping.items() if old not in locations}
    _refuse_overlap([data_dir, *tablespaces.values(), *new_tablespaces.values()])
    wal_bytes = len(manifest.wal_segments) * manifest.wal_segment_size
    outside = sum(t.size_bytes for t in manifest.tablespaces)
    needed = {data_dir: _with_spare(max(manifest.size_bytes - outside, 0) + wal_bytes)}
    for t in manifest.tablespaces:
        needed[tablespaces[t.oid]] = _with_spare(t.size_bytes)
    notes = [f"{finding.message}" for finding in manifest.findings if finding.degrades]
    if manifest.external_config:
        notes.append(
            "the source kept its configuration outside the data directory; "
            "its files are put into config-from-backup/ and are not in effect"
        )
    return RestorePlan(
        backup_id=manifest.backup_id,
        cluster=manifest.cluster,
        server_version=manifest.server_version,
        data_dir=data_dir,
        tablespaces=tablespaces,
        moved=moved,
        size_bytes=manifest.size_bytes,
        wal_bytes=wal_bytes,
        needed=needed,
        recover=recover,
        stop_lsn=manifest.stop_lsn,
        timeline=manifest.timeline,
        owner=owner,
        notes=tuple(notes),
        new_tablespaces=new_tablespaces,
    )


def unknown_locations(manifest: Manifest, mapping: Mapping[str, str]) -> set[str]:
    """The mapped locations at which the backup has no tablespace: its WAL may create one there."""
    return set(mapping) - {_text(t.location) for t in manifest.tablespaces}


def tablespace_map(plan: RestorePlan) -> bytes:
    """The file that tells the server where its tablespaces are now, escaped as the server does it."""
    lines = []
    for oid, location in sorted(plan.tablespaces.items()):
        escaped = str(location).encode("utf-8", "surrogateescape")
        for special in (b"\\", b"\n", b"\r"):
            escaped = escaped.replace(special, b"\\" + special)
        lines.append(b"%d %s\n" % (oid, escaped))
    return b"".join(lines)


def location_text(tablespace: Tablespace) -> str:
    return _text(tablespace.location)


def _text(location: bytes) -> str:
    return location.decode("utf-8", "surrogateescape")


def _refuse_overlap(places: list[Path]) -> None:
    # Names only: "..", which a path keeps, must not hide an overlap.
    # In order, a place comes directly before one that lies in it.
    plain = sorted(Path("/" + posixpath.normpath(place).lstrip("/")) for place in places)
    for place, other in itertools.pairwise(plain):
        if place == other or place in other.parents:
            raise PreconditionError(
                "two targets of the restore overlap",
                hint="give each tablespace a directory of its own, outside the data directory",
                first=place,
                second=other,
            )


def _with_spare(size: int) -> int:
    return int(size * (1 + _SPARE_SHARE)) + (16 << 20)
