"""The manifest of a backup: its commit, and all a restore must know (docs/format.md, section 7)."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

from pgproof.errors import DataError
from pgproof.model.config import BackupType
from pgproof.model.lsn import Lsn, WalSegment, segments_between
from pgproof.model.report import BackupInfo, Finding, VerificationSummary

FORMAT = 1
_BACKUP_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-(?:full|differential|incremental)-[0-9a-f]{6}\Z")
_MAJOR = re.compile(r"[0-9]{1,3}(?![0-9])")
_MAP_HASH = re.compile(r"[0-9a-f]{64}\Z")
# What no backup reaches: 4 TB of WAL in segments of 16 MB, four million packs, the largest int64, a thousand
# tablespaces or files of configuration.
_MAX_SEGMENTS = 1 << 18
_MAX_BITMAPS = 1 << 19
_MAX_COUNT = (1 << 63) - 1
_MAX_PLACES = 1000
_MAX_DATABASES = 10_000
# NAMEDATALEN may be raised when PostgreSQL is built.
_MAX_NAME = 255
_PROVIDERS = ("libc", "icu", "builtin")
PHYSICAL, LOGICAL = "physical", "logical"
_REASON_SHOWN = 200
_LAST_YEAR = "9999"


def backup_id_for(
    started_at: datetime, backup_type: BackupType, nonce: str, others: Iterable[str] = ()
) -> str:
    """Says when and what it is, and sorts behind the ids of `others`: `20261123T213000Z-full-3fa91c`.

    Where one of those is of the same second, or of the future because a clock was wrong, the second after it is taken.
    """
    newest = max((other[:16] for other in others if other < _LAST_YEAR), default=None)
    if newest is not None:
        started_at = max(started_at, datetime.fromisoformat(newest) + timedelta(seconds=1))
    return f"{started_at:%Y%m%dT%H%M%SZ}-{backup_type}-{nonce}"


def is_backup_id(text: str) -> bool:
    if _BACKUP_ID.match(text) is None:
        return False
    try:
        datetime.fromisoformat(text[:16])
    except ValueError:
        return False  # no such day
    return True


class MapRef(NamedTuple):
    """A map segment of a backup: `first` is its first path, `pages` how many pages its runs cover."""

    hash: str
    first: bytes
    files: int
    bytes: int
    pages: int


@dataclass(frozen=True, slots=True)
class Tablespace:
    """A tablespace outside the data directory; `location` as the server printed it."""

    oid: int
    location: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ExternalConfig:
    """A configuration file outside the data directory; no content where it could not be read."""

    setting: str
    path: str
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Standby:
    """The standby that sent the files: how far its replay was behind the primary when the backup began."""

    host: str
    lag_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"host": self.host, "lag_bytes": self.lag_bytes}


@dataclass(frozen=True, slots=True)
class DumpedDatabase:
    """A database in a logical backup, whose files lie in `databases/<oid>/`.

    `size_bytes` and `tables` count what was dumped; `everything` is false where only some tables were asked for.
    `provider` of collations is "libc", "icu" or "builtin"; `locale` is ICU's or the builtin one's, else empty.
    """

    oid: int
    name: str
    size_bytes: int
    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str
    tables: int
    everything: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DumpedDatabase:
        return cls(
            oid=_count(value["oid"]),
            name=_text(value["name"]),
            size_bytes=_count(value["size_bytes"]),
            encoding=_text(value["encoding"]),
            provider=_text(value["provider"]),
            collate=_text(value["collate"]),
            ctype=_text(value["ctype"]),
            locale=_text(value["locale"]),
            tables=_count(value["tables"]),
            everything=_flag(value["everything"]),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    backup_id: str
    cluster: str
    type: BackupType
    method: str
    parent_id: str | None
    started_at: datetime
    finished_at: datetime
    size_bytes: int
    stored_bytes: int
    files: int
    start_lsn: Lsn
    stop_lsn: Lsn
    timeline: int
    wal_segment_size: int
    system_identifier: str
    server_version: str
    block_size: int
    data_checksums: bool
    change_detection: str
    maps: tuple[MapRef, ...]
    packs: dict[str, bytes]
    tablespaces: tuple[Tablespace, ...] = ()
    external_config: tuple[ExternalConfig, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    timeline_history: bytes = b""
    # Of a backup by summaries: how many pages of incremental files were sent, inherited and taken for zeros.
    pages: dict[str, int] = field(default_factory=dict)
    # Of a backup from a standby: how far that one's replay was behind, in bytes.
    standby: Standby | None = None
    # Of a logical backup.
    databases: tuple[DumpedDatabase, ...] = ()

    @property
    def status(self) -> str:
        return "degraded" if any(finding.degrades for finding in self.findings) else "ok"

    @property
    def major_version(self) -> int:
        return int(re.split(r"[^0-9]", self.server_version, maxsplit=1)[0])

    @property
    def wal_segments(self) -> list[WalSegment]:
        """What recovery from it needs at least; none for a logical one."""
        if self.method == LOGICAL:
            return []
        return segments_between(self.timeline, self.start_lsn, self.stop_lsn, self.wal_segment_size)

    def info(self, verified: VerificationSummary | None = None) -> BackupInfo:
        return BackupInfo(
            backup_id=self.backup_id,
            cluster=self.cluster,
            type=self.type,
            method=self.method,
            status=self.status,
            parent_id=self.parent_id,
            started_at=self.started_at,
            finished_at=self.finished_at,
            size_bytes=self.size_bytes,
            stored_bytes=self.stored_bytes,
            start_lsn=self.start_lsn,
            stop_lsn=self.stop_lsn,
            timeline=self.timeline,
            server_version=self.server_version,
            system_identifier=self.system_identifier,
            change_detection=self.change_detection,
            findings=self.findings,
            verified=verified,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "backup_id": self.backup_id,
            "cluster": self.cluster,
            "type": str(self.type),
            "method": self.method,
            "parent_id": self.parent_id,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat(),
            "status": self.status,
            "findings": [finding.to_json() for finding in self.findings],
            "size_bytes": self.size_bytes,
            "stored_bytes": self.stored_bytes,
            "files": self.files,
            "start_lsn": str(self.start_lsn),
            "stop_lsn": str(self.stop_lsn),
            "timeline": self.timeline,
            "timeline_history": _b64(self.timeline_history),
            "wal_segment_size": self.wal_segment_size,
            "system_identifier": self.system_identifier,
            "server_version": self.server_version,
            "block_size": self.block_size,
            "data_checksums": self.data_checksums,
            "change_detection": self.change_detection,
            "maps": [
                {"hash": m.hash, "first": _b64(m.first), "files": m.files, "bytes": m.bytes, "pages": m.pages}
                for m in self.maps
            ],
            "packs": {owner: _b64(bitmap) for owner, bitmap in self.packs.items()},
            "tablespaces": [
                {"oid": t.oid, "location": _b64(t.location), "size_bytes": t.size_bytes}
                for t in self.tablespaces
            ],
            "external_config": [
                {
                    "setting": c.setting,
                    "path": c.path,
                    "content": None if c.content is None else _b64(c.content),
                }
                for c in self.external_config
            ],
            "settings": self.settings,
            "seconds": {phase: round(seconds, 3) for phase, seconds in self.seconds.items()},
            "pages": self.pages,
            "standby": None if self.standby is None else self.standby.to_json(),
            **({"databases": [d.to_json() for d in self.databases]} if self.method == LOGICAL else {}),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Manifest:
        """Raises DataError for a manifest that no writer of this format would have made."""
        if value.get("format") != FORMAT:
            raise DataError("a manifest has a format this version does not know", format=value.get("format"))
        try:
            manifest = cls(
                backup_id=_text(value["backup_id"]),
                cluster=_text(value["cluster"]),
                type=BackupType(value["type"]),
                method=_text(value["method"]),
                parent_id=None if value["parent_id"] is None else _text(value["parent_id"]),
                started_at=_time(value["started_at"]),
                finished_at=_time(value["finished_at"]),
                size_bytes=_count(value["size_bytes"]),
                stored_bytes=_count(value["stored_bytes"]),
                files=_count(value["files"]),
                start_lsn=Lsn.parse(value["start_lsn"]),
                stop_lsn=Lsn.parse(value["stop_lsn"]),
                timeline=_count(value["timeline"]),
                timeline_history=_unb64(value["timeline_history"]),
                wal_segment_size=_count(value["wal_segment_size"]),
                system_identifier=_text(value["system_identifier"]),
                server_version=_text(value["server_version"]),
                block_size=_count(value["block_size"]),
                data_checksums=_flag(value["data_checksums"]),
                change_detection=_text(value["change_detection"]),
                maps=tuple(
                    MapRef(
                        _text(m["hash"]),
                        _unb64(m["first"]),
                        _count(m["files"]),
                        _count(m["bytes"]),
                        _count(m["pages"]),
                    )
                    for m in value["maps"]
                ),
                packs={_text(owner): _unb64(bitmap) for owner, bitmap in value["packs"].items()},
                tablespaces=tuple(
                    Tablespace(_count(t["oid"]), _unb64(t["location"]), _count(t["size_bytes"]))
                    for t in value["tablespaces"]
                ),
                external_config=tuple(
                    ExternalConfig(
                        _text(c["setting"]),
                        _text(c["path"]),
                        None if c["content"] is None else _unb64(c["content"]),
                    )
                    for c in value["external_config"]
                ),
                settings={_text(k): _text(v) for k, v in value["settings"].items()},
                findings=tuple(
                    Finding(_text(f["kind"]), _text(f["message"]), _flag(f["degrades"]))
                    for f in value["findings"]
                ),
                seconds={_text(k): _seconds(v) for k, v in value["seconds"].items()},
                # Missing in manifests of the first writers of this format.
                pages={_text(k): _count(v) for k, v in value.get("pages", {}).items()},
                standby=_standby(value.get("standby")),
                databases=tuple(DumpedDatabase.from_json(d) for d in value.get("databases", [])),
            )
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = repr(error)[:_REASON_SHOWN]
            raise DataError("a manifest does not hold what it should", reason=reason) from error
        _check(manifest)
        return manifest


def _check(manifest: Manifest) -> None:
    size = manifest.wal_segment_size
    if (
        not is_backup_id(manifest.backup_id)
        or not all(is_backup_id(owner) for owner in manifest.packs)
        or not all(_MAP_HASH.match(m.hash) for m in manifest.maps)
        or any(m.first >= following.first for m, following in pairwise(manifest.maps))
        or manifest.block_size not in (1024, 2048, 4096, 8192, 16384, 32768)
        or not 1 << 20 <= size <= 1 << 30
        or size & (size - 1)
        or manifest.stop_lsn < manifest.start_lsn
        or (manifest.stop_lsn - manifest.start_lsn) // size > _MAX_SEGMENTS
        or not 1 <= manifest.timeline < 1 << 32
        or sum(map(len, manifest.packs.values())) > _MAX_BITMAPS
        or len({t.oid for t in manifest.tablespaces}) != len(manifest.tablespaces)
        or len({t.location for t in manifest.tablespaces}) != len(manifest.tablespaces)
        or max(len(manifest.tablespaces), len(manifest.external_config)) > _MAX_PLACES
        or not _MAJOR.match(manifest.server_version)
        or manifest.method not in (PHYSICAL, LOGICAL)
        or not _databases_fit(manifest)
    ):
        raise DataError("a manifest does not hold what it should", backup=manifest.backup_id)


def _databases_fit(manifest: Manifest) -> bool:
    if manifest.method == PHYSICAL:
        return not manifest.databases
    names, oids = ({getattr(d, field) for d in manifest.databases} for field in ("name", "oid"))
    return (
        1 <= len(manifest.databases) <= _MAX_DATABASES
        and len(names) == len(oids) == len(manifest.databases)
        and all(0 < d.oid < 1 << 32 and d.provider in _PROVIDERS for d in manifest.databases)
        and all(0 < len(d.name.encode()) <= _MAX_NAME and "\0" not in d.name for d in manifest.databases)
        and not any(map(len, (manifest.tablespaces, manifest.external_config, manifest.timeline_history)))
        and manifest.start_lsn == manifest.stop_lsn
    )


def _standby(value: Any) -> Standby | None:
    return None if value is None else Standby(_text(value["host"]), _count(value["lag_bytes"]))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    if not value.isascii():
        value.encode()  # half a surrogate pair could be neither shown nor stored again
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a yes or no")
    return value


def _time(value: Any) -> datetime:
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError(f"a time without its zone: {value!r}")
    if not 1970 <= time.year < 9999:
        raise ValueError("a time that not every zone can show")
    return time


def _seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError("not a duration")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise TypeError("not a count")
    return value
