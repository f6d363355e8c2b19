"""Copy to a mirror what it lacks, each backup's manifest last (docs/decisions/0005-mirror.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.filemap import numbers_of
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.wal_names import is_part_name
from pgproof.repository import layout
from pgproof.repository.bucket import Bucket, ObjectInfo
from pgproof.repository.catalog import committed_ids
from pgproof.repository.condemned import refuse_condemned
from pgproof.repository.escape_hatch import ensure_restore_script
from pgproof.repository.integrity import check_objects
from pgproof.repository.layout import ClusterLayout
from pgproof.repository.pack_versions import pack_versions
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import object_name
from pgproof.repository.unlocking import repository_id_of

_log = logging.getLogger(__name__)

_COPIES_AT_ONCE = 3

T = TypeVar("T")


@dataclass
class Copied:
    """What a mirror was given: the backups that became whole there, and what was sent in objects and bytes."""

    backups: list[str] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0


def refuse_stranger(source: Bucket, mirror: Bucket) -> None:
    """Raises PreconditionError if the mirror holds another repository than the source.

    What cannot be read on either side is nobody's proof, and is met again by whoever needs it.
    """
    ids = []
    for bucket in (source, mirror):
        with suppress(EngineError):
            ids.append(repository_id_of(bucket.read(layout.REPOSITORY)))
    if len(ids) == 2 and ids[0] != ids[1]:
        raise PreconditionError(
            "the bucket holds another repository than the directory",
            hint="set AWS_S3_BUCKET to this repository's mirror or to an empty bucket",
            directory=source.location,
            bucket=mirror.location,
        )


def copy_missing(repository: Repository, mirror: Bucket, job: Job) -> Copied:
    """Make every committed backup of the cluster whole in the mirror.

    Raises PreconditionError for a mirror of another repository, DataError for what is damaged at the source,
    ConflictError where the mirror holds something else under a name, and the mirror's own errors.
    """
    refuse_stranger(repository.bucket, mirror)
    return _Copying(repository, mirror, job).run()


class _Copying:
    def __init__(self, repository: Repository, mirror: Bucket, job: Job) -> None:
        self._repository = repository
        self._source = repository.bucket
        self._mirror = mirror
        self._job = job
        self._copied = Copied()

    def run(self) -> Copied:
        source, names = self._source, self._repository.layout
        slots = [info.key for info in source.list(layout.KEYS)]
        # In the order of `init`: what opens the repository, then what makes it one.
        self._copy(key for key in slots if self._mirror.head(key) is None)
        ensure_restore_script(self._mirror)
        self._copy([layout.REPOSITORY] if self._mirror.head(layout.REPOSITORY) is None else [])
        missing = set(committed_ids(source, names)) - set(committed_ids(self._mirror, names))
        for number, backup_id in enumerate(sorted(missing)):
            self._job.report("mirroring", number, len(missing))
            try:
                manifest = self._repository.read_manifest(backup_id)
                if manifest is not None:
                    self._backup(manifest)
                    self._copied.backups.append(backup_id)
            except (ConflictError, DataError):
                # A cleanup has removed it meanwhile; otherwise it is damaged, or the mirror holds something else.
                if source.head(names.manifest(backup_id)) is not None:
                    raise
        committed = set(committed_ids(self._mirror, names))
        kept = [info.key for info in source.list(names.backups) if _goes_along(info.key, names, committed)]
        self._lacking(kept)
        self._lacking(info.key for info in source.list(names.fingerprints))
        self._wal()
        return self._copied

    def _backup(self, manifest: Manifest) -> None:
        names = self._repository.layout
        # As a run does: a cleanup of the mirror sees that somebody is at work.
        self._lacking([names.intent(manifest.backup_id)])
        failpoint("mirror.intended")
        for owner, bitmap in manifest.packs.items():
            there = {info.key for info in self._mirror.list(names.packs_of(owner))}
            packs = self._repository.pack_versions(owner)
            wanted = [_pack(packs, number, names, owner) for number in numbers_of(bitmap)]
            self._each(partial(self._copy_pack, there), wanted)
        self._lacking(
            [
                names.cluster,
                *(names.segment(segment) for segment in manifest.wal_segments),
                *(names.map(ref.hash) for ref in manifest.maps),
            ]
        )
        self._refuse_removed(manifest)
        failpoint("mirror.committing")
        self._copy([names.manifest(manifest.backup_id)])
        failpoint("mirror.committed")

    def _refuse_removed(self, manifest: Manifest) -> None:
        """As before a commit (docs/decisions/0014-retention.md): look for marks, then whether all is there."""
        there = Repository(self._mirror, self._repository.key, self._repository.cluster)
        refuse_condemned(there, manifest)
        _text, missing = check_objects(there, manifest, self._job)
        if missing:
            raise TransientError(
                "objects were removed from the mirror while they were copied",
                hint="a cleanup ran: copy again with `pgproof mirror`",
                missing="; ".join(missing[:3]),
            )

    def _wal(self) -> None:
        """What was pushed or streamed since, history files first. Parts of segments that are still open are not
        copied: whole segments replace them before they would be."""
        prefix = self._repository.layout.wal
        there = {info.key for info in self._mirror.list(prefix)}
        missing = [info.key for info in self._source.list(prefix) if info.key not in there]
        kept = [key for key in missing if not is_part_name(key.rpartition("/")[2])]
        self._copy(sorted(kept, key=lambda key: (not key.endswith(".history"), key)))

    def _lacking(self, keys: Iterable[str]) -> None:
        """Copy those that are not there; asked for one by one, as they lie among those of other backups."""
        self._each(self._copy_if_missing, keys)

    def _copy(self, keys: Iterable[str]) -> None:
        self._each(self._copy_one, keys)

    def _each(self, work: Callable[[T], int], keys: Iterable[T]) -> None:
        with ThreadPoolExecutor(_COPIES_AT_ONCE, thread_name_prefix="pgproof-mirror") as pool:
            for sent in pool.map(work, self._until_stopped(keys)):
                self._copied.bytes += sent
                self._copied.objects += sent > 0

    def _until_stopped(self, keys: Iterable[T]) -> Iterator[T]:
        for key in keys:
            self._job.checkpoint()
            yield key

    def _copy_if_missing(self, key: str) -> int:
        return 0 if self._mirror.head(key) is not None else self._copy_one(key)

    def _copy_pack(self, there: Container[str], objects: Sequence[ObjectInfo]) -> int:
        """All objects of a pack. Of one that was rewritten some may be gone since, or damaged: whether the others do is
        looked at before the manifest."""
        sent, failures = 0, []
        for info in objects:
            try:
                sent += 0 if info.key in there else self._copy_one(info.key)
            except DataError as error:
                failures.append(error)
        if len(failures) < len(objects):
            for failure in failures:
                _log.warning("an object of a rewritten pack was not copied to the mirror: %s", failure)
            return sent
        folder, _slash, name = objects[0].key.rpartition("/")
        now = pack_versions(self._source, f"{folder}/").get(int(name[:8]), [])
        if not now or now[0].key <= objects[0].key:
            raise failures[0]
        return self._copy_pack(there, now)

    def _copy_one(self, key: str) -> int:
        self._job.checkpoint()
        info = self._source.head(key)
        if info is None:
            raise DataError("an object is missing", key=key)
        # WAL segments may be a gigabyte, more than `read` takes for an honest object.
        data = self._source.read_range(key, 0, info.size)
        if "/packs/" in key and not key.endswith(f"-{object_name(data)}"):
            raise DataError("a pack is damaged and was not copied to the mirror", key=key)
        try:
            self._mirror.create(key, data)
        except ConflictError as error:
            if self._mirror.read(key) != data:
                raise ConflictError(
                    "the mirror holds something else under this name",
                    hint="verify both copies; remove the wrong object, or begin a new mirror in an empty bucket",
                    key=key,
                    mirror=self._mirror.location,
                ) from error
        failpoint("mirror.copied")
        return len(data)


def _goes_along(key: str, names: ClusterLayout, committed: set[str]) -> bool:
    """Reports and pins of backups that the mirror has."""
    backup_id, _slash, name = key.removeprefix(names.backups).partition("/")
    return backup_id in committed and name.startswith(("verified/", "pins/"))


def _pack(
    packs: dict[int, list[ObjectInfo]], number: int, names: ClusterLayout, owner: str
) -> list[ObjectInfo]:
    if number not in packs:
        raise DataError("a pack is missing", key=f"{names.pack_context(owner, number)}-*")
    return packs[number]
