"""A map that every backup shares is damaged: it is named, and the next backup makes all of them whole again."""

from __future__ import annotations

from pathlib import Path

from pgproof.actions.init_repository import init_repository
from pgproof.actions.opening import open_repository
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.model.config import BackupConfig, BackupType, VerifyLevel
from pgproof.model.job import Job
from tests.support.faults import flip_bit
from tests.support.postgres import ClusterFactory


def test_many_empty_tables_and_a_damaged_map(cluster_factory: ClusterFactory, work_dir: Path) -> None:
    config = BackupConfig(backup_dir=str(work_dir / "repo"), passphrase="of many tables")
    init_repository(config)
    cluster = cluster_factory(18, settings={"autovacuum": False, "max_locks_per_transaction": 4096})
    cluster.psql("SELECT format('CREATE TABLE empty_%s ()', g) FROM generate_series(1, 3000) g \\gexec")
    backups = [take_backup(cluster.config(), config, BackupType.FULL, Job()) for _ in range(2)]
    repository = open_repository(config)
    manifests = [repository.read_manifest(backup.backup_id) for backup in backups]
    maps = [{ref.hash: ref.pages for ref in manifest.maps} for manifest in manifests if manifest is not None]
    shared = [name for name in maps[0] if name in maps[1]]
    assert shared and not any(maps[0][name] for name in shared), "only maps without pages stay the same"
    path = work_dir / "repo" / repository.layout.map(shared[0])
    path.write_bytes(flip_bit(path.read_bytes(), 150))
    damaged = verify_backup(config, backups[0].backup_id, VerifyLevel.FRAMES, Job())
    assert any(shared[0] in each for each in damaged.damage)
    take_backup(cluster.config(), config, BackupType.FULL, Job())
    for backup in backups:
        assert not verify_backup(config, backup.backup_id, VerifyLevel.FRAMES, Job()).damage
