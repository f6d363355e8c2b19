"""What a repository of ten thousand backups and two hundred thousand packs costs to list, to plan over and to clean.

The objects are simulated: manifests are real, packs and maps are names. A day is a full backup and 23 incremental ones, each
of which names the packs of all before it on that day.
"""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from campaigns.campaign import Campaign
from campaigns.chained_runs import described
from campaigns.small_repository import SEGMENT_SIZE, SYSTEM_IDENTIFIER, MemoryBucket
from campaigns.synthetic_runs import segment_at
from pgproof.actions.cleanup import carry_out, decide
from pgproof.actions.cleanup_survey import look_at
from pgproof.model.config import BackupType
from pgproof.model.filemap import bitmap_of
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest, MapRef, backup_id_for
from pgproof.model.retention_policy import policy_of
from pgproof.repository.catalog import list_backups
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind, RepositoryKey, Suite

_BACKUPS, _PACKS, _MAPS = 10_000, 20, 20
_SECONDS, _MEMORY_MB = 10.0, 500.0


def run(campaign: Campaign) -> None:
    command = [sys.executable, "-m", "campaigns.large_repository", str(campaign.times(_BACKUPS, least=100))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[1])
    campaign.notes.update(json.loads(done.stdout))
    assert campaign.notes["peak memory, MB"] < _MEMORY_MB, campaign.notes
    assert campaign.notes["planning, s"] < _SECONDS, campaign.notes


def measure(backups: int) -> dict[str, float]:
    bucket = MemoryBucket(now=datetime(2026, 1, 1, tzinfo=UTC))
    repository = Repository(bucket, RepositoryKey(bytes(range(16)), Suite.NONE, bytes(range(32))), "main")
    repository.create_json(Kind.CLUSTER, repository.layout.cluster, described())
    _fill(repository, bucket, backups)
    found: dict[str, float] = {"backups": backups, "objects": len(bucket.objects)}
    begun = time.monotonic()
    assert len(list_backups(repository)) == backups
    found["listing, s"] = _since(begun)
    begun = time.monotonic()
    seen = look_at([repository], 7, Job(), clock=lambda: bucket.now)
    prepared = decide(seen, policy_of(), "main", Job())
    found["planning, s"] = _since(begun)
    begun = time.monotonic()
    report = carry_out(prepared, Job(), begun)
    found["cleaning, s"] = _since(begun)
    found["removed"] = len(report.removed)
    found["objects deleted"] = sum(report.copies[0].objects.values())
    found["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return found


def _fill(repository: Repository, bucket: MemoryBucket, backups: int) -> None:
    layout, ids = repository.layout, [""]
    packs: dict[str, bytes] = {}
    for number in range(backups):
        bucket.now += timedelta(hours=1)
        full = number % 24 == 0
        kind = BackupType.FULL if full else BackupType.INCREMENTAL
        backup_id = backup_id_for(bucket.now, kind, f"{number:06x}")
        packs = {} if full else dict(packs)
        packs[backup_id] = bitmap_of(list(range(_PACKS)))
        for pack in range(_PACKS):
            bucket.put(f"{layout.pack_context(backup_id, pack)}-{_hash(f'{number} {pack}')}", b"")
        # Most of a day's maps are the same.
        names = sorted(_hash(f"{number if n < 5 else number // 24} {n}") for n in range(_MAPS))
        for name in names:
            bucket.objects.setdefault(layout.map(name), (b"", bucket.now))
        wal = segment_at(1, number + 1)
        bucket.put(layout.segment(wal), b"")
        intent = {"format": 1, "parents": [each for each in packs if each != backup_id]}
        repository.create_json(Kind.INTENT, layout.intent(backup_id), intent)
        manifest = Manifest(
            backup_id=backup_id,
            cluster="main",
            type=kind,
            method="physical",
            parent_id=None if full else ids[-1],
            started_at=bucket.now,
            finished_at=bucket.now,
            size_bytes=1,
            stored_bytes=1,
            files=1,
            start_lsn=wal.start + 40,
            stop_lsn=wal.start + 8192,
            timeline=1,
            wal_segment_size=SEGMENT_SIZE,
            system_identifier=str(SYSTEM_IDENTIFIER),
            server_version="18.6",
            block_size=8192,
            data_checksums=True,
            change_detection="none" if full else "compare",
            maps=tuple(MapRef(name, b"%08d" % n, 1, 1, 1) for n, name in enumerate(names)),
            packs=packs,
        )
        repository.commit(manifest)
        ids.append(backup_id)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 2)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
