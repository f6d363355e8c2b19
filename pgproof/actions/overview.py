"""Look at the whole repository of a cluster: its backups, the moments they lead to, what is stored and how that grows."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime

from pgproof.actions.mirror import copies_of
from pgproof.actions.opening import open_for_reading
from pgproof.errors import DataError, EngineError
from pgproof.model.config import BackupConfig
from pgproof.model.growth import Removal, first_day, growth, net_by_day
from pgproof.model.manifest import PHYSICAL
from pgproof.model.overview import KINDS, Catalog, Overview, Storage
from pgproof.model.report import BackupInfo
from pgproof.model.restorable import restorable_windows
from pgproof.model.wal_status import Restorable
from pgproof.repository.layout import ClusterLayout
from pgproof.repository.opening import open_bucket
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.wal_archive import WalArchive


def catalog(config: BackupConfig) -> Catalog:
    """All backups and what can be restored. Raises the errors of a repository that cannot be opened or listed."""
    return _catalog(open_for_reading(config), config)


def overview(config: BackupConfig) -> Overview:
    """The catalog, and the figures of the store (of two copies: of the directory). Errors as `catalog`."""
    repository = open_for_reading(config)
    found = _catalog(repository, config)
    return Overview(found, _storage(repository, config, found))


def _catalog(repository: Repository, config: BackupConfig) -> Catalog:
    now = datetime.now(UTC)
    backups = tuple(copies_of(repository, config))
    try:
        windows, problem = _windows(repository, backups), ""
    except EngineError as error:
        # The backups are there all the same, and whoever needs one wants to see them.
        windows, problem = (), error.message
    return Catalog(config.cluster, now, backups, windows, problem)


def _windows(repository: Repository, backups: tuple[BackupInfo, ...]) -> tuple[Restorable, ...]:
    physical = [each for each in backups if each.method == PHYSICAL]
    if not physical:
        return ()
    archive = WalArchive.open(repository)
    inventory = archive.inventory()
    timelines = {1, *inventory.histories, *(each.timeline for each in physical)}
    return restorable_windows(
        physical,
        inventory.coverage(),
        {timeline: archive.history(timeline) for timeline in timelines},
        archive.segment_size,
        [(each.piece, each.stored_at) for each in inventory.pieces],
    )


def _storage(repository: Repository, config: BackupConfig, found: Catalog) -> Storage:
    layout, bucket = ClusterLayout(config.cluster), open_bucket(config)
    stored = dict.fromkeys(KINDS, 0)
    by_day: dict[date, int] = defaultdict(int)
    objects = 0
    for info in bucket.list(layout.root):
        objects += 1
        stored[_kind(layout, info.key)] += info.size
        by_day[info.modified.astimezone(UTC).date()] += info.size
    removals = _removals(repository, bucket.location, first_day(found.at))
    net = net_by_day(by_day, removals, _typical(found.backups))
    return Storage(
        bucket.location, stored, objects, growth(net, found.at.date()), config.storage_price_per_gb_month
    )


def _kind(layout: ClusterLayout, key: str) -> str:
    if key.startswith(layout.wal):
        return "wal"
    return "backups" if key.startswith((layout.packs, layout.maps, layout.backups)) else "other"


def _removals(repository: Repository, location: str, since: datetime) -> list[Removal]:
    """What cleanups have freed; of a record that cannot be read nothing is known."""
    first = repository.layout.cleanup(since, "")
    found = []
    for info in repository.bucket.list(repository.layout.cleanups):
        if info.key < first:
            continue
        try:
            record = repository.read_json(Kind.CLEANUP, info.key)
            copies = record["copies"]
            copy = next((each for each in copies if each["location"] == location), copies[0])
            freed = sum(int(nbytes) for nbytes in copy["freed_bytes"].values())
            at = datetime.fromisoformat(record["at"]).astimezone(UTC)
            found.append(Removal(at, freed, tuple(copy["removed"])))
        except (DataError, LookupError, TypeError, ValueError, AttributeError):
            continue
    return found


def _typical(backups: tuple[BackupInfo, ...]) -> dict[str, float]:
    """What a backup of each type stores on average."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for each in backups:
        sizes[str(each.type)].append(each.stored_bytes)
    return {kind: sum(some) / len(some) for kind, some in sizes.items()}
