"""The steps of campaigns/large_maps.py, each measured: `python -m campaigns.large_maps_steps PLACE FILES SEED`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pgproof.model.config import BackupType
from pgproof.model.filemap import RUN_TYPE, Runs
from pgproof.model.incremental_file import HEAD_LENGTH, IncrementalHead
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import Manifest
from pgproof.model.summaries import LimitBlocks
from pgproof.repository.base import Base
from pgproof.repository.frame_stream import batches
from pgproof.repository.intake import FileIntake
from pgproof.repository.local import LocalBucket
from pgproof.repository.map_store import StoredFiles
from pgproof.repository.rebuild import Patch, Rebuild
from pgproof.repository.repository import Repository
from pgproof.repository.resume import StoredFrames
from pgproof.repository.sealing import RepositoryKey, Suite
from pgproof.repository.writer import PackWriter

_PAGE = 8192
_PAGES = (1 << 30) // _PAGE
_CHANGED = _PAGES // 100
# Pages that compress to a third: so many lie in a pack of 16 MiB.
_IN_A_PACK = 6144
_NOTHING = np.empty(0, np.uint32)


class Steps:
    """A cluster of `files` GiB in one repository; `found` is what its steps cost."""

    def __init__(self, place: Path, files: int, seed: int) -> None:
        key = RepositoryKey(bytes(range(16)), Suite.AES_256_GCM, bytes(range(32)))
        self.repository = Repository(LocalBucket(place), key, "main")
        self.files = files
        self.found: dict[str, float] = {"files of 1 GiB": files}
        self._chance = np.random.default_rng(seed)
        self._stored = 0

    def full(self) -> Manifest:
        def add(intake: FileIntake) -> None:
            for number in range(self.files):
                first = number * _PAGES
                self._file(intake, number, _own(np.arange(_PAGES, dtype=np.uint32), first))

        with self._step("full: map"):
            stored = self._store("full", None, add)
        return self._commit("full", stored, None)

    def incremental(self, name: str, base: Manifest) -> tuple[Manifest, dict[int, npt.NDArray[np.uint32]]]:
        """Returns the changed blocks of some files, for a look at what was stored."""
        sample: dict[int, npt.NDArray[np.uint32]] = {}

        def add(intake: FileIntake, old: Base) -> None:
            rebuild = Rebuild(old, LimitBlocks(), _PAGE, _PAGES)
            for number in range(self.files):
                blocks = np.sort(self._chance.choice(_PAGES, _CHANGED, replace=False)).astype(np.uint32)
                head = IncrementalHead(blocks, _PAGES, HEAD_LENGTH)
                patch = rebuild.patch(number, _path(number), head)
                self._file(intake, number, patch.runs)
                intake.put_runs(number, _own(blocks, number * _CHANGED))
                if number % 97 == 0:
                    sample[number] = blocks
            assert rebuild.counts.inherited == self.files * (_PAGES - _CHANGED)

        with self._step(f"{name}: planning and map"):
            stored = self._store(name, base, add)
        manifest = self._commit(name, stored, base)
        return manifest, sample

    def read(self, name: str, manifest: Manifest) -> int:
        """Plan the reading of a restore; returns the pages that it would bring."""
        pages = 0
        with self._step(f"{name}: planning of a restore"):
            for batch in batches(self.repository, manifest):
                pages += int(batch.places["pages"].sum(dtype=np.int64))
        return pages

    def _store(self, name: str, base: Manifest | None, add: Callable[..., None]) -> StoredFiles:
        backup_id = _id(name)
        job = Job()
        with PackWriter(self.repository, backup_id, _PAGE, 3, StoredFrames(), job) as writer:
            if base is None:
                intake = FileIntake(self.repository, writer, (backup_id,), _PAGE)
                add(intake)
                return intake.finish(job)
            with Base(self.repository, base, 1) as old:
                intake = FileIntake(self.repository, writer, (backup_id, *old.owners), _PAGE, old)
                add(intake, old)
                return intake.finish(job)

    @staticmethod
    def _file(intake: FileIntake, number: int, runs: Runs) -> None:
        path = _path(number)
        patch = Patch(_PAGES, _NOTHING, runs)
        intake.begin_patch(path, 0o600, (path, HEAD_LENGTH), bytes(HEAD_LENGTH), patch)

    def _commit(self, name: str, stored: StoredFiles, base: Manifest | None) -> Manifest:
        at = datetime(2026, 11, 25, tzinfo=UTC)
        manifest = Manifest(
            backup_id=_id(name),
            cluster="main",
            type=BackupType.INCREMENTAL if base else BackupType.FULL,
            method="physical",
            parent_id=base.backup_id if base else None,
            started_at=at,
            finished_at=at,
            size_bytes=stored.size_bytes,
            stored_bytes=stored.stored_bytes,
            files=stored.files,
            start_lsn=Lsn(0),
            stop_lsn=Lsn(100),
            timeline=1,
            wal_segment_size=1 << 24,
            system_identifier="7",
            server_version="18.6",
            block_size=_PAGE,
            data_checksums=True,
            change_detection="summaries" if base else "none",
            maps=stored.maps,
            packs=stored.packs,
        )
        with self._step(f"{name}: commit"):
            self.repository.commit(manifest)
        self.found[f"{name}: maps stored, MB"] = round(stored.stored_bytes / 1e6, 1)
        read = self.repository.read_manifest(manifest.backup_id)
        assert read is not None and read.maps == manifest.maps
        return replace(read)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        # The kernel counts the peak anew from here on.
        Path("/proc/self/clear_refs").write_text("5")
        begun = time.monotonic()
        yield
        self.found[f"{name}, s"] = round(time.monotonic() - begun, 1)
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
        )
        peak = round(int(status["VmHWM"].split()[0]) * 1024 / 1e6)
        self.found[f"{name}, peak MB"] = peak
        self.found["peak memory, MB"] = max(peak, self.found.get("peak memory, MB", 0))


def wrong_pages(steps: Steps, manifest: Manifest, sample: dict[int, npt.NDArray[np.uint32]]) -> int:
    """Of the sampled files, the pages that are not where they should be: changed ones in own packs, others not."""
    wrong = 0
    for segment in steps.repository.segments(manifest):
        for entry in segment.files:
            blocks = sample.get(int(entry.path.rpartition(b"/")[2]) - 10000)
            if blocks is None:
                continue
            runs = segment.runs_of(entry)
            own = np.array([owner == manifest.backup_id for owner in segment.owners])
            ours = np.repeat(own[runs["owner"]], runs["pages"])
            expected = np.zeros(_PAGES, np.bool_)
            expected[blocks] = True
            wrong += int(np.count_nonzero(ours != expected))
    return wrong


def _own(blocks: npt.NDArray[np.uint32], first: int) -> Runs:
    """Blocks of a file that lie in this backup's packs, from its page `first` on."""
    at = first + np.arange(len(blocks), dtype=np.int64)
    pack, page = at // _IN_A_PACK, at % _IN_A_PACK
    breaks = np.ones(len(blocks), np.bool_)
    breaks[1:] = (np.diff(blocks.astype(np.int64)) != 1) | (np.diff(pack) != 0)
    starts = np.flatnonzero(breaks)
    runs = np.empty(len(starts), RUN_TYPE)
    runs["file_page"], runs["pages"] = blocks[starts], np.diff(np.append(starts, len(blocks)))
    runs["owner"], runs["pack"], runs["pack_page"] = 0, pack[starts], page[starts]
    return runs


def _path(number: int) -> bytes:
    return b"base/5/%d" % (10000 + number)


def _id(name: str) -> str:
    number = {"full": 0, "first": 1, "second": 2}[name]
    return f"20261125T21000{number}Z-{'incremental' if number else 'full'}-3fa91c"


def main(place: str, files: str, seed: str) -> None:
    steps = Steps(Path(place), int(files), int(seed))
    full = steps.full()
    first, _sample = steps.incremental("first", full)
    second, sample = steps.incremental("second", first)
    steps.found["pages wrong"] = wrong_pages(steps, second, sample)
    for name, manifest in (("full", full), ("second", second)):
        assert steps.read(name, manifest) == int(files) * _PAGES
    print(json.dumps(steps.found))


if __name__ == "__main__":
    main(*sys.argv[1:])
