"""Everything that lies in one copy of a cluster's repository, as a collection needs to know it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from pgproof.errors import DataError
from pgproof.model.collection import StoredBackup, StoredRun
from pgproof.model.job import Job
from pgproof.model.manifest import LOGICAL, Manifest, is_backup_id
from pgproof.model.wal_names import parse_stored_name
from pgproof.model.wal_retention import WalBase
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.layout import parse_pack_name
from pgproof.repository.read_ahead import ReadAhead
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.store_clock import store_now


@dataclass
class BackupsListed:
    """What lies below `backups/`: manifests, intents, and by id the keys of pins and of verifications."""

    manifests: dict[str, ObjectInfo] = field(default_factory=dict)
    intents: dict[str, ObjectInfo] = field(default_factory=dict)
    pins: dict[str, list[str]] = field(default_factory=dict)
    verifications: dict[str, list[str]] = field(default_factory=dict)
    objects: dict[str, list[ObjectInfo]] = field(default_factory=dict)


@dataclass
class Survey:
    """One copy, `now` by its own clock, which is `skew` ahead of ours.

    `packs` has the newest object of each pack, `older` what such were rewritten from, newest first. `wal` has
    segments and parts by timeline and number. Filled in by `read_manifests`: `runs` are the intents without a manifest that can
    be read, `abandoned` the runs that were given up.
    """

    repository: Repository
    now: datetime
    skew: timedelta
    listed: BackupsListed
    packs: dict[str, dict[int, ObjectInfo]]
    maps: dict[str, ObjectInfo]
    wal: dict[tuple[int, int], list[ObjectInfo]]
    histories: tuple[int, ...]
    fingerprints: list[ObjectInfo]
    older: dict[tuple[str, int], list[ObjectInfo]] = field(default_factory=dict)
    backups: dict[str, StoredBackup] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    abandoned: dict[str, ObjectInfo] = field(default_factory=dict)
    runs: dict[str, StoredRun] = field(default_factory=dict)

    def sign_of_life(self, backup_id: str) -> datetime:
        """When a run has last stored something of its own."""
        packs = self.packs.get(backup_id, {}).values()
        return max(info.modified for info in (self.listed.intents[backup_id], *packs))


def list_backup_objects(repository: Repository) -> BackupsListed:
    found = BackupsListed()
    prefix = repository.layout.backups
    for info in repository.bucket.list(prefix):
        backup_id, _slash, rest = info.key.removeprefix(prefix).partition("/")
        if not is_backup_id(backup_id):
            continue
        found.objects.setdefault(backup_id, []).append(info)
        if rest == "manifest":
            found.manifests[backup_id] = info
        elif rest == "intent":
            found.intents[backup_id] = info
        elif rest.startswith("pins/"):
            found.pins.setdefault(backup_id, []).append(info.key)
        elif rest.startswith("verified/"):
            found.verifications.setdefault(backup_id, []).append(info.key)
    return found


Clock = Callable[[], datetime]


def our_clock() -> datetime:
    return datetime.now(UTC)


def survey(repository: Repository, segment_size: int, job: Job, clock: Clock = our_clock) -> Survey:
    """List a copy. Backups first: what is stored for a later one is then explained by nothing, and too young to go."""
    layout, bucket = repository.layout, repository.bucket
    job.report("listing")
    now = store_now(bucket, layout.leases("cleanup"))
    skew = now - clock()
    listed = list_backup_objects(repository)
    packs: dict[str, dict[int, ObjectInfo]] = {}
    older: dict[tuple[str, int], list[ObjectInfo]] = {}
    for info in bucket.list(layout.packs):
        owner, _slash, last = info.key.removeprefix(layout.packs).partition("/")
        pack = parse_pack_name(last)
        # What has no name of ours is nobody's to delete.
        if is_backup_id(owner) and pack is not None:
            known = packs.setdefault(owner, {}).setdefault(pack.number, info)
            if known is not info:
                others = older.setdefault((owner, pack.number), [])
                packs[owner][pack.number], *others[:] = sorted(
                    (known, info, *others), key=lambda each: each.key, reverse=True
                )
        job.checkpoint()
    prefix = f"{layout.maps}/"
    maps = {info.key.removeprefix(prefix): info for info in bucket.list(prefix)}
    job.checkpoint()
    wal: dict[tuple[int, int], list[ObjectInfo]] = {}
    histories = []
    for info in bucket.list(layout.wal):
        folder, _slash, name = info.key.removeprefix(layout.wal).partition("/")
        if name == f"{folder}.history" and len(folder) == 8:
            histories.append(int(folder, 16))
        stored = parse_stored_name(name.partition(".partial.")[0], segment_size) if segment_size else None
        if stored is not None and folder == f"{stored.segment.timeline:08X}":
            wal.setdefault((stored.segment.timeline, stored.segment.number), []).append(info)
        job.checkpoint()
    fingerprints = list(bucket.list(layout.fingerprints))
    return Survey(
        repository, now, skew, listed, packs, maps, wal, tuple(sorted(histories)), fingerprints, older
    )


class ManifestReader:
    """Reads what manifests and intents say. Names and bitmaps that many of them share are kept once."""

    def __init__(self, repository: Repository, maps: Iterable[str]) -> None:
        self._repository = repository
        self._names = {name: name for name in maps}
        self._owners: dict[str, str] = {}
        self._bitmaps: dict[bytes, int] = {}
        self._histories: dict[bytes, bytes] = {}

    @contextmanager
    def ahead(self, ids: Iterable[str]) -> Iterator[ManifestReader]:
        """The same for many, which are asked for before they are read in this order."""
        ours = self._repository
        with ReadAhead(ours.bucket, [ours.layout.manifest(each) for each in ids]) as bucket:
            found = copy(self)
            found._repository = Repository(bucket, ours.key, ours.cluster, ours.mirror)
            yield found

    def read(self, backup_id: str) -> StoredBackup | str | None:
        """What a manifest names, why it cannot be read, or None for a run that was given up."""
        try:
            manifest = self._repository.read_manifest(backup_id)
        except DataError as error:
            return str(error).partition("\n")[0]
        return None if manifest is None else self._stored(manifest)

    def read_intent(self, backup_id: str, intended: datetime, last_sign: datetime) -> StoredRun:
        try:
            value = self._repository.read_json(Kind.INTENT, self._repository.layout.intent(backup_id))
            parents = value.get("parents")
            if not isinstance(parents, list) or not all(
                isinstance(p, str) and is_backup_id(p) for p in parents
            ):
                raise DataError("an intent does not hold what it should")
        except DataError:
            return StoredRun(backup_id, None, intended, last_sign)
        return StoredRun(backup_id, tuple(parents), intended, last_sign)

    def _stored(self, manifest: Manifest) -> StoredBackup:
        size = manifest.wal_segment_size
        wal = None
        if manifest.method != LOGICAL:
            wal = WalBase(
                manifest.backup_id,
                manifest.timeline,
                manifest.start_lsn,
                manifest.stop_lsn,
                manifest.finished_at,
            )
        return StoredBackup(
            backup_id=manifest.backup_id,
            type=manifest.type,
            method=manifest.method,
            finished_at=manifest.finished_at,
            status=manifest.status,
            clean=not any(finding.kind == "page-checksum" for finding in manifest.findings),
            packs={
                self._owners.setdefault(owner, owner): self._bitmaps.setdefault(
                    bitmap, int.from_bytes(bitmap, "little")
                )
                for owner, bitmap in manifest.packs.items()
            },
            maps=tuple(self._names.setdefault(ref.hash, ref.hash) for ref in manifest.maps),
            wal=wal,
            last_segment=max(manifest.start_lsn.value, manifest.stop_lsn.value - 1) // size,
            history=self._histories.setdefault(manifest.timeline_history, manifest.timeline_history),
            block_size=manifest.block_size,
        )


def read_manifests(
    found: Survey, reader: ManifestReader, job: Job, known: Mapping[str, StoredBackup] = MappingProxyType({})
) -> None:
    """Fill in what manifests say, and intents where there is none that can be read. `known` are those of the other copy."""
    found.backups.update((each, known[each]) for each in found.listed.manifests if each in known)
    ids = sorted(found.listed.manifests.keys() - known.keys())
    with reader.ahead(ids) as ahead:
        for number, backup_id in enumerate(ids):
            stored = ahead.read(backup_id)
            job.checkpoint()
            job.report("reading manifests", number, len(ids))
            if stored is None:
                found.abandoned[backup_id] = found.listed.manifests[backup_id]
            elif isinstance(stored, str):
                found.unreadable[backup_id] = stored
            else:
                found.backups[backup_id] = stored
    for backup_id, info in found.listed.intents.items():
        if backup_id not in found.backups and backup_id not in found.abandoned:
            found.runs[backup_id] = reader.read_intent(
                backup_id, info.modified, found.sign_of_life(backup_id)
            )
