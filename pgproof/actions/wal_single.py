"""One WAL file by hand: pushed or fetched in this process, without a resident worker."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgproof.actions.opening import open_repository
from pgproof.actions.wal_push import push_wal_file, wal_level
from pgproof.actions.wal_serving import open_fetcher
from pgproof.model.config import BackupConfig
from pgproof.postgres.wal_spool import write_atomically
from pgproof.repository.wal_archive import WalArchive

_log = logging.getLogger(__name__)


def push_one(config: BackupConfig, path: Path) -> int:
    """Store a file of pg_wal; return when it is durable, with the bytes stored now. Errors as `push_wal_file`."""
    begun = time.monotonic()
    archive = WalArchive.open(open_repository(config))
    level = wal_level(config)
    with ThreadPoolExecutor(2, thread_name_prefix="pgproof-frame") as pool:
        stored = push_wal_file(archive, path, level, pool)
    _log.info("WAL pushed name=%s stored=%d seconds=%.3f", path.name, stored, time.monotonic() - begun)
    return stored


def fetch_one(config: BackupConfig, name: str, target: Path) -> bool:
    """Write a file to `target`, whole or not at all; False if it is proven not to be there. Errors as
    `WalFetcher.find`."""
    begun = time.monotonic()
    found = open_fetcher(config).find(name)
    if found is None:
        return False
    write_atomically(target, found.chunks)
    _log.info("WAL fetched name=%s whole=%s seconds=%.3f", name, found.whole, time.monotonic() - begun)
    return True
