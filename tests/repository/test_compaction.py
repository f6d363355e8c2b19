"""Packs that are written anew without what no backup needs: nothing is ever unreadable for it, and the space comes back."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np
import pytest

from campaigns.chained_runs import ChainedRun
from campaigns.small_repository import PAGE, MemoryBucket
from campaigns.synthetic_runs import Files, read_files, small_frames
from pgproof.actions.cleanup import PreparedCleanup, carry_out, decide
from pgproof.actions.cleanup_survey import look_at
from pgproof.actions.verify_backup import verify_backup
from pgproof.errors import DataError, TransientError
from pgproof.failpoints import arm
from pgproof.model.cleanup_report import CleanupReport
from pgproof.model.config import BackupConfig, BackupType, VerifyLevel
from pgproof.model.job import Job
from pgproof.model.manifest import Manifest
from pgproof.model.pin import Pin
from pgproof.model.retention_policy import policy_of
from pgproof.repository import restore_without_pgproof
from pgproof.repository.catalog import committed_ids
from pgproof.repository.condemned import Condemned, condemn, refuse_condemned
from pgproof.repository.integrity import check_frames, check_objects
from pgproof.repository.layout import parse_pack_name
from pgproof.repository.local import LocalBucket
from pgproof.repository.mirror import copy_missing
from pgproof.repository.pins import store_pin
from pgproof.repository.repository import Repository
from pgproof.repository.resume import stored_frames
from pgproof.repository.sealing import Kind, RepositoryKey
from pgproof.repository.unlocking import make_repository, unlock
from tests.repository.reader import Reader, Unreadable
from tests.support.faults import flip_bit, run_armed

DAY = timedelta(days=1)
NEWEST = policy_of(last=1, at_least=1, pitr_days=0)
PATHS = [b"base/%d" % number for number in range(8)]


@dataclass
class World:
    """A full backup of eight files of four pages, an incremental with seven of them changed, pinned, and another full one."""

    bucket: MemoryBucket
    key: RepositoryKey
    mirror: MemoryBucket | None = None
    contents: dict[str, Files] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    @classmethod
    def made(cls, passphrase: str | None = None) -> tuple[World, str | None]:
        """And what opens it."""
        bucket = MemoryBucket()
        secret = make_repository(bucket, passphrase, passphrase is not None, bucket.now)
        return cls(bucket, unlock(bucket, secret, passphrase is not None).key).begin(), secret

    def begin(self, kept: bytes | None = None) -> World:
        """`kept` is the file of the first backup that the second one still needs."""
        random = Random(1)
        files: Files = {b"base": None, **{path: random.randbytes(4 * PAGE) for path in PATHS}}
        files[PATHS[0]] = kept or files[PATHS[0]]
        later = files | {path: random.randbytes(4 * PAGE) for path in PATHS[1:]}
        self.take(BackupType.FULL, files)
        self.take(BackupType.INCREMENTAL, later)
        store_pin(self.open(), self.ids[1], Pin(None, "wanted"), self.bucket.now)
        self.take(BackupType.FULL, later)
        return self

    def take(self, kind: BackupType, files: Files) -> str:
        self.bucket.now += DAY
        number = len(self.ids)
        run = ChainedRun(self.open(), self.bucket.now, kind, f"{number:06x}", files, 5 + number)
        with small_frames(2 * PAGE):
            run.take()
        self.ids.append(run.backup_id)
        self.contents[run.backup_id] = files
        return run.backup_id

    def open(self, bucket: MemoryBucket | None = None) -> Repository:
        return Repository(bucket or self.bucket, self.key, "main")

    def manifest(self, number: int) -> Manifest:
        found = self.open().read_manifest(self.ids[number])
        assert found is not None
        return found

    def plan(self, *, compacts: bool = True, lock: timedelta | None = None) -> PreparedCleanup:
        buckets = [self.bucket, *([self.mirror] if self.mirror is not None else [])]
        seen = look_at(
            [self.open(each) for each in buckets],
            0,
            Job(),
            locks=[lock] * len(buckets),
            clock=lambda: self.bucket.now,
        )
        return decide(seen, NEWEST, "main", Job(), compacts=compacts)

    def clean(self, *, compacts: bool = True, lock: timedelta | None = None) -> CleanupReport:
        return carry_out(self.plan(compacts=compacts, lock=lock), Job(), time.monotonic())

    def damage(self, key: str, place: int) -> None:
        data, at = self.bucket.objects[key]
        self.bucket.objects[key] = flip_bit(data, place), at

    def wait(self, days: float) -> None:
        for each in (self.bucket, self.mirror):
            if each is not None:
                each.now += days * DAY

    def first(self) -> dict[str, tuple[bytes, datetime]]:
        """What makes the first backup one, beside its pack, for whom it comes back to life."""
        own = self.open().layout.manifest(self.ids[0]), self.open().layout.intent(self.ids[0])
        return {key: each for key, each in self.bucket.objects.items() if key in own or "/maps/" in key}

    def packs(self, number: int = 0, bucket: MemoryBucket | None = None) -> list[str]:
        """The objects of the first pack of a backup, the newest last."""
        prefix = self.open().layout.pack_context(self.ids[number], 0)
        return sorted(key for key in (bucket or self.bucket).objects if key.startswith(prefix))

    def check(self) -> list[str]:
        repository, found = self.open(), []
        for backup_id in sorted(committed_ids(self.bucket, repository.layout)):
            manifest = repository.read_manifest(backup_id)
            if manifest is not None:
                assert read_files(repository, manifest) == self.contents[backup_id]
                assert check_objects(repository, manifest, Job())[1] == []
                assert check_frames(repository, manifest, Job())[1] == []
                found.append(backup_id)
        return found


@pytest.fixture
def world() -> World:
    return World.made()[0]


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    arm("")


def test_the_new_one_comes_at_once_and_the_old_one_goes_two_days_later(world: World) -> None:
    (old,) = world.packs()
    report = world.clean()
    done = report.compaction
    assert done is not None and report.ok
    assert (done.packs, done.size_bytes) == (1, len(world.bucket.objects[old][0]))
    assert world.packs()[0] == old and len(world.packs()) == 2
    new = world.packs()[1]
    name = parse_pack_name(new.rpartition("/")[2])
    assert name is not None and (name.number, name.rewritten) == (0, 1)
    # One file of eight is left of it.
    assert len(world.bucket.objects[new][0]) == done.stored_bytes < done.size_bytes / 6
    assert world.check() == world.ids[1:]
    for days in (1, 0.9):
        world.wait(days)
        assert world.clean(compacts=False).freed_bytes == 0
        assert world.packs() == [old, new]
    world.wait(0.2)
    assert done.frees_at <= world.bucket.now
    report = world.clean(compacts=False)
    assert report.freed_bytes == done.size_bytes
    assert world.packs() == [new]
    assert world.check() == world.ids[1:]
    again = world.clean().compaction
    assert again is not None and again.packs == 0


def test_a_pack_is_not_rewritten_again_because_its_index_is_larger_than_what_is_left() -> None:
    bucket = MemoryBucket()
    make_repository(bucket, None, False, bucket.now)
    world = World(bucket, unlock(bucket, None, False).key).begin(b"the same" * (PAGE // 2))
    for expected in (1, 0, 0):
        plan, report = world.plan().plan.compaction, world.clean()
        assert plan is not None and report.compaction is not None and report.ok
        assert (plan.packs, report.compaction.packs) == (expected, expected)
        assert report.compaction.stored_bytes <= plan.live_bytes
        world.wait(3)
    assert [key.rpartition("/")[2][:11] for key in world.packs()] == ["00000000.01"]
    assert world.check() == world.ids[1:]


def test_the_plan_says_what_would_be_gained(world: World) -> None:
    assert world.plan(compacts=False).plan.compaction is None
    plan = world.plan().plan.compaction
    assert plan is not None
    assert (plan.looked_at, plan.packs) == (1, 1) and plan.live_bytes < plan.size_bytes / 6
    assert len(world.packs()) == 1


def test_the_next_backups_build_on_it(world: World) -> None:
    """An incremental on the pinned one cannot be asked for; but what has the same content is found in what is left."""
    world.clean()
    world.wait(3)
    world.clean()
    owner, repository = world.ids[0], world.open()
    known = stored_frames(repository, (owner,), PAGE, Job())
    content = world.contents[world.ids[0]]
    kept, gone = (content[path] for path in (PATHS[0], PATHS[1]))
    assert kept is not None and gone is not None
    digests = [repository.hashes.page_digests(data[: 2 * PAGE], PAGE) for data in (kept, gone)]
    places = [known.find(repository.hashes.frame_hash(each), 2 * PAGE) for each in digests]
    assert places[0] is not None and places[1] is None


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("days", [0, 3])
def test_the_page_about_the_format_and_the_restore_program_read_it(
    encrypted: bool, days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both objects there, of which only the old one has what the first backup needs, and with the new one alone."""
    world, secret = World.made("of the operator" if encrypted else None)
    first = world.first()
    world.clean()
    world.wait(days)
    world.clean()
    assert len(world.packs()) == (1 if days else 2)
    world.bucket.objects |= first
    for key, (data, _at) in world.bucket.objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    reader = Reader(tmp_path, "main", secret)
    monkeypatch.setenv("BACKUP_PASSPHRASE", secret or "")
    program = restore_without_pgproof.Repository(tmp_path, "main", not encrypted)
    for backup_id in world.ids[:2]:
        wanted = {path: data for path, data in world.contents[backup_id].items() if data is not None}
        if backup_id == world.ids[0] and days:
            with pytest.raises(Unreadable, match="left out"):
                list(reader.files(reader.manifest(backup_id)))
            with pytest.raises(restore_without_pgproof.Stop, match="left out"):
                _restored(program, backup_id)
            continue
        read = {
            path: data for path, kind, _mode, data in reader.files(reader.manifest(backup_id)) if kind == 0
        }
        assert read == wanted
        assert _restored(program, backup_id) == wanted


