"""The second copy of the repository: bring it up to date, and say which backups it lacks."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from pgproof.actions.opening import open_for_reading, open_repository
from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import BackupConfig, BackupType
from pgproof.model.job import Job
from pgproof.model.report import BackupInfo, Finding
from pgproof.repository.bucket import Bucket
from pgproof.repository.catalog import committed_ids, list_backups
from pgproof.repository.layout import ClusterLayout
from pgproof.repository.mirror import copy_missing
from pgproof.repository.opening import open_bucket, open_mirror
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)

LOCAL_ONLY, MIRROR_ONLY = "local-only", "mirror-only"


@dataclass(frozen=True, slots=True)
class MirrorReport:
    """What was copied: the backups that became whole in the mirror, objects and bytes sent."""

    location: str
    backups: tuple[str, ...]
    objects: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "location": self.location,
            "backups": list(self.backups),
            "objects": self.objects,
            "bytes": self.bytes,
        }


def copy_to_mirror(config: BackupConfig, job: Job) -> MirrorReport:
    """Copy to the configured bucket what it lacks of the directory's backups of this cluster.

    Raises PreconditionError where no mirror is configured, and what the copying meets.
    """
    mirror = open_mirror(config)
    if mirror is None:
        raise PreconditionError(
            "no mirror is configured",
            hint="set both BACKUP_DIR and AWS_S3_BUCKET: the bucket then holds a copy of the directory",
        )
    copied = copy_missing(open_repository(config), mirror, job)
    if copied.objects:
        _log.info(
            "mirrored location=%s backups=%d objects=%d bytes=%d",
            mirror.location,
            len(copied.backups),
            copied.objects,
            copied.bytes,
        )
    return MirrorReport(mirror.location, tuple(copied.backups), copied.objects, copied.bytes)


def list_copies(config: BackupConfig, backup_type: BackupType | None) -> list[BackupInfo]:
    """All committed backups, oldest first; what lies in only one of two copies has a finding that says so."""
    return copies_of(open_for_reading(config), config, backup_type)


def copies_of(
    repository: Repository, config: BackupConfig, backup_type: BackupType | None = None
) -> list[BackupInfo]:
    """The same, of a repository that is open for reading."""
    backups = list_backups(repository, backup_type)
    mirror = open_mirror(config)
    if mirror is None:
        return backups
    names = ClusterLayout(config.cluster)
    here, there = (_committed(bucket, names) for bucket in (open_bucket(config), mirror))

    def marked(info: BackupInfo) -> BackupInfo:
        finding = None
        if info.backup_id not in there:
            text = f"not in the mirror {mirror.location}; the next backup, or `pgproof mirror`, copies it"
            finding = Finding(LOCAL_ONLY, text)
        elif info.backup_id not in here:
            finding = Finding(MIRROR_ONLY, f"only the mirror {mirror.location} has it")
        return replace(info, findings=(*info.findings, finding)) if finding else info

    return [marked(info) for info in backups]


def _committed(bucket: Bucket, names: ClusterLayout) -> set[str]:
    """What a copy that does not answer holds is nothing that anybody could restore from now."""
    try:
        return set(committed_ids(bucket, names))
    except EngineError as error:
        _log.warning("a copy of the repository cannot be listed: %s", error)
        return set()
