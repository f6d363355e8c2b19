"""Frames that are stored already, found by their hash: those of interrupted runs, and of a logical backup's base.

Packs are complete objects with an index of their own, so those of a run that never came to its manifest can be
read. Only runs since the newest backup count: older ones were used by it, and two full backups share no packs.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from pgproof.errors import DataError
from pgproof.model.job import Job
from pgproof.model.manifest import is_backup_id
from pgproof.repository.frame_slots import DIGEST_LENGTH
from pgproof.repository.in_file import forget, in_file
from pgproof.repository.packs import PackIndex
from pgproof.repository.repository import Repository

_log = logging.getLogger(__name__)

OWN = 0
_AT_ONCE = 8
_BATCH = 64
_BEGUN = len("YYYYMMDDTHHMMSSZ")
# Each look at the file brings a page of it into memory, 16 MB at most before they are given back.
_FORGET_EVERY = 4096
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
    """Frames by hash: in memory twelve bytes each, 19 MB for 100 GB of a dump, and the rest of them in a file."""

    owners: tuple[str, ...] = ()
    # Packs that cannot be read, or are known to be damaged: what they hold is stored again.
    given_up: set[str] = field(default_factory=set)
    # The first bytes of the hashes, sorted, and for each the number of its row in the file.
    _keys: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    _rows: npt.NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))
    _memory: mmap.mmap | None = None
    _looked: int = 0

    def find(self, name: bytes, plain_length: int) -> Place | None:
        """The place of the frame with this hash and length, or None."""
        if self._memory is None:
            return None
        key = np.frombuffer(name, "<u8", 1)[0]
        at = int(np.searchsorted(self._keys, key))
        while at < len(self._keys) and self._keys[at] == key:
            entry = self._entry(int(self._rows[at]), self._memory)
            # A fixed-width field drops zero bytes at its end, on both sides of the comparison.
            if entry["rest"] == name[8:].rstrip(b"\0") and int(entry["length"]) == plain_length:
                return Place(int(entry["owner"]), int(entry["pack"]), int(entry["page"]))
            at += 1
        return None

    def _entry(self, row: int, memory: mmap.mmap) -> np.void:
        self._looked += 1
        if self._looked % _FORGET_EVERY == 0:
            forget(memory)
        return cast(np.void, np.frombuffer(memory, _ENTRY, 1, row * _ENTRY.itemsize)[0])


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


def stored_frames(
    repository: Repository,
    runs: Sequence[str],
    page_size: int,
    job: Job,
    packs: Mapping[str, Collection[int]] = MappingProxyType({}),
    damaged: Collection[tuple[str, int]] = (),
) -> StoredFrames:
    """The frames in the packs of `runs`, for those in `packs` in the packs of these numbers only.

    What cannot be read there is left out, and stored again, and so are packs that are known to be `damaged`.
    """
    found = StoredFrames(tuple(runs))
    keys: list[npt.NDArray[np.uint64]] = []

    def tables() -> Iterator[npt.NDArray[np.void]]:
        for owner, run in enumerate(runs, OWN + 1):
            for number, index in _indexes(repository, run, packs.get(run), damaged, found.given_up, job):
                if index.page_size == page_size and len(index.codecs):
                    key, table = _table(index, owner, number)
                    keys.append(key)
                    yield table

    memory = in_file(tables(), "the table of what is stored already")
    if memory is None:
        return replace(found, owners=())
    sorted_keys = np.concatenate(keys)
    keys.clear()
    order = np.argsort(sorted_keys, kind="stable").astype(np.uint32)
    return replace(found, _keys=sorted_keys[order], _rows=order, _memory=memory)


def _indexes(
    repository: Repository,
    run: str,
    wanted: Collection[int] | None,
    damaged: Collection[tuple[str, int]],
    given_up: set[str],
    job: Job,
) -> Iterator[tuple[int, PackIndex]]:
    try:
        packs = repository.pack_objects(run)
    except DataError as error:
        _log.warning("the packs of an earlier run are not used: %s", error)
        given_up.add(repository.layout.packs_of(run))
        return
    numbers = sorted(packs) if wanted is None else sorted(wanted)

    def read(number: int) -> PackIndex | None:
        try:
            if number not in packs or (run, number) in damaged:
                raise DataError("a pack is missing or damaged", run=run, number=number)
            return repository.open_pack(packs[number]).index
        except DataError as error:
            _log.warning("a pack of an earlier run is not used: %s", error)
            return None

    # The time is spent waiting for an object store, so a few requests travel together.
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pgproof-index") as pool:
        for start in range(0, len(numbers), _BATCH):
            job.checkpoint()
            some = numbers[start : start + _BATCH]
            for number, index in zip(some, pool.map(read, some), strict=True):
                if index is None:
                    given_up.add(repository.layout.pack_context(run, number))
                else:
                    yield number, index


def _table(index: PackIndex, owner: int, number: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.void]]:
    hashes = np.frombuffer(index.hashes, np.uint8).reshape(-1, DIGEST_LENGTH)
    table = np.empty(len(hashes), _ENTRY)
    table["rest"] = np.ascontiguousarray(hashes[:, 8:]).view(_ENTRY["rest"]).ravel()
    table["length"] = index.plain_lengths
    table["owner"], table["pack"] = owner, number
    table["page"] = index.first_pages[:-1]
    return np.ascontiguousarray(hashes[:, :8]).view("<u8").ravel(), table