def _restored(program: restore_without_pgproof.Repository, backup_id: str) -> Files:
    manifest, found = program.manifest(backup_id), {}
    assert manifest is not None
    for file in restore_without_pgproof.files_of(program, manifest):
        if file.kind == 0:
            content = bytearray(-(-file.size // PAGE) * PAGE)
            for owner, number, page, pages, at in file.runs:
                with program.pack(owner, number) as pack:
                    for each in range(pages):
                        frame = bisect_right(pack.first_pages, page + each) - 1
                        skip = (page + each - pack.first_pages[frame]) * PAGE
                        content[(at + each) * PAGE : (at + each + 1) * PAGE] = pack.frame(frame)[
                            skip : skip + PAGE
                        ]
            found[file.path] = bytes(content[: file.size])
    return found


def test_what_the_new_one_lacks_is_read_from_the_old_one(world: World) -> None:
    """As for somebody whose backup was taken back to life by a pin while its packs were rewritten."""
    first, objects = world.manifest(0), world.first()
    world.clean()
    world.bucket.objects |= objects
    repository = world.open()
    assert read_files(repository, first) == world.contents[world.ids[0]]
    assert not [each for each in check_objects(repository, first, Job())[1] if "frames" in each]
    for key in objects.keys() & {repository.layout.manifest(world.ids[0])}:
        world.bucket.delete(key)
    world.wait(3)
    world.clean()
    world.bucket.objects |= objects
    with pytest.raises(DataError, match="left out"):
        read_files(repository, first)
    assert any("left out" in each for each in check_objects(repository, first, Job())[1])


def test_a_run_gives_way_only_if_the_new_one_would_not_do_for_it(world: World) -> None:
    first, second, objects = world.manifest(0), world.manifest(1), world.first()
    world.clean()
    world.bucket.objects |= objects
    repository = world.open()
    mark = Condemned(replaced={world.ids[0]: frozenset([0])})
    condemn(repository, mark, world.bucket.now)
    refuse_condemned(repository, second)
    with pytest.raises(TransientError, match="a cleanup is removing"):
        refuse_condemned(repository, first)


def test_a_backup_that_needs_more_after_all_keeps_the_old_one(world: World) -> None:
    """A manifest that came in while the pack was rewritten, by a run that had seen the old one."""
    objects, first = world.first(), world.manifest(0)
    world.clean()
    world.bucket.objects |= objects
    store_pin(world.open(), world.ids[0], Pin(None, "so it was meant"), world.bucket.now)
    for _twice in range(2):
        world.wait(3)
        assert world.clean().freed_bytes == 0
        assert len(world.packs()) == 2
    # And one that needs it without having stored it.
    other, repository = "20261124T213000Z-full-00000f", world.open()
    world.bucket.delete(repository.layout.manifest(world.ids[0]))
    repository.commit(replace(first, backup_id=other))
    store_pin(repository, other, Pin(None, "wanted"), world.bucket.now)
    world.wait(3)
    assert world.ids[0] not in world.clean().removed
    assert len(world.packs()) == 2
    assert read_files(repository, replace(first, backup_id=other)) == world.contents[world.ids[0]]


def test_a_run_at_work_that_may_name_it_keeps_everything_as_it_is(world: World) -> None:
    world.clean()
    world.wait(3)
    repository = world.open()
    intent = {"format": 1, "started_at": "", "host": "", "pid": 1, "parents": [world.ids[0]]}
    repository.create_json(
        Kind.INTENT, repository.layout.intent("20261130T000000Z-incremental-0000ff"), intent
    )
    assert world.clean().freed_bytes == 0 and len(world.packs()) == 2


def test_damage_is_not_carried_over(world: World) -> None:
    (old,) = world.packs()
    index = world.open().open_pack(world.open().pack_objects(world.ids[0])[0]).index
    (rewriting,) = world.plan().compaction.rewritings
    world.damage(old, int(index.offsets[np.flatnonzero(rewriting.keep)[0]]) + 3)
    report = world.clean()
    assert report.compaction is not None and not report.ok
    assert report.compaction.packs == 0 and "frame" in report.compaction.failed[0]
    assert world.packs() == [old]


@pytest.mark.parametrize("where", ["frame", "index", "trailer"])
def test_if_the_new_one_is_damaged_the_old_one_serves_and_the_pack_is_written_once_more(
    world: World, where: str
) -> None:
    world.clean()
    _old, new = world.packs()
    size = len(world.bucket.objects[new][0])
    world.damage(new, {"frame": 100, "index": size - 60, "trailer": size - 3}[where])
    repository = world.open()
    for compacts in (False, True):
        world.wait(3)
        assert world.clean(compacts=compacts).ok
        assert read_files(repository, world.manifest(1)) == world.contents[world.ids[1]]
        assert len(world.packs()) == (1 if compacts else 3)
    assert ".02-" in world.packs()[0]
    assert world.check() == world.ids[1:]


def test_a_verification_names_the_new_one_if_only_the_old_one_serves(world: World, tmp_path: Path) -> None:
    world.clean()
    old, new = world.packs()
    config = BackupConfig(backup_dir=str(tmp_path), encryption=False, cluster="main")
    _to_disk(world, tmp_path)
    assert [
        check.name for check in verify_backup(config, world.ids[1], VerifyLevel.FRAMES, Job()).checks
    ] == [
        "objects present",
        "frames whole",
    ]
    world.damage(new, 100)
    _to_disk(world, tmp_path)
    report = verify_backup(config, world.ids[1], VerifyLevel.FRAMES, Job())
    assert report.ok and not report.damage
    (told,) = [check for check in report.checks if check.ok is None]
    assert new in told.detail and "pgproof cleanup" in told.hint
    world.damage(old, 100)
    _to_disk(world, tmp_path)
    assert not verify_backup(config, world.ids[1], VerifyLevel.FRAMES, Job()).ok


def _to_disk(world: World, root: Path) -> None:
    for key, (data, _at) in world.bucket.objects.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)


@pytest.mark.parametrize("point", ["compact.begun", "compact.sealed", "compact.stored"])
def test_broken_off_anywhere_it_is_repeated(world: World, point: str) -> None:
    arm(f"{point}=raise")
    with pytest.raises(TransientError):
        world.clean()
    arm("")
    assert world.check() == world.ids[1:]
    world.clean()
    assert world.check() == world.ids[1:]
    world.wait(3)
    world.clean()
    assert len(world.packs()) == 1
    assert world.check() == world.ids[1:]


@pytest.mark.parametrize("point", ["compact.begun", "compact.sealed", "compact.stored"])
def test_killed_anywhere_it_is_repeated(world: World, point: str, tmp_path: Path) -> None:
    """On a disk, by a signal that no program hears."""
    _to_disk(world, tmp_path)
    assert run_armed(f"{point}=kill", _clean_directory, str(tmp_path), world.key.master) == -9
    for _repeated in range(2):
        repository = _directory(tmp_path, world.key.master)
        for number in (1, 2):
            assert read_files(repository, world.manifest(number)) == world.contents[world.ids[number]]
        _clean_directory(str(tmp_path), world.key.master)
    assert len(list((tmp_path / "clusters/main/packs" / world.ids[0]).glob("00000000*"))) == 2


def _directory(root: Path, master: bytes) -> Repository:
    bucket = LocalBucket(root)
    found = unlock(bucket, None, encrypted=False).key
    assert found.master == master
    return Repository(bucket, found, "main")


def _clean_directory(root: str, master: bytes) -> None:
    seen = look_at([_directory(Path(root), master)], 0, Job())
    carry_out(decide(seen, NEWEST, "main", Job(), compacts=True), Job(), time.monotonic())


def test_object_lock_is_waited_for(world: World) -> None:
    report = world.clean(lock=30 * DAY)
    assert report.compaction is not None and report.compaction.packs == 0 and len(world.packs()) == 1
    world.wait(40)
    world.clean()
    world.wait(3)
    assert world.clean(lock=60 * DAY).freed_bytes == 0
    assert len(world.packs()) == 2
    world.clean()
    assert len(world.packs()) == 1


def test_a_mirror_has_the_same_object(world: World) -> None:
    mirror = world.mirror = MemoryBucket(now=world.bucket.now)
    copy_missing(world.open(), mirror, Job())
    world.clean()
    assert world.packs(bucket=mirror) == world.packs() and len(world.packs()) == 2
    # Broken off before it was copied, it is copied by the next one.
    mirror.delete(world.packs()[1])
    world.wait(3)
    world.clean()
    assert len(world.packs()) == 1 and len(world.packs(bucket=mirror)) == 2
    world.wait(3)
    world.clean()
    assert world.packs(bucket=mirror) == world.packs()
    assert read_files(world.open(mirror), world.manifest(1)) == world.contents[world.ids[1]]


def test_a_backup_is_copied_to_a_mirror_with_all_that_it_may_need(world: World) -> None:
    world.clean()
    world.mirror = MemoryBucket(now=world.bucket.now)
    copy_missing(world.open(), world.mirror, Job())
    assert world.packs(bucket=world.mirror) == world.packs() and len(world.packs()) == 2
