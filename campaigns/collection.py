"""Backups, cleanups, pins and copying to a mirror at the same time, in every order of their calls to the store: nothing is lost.

Half of the cleanups rewrite packs of which little is needed.
Lists come in pages, plugs are pulled, the clock jumps so that runs at work are taken for dead, and nobody holds the lease of
backups. Afterwards each backup that is listed is read back as it was written, in both copies; none is gone that no plan
removed; what was pinned is there; and another cleanup, alone, leaves nothing that nobody names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from campaigns.campaign import Campaign
from campaigns.chained_runs import ChainedRun, changed, first_files
from campaigns.small_repository import PAGE, MemoryBucket
from campaigns.synthetic_runs import Files, read_files, read_wal, small_frames, wal_content
from campaigns.turns import TurnBucket, Turns
from pgproof.actions import compact
from pgproof.actions.cleanup import PreparedCleanup, carry_out, decide
from pgproof.actions.cleanup_survey import look_at
from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.model.config import BackupType
from pgproof.model.filemap import numbers_of
from pgproof.model.job import Job
from pgproof.model.pin import Pin
from pgproof.model.retention_policy import RetentionPolicy, policy_of
from pgproof.repository.bucket import Bucket
from pgproof.repository.catalog import committed_ids
from pgproof.repository.leases import hold_lease
from pgproof.repository.mirror import copy_missing
from pgproof.repository.pins import store_pin
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import RepositoryKey, Suite

_INTERLEAVINGS = 2_000
_KEY = RepositoryKey(bytes(range(16)), Suite.NONE, bytes(range(32)))
_DAY = timedelta(days=1)


def run(campaign: Campaign) -> None:
    for number, random in campaign.rounds(_INTERLEAVINGS):
        try:
            with small_frames(2 * PAGE), eager_compaction():
                _World(campaign, random).live()
        except BaseException as error:
            error.add_note(f"interleaving {number}, seed {campaign.seed}")
            raise
        campaign.count("interleavings")
    campaign.require("interleavings", _INTERLEAVINGS)
    if campaign.share >= 0.1:
        for what, times in _EACH.items():
            campaign.require(what, round(times * _INTERLEAVINGS))


@contextmanager
def eager_compaction() -> Iterator[None]:
    """Packs are rewritten for a tenth of them: small ones are seldom mostly dead."""
    before, compact.LIVE = compact.LIVE, 0.9
    try:
        yield
    finally:
        compact.LIVE = before


# So often in each interleaving, so that a race that never happens is noticed.
_EACH = {
    "backups committed beside a cleanup": 0.5,
    "backups that name packs of others": 0.5,
    "backups refused because of a cleanup": 0.003,
    "backups removed": 0.5,
    "objects deleted": 2.0,
    "packs rewritten": 0.2,
    "packs deleted that were rewritten": 0.1,
    "runs given up": 0.1,
    "runs given up although they were at work": 0.002,
    "cleanups whose plug was pulled": 0.05,
    "pins set beside a cleanup": 0.1,
}


def _later(random: Random, bucket: TurnBucket, work: Callable[[], None]) -> Callable[[], None]:
    """The same, after some turns in which the others may get ahead."""
    turns = random.choice([0, 0, random.randrange(100)])

    def waited() -> None:
        for _turn in range(turns):
            bucket.head("nothing")
        work()

    return waited


@dataclass
class _World:
    """A repository with a past, and perhaps a mirror; the store's clock is everybody's."""

    campaign: Campaign
    random: Random
    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    mirror: MemoryBucket | None = None
    contents: dict[str, Files] = field(default_factory=dict)
    planned: set[str] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)
    position: int = 5
    files: Files = field(default_factory=dict)
    runs: list[ChainedRun] = field(default_factory=list)
    policy: RetentionPolicy = field(init=False)

    def live(self) -> None:
        random = self.random
        self.policy = policy_of(last=random.choice([1, 1, 2]), at_least=1, pitr_days=random.choice([0, 0, 2]))
        if random.random() < 0.3:
            self.mirror = MemoryBucket(now=self.bucket.now)
            self.mirror.create("keys/0a0b0c0d", b"a slot")
            self.mirror.create("repository.json", b"a description")
        self.bucket.create("keys/0a0b0c0d", b"a slot")
        self.bucket.create("repository.json", b"a description")
        self._past()
        self._present()
        self._check()
        self._future()

    # before, one after the other

    def _past(self) -> None:
        files = self.files = first_files(self.random)
        for _number in range(self.random.randrange(2, 9)):
            files = changed(self.random, files)
            self._pass(_DAY * self.random.choice([0.1, 1, 3]))
            if self.random.random() < 0.25:
                self._broken(files)
            else:
                run = self._run(files, self.bucket)
                run.take()
                self._settle(run, None)
            if self.random.random() < 0.5:
                self._clean([self.bucket, *([self.mirror] if self.mirror is not None else [])], compacts=True)
            if self.mirror is not None and self.random.random() < 0.7:
                copy_missing(self._open(self.bucket), self.mirror, Job())
        if not committed_ids(self.bucket, self._open(self.bucket).layout):
            run = self._run(files, self.bucket)
            run.take()
            self._settle(run, None)
        self.files = files
        if self.random.random() < 0.5:
            self._broken(files)
        self._pass(_DAY * self.random.choice([0, 1, 8]))

    def _broken(self, files: Files) -> None:
        """A run that ends somewhere in its middle."""
        turns = Turns(self.random, 1.0)
        run = self._run(files, TurnBucket(self.bucket, turns, "broken", self.random.randrange(1, 8)))
        self._settle(run, turns.act({"broken": run.take}).get("broken"))

    def _run(self, files: Files, bucket: Bucket) -> ChainedRun:
        kind = self.random.choice([BackupType.FULL, BackupType.INCREMENTAL, BackupType.INCREMENTAL])
        self.position += 1
        nonce = f"{self.random.randrange(1 << 24):06x}"
        run = ChainedRun(self._open(bucket), self.bucket.now, kind, nonce, files, self.position)
        self.runs.append(run)
        return run

    def _settle(self, run: ChainedRun, error: BaseException | None) -> None:
        """A commit whose answer was lost has happened all the same."""
        if error is not None and not isinstance(error, ConflictError | TransientError):
            raise error
        if run.manifest is not None or self._committed(run.backup_id):
            self.contents[run.backup_id] = run.files

    def _committed(self, backup_id: str) -> bool:
        if not backup_id:
            return False
        repository = self._open(self.bucket)
        if self.bucket.head(repository.layout.manifest(backup_id)) is None:
            return False
        return repository.read_manifest(backup_id) is not None

    # at once

    def _present(self) -> None:
        random = self.random
        turns = Turns(random, random.choice([0.0, 0.5, 0.9, 0.97]))
        work: dict[str, Callable[[], None]] = {}
        runs = {}
        for number in range(random.choice([1, 1, 2])):
            name = f"backup {number}"
            bucket = TurnBucket(self.bucket, turns, name)
            run = runs[name] = self._run(changed(random, self.files), bucket)
            work[name] = _later(random, bucket, run.take)
        for number in range(random.choice([1, 1, 1, 2])):
            name = f"cleanup {number}"
            work[name] = self._cleaner(turns, name)
        if random.random() < 0.4:
            work["keep"] = self._keeper(turns, random.choice(sorted(self.contents)))
        if self.mirror is not None:
            mirror, source = (TurnBucket(each, turns, "copy") for each in (self.mirror, self.bucket))
            work["copy"] = lambda: self._copy(source, mirror)
        failures = turns.act(work)
        for name, run in runs.items():
            self._settle(run, failures.get(name))
            self._note(run, failures.pop(name, None))
        for name, error in failures.items():
            self.campaign.count(f"{name.partition(' ')[0]}: {type(error).__name__}")
            if not isinstance(error, ConflictError | TransientError | PreconditionError):
                raise error
            if "plug" in str(error):
                self.campaign.count("cleanups whose plug was pulled")

    def _note(self, run: ChainedRun, error: BaseException | None) -> None:
        if error is None:
            self.campaign.count("backups committed beside a cleanup")
            assert run.manifest is not None
            self.campaign.count("backups that name packs of others", len(run.manifest.packs) > 1)
        else:
            self.campaign.count("backups refused because of a cleanup")
            key = self._open(self.bucket).layout.manifest(run.backup_id)
            given_up = self.bucket.head(key) is not None and not self._committed(run.backup_id)
            self.campaign.count("runs given up although they were at work", given_up)

    def _cleaner(self, turns: Turns, name: str) -> Callable[[], None]:
        calls = self.random.randrange(1, 25) if self.random.random() < 0.25 else None
        both = [self.bucket, *([self.mirror] if self.mirror is not None else [])]
        buckets = [TurnBucket(each, turns, name, calls) for each in both]

        jumps, compacts = self.random.random() < 0.3, self.random.random() < 0.5

        def work() -> None:
            if jumps:  # so that runs at work have been silent for long
                self._pass(8 * _DAY)
            self._clean(buckets, compacts=compacts)

        return _later(self.random, buckets[0], work)

    def _clean(self, buckets: list[TurnBucket] | list[MemoryBucket], *, compacts: bool) -> None:
        prepared = self._decide(buckets, compacts)
        self.planned |= set(prepared.plan.retention.removed)
        report = carry_out(prepared, Job(), time.monotonic())
        for copy, garbage in zip(report.copies, prepared.garbage, strict=True):
            assert not copy.refused
            self.campaign.count("backups removed", len(copy.removed))
            self.campaign.count("runs given up", len(copy.dead_runs))
            self.campaign.count("objects deleted", sum(copy.objects.values()))
            self.campaign.count("packs deleted that were rewritten", len(garbage.replaced))
        if report.compaction is not None:
            assert not report.compaction.failed
            self.campaign.count("packs rewritten", report.compaction.packs)

    def _decide(self, buckets: list[TurnBucket] | list[MemoryBucket], compacts: bool) -> PreparedCleanup:
        repositories = [
            Repository(bucket, _KEY, "main", buckets[number - 1] if len(buckets) > 1 else None)
            for number, bucket in enumerate(buckets)
        ]
        seen = look_at(repositories, self.policy.pitr_days, Job(), clock=lambda: self.bucket.now)
        return decide(seen, self.policy, "main", Job(), compacts=compacts)

    def _keeper(self, turns: Turns, backup_id: str) -> Callable[[], None]:
        def work() -> None:
            repository = self._open(TurnBucket(self.bucket, turns, "keep"))
            store_pin(repository, backup_id, Pin(None, "wanted"), self.bucket.now)
            self.pinned.add(backup_id)
            self.campaign.count("pins set beside a cleanup")

        return work

    def _copy(self, source: Bucket, mirror: Bucket) -> None:
        copied = copy_missing(self._open(source), mirror, Job())
        self.campaign.count("backups copied beside a cleanup", len(copied.backups))

    # what must hold

    def _check(self) -> None:
        here = self._whole(self.bucket)
        for backup_id in self.contents.keys() - self.planned - here:
            raise AssertionError(f"{backup_id} is gone, and no plan removed it")
        for backup_id in self.pinned - here:
            raise AssertionError(f"{backup_id} is gone although it was pinned")
        if self.mirror is not None:
            self._whole(self.mirror)

    def _whole(self, bucket: MemoryBucket) -> set[str]:
        """Every backup that is listed can be read as it was written."""
        repository, found = self._open(bucket), set()
        for backup_id in committed_ids(bucket, repository.layout):
            manifest = repository.read_manifest(backup_id)
            if manifest is None:
                continue
            found.add(backup_id)
            try:
                assert read_files(repository, manifest) == self.contents[backup_id]
                for segment in manifest.wal_segments:
                    assert read_wal(repository, segment) == wal_content(segment)
            except DataError as error:
                raise AssertionError(f"{backup_id} is listed and not whole: {error}") from error
            self.campaign.count("backups read back")
        return found

    # and afterwards everything works, and nothing is left lying about

    def _future(self) -> None:
        self._pass(10 * _DAY)
        buckets = [self.bucket, *([self.mirror] if self.mirror is not None else [])]
        try:
            self._one_more()
        except TransientError as refused:
            # As its hint says: a cleanup was killed that had taken for dead what then committed.
            assert "run `pgproof cleanup`" in refused.hint
            self.campaign.count("backups that had to wait for a cleanup")
            self._clean(buckets, compacts=False)
            self._one_more()
        self._check()
        self._pass(2 * _DAY)
        for compacts in (False, self.random.random() < 0.5, False):
            self._clean(buckets, compacts=compacts)
            self._check()
            self._pass(3 * _DAY)
        # What one copy needs stays in both, for the next copying.
        layout = self._open(self.bucket).layout
        kept = {each for bucket in buckets for each in committed_ids(bucket, layout)}
        named = {key for bucket in buckets for key in self._named(bucket)}
        for bucket in buckets:
            packs: set[str] = set()
            for info in bucket.list("clusters/"):
                name = info.key.rpartition("-")[0] if "/packs/" in info.key else info.key
                if name[-3:-2] == ".":
                    name = name[:-3]
                if "/packs/" in name and name.split("/")[-2] not in kept:
                    assert name not in packs, f"{name} is there twice"
                    packs.add(name)
                assert name in named or ("/packs/" not in name and "/maps/" not in name), f"{name} is garbage"
                assert "/condemned/" not in name, f"{name} is left"

    def _one_more(self) -> None:
        run = self._run(changed(self.random, self.files), self.bucket)
        with hold_lease(run.repository, "backup"):
            run.take()
        self._settle(run, None)

    def _named(self, bucket: MemoryBucket) -> Iterator[str]:
        repository = self._open(bucket)
        for backup_id in committed_ids(bucket, repository.layout):
            manifest = repository.read_manifest(backup_id)
            if manifest is not None:
                yield from (repository.layout.map(ref.hash) for ref in manifest.maps)
                for owner, bitmap in manifest.packs.items():
                    yield from (repository.layout.pack_context(owner, n) for n in numbers_of(bitmap))

    # tools

    def _open(self, bucket: Bucket) -> Repository:
        return Repository(bucket, _KEY, "main")

    def _pass(self, span: timedelta) -> None:
        for bucket in (self.bucket, self.mirror):
            if bucket is not None:
                bucket.now += span
