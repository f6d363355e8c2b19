"""What a monitoring system is told, by Prometheus' conventions for names: base units, and the unit in the name. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pgproof.model.overview import Catalog, Overview
from pgproof.model.replica_status import NodeStatus, ReplicaStatus
from pgproof.model.report import BackupInfo
from pgproof.model.wal_status import WalStatus


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Metric:
    """A gauge: each of its samples has the same names of labels. Times are seconds since 1970."""

    name: str
    help: str
    samples: tuple[Sample, ...]

    def to_json(self) -> dict[str, Any]:
        samples = [{"labels": dict(each.labels), "value": each.value} for each in self.samples]
        return {"name": self.name, "help": self.help, "samples": samples}


def up(cluster: str, value: bool) -> Metric:
    """Whether the repository could be read; while it cannot, nothing else is told."""
    return _one("pgproof_up", "Whether the repository could be read.", cluster, float(value))


def repository_metrics(found: Overview) -> list[Metric]:
    catalog, storage = found.catalog, found.storage
    stored = (
        Sample({"cluster": catalog.cluster, "kind": kind}, nbytes) for kind, nbytes in storage.stored.items()
    )
    return [
        up(catalog.cluster, True),
        *_backups(catalog),
        *_restorable(catalog),
        Metric("pgproof_repository_stored_bytes", "Bytes in the store, by kind.", tuple(stored)),
        _one("pgproof_repository_objects", "Objects in the store.", catalog.cluster, storage.objects),
    ]


def _backups(catalog: Catalog) -> list[Metric]:
    cluster, backups = catalog.cluster, catalog.backups
    counts = Counter((str(b.type), b.method, b.status) for b in backups)
    last: dict[tuple[str, str], BackupInfo] = {
        (str(b.type), b.method): b for b in backups if b.status != "damaged"
    }
    proofs = [b.verified.at.timestamp() for b in backups if b.verified is not None and b.proven]
    newest = catalog.newest_proven
    failed = sum(b.verified is not None and not b.verified.ok for b in backups)

    def of_last(name: str, help_text: str, values: Iterable[float]) -> Metric:
        labelled = zip(last, values, strict=True)
        samples = (
            Sample({"cluster": cluster, "type": kind, "method": method}, value)
            for (kind, method), value in labelled
        )
        return Metric(f"pgproof_backup_last_{name}", help_text, tuple(samples))

    newest_of_each = list(last.values())
    return [
        Metric(
            "pgproof_backups",
            "Backups in the repository.",
            tuple(
                Sample({"cluster": cluster, "type": kind, "method": method, "status": status}, count)
                for (kind, method, status), count in sorted(counts.items())
            ),
        ),
        _one(
            "pgproof_backups_pinned", "Pinned backups.", cluster, sum(b.pinned(catalog.at) for b in backups)
        ),
        _one("pgproof_backups_failed_verification", "Backups whose verification failed.", cluster, failed),
        of_last(
            "success_timestamp_seconds",
            "End of the newest backup.",
            (b.finished_at.timestamp() for b in newest_of_each),
        ),
        of_last("size_bytes", "What the newest backup holds.", (b.size_bytes for b in newest_of_each)),
        of_last("stored_bytes", "What the newest backup stored.", (b.stored_bytes for b in newest_of_each)),
        of_last("duration_seconds", "How long the newest backup took.", (b.seconds for b in newest_of_each)),
        _maybe(
            "pgproof_backup_last_proven_timestamp_seconds",
            "When a backup was last proven by restoring and starting it.",
            cluster,
            max(proofs, default=None),
        ),
        _maybe(
            "pgproof_backup_newest_proven_timestamp_seconds",
            "End of the newest backup that is proven.",
            cluster,
            newest.finished_at.timestamp() if newest is not None else None,
        ),
    ]


def _restorable(catalog: Catalog) -> list[Metric]:
    newest = max(catalog.windows, key=lambda window: window.newest, default=None)
    cluster = catalog.cluster
    return [
        _maybe(
            "pgproof_wal_restorable_from_timestamp_seconds",
            "Begin of the newest stretch of time that can be restored without a hole.",
            cluster,
            newest.oldest.timestamp() if newest is not None else None,
        ),
        _maybe(
            "pgproof_wal_restorable_until_timestamp_seconds",
            "The newest moment that can be restored.",
            cluster,
            newest.newest.timestamp() if newest is not None else None,
        ),
    ]


def server_metrics(status: WalStatus) -> list[Metric]:
    """What only the server knows; of one that could not be asked, only that."""
    cluster, primary = status.cluster, status.primary
    slot = primary.slot if primary is not None else None
    gaps = sum(not gap.bridged for gap in status.gaps)
    return [
        _one("pgproof_server_up", "Whether the server could be asked.", cluster, float(primary is not None)),
        _one("pgproof_wal_gaps", "Holes in the WAL that no later backup leads past.", cluster, gaps),
        _maybe(
            "pgproof_wal_lag_bytes",
            "WAL of the server that is not stored yet.",
            cluster,
            primary.lag_bytes if primary is not None else None,
        ),
        _maybe(
            "pgproof_wal_lag_seconds",
            "Age of the oldest WAL that is not stored yet, at most.",
            cluster,
            primary.lag_seconds if primary is not None else None,
        ),
        _maybe(
            "pgproof_wal_slot_active",
            "Whether somebody streams from the replication slot.",
            cluster,
            None if primary is None else float(slot is not None and slot.active),
        ),
        _maybe(
            "pgproof_wal_slot_retained_bytes",
            "WAL that the server keeps for the replication slot.",
            cluster,
            slot.retained_bytes if slot is not None else None,
        ),
    ]


def replica_metrics(status: ReplicaStatus) -> list[Metric]:
    """A sample for each node of a cluster with replicas; what is not known of one has none."""

    def of_each(name: str, help_text: str, value: Callable[[NodeStatus], float | None]) -> Metric:
        values = ((node.name, value(node)) for node in status.nodes)
        samples = (
            Sample({"cluster": status.cluster, "node": name}, found)
            for name, found in values
            if found is not None
        )
        return Metric(name, help_text, tuple(samples))

    roles = (
        Sample({"cluster": status.cluster, "node": node.name, "role": str(node.role)}, 1.0)
        for node in status.nodes
    )
    return [
        of_each("pgproof_replica_up", "Whether the node answered.", lambda node: float(node.up)),
        Metric("pgproof_replica_role", "What the node is; always 1.", tuple(roles)),
        of_each(
            "pgproof_replica_timeline",
            "The node's timeline.",
            lambda node: None if node.state is None else node.state.timeline,
        ),
        of_each(
            "pgproof_replica_lag_bytes",
            "WAL that the replica has not replayed; not received, of one that is delayed on purpose.",
            lambda node: None if node.excess is None else node.excess.nbytes,
        ),
        of_each(
            "pgproof_replica_lag_seconds",
            "How far the replica is behind, beyond its delay if it has one.",
            lambda node: None if node.excess is None else node.excess.seconds,
        ),
        _one(
            "pgproof_replica_problems",
            "What `pgproof replicas status` finds wrong.",
            status.cluster,
            len(status.problems),
        ),
    ]


def _one(name: str, help_text: str, cluster: str, value: float) -> Metric:
    return Metric(name, help_text, (Sample({"cluster": cluster}, value),))


def _maybe(name: str, help_text: str, cluster: str, value: float | None) -> Metric:
    """Without a value the metric has no sample: 0 would be the year 1970."""
    return Metric(name, help_text, ()) if value is None else _one(name, help_text, cluster, value)
