"""What a local repository relies on is there after a power cut, whoever died before he had synced it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgproof.errors import EngineError, TransientError
from pgproof.repository.durable import make_root
from pgproof.repository.local import LocalBucket
from tests.support.forgetful_fs import ForgetfulDisk, Rule

CUTS = 25


@pytest.fixture(scope="module")
def disk() -> Iterator[ForgetfulDisk]:
    with ForgetfulDisk() as found:
        yield found


def cuts(disk: ForgetfulDisk, name: str) -> Iterator[Path]:
    """A durable directory each time; when it is used, the power is cut and on again."""
    for number in range(CUTS):
        place = disk.path / f"{name}{number}"
        place.mkdir()
        disk.sync()
        yield place
        disk.cut()
        disk.power_on(f"{name} {number}")


def fail(disk: ForgetfulDisk, path: str) -> None:
    """An fsync of a directory fails, as if its caller died before it."""
    disk.arm([Rule(frozenset({"fsyncdir"}), error=errno.EIO, path=path)])


def test_a_listed_object_of_a_dead_run(disk: ForgetfulDisk) -> None:
    kept = []
    for place in cuts(disk, "listed"):
        LocalBucket(place).create("packs/dead/first", b"1")
        fail(disk, "packs/dead$")
        with pytest.raises(TransientError, match="disk did not answer") as failed:
            LocalBucket(place).create("packs/dead/second", b"2")
        assert "check the disk" in failed.value.hint
        disk.repair()
        kept.append((place, {info.key for info in LocalBucket(place).list("packs/dead/")}))
    for place, keys in kept:
        assert "packs/dead/second" in keys
        assert {info.key for info in LocalBucket(place).list("")} == keys


@pytest.mark.parametrize("folder", ["", "/packs"])
def test_an_object_in_a_folder_whose_maker_died(disk: ForgetfulDisk, folder: str) -> None:
    places = []
    for place in cuts(disk, f"folder{len(folder)}"):
        fail(disk, f"{place.name}{folder}$")
        with pytest.raises(EngineError):
            LocalBucket(place).create("packs/run/first", b"1")
        disk.repair()
        LocalBucket(place).create("packs/run/second", b"2")
        places.append(place)
    assert [LocalBucket(place).read("packs/run/second") for place in places] == [b"2"] * CUTS


def test_a_new_repositorys_directory(disk: ForgetfulDisk) -> None:
    roots = []
    for place in cuts(disk, "root"):
        roots.append(place / "several" / "levels" / "down")
        make_root(roots[-1])
    assert all(root.is_dir() for root in roots)
