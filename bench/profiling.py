"""Our operations in this process under cProfile: what the main thread does; the others show as waiting."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgproof.actions.init_repository import init_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.model.config import BackupConfig, BackupType, VerifyLevel
from pgproof.model.job import Job
from tests.support.postgres import Cluster

_LINES = 20


def profile(source: Cluster, work: Path) -> None:
    config = BackupConfig(backup_dir=str(work / "repository"), passphrase="a secret of the benchmark")
    init_repository(config)
    with _profiled("full"):
        backup = take_backup(source.config(), config, BackupType.FULL, Job())
    with _profiled("verify --level frames"):
        verify_backup(config, backup.backup_id, VerifyLevel.FRAMES, Job())
    with _profiled("restore"):
        restore_cluster(
            config, backup.backup_id, work / "out", tablespaces={}, recover=False, owner=None, job=Job()
        )


@contextmanager
def _profiled(name: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    with cProfile.Profile() as profile:
        yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: {wall:.2f} s, CPU {cpu:.2f} s")
    pstats.Stats(profile).sort_stats("tottime").print_stats(_LINES)
