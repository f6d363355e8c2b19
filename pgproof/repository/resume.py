"""What interrupted runs left behind: a run that follows finds their frames by hash and does not store them again.

Packs are complete objects with an index of their own, so those of a run that never came to its manifest can be
read. Only runs since the newest backup count: older ones were used by it, and two full backups share no packs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.model.job import Job
from pgproof.model.manifest import is_backup_id
from pgproof.repository.frame_slots import DIGEST_LENGTH
from pgproof.repository.packs import PackIndex
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)

OWN = 0
_BEGUN = len("YYYYMMDDTHHMMSSZ")
_ENTRY = np.dtype(
    [("rest", f"S{DIGEST_LENGTH - 8}"), ("length", "<u4"), ("owner", "<u4"), ("pack", "<u4"), ("page", "<u4")]
)


class Place(NamedTuple):
    """Where a frame lies: the number of its owner (OWN, or one of `StoredFrames.owners` counted from 1), of its
    pack, and of its first page in that pack."""

    owner: int
    pack: int
    page: int


@dataclass
class StoredFrames:
    """Frames by hash; some fifty bytes each, so a terabyte that was interrupted costs a hundred megabytes."""

    owners: tuple[str, ...] = ()
    _keys: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    _entries: npt.NDArray[np.void] = field(default_factory=lambda: np.empty(0, _ENTRY))

    def find(self, name: bytes, plain_length: int) -> Place | None:
        """The place of the frame with this hash and length, or None."""
        if not len(self._keys):
            return None
        key = np.frombuffer(name, "<u8", 1)[0]
        at = int(np.searchsorted(self._keys, key))
        while at < len(self._keys) and self._keys[at] == key:
            entry = self._entries[at]
            # A fixed-width field drops zero bytes at its end, on both sides of the comparison.
            if entry["rest"] == name[8:].rstrip(b"\0") and int(entry["length"]) == plain_length:
                return Place(int(entry["owner"]), int(entry["pack"]), int(entry["page"]))
            at += 1
        return None


def interrupted_runs(repository: Repository) -> tuple[str, ...]:
    """The ids of runs that began after the newest backup and stored no manifest, oldest first."""
    begun: set[str] = set()
    ended: set[str] = set()
    prefix = repository.layout.backups
    for info in repository.bucket.list(prefix):
        backup_id, _slash, name = info.key.removeprefix(prefix).partition("/")
        if is_backup_id(backup_id):
            (ended if name == "manifest" else begun).add(backup_id)
    newest = max(ended, default="")
    # By the second in which they began: what follows it in an id is chance.
    return tuple(sorted(run for run in begun - ended if run[:_BEGUN] > newest[:_BEGUN]))


def stored_frames(repository: Repository, runs: Sequence[str], page_size: int, job: Job) -> StoredFrames:
    """The frames in the packs of `runs`; what cannot be read there is left out, and stored again."""
    keys: list[npt.NDArray[np.uint64]] = []
    entries: list[npt.NDArray[np.void]] = []
    for owner, run in enumerate(runs, OWN + 1):
        for number, index in _indexes(repository, run, job):
            if index.page_size == page_size and len(index.codecs):
                found = _table(index, owner, number)
                keys.append(found[0])
                entries.append(found[1])
    if not keys:
        return StoredFrames()
    order = np.argsort(np.concatenate(keys), kind="stable")
    return StoredFrames(tuple(runs), np.concatenate(keys)[order], np.concatenate(entries)[order])


def _indexes(repository: Repository, run: str, job: Job) -> Iterator[tuple[int, PackIndex]]:
    try:
        packs = repository.pack_objects(run)
    except DataError as error:
        _log.warning("the packs of an interrupted run are not used: %s", error)
        return
    for number, info in packs.items():
        job.checkpoint()
        try:
            yield number, repository.open_pack(info).index
        except DataError as error:
            _log.warning("a pack of an interrupted run is not used: %s", error)


def _table(index: PackIndex, owner: int, number: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.void]]:
    hashes = np.frombuffer(index.hashes, np.uint8).reshape(-1, DIGEST_LENGTH)
    table = np.empty(len(hashes), _ENTRY)
    table["rest"] = np.ascontiguousarray(hashes[:, 8:]).view(_ENTRY["rest"]).ravel()
    table["length"] = index.plain_lengths
    table["owner"], table["pack"] = owner, number
    table["page"] = index.first_pages[:-1]
    return np.ascontiguousarray(hashes[:, :8]).view("<u8").ravel(), table
