"""Compaction beside everything else: plans that are old, runs that listed before, copies that differ, pins that come late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from campaigns.small_repository import PAGE, MemoryBucket
from campaigns.synthetic_runs import read_files
from pgproof.actions.cleanup import carry_out
from pgproof.errors import TransientError
from pgproof.failpoints import arm
from pgproof.model.job import Job
from pgproof.model.pin import Pin
from pgproof.repository.base import Base
from pgproof.repository.content import PackSource
from pgproof.repository.mirror import copy_missing
from pgproof.repository.packs import PackBuilder, make_frame
from pgproof.repository.pins import store_pin
from pgproof.repository.sealing import Kind
from tests.repository.test_compaction import PATHS, World


@pytest.fixture
def world() -> Iterator[World]:
    yield World.made()[0]
    arm("")


def test_an_old_plan_does_not_go_by_what_it_took_for_the_new_object(world: World) -> None:
    """The new one could not be read when the plan was made, the old one served in its place; a backup needs what it left out."""
    objects, first = world.first(), world.manifest(0)
    world.clean()
    world.bucket.objects |= objects
    store_pin(world.open(), world.ids[0], Pin(None, "as it was meant"), world.bucket.now)
    world.wait(3)
    _old, new = world.packs()
    whole = world.bucket.objects[new]
    world.damage(new, len(whole[0]) - 3)
    prepared = world.plan(compacts=False)
    world.bucket.objects[new] = whole
    carry_out(prepared, Job(), time.monotonic())
    assert read_files(world.open(), first) == world.contents[world.ids[0]]


def test_a_pin_that_comes_behind_the_plan_keeps_the_pack_as_it_is(world: World) -> None:
    prepared = world.plan()
    assert prepared.plan.retention.removed == (world.ids[0],) and len(prepared.compaction.rewritings) == 1
    store_pin(world.open(), world.ids[0], Pin(None, "meanwhile"), world.bucket.now)
    report = carry_out(prepared, Job(), time.monotonic())
    assert report.spared == (world.ids[0],)
    assert report.compaction is not None and report.compaction.packs == 0
    assert len(world.packs()) == 1


def test_a_pin_that_comes_behind_the_plan_keeps_the_old_object(world: World) -> None:
    """Of a backup that the plan removes, and that needs what the new one left out."""
    objects, first = world.first(), world.manifest(0)
    world.clean()
    world.bucket.objects |= objects
    world.wait(3)
    prepared = world.plan(compacts=False)
    assert prepared.plan.retention.removed == (world.ids[0],)
    assert [len(some) for some in prepared.compaction.replaced] == [1]
    store_pin(world.open(), world.ids[0], Pin(None, "meanwhile"), world.bucket.now)
    assert carry_out(prepared, Job(), time.monotonic()).spared == (world.ids[0],)
    assert len(world.packs()) == 2
    assert read_files(world.open(), first) == world.contents[world.ids[0]]


def test_what_was_removed_is_on_record_though_the_compaction_fails(world: World) -> None:
    arm("compact.begun=raise")
    with pytest.raises(TransientError):
        world.clean()
    assert len([key for key in world.bucket.objects if "/cleanups/" in key]) == 1


def test_who_listed_the_old_one_finds_the_new_one(world: World) -> None:
    """A restore that takes longer than the old one stays."""
    source = PackSource(world.open())
    assert len(source.versions(world.ids[0], 0)) == 1
    world.clean()
    world.wait(3)
    world.clean()
    assert len(world.packs()) == 1
    repository = world.open()
    index = source.pack(world.ids[0], 0).index
    kept = [frame for frame in range(len(index.codecs)) if not index.left_out[frame]]
    assert kept and all(source.pack(world.ids[0], 0).frame(frame, repository.hashes) for frame in kept)


@dataclass
class Racing(MemoryBucket):
    """Somebody else acts when a pack is looked for the first time."""

    meanwhile: Callable[[], object] | None = None

    def head(self, key: str):  # type: ignore[no-untyped-def]
        if "/packs/" in key and self.meanwhile is not None:
            act, self.meanwhile = self.meanwhile, None
            act()
        return super().head(key)


def test_the_old_one_goes_while_it_is_copied_to_a_mirror(world: World) -> None:
    world.clean()
    world.wait(3)
    racing = Racing(world.bucket.objects, world.bucket.now, meanwhile=world.clean)
    mirror = MemoryBucket(now=world.bucket.now)
    copy_missing(world.open(racing), mirror, Job())
    assert racing.meanwhile is None and len(world.packs()) == 1
    assert read_files(world.open(mirror), world.manifest(1)) == world.contents[world.ids[1]]


def test_a_damaged_new_one_does_not_keep_backups_from_the_mirror(world: World) -> None:
    world.clean()
    world.damage(world.packs()[1], 100)
    mirror = MemoryBucket(now=world.bucket.now)
    copy_missing(world.open(), mirror, Job())
    assert world.packs(bucket=mirror) == world.packs()[:1]
    assert read_files(world.open(mirror), world.manifest(1)) == world.contents[world.ids[1]]


def test_a_damaged_new_one_is_not_copied_by_a_later_compaction(world: World) -> None:
    mirror = world.mirror = MemoryBucket(now=world.bucket.now)
    copy_missing(world.open(), mirror, Job())
    world.clean()
    mirror.delete(world.packs()[1])
    world.damage(world.packs()[1], 100)
    report = world.clean()
    assert report.compaction is not None and "not copied" in report.compaction.failed[0] and not report.ok
    assert world.packs(bucket=mirror) == world.packs()[:1]


def test_what_was_collected_is_not_copied_again(world: World) -> None:
    mirror = world.mirror = MemoryBucket(now=world.bucket.now)
    copy_missing(world.open(), mirror, Job())
    world.clean()
    mirror.delete(world.packs()[1])
    world.wait(1)
    for bucket in (world.bucket, mirror):
        for key in [key for key in bucket.objects if "/pins/" in key]:
            bucket.delete(key)
    assert world.clean().ok
    world.wait(3)
    assert world.clean().ok
    assert world.packs() == [] == world.packs(bucket=mirror)


def test_pages_that_are_left_out_have_the_tags_of_the_object_before(world: World) -> None:
    """Else the audit of a base would take pages that nobody changed for such that its summaries lacked."""
    objects, first = world.first(), world.manifest(0)
    with Base(world.open(), first, 1) as base:
        file = base.file(PATHS[1])
        assert file is not None
        before = file.pages(0, 4).tags
    world.clean()
    world.bucket.objects |= objects
    with Base(world.open(), first, 1) as base:
        file = base.file(PATHS[1])
        assert file is not None
        assert (file.pages(0, 4).tags == before).all() and before.all()


def test_the_last_number_is_the_last(world: World) -> None:
    """Rubbish under it keeps the old one, and is not followed by a name that nobody could read."""
    (old,) = world.packs()
    layout = world.open().layout
    planted = f"{layout.rewritten_pack(world.ids[0], 0, 99)}-{'0' * 64}"
    world.bucket.put(planted, b"rubbish" * 100)
    world.clean(compacts=False)
    world.wait(3)
    report = world.clean(compacts=False)
    assert not report.ok and "cannot be rewritten" in report.copies[0].refused[0]
    assert world.packs() == [old, planted]
    assert read_files(world.open(), world.manifest(1)) == world.contents[world.ids[1]]


def test_a_planted_object_that_does_not_fit_stops_no_cleanup(world: World) -> None:
    repository = world.open()
    context = repository.layout.pack_context(world.ids[0], 0)
    builder = PackBuilder(repository.key, Kind.PACK, context, PAGE, tags=True)
    builder.add(make_frame(repository.hashes, PAGE, 3, bytes(PAGE)))
    repository.create_pack(repository.layout.rewritten_pack(world.ids[0], 0, 5), builder.finish())
    world.clean(compacts=False)
    for compacts in (False, True):
        world.wait(3)
        world.clean(compacts=compacts)
        assert len(world.packs()) >= 2
