"""What the repository has of the cluster whose replica is rebuilt."""

from __future__ import annotations

from pgproof.actions.opening import open_for_reading
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import PHYSICAL
from pgproof.model.node import NodeState
from pgproof.model.rebuild_evidence import Stored, StoredBackup
from pgproof.repository.catalog import list_backups
from pgproof.repository.wal_archive import WalArchive


def is_configured(config: BackupConfig) -> bool:
    return bool(config.repository_url or config.backup_dir or config.s3_bucket)


def what_is_stored(config: BackupConfig, state: NodeState) -> Stored:
    """Raises PreconditionError for a repository that knows no such cluster, or another one by this name."""
    repository = open_for_reading(config)
    archive = WalArchive.open(repository)
    if archive.system_identifier != str(state.system_identifier):
        raise PreconditionError(
            "it holds another cluster under this name",
            hint="correct --cluster or the repository",
            cluster=config.cluster,
        )
    inventory = archive.inventory()
    backups = [
        StoredBackup(each.backup_id, each.timeline, each.stop_lsn)
        for each in list_backups(repository)
        if each.method == PHYSICAL
        and each.status != "damaged"
        and each.system_identifier == str(state.system_identifier)
        and each.stop_lsn > Lsn(0)
    ]
    timelines = {*inventory.coverage().timelines, *inventory.histories, *(each.timeline for each in backups)}
    return Stored(
        tuple(sorted(backups, key=lambda each: each.backup_id, reverse=True)),
        inventory.coverage(),
        frozenset(timelines),
    )
