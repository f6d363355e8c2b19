"""A backup taken out of a repository as retention would: its manifest, then what no other backup needs."""

from __future__ import annotations

from pgproof.model.filemap import numbers_of
from pgproof.model.manifest import Manifest
from pgproof.repository.catalog import committed_ids
from pgproof.repository.repository import Repository


def remove_backup(repository: Repository, backup_id: str) -> int:
    """Returns how many packs and maps went."""
    bucket, layout = repository.bucket, repository.layout
    gone = _manifest(repository, backup_id)
    bucket.delete(layout.manifest(backup_id))
    kept = [_manifest(repository, other) for other in committed_ids(bucket, layout)]
    removed = 0
    for owner in gone.packs:
        needed = {n for manifest in kept for n in numbers_of(manifest.packs.get(owner, b""))}
        for number, info in repository.pack_objects(owner).items():
            if number not in needed:
                bucket.delete(info.key)
                removed += 1
    names = {ref.hash for manifest in kept for ref in manifest.maps}
    for ref in gone.maps:
        if ref.hash not in names:
            bucket.delete(layout.map(ref.hash))
            removed += 1
    return removed


def _manifest(repository: Repository, backup_id: str) -> Manifest:
    manifest = repository.read_manifest(backup_id)
    assert manifest is not None
    return manifest
