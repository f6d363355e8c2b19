"""What a differential or incremental backup builds on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pgproof.errors import DataError
from pgproof.model.config import BackupType
from pgproof.model.damage import damaged_packs
from pgproof.model.manifest import PHYSICAL, Manifest
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind

_log = logging.getLogger(__name__)


def choose_base(
    repository: Repository,
    committed: Iterable[str],
    backup_type: BackupType,
    block_size: int,
    method: str = PHYSICAL,
) -> Manifest | None:
    """The newest of the committed backups, for a differential one the newest full one, that can be read; None if there is none.

    One chain never changes its method. Content is compared, so it may be of any timeline, and degraded.
    """
    if backup_type is BackupType.FULL:
        return None
    for backup_id in sorted(committed, reverse=True):
        if backup_type is BackupType.DIFFERENTIAL and f"-{BackupType.FULL}-" not in backup_id:
            continue
        try:
            manifest = repository.read_manifest(backup_id)
        except DataError as error:
            _log.warning("not built on: %s", error)
            continue
        if manifest is not None and (manifest.method, manifest.block_size) == (method, block_size):
            return manifest
    return None


def packs_known_damaged(repository: Repository, base: Manifest) -> set[tuple[str, int]]:
    """The packs that verifications of the base, and of those that it builds on, named as damaged or missing."""
    keys = [
        info.key
        for backup_id in {base.backup_id, *base.packs}
        for info in repository.bucket.list(repository.layout.verifications(backup_id))
    ]

    def read(key: str) -> set[tuple[str, int]]:
        try:
            report: dict[str, Any] = repository.read_json(Kind.VERIFICATION, key)
        except DataError as error:
            _log.warning("a verification's report is not used: %s", error)
            return set()
        packs = report.get("damaged_packs", [])
        return damaged_packs(map(str, packs if isinstance(packs, list) else []))

    with ThreadPoolExecutor(8, thread_name_prefix="pgproof-reports") as pool:
        return set().union(*pool.map(read, keys))


def newest_method(repository: Repository, committed: Iterable[str]) -> str | None:
    """The method of the newest backup that can be read; None without one."""
    for backup_id in sorted(committed, reverse=True):
        try:
            manifest = repository.read_manifest(backup_id)
        except DataError as error:
            _log.warning("not looked at: %s", error)
            continue
        if manifest is not None:
            return manifest.method
    return None
