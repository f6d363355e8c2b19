"""What a cleanup takes away and what it leaves: step by step and in memory (real clusters: tests/round_trip/test_cleanup.py)."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from campaigns import collection
from campaigns.campaign import Campaign
from campaigns.chained_runs import ChainedRun, changed, first_files
from campaigns.small_repository import MemoryBucket
from campaigns.synthetic_runs import Files, append_wal, read_files, read_wal, segment_at
from pgproof.actions.cleanup import PreparedCleanup, carry_out, decide
from pgproof.actions.cleanup_survey import look_at
from pgproof.errors import ConflictError, DataError, PreconditionError, TransientError
from pgproof.model.cleanup_report import CleanupReport
from pgproof.model.config import BackupType
from pgproof.model.job import Job
from pgproof.model.pin import Pin
from pgproof.model.retention_policy import RetentionPolicy, policy_of
from pgproof.repository.bucket import Bucket
from pgproof.repository.catalog import committed_ids, list_backups
from pgproof.repository.condemned import Condemned, condemn
from pgproof.repository.mirror import copy_missing
from pgproof.repository.pins import store_pin
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind, RepositoryKey, Suite
from tests.support.faults import FailingBucket, flip_bit

KEY = RepositoryKey(bytes(range(16)), Suite.AES_256_GCM, bytes(range(32)))
DAY = timedelta(days=1)
NEWEST = policy_of(last=1, at_least=1, pitr_days=0)
FULL, INCREMENTAL = BackupType.FULL, BackupType.INCREMENTAL


@dataclass
class Past:
    """Backups a day apart, each with a segment of WAL; `contents` is what each holds."""

    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    contents: dict[str, Files] = field(default_factory=dict)
    position: int = 5
    random: Random = field(default_factory=lambda: Random(1))
    files: Files = field(default_factory=lambda: first_files(Random(0)))

    def open(self, bucket: Bucket | None = None) -> Repository:
        return Repository(bucket or self.bucket, KEY, "main")

    def run(self, kind: BackupType, bucket: Bucket | None = None) -> ChainedRun:
        self.bucket.now += DAY
        self.position += 1
        self.files = changed(self.random, self.files)
        nonce = f"{self.position:06x}"
        return ChainedRun(self.open(bucket), self.bucket.now, kind, nonce, self.files, self.position)

    def take(self, *kinds: BackupType) -> list[str]:
        ids = []
        for kind in kinds:
            run = self.run(kind)
            run.take()
            self.contents[run.backup_id] = run.files
            ids.append(run.backup_id)
        return ids

    def broken(self, calls: int = 4) -> str:
        """A run that stored its pack and then nothing more."""
        run = self.run(FULL, FailingBucket(self.bucket, calls))
        with pytest.raises(TransientError):
            run.take()
        return run.backup_id

    def plan(
        self,
        policy: RetentionPolicy = NEWEST,
        bucket: Bucket | None = None,
        lock: timedelta | None = None,
        ahead: timedelta = timedelta(0),
    ) -> PreparedCleanup:
        locks = (lock,)
        seen = look_at(
            [self.open(bucket)], policy.pitr_days, Job(), locks=locks, clock=lambda: self.bucket.now - ahead
        )
        return decide(seen, policy, "main", Job())

    def clean(self, policy: RetentionPolicy = NEWEST, bucket: Bucket | None = None) -> CleanupReport:
        return carry_out(self.plan(policy, bucket), Job(), time.monotonic())

    def check(self) -> list[str]:
        """Every backup that is listed is whole; their ids."""
        repository, found = self.open(), []
        for backup_id in sorted(committed_ids(self.bucket, repository.layout)):
            manifest = repository.read_manifest(backup_id)
            if manifest is not None:
                assert read_files(repository, manifest) == self.contents[backup_id]
                assert all(read_wal(repository, segment) for segment in manifest.wal_segments)
                found.append(backup_id)
        return found

    def keys(self, part: str) -> list[str]:
        return sorted(key for key in self.bucket.objects if part in key)


@pytest.fixture
def past() -> Past:
    return Past()


class Hooked:
    """Tells of every change and list before it is made."""

    def __init__(self, bucket: Bucket, before: Callable[[str, str], None]) -> None:
        self._bucket, self._before = bucket, before
        self.location = bucket.location
        self.read, self.read_range, self.head = bucket.read, bucket.read_range, bucket.head

    def create(self, key: str, data: bytes) -> None:
        self._before("create", key)
        self._bucket.create(key, data)

    def list(self, prefix: str, after: str = ""):  # type: ignore[no-untyped-def]
        self._before("list", prefix)
        return self._bucket.list(prefix, after)

    def delete(self, key: str) -> None:
        self._before("delete", key)
        self._bucket.delete(key)


def test_a_sample_of_interleavings(tmp_path: Path) -> None:
    campaign = Campaign("collection", threading.get_native_id(), 0.015, tmp_path)
    print(f"seed {campaign.seed}")
    collection.run(campaign)


def test_the_base_of_an_incremental_goes_and_leaves_it_whole(past: Past) -> None:
    full, middle, newest = past.take(FULL, INCREMENTAL, INCREMENTAL)
    other, last = past.take(FULL, INCREMENTAL)
    report = past.clean()
    assert report.removed == (full, middle, newest)
    assert past.check() == [other, last]
    for gone in (full, middle, newest):
        assert past.keys(gone) == []
    assert {key.split("/")[3] for key in past.keys("/packs/")} == {other, last}
    assert len(past.keys("/wal/")) == 2


def test_a_pack_goes_only_when_nobody_names_it(past: Past) -> None:
    full, middle, newest = past.take(FULL, INCREMENTAL, INCREMENTAL)
    repository = past.open()
    store_pin(repository, middle, Pin(None, "wanted"), past.bucket.now)
    manifests = [repository.read_manifest(each) for each in (middle, newest)]
    report = past.clean(policy_of(last=1, at_least=1, pitr_days=0))
    # The full one is the base of the next differential, so it stays as well.
    assert report.removed == ()
    assert all(manifest is not None and full in manifest.packs for manifest in manifests)
    past.take(FULL)
    report = past.clean()
    assert report.removed == (full, newest)
    assert past.check()[0] == middle
    assert past.keys(f"/packs/{full}/") and not past.keys(f"/packs/{newest}/")


def test_what_another_cleanup_keeps_meanwhile_is_no_hole_in_our_lists(past: Past) -> None:
    past.take(FULL)
    came: list[str] = []

    def meanwhile(verb: str, key: str) -> None:
        if verb == "list" and key == past.open().layout.packs and not came:
            came.extend(past.take(FULL))
            past.clean(policy_of(last=5, at_least=1, pitr_days=0))

    past.plan(bucket=Hooked(past.bucket, meanwhile))
    assert came


@pytest.mark.parametrize("last_takes_effect", [False, True])
def test_the_plug_is_pulled_after_each_change(last_takes_effect: bool) -> None:
    for calls in itertools.count():
        past = Past()
        past.take(FULL, INCREMENTAL)
        past.broken()
        kept = past.take(FULL, INCREMENTAL)
        past.bucket.now += DAY * 2
        try:
            past.clean(bucket=FailingBucket(past.bucket, calls, last_takes_effect=last_takes_effect))
            done = True
        except TransientError:
            done = False
        assert past.check()[-2:] == kept
        past.bucket.now += DAY * 2
        past.clean()
        past.clean()
        assert past.check() == kept
        assert not past.keys("/condemned/") and not past.keys("/leases/cleanup")
        assert {key.split("/")[3] for key in past.keys("/packs/")} == set(kept)
        if done:
            break
    assert calls > 15


def test_a_run_at_work_loses_nothing(past: Past) -> None:
    past.take(FULL, INCREMENTAL)
    reports = []

    def clean(verb: str, key: str) -> None:
        if (verb, key.rpartition("/")[2]) == ("create", "manifest"):
            past.take(FULL)
            reports.append(past.clean())

    run = past.run(INCREMENTAL, Hooked(past.bucket, clean))
    run.take()
    past.contents[run.backup_id] = run.files
    # What it builds on was withdrawn while it ran, and what it names stayed.
    assert len(reports[0].removed) == 2
    assert run.backup_id in past.check()
    assert run.manifest is not None and len(run.manifest.packs) > 1


def test_a_run_that_began_behind_the_mark_is_refused(past: Past) -> None:
    """It goes on with what a dead run stored, and its intent comes after the second look: then the mark stops it."""
    past.take(FULL)
    dead, files = past.broken(), past.files
    past.bucket.now += DAY * 8
    reached, done = threading.Event(), threading.Event()

    def wait(verb: str, key: str) -> None:
        if verb == "delete" and f"/packs/{dead}/" in key:
            reached.set()
            assert done.wait(30)

    cleaner = threading.Thread(target=past.clean, args=(NEWEST, Hooked(past.bucket, wait)))

    def begin(verb: str, key: str) -> None:
        if verb == "create" and key.endswith("/intent"):
            cleaner.start()
            assert reached.wait(30)

    run = past.run(FULL, Hooked(past.bucket, begin))
    run.files = files
    try:
        with pytest.raises(TransientError, match="a cleanup is removing"):
            run.take()
    finally:
        done.set()
        cleaner.join()
    assert not past.keys(f"/packs/{dead}/")
    past.take(FULL)
    assert len(past.check()) == 2


def test_a_run_whose_packs_went_before_it_looked_is_refused(past: Past) -> None:
    """The mark has done its work and is gone: then the look whether all is there comes behind it."""
    past.take(FULL)
    dead, files = past.broken(), past.files

    def collected(verb: str, key: str) -> None:
        if verb == "list" and key.endswith("/condemned/"):
            for each in past.keys(f"/packs/{dead}/"):
                past.bucket.delete(each)

    run = past.run(FULL, Hooked(past.bucket, collected))
    run.files = files
    with pytest.raises(ConflictError, match="gone from the repository"):
        run.take()
    assert len(past.check()) == 1


def test_a_zombie_that_was_given_up_cannot_commit(past: Past) -> None:
    past.take(FULL)

    def sleep(verb: str, key: str) -> None:
        if verb == "create" and key.endswith("/manifest"):
            past.take(FULL)
            past.bucket.now += DAY * 2
            assert past.clean().copies[0].dead_runs == (run.backup_id,)

    run = past.run(FULL, Hooked(past.bucket, sleep))
    with pytest.raises(ConflictError):
        run.take()
    assert run.backup_id not in past.check()
    assert [info.backup_id for info in list_backups(past.open())] == past.check()
    # The word stays for a year, so that it cannot commit later either.
    past.bucket.now += DAY * 300
    past.clean()
    assert past.keys(f"/backups/{run.backup_id}/") == [past.open().layout.manifest(run.backup_id)]
    past.bucket.now += DAY * 100
    past.clean()
    assert past.keys(f"/backups/{run.backup_id}/") == []


def test_interrupted_runs_are_kept_while_the_next_run_may_use_them(past: Past) -> None:
    past.take(FULL)
    dead = past.broken()
    past.bucket.now += DAY * 6
    past.clean()
    assert past.keys(f"/packs/{dead}/")
    past.bucket.now += DAY * 2
    assert past.plan().plan.dead_runs == (dead,)
    past.clean()
    assert not past.keys(f"/packs/{dead}/")


def test_a_pin_that_comes_meanwhile_is_seen(past: Past) -> None:
    old, *_rest = past.take(FULL, FULL, FULL)

    def pin(verb: str, key: str) -> None:
        # The mark is there, the second look is not yet made.
        if verb == "list" and key.endswith("/backups/") and past.keys("/condemned/"):
            with pytest.raises(ConflictError, match="about to remove"):
                store_pin(past.open(), old, Pin(None), past.bucket.now)

    report = past.clean(bucket=Hooked(past.bucket, pin))
    assert report.spared == (old,)
    assert old in past.check()


def test_pins_end_and_are_released(past: Past) -> None:
    first, second, *_rest = past.take(FULL, FULL, FULL)
    repository = past.open()
    store_pin(repository, first, Pin(past.bucket.now + DAY, "for a day"), past.bucket.now)
    store_pin(repository, second, Pin(None), past.bucket.now)
    store_pin(repository, second, None, past.bucket.now)
    assert [info.pinned_until is not None for info in list_backups(repository)] == [True, False, False]
    assert past.plan().plan.retention.removed == (second,)
    past.bucket.now += DAY
    assert past.plan().plan.retention.removed == (first, second)


def test_a_pin_that_cannot_be_read_pins(past: Past) -> None:
    first, *_rest = past.take(FULL, FULL)
    store_pin(past.open(), first, Pin(None), past.bucket.now)
    store_pin(past.open(), first, None, past.bucket.now)
    key = past.keys("/pins/")[-1]
    past.bucket.put(key, flip_bit(past.bucket.read(key), 90))
    assert past.plan().plan.retention.removed == ()


@pytest.mark.parametrize("intent_too", [False, True])
def test_a_manifest_that_cannot_be_read_stops_what_it_may_refer_to(past: Past, intent_too: bool) -> None:
    full, middle, _newest = past.take(FULL, INCREMENTAL, INCREMENTAL)
    old = past.take(FULL)[0]
    last = past.take(FULL)[0]
    for key in [past.open().layout.manifest(middle)] + [past.open().layout.intent(middle)] * intent_too:
        past.bucket.put(key, flip_bit(past.bucket.read(key), 100))
    maps, wal = past.keys("/maps/"), past.keys("/wal/")
    report = past.clean()
    assert middle not in report.removed and full in report.removed and old in report.removed
    assert past.keys("/maps/") == maps and past.keys("/wal/") == wal
    assert past.keys(f"/packs/{full}/") and past.keys(f"/packs/{middle}/")
    assert bool(past.keys(f"/packs/{old}/")) == intent_too
    assert any(middle in note for note in report.plan.notes)
    assert last in [info.backup_id for info in list_backups(past.open())]


@pytest.mark.parametrize("ahead", [DAY * 2, -DAY * 2, timedelta(minutes=6)])
def test_a_clock_that_differs_from_the_stores_is_refused(past: Past, ahead: timedelta) -> None:
    past.take(FULL, FULL)
    with pytest.raises(PreconditionError, match="clock"):
        past.plan(ahead=ahead)


def test_lists_with_holes_are_refused(past: Past) -> None:
    past.take(FULL, FULL, FULL)
    past.clean(policy_of(last=3))
    hidden = past.open().layout.manifest(past.check()[1])

    class Holes(MemoryBucket):
        def list(self, prefix: str, after: str = ""):  # type: ignore[no-untyped-def]
            return (info for info in super().list(prefix, after) if info.key != hidden)

    holes = Holes(past.bucket.objects, past.bucket.now)
    with pytest.raises(DataError, match="list lacks"):
        past.clean(bucket=holes)
    past.bucket.delete(hidden)  # really gone, by somebody's hand
    past.clean()


def test_object_lock_is_respected(past: Past) -> None:
    first, second, third = past.take(FULL, FULL, FULL)
    prepared = past.plan(lock=timedelta(days=1.5))
    assert prepared.plan.retention.removed == (first,)
    assert "Object Lock holds it" in prepared.plan.retention.of(second).reasons[0]
    carry_out(prepared, Job(), time.monotonic())
    assert past.check() == [second, third]


def test_what_the_store_does_not_let_go_stays_whole(past: Past) -> None:
    first, _second, third = past.take(FULL, FULL, FULL)

    def refuse(verb: str, key: str) -> None:
        if verb == "delete" and first in key:
            raise PreconditionError("the object store refused the request", hint="rights")

    report = past.clean(bucket=Hooked(past.bucket, refuse))
    assert not report.ok and report.spared == (first,)
    assert past.check() == [first, third]


def test_wal_of_the_window_stays(past: Past) -> None:
    past.take(FULL)
    for _day in range(4):
        append_wal(past.open(), [segment_at(1, past.position + 1)], [])
        past.position += 1
        past.take(FULL)
    segments = past.keys("/wal/")
    past.clean(policy_of(last=1, at_least=1, pitr_days=2))
    # The base of the window ended two days before the newest; its own segment and all that follow are there.
    assert past.keys("/wal/") == segments[-5:]
    assert len(past.check()) == 2


def test_nothing_unexplained_goes_while_it_is_young(past: Past) -> None:
    past.take(FULL)
    stray = "clusters/main/packs/20261101T000000Z-full-000001/00000000-" + "0" * 64
    past.bucket.create(stray, b"?")
    past.bucket.create("clusters/main/packs/of/somebody/else", b"?")
    past.clean()
    assert past.keys(stray)
    past.bucket.now += DAY * 1.1
    past.clean()
    assert not past.keys(stray)
    assert past.keys("somebody")


def test_a_mark_that_was_left_is_removed_when_it_is_old(past: Past) -> None:
    past.take(FULL)
    condemn(past.open(), Condemned(frozenset({"x"})), past.bucket.now)
    past.clean()
    assert past.keys("/condemned/")
    past.bucket.now += DAY * 1.1
    past.clean()
    assert not past.keys("/condemned/")


def test_who_removed_what_is_recorded(past: Past) -> None:
    first, second = past.take(FULL, FULL)
    past.clean()
    value = past.open().read_json(Kind.CLEANUP, past.keys("/cleanups/")[0])
    assert value["kept"] == [second]
    assert value["removed"] == {first: ["1 newer ones, and the last 1 are kept"]}
    assert "@" in value["by"]


def test_both_copies_are_cleaned_and_a_crash_between_them_is_mended(past: Past) -> None:
    mirror = MemoryBucket(now=past.bucket.now)
    for bucket in (past.bucket, mirror):
        bucket.create("keys/0a0b0c0d", b"a slot")
        bucket.create("repository.json", b"a description")
    past.take(FULL, FULL)
    copy_missing(past.open(), mirror, Job())
    past.take(FULL)
    mirror.now = past.bucket.now

    def clean(second: Bucket) -> CleanupReport:
        repositories = [
            Repository(past.bucket, KEY, "main", mirror),
            Repository(second, KEY, "main", past.bucket),
        ]
        seen = look_at(repositories, 0, Job(), clock=lambda: past.bucket.now)
        return carry_out(decide(seen, NEWEST, "main", Job()), Job(), time.monotonic())

    def plug(verb: str, key: str) -> None:
        if verb == "delete" and key.endswith("/manifest"):
            raise TransientError("plug pulled", hint="this is a test")

    with pytest.raises(TransientError):
        clean(Hooked(mirror, plug))
    assert len(past.check()) == 1
    assert len(committed_ids(mirror, past.open().layout)) == 2
    past.bucket.now = mirror.now = past.bucket.now + DAY * 1.1
    report = clean(mirror)
    assert len(report.removed) == 2
    assert [key for key in mirror.objects if "/packs/" in key or "manifest" in key] == []
    copy_missing(past.open(), mirror, Job())
    assert committed_ids(mirror, past.open().layout) == past.check()


def test_what_is_spared_is_spared_in_both_copies(past: Past) -> None:
    mirror = MemoryBucket(now=past.bucket.now)
    for bucket in (past.bucket, mirror):
        bucket.create("keys/0a0b0c0d", b"a slot")
        bucket.create("repository.json", b"a description")
    old, *_rest = past.take(FULL, FULL, FULL)
    copy_missing(past.open(), mirror, Job())
    mirror.now = past.bucket.now
    before = {key for key in mirror.objects if old in key}

    def pin(verb: str, key: str) -> None:
        if (
            verb == "list"
            and key.endswith("/backups/")
            and past.keys("/condemned/")
            and not past.keys("/pins/")
        ):
            with pytest.raises(ConflictError):
                store_pin(past.open(), old, Pin(None), past.bucket.now)

    here = Hooked(past.bucket, pin)
    repositories = [Repository(here, KEY, "main", mirror), Repository(mirror, KEY, "main", here)]
    seen = look_at(repositories, 0, Job(), clock=lambda: past.bucket.now)
    report = carry_out(decide(seen, NEWEST, "main", Job()), Job(), time.monotonic())
    assert report.spared == (old,) and old in past.check()
    assert before <= mirror.objects.keys() and len(before) >= 3


def test_copying_to_a_mirror_beside_its_cleanup(past: Past) -> None:
    """A backup that is removed while it is copied: the copy is not told to be there."""
    mirror = MemoryBucket(now=past.bucket.now)
    for bucket in (past.bucket, mirror):
        bucket.create("keys/0a0b0c0d", b"a slot")
        bucket.create("repository.json", b"a description")
    first, second = past.take(FULL, FULL)
    mirror.now = past.bucket.now

    def before(verb: str, key: str) -> None:
        if (
            verb == "list"
            and key.endswith("/condemned/")
            and past.bucket.head(past.open().layout.manifest(first))
        ):
            past.clean()
            mirror.delete(next(key for key in mirror.objects if f"/packs/{first}/" in key))

    with pytest.raises(TransientError, match="removed from the mirror"):
        copy_missing(past.open(), Hooked(mirror, before), Job())
    copy_missing(past.open(), mirror, Job())
    assert sorted(committed_ids(mirror, past.open().layout)) == [second]
