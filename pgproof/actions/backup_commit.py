"""The first and the last word of a backup's run: the intent, and the manifest once everything it names is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from pgproof.actions.backup_record import BackupRecord
from pgproof.errors import ConflictError
from pgproof.failpoints import failpoint
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.repository.condemned import refuse_condemned
from pgproof.repository.integrity import check_objects
from pgproof.repository.leases import Lease
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind

_log = logging.getLogger(__name__)


def announce(repository: Repository, record: BackupRecord, interrupted: Sequence[str]) -> None:
    """The intent, before anything else: nobody collects what this run stores or builds on."""
    repository.create_json(
        Kind.INTENT,
        repository.layout.intent(record.backup_id),
        {
            "format": 1,
            "started_at": record.started_at.isoformat(),
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "parents": [*interrupted, *(record.base.packs if record.base else ())],
        },
    )


def commit(repository: Repository, lease: Lease, manifest: Manifest, job: Job) -> None:
    """Make the backup exist. Raises ConflictError if what it names is gone, or the lease is lost."""
    job.report("committing")
    lease.check()
    # In this order, at the last moment before it is told: a collection's mark that is gone has done its work.
    refuse_condemned(repository, manifest)
    failpoint("backup.uncondemned")
    _text, missing = check_objects(repository, manifest, job)
    if missing:
        raise ConflictError(
            "objects of this backup are gone from the repository",
            hint="a cleanup or somebody else has removed them: take the backup again",
            missing="; ".join(missing[:3]),
        )
    failpoint("backup.checked")
    repository.commit(manifest)
    failpoint("backup.committed")
    _log.info(
        "backup committed id=%s method=%s status=%s changes=%s size=%d stored=%d files=%d findings=%d seconds=%.1f",
        manifest.backup_id,
        manifest.method,
        manifest.status,
        manifest.change_detection,
        manifest.size_bytes,
        manifest.stored_bytes,
        manifest.files,
        len(manifest.findings),
        (manifest.finished_at - manifest.started_at).total_seconds(),
    )
