"""An opened repository of one cluster: names, seals and the settling of conflicts.

Rule: an object only names objects that are already stored, and nothing is overwritten. So writers store
packs, WAL and maps first and the manifest last; deletion goes the other way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.filemap import Segment, decode_segment
from pgproof.model.lsn import WalSegment
from pgproof.model.manifest import Manifest, MapRef
from pgproof.repository.blobs import decode_blob, decode_json, encode_blob, encode_json
from pgproof.repository.bucket import Bucket, ObjectInfo
from pgproof.repository.layout import ClusterLayout, parse_pack_name
from pgproof.repository.pack_reader import PackReader
from pgproof.repository.pack_versions import pack_versions
from pgproof.repository.packs import PackBuilder
from pgproof.repository.sealing import Kind, RepositoryKey, object_name

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Repository:
    """Reads and writes the objects of one cluster. Methods raise the bucket's errors, and DataError
    for anything stored that is not what it should be. What is damaged is read from `mirror`, if one is given."""

    def __init__(
        self, bucket: Bucket, key: RepositoryKey, cluster: str, mirror: Bucket | None = None
    ) -> None:
        self.bucket = bucket
        self.mirror = mirror
        self.key = key
        self.cluster = cluster
        self.layout = ClusterLayout(cluster)
        self.hashes = key.hashes(cluster)

    # JSON in blobs

    def create_json(self, kind: Kind, key: str, value: dict[str, Any]) -> None:
        """Store; success if the same is there already, ConflictError if something else is."""
        payload = encode_json(value)
        try:
            self.bucket.create(key, encode_blob(self.key, kind, key, payload))
        except ConflictError:
            # Either an earlier try won although its answer was lost, or somebody else was first.
            if decode_blob(self.key, kind, key, self.bucket.read(key)) != payload:
                raise

    def read_json(self, kind: Kind, key: str) -> dict[str, Any]:
        return self._whole(
            lambda bucket: decode_json(decode_blob(self.key, kind, key, bucket.read(key)), key)
        )

    # manifests and maps

    def commit(self, manifest: Manifest) -> None:
        """Make the backup exist. ConflictError if a collector has given it up."""
        key, value = self.layout.manifest(manifest.backup_id), manifest.to_json()
        # What no reader would accept must not count as a backup.
        Manifest.from_json(decode_json(encode_json(value), key))
        self.create_json(Kind.MANIFEST, key, value)

    def read_manifest(self, backup_id: str) -> Manifest | None:
        """The manifest, or None if a collector has given the run up."""
        key = self.layout.manifest(backup_id)
        value = self.read_json(Kind.MANIFEST, key)
        if value.get("abandoned") is True:
            return None
        try:
            manifest = Manifest.from_json(value)
        except DataError as error:
            raise DataError(error.message, hint=error.hint, key=key, **error.context) from error
        if manifest.backup_id != backup_id or manifest.cluster != self.cluster:
            raise DataError("a manifest describes another backup", key=key)
        return manifest

    def create_map(self, payload: bytes) -> tuple[str, int]:
        """Store a segment of a map unless it is there; return its name and the bytes stored now.

        One that is there and damaged is stored anew, so that the backups that share it are whole again: its name
        leaves no other way. Raises DataError if the store does not let it be removed.
        """
        name = self.hashes.name_of(payload)
        key = self.layout.map(name)
        data = encode_blob(self.key, Kind.MAP, self.layout.maps, payload)
        try:
            self.bucket.create(key, data)
        except ConflictError:
            try:
                if self.read_map(name) != payload:
                    raise
                return name, 0
            except DataError as damage:
                self._replace(key, data, damage)
        return name, len(data)

    def _replace(self, key: str, data: bytes, damage: DataError) -> None:
        _log.warning("a damaged object is stored anew: %s", damage)
        try:
            self.bucket.delete(key)
        except PreconditionError as error:
            raise DataError(
                "a map is damaged, and the store does not let it be replaced",
                hint="remove this object with rights to delete, then take the backup again: all that share it are whole then",
                key=key,
                reason=error.message,
            ) from damage
        failpoint("map.removed")
        self.bucket.create(key, data)

    def read_map(self, name: str) -> bytes:
        key = self.layout.map(name)

        def read(bucket: Bucket) -> bytes:
            payload = decode_blob(self.key, Kind.MAP, self.layout.maps, bucket.read(key))
            if self.hashes.name_of(payload) != name:
                raise DataError("a map is not the one its name promises")
            return payload

        try:
            return self._whole(read)
        except DataError as error:
            raise DataError(error.message, hint=error.hint, **{**error.context, "key": key}) from error

    def segments(self, manifest: Manifest) -> Iterator[Segment]:
        """The map of a backup, a segment at a time."""
        for ref in manifest.maps:
            yield self.segment(ref, manifest.block_size, manifest.backup_id)

    def segment(self, ref: MapRef, block_size: int, backup_id: str = "") -> Segment:
        """A segment of the map of `backup_id`, whose manifest is named with the map if the two do not agree."""
        try:
            segment = decode_segment(self.read_map(ref.hash), block_size)
            if ref != MapRef(ref.hash, segment.first, len(segment.files), segment.bytes, segment.pages):
                named = {"manifest": self.layout.manifest(backup_id)} if backup_id else {}
                raise DataError("a map does not hold what the manifest says of it", **named)
            return segment
        except DataError as error:
            raise DataError(
                error.message, hint=error.hint, **{"key": self.layout.map(ref.hash), **error.context}
            ) from error

    # packs

    def create_pack(self, context: str, data: bytes) -> str:
        """Store a finished pack under its context and hash; return its key."""
        key = f"{context}-{object_name(data)}"
        try:
            self.bucket.create(key, data)
        except ConflictError:
            if self.bucket.read(key) != data:
                raise DataError("a pack is damaged", key=key) from None
        return key

    def pack_objects(self, backup_id: str) -> dict[int, ObjectInfo]:
        """The packs a backup has stored, by number; of one that was rewritten the newest object."""
        return {number: objects[0] for number, objects in self.pack_versions(backup_id).items()}

    def pack_versions(self, backup_id: str) -> dict[int, list[ObjectInfo]]:
        """All objects of each pack, the newest first."""
        return pack_versions(self.bucket, self.layout.packs_of(backup_id))

    def open_pack(self, info: ObjectInfo, older: Sequence[ObjectInfo] = ()) -> PackReader:
        """A pack that was listed; what it left out, or has damaged, is read from those that it was made from, newest first.

        One that is gone, because its pack was rewritten since it was listed, is looked for once more.
        """
        folder, _slash, last = info.key.rpartition("/")
        name = parse_pack_name(last)
        if name is None:
            raise DataError("an object has a name that no pack has", key=info.key)
        before = cache(lambda: self.open_pack(older[0], older[1:])) if older else None
        try:
            return self._pack(Kind.PACK, f"{folder}/{name.number:08d}", info, before)
        except DataError:
            if self.bucket.head(info.key) is not None:
                raise
            now = pack_versions(self.bucket, f"{folder}/").get(name.number, [info])
            if now[0].key <= info.key:
                raise
            return self.open_pack(now[0], now[1:])

    # WAL

    def create_wal(self, segment: WalSegment, builder: PackBuilder) -> int:
        """Store a whole segment; as `create_wal_object`."""
        return self.create_wal_object(self.layout.segment(segment), builder)

    def create_wal_object(self, key: str, builder: PackBuilder) -> int:
        """Store a segment or a part of one; return the bytes stored now, 0 if the same was there.

        Raises ConflictError if something different is stored under this name: two servers write the
        same timeline, or a repository is shared by mistake. Then nothing may be acknowledged.
        """
        hashes = b"".join(builder.frame_hashes)
        data = builder.finish()
        failpoint("wal.segment.sealed")
        try:
            self.bucket.create(key, data)
        except ConflictError as error:
            stored = self._open_wal(key)
            if stored.index.hashes != hashes:
                raise ConflictError(
                    "a different WAL segment is stored under this name",
                    hint="two servers write the same timeline: give each its own --cluster name",
                    key=key,
                ) from error
            for frame in range(len(stored.index.codecs)):
                stored.frame(frame, self.hashes)  # what has rotted since must not be acknowledged again
            return 0
        failpoint("wal.segment.stored")
        return len(data)

    def open_wal(self, segment: WalSegment) -> PackReader:
        return self._open_wal(self.layout.segment(segment))

    def _open_wal(self, key: str) -> PackReader:
        info = self.bucket.head(key)
        if info is None:
            raise DataError("a WAL segment is missing", key=key)
        return self.open_wal_object(info)

    def open_wal_object(self, info: ObjectInfo) -> PackReader:
        """A whole segment or a part that was listed."""
        return self._pack(Kind.WAL, info.key, info)

    def create_history(self, timeline: int, content: bytes) -> bool:
        """Keep a timeline's history file for ever; return whether it is new.

        Raises ConflictError if another one is stored: two servers took the same timeline, and nothing of either
        may be acknowledged until somebody decides.
        """
        key = self.layout.history(timeline)
        try:
            self.bucket.create(key, encode_blob(self.key, Kind.HISTORY, key, content))
        except ConflictError as error:
            if self.read_history(timeline) != content:
                raise ConflictError(
                    "a different history of this timeline is stored",
                    hint="two servers were promoted to the same timeline: give one of them its own --cluster name",
                    key=key,
                ) from error
            return False
        failpoint("wal.history.stored")
        return True

    def read_history(self, timeline: int) -> bytes:
        """A history file as it was stored; DataError if there is none."""
        key = self.layout.history(timeline)
        return self._whole(lambda bucket: decode_blob(self.key, Kind.HISTORY, key, bucket.read(key)))

    # damaged here, whole in the mirror or at a second look

    def _whole(self, read: Callable[[Bucket], T]) -> T:
        """What `read` makes of the first copy that is not damaged."""
        return self._first_whole(lambda: read(self.bucket), lambda: read(self._other))

    @property
    def _other(self) -> Bucket:
        """Where to look once more: without a mirror at the same place, because bytes are also lost on their way."""
        return self.bucket if self.mirror is None else self.mirror

    def _first_whole(self, first: Callable[[], T], second: Callable[[], T]) -> T:
        try:
            return first()
        except DataError as damage:
            try:
                found = second()
            except EngineError:
                raise damage from None
            _log.warning("an object was read wrong, and then right from %s: %s", self._other.location, damage)
            return found

    def _pack(
        self, kind: Kind, context: str, info: ObjectInfo, before: Callable[[], PackReader] | None = None
    ) -> PackReader:
        def opened(
            bucket: Bucket, size: int, elsewhere: Callable[[], PackReader] | None = None
        ) -> PackReader:
            def read(start: int, length: int) -> bytes:
                return bucket.read_range(info.key, start, length)

            return PackReader(self.key, kind, context, size, read, elsewhere, before)

        def again() -> PackReader:
            try:
                there = self._other.head(info.key)
                if there is None:
                    raise DataError("an object is missing", key=info.key)
                return opened(self._other, there.size)
            except DataError:
                if before is None:
                    raise
                return before()

        return self._first_whole(lambda: opened(self.bucket, info.size, again), again)
