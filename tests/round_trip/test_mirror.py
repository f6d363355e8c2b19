"""A directory and a bucket together: two copies, and a restore from whichever has it."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pgproof.actions.manage_keys import list_keys
from pgproof.actions.opening import open_repository
from pgproof.errors import ConflictError, PreconditionError, TransientError
from pgproof.model.config import BackupConfig, VerifyLevel
from tests.round_trip.conftest import OpenDoors
from tests.round_trip.front_doors import FrontDoors
from tests.support.faults import flip_bit
from tests.support.faults import replace as replace_file
from tests.support.postgres import Cluster
from tests.support.s3 import S3Server

MIRROR_FIELDS = (
    "s3_bucket",
    "s3_region",
    "s3_endpoint",
    "s3_access_key_id",
    "s3_secret_access_key",
    "s3_options",
)


@pytest.fixture
def doors(pg18: Cluster, s3: S3Server, front_doors: OpenDoors) -> FrontDoors:
    """A repository in a directory with a bucket as its mirror."""
    there = s3.backup_config(s3_bucket=s3.make_bucket(f"mirror-{secrets.token_hex(6)}"))
    return front_doors(pg18, **{name: getattr(there, name) for name in MIRROR_FIELDS})


@pytest.fixture
def away() -> Iterator[dict[str, str]]:
    """Changes that make the mirror unreachable: nobody listens there."""
    yield {"s3_endpoint": "http://127.0.0.1:9"}


def alone(config: BackupConfig) -> dict[str, object]:
    """Changes that make the mirror the only repository."""
    return {"backup_dir": None, "repository_url": f"s3://{config.s3_bucket}"}


def findings(doors: FrontDoors) -> dict[str, set[str]]:
    infos = asyncio.run(doors.manager().list_backups())
    return {info.backup_id: {finding.kind for finding in info.findings} for info in infos}


def test_both_copies_are_whole_and_either_restores(doors: FrontDoors, pg18: Cluster, work_dir: Path) -> None:
    info = doors.backup()
    assert findings(doors)[info.backup_id].isdisjoint({"local-only", "mirror-only"})
    assert doors.verify(info.backup_id, VerifyLevel.FRAMES).ok
    assert doors.verify(info.backup_id, VerifyLevel.FRAMES, **alone(doors.config)).ok

    repository = Path(str(doors.config.backup_dir))
    packs = sorted(path for path in repository.rglob("*") if path.is_file() and "packs" in path.parts)
    replace_file(packs[0], flip_bit(packs[0].read_bytes(), 100_000))
    packs[-1].unlink()
    assert not doors.verify(info.backup_id, VerifyLevel.FRAMES).ok, "verify looks at the directory alone"
    assert doors.restore(info.backup_id, work_dir / "a").recovered

    shutil.rmtree(repository)
    assert "mirror-only" in findings(doors)[info.backup_id]
    assert doors.restore("latest", work_dir / "b").recovered
    with pytest.raises(PreconditionError, match="directory is missing"):
        doors.backup()


def test_a_mirror_that_is_away_is_caught_up(doors: FrontDoors, away: dict[str, str], work_dir: Path) -> None:
    with pytest.raises(TransientError) as caught:
        doors.backup(**away)
    (first,) = doors.backups()
    assert caught.value.context["committed"] == first
    assert "local-only" in findings(doors)[first]
    assert doors.restore(first, work_dir / "a").recovered
    assert doors.restore(first, work_dir / "b", recover=False).files

    second = doors.backup().backup_id
    known = findings(doors)
    assert all(known[each].isdisjoint({"local-only", "mirror-only"}) for each in (first, second))
    for each in (first, second):
        assert doors.verify(each, VerifyLevel.FRAMES, **alone(doors.config)).ok


def test_keys_change_in_both(doors: FrontDoors) -> None:
    doors.backup()
    manager = doors.manager()
    old = {slot.slot_id for slot in asyncio.run(manager.list_keys())}
    asyncio.run(manager.change_key("a new passphrase"))
    for changes in ({}, alone(doors.config)):
        config = replace(doors.config, passphrase="a new passphrase", **changes)
        open_repository(config)
        assert len({slot.slot_id for slot in list_keys(config)} & old) == 1, "the recovery key's slot stays"
        with pytest.raises(PreconditionError, match="does not open"):
            open_repository(replace(doors.config, **changes))


def test_another_repository_is_no_mirror(
    doors: FrontDoors, pg18: Cluster, front_doors: OpenDoors, work_dir: Path
) -> None:
    doors.backup()
    other = replace(doors.config, backup_dir=str(work_dir / "other"))
    stranger = FrontDoors(pg18, other)
    with pytest.raises(ConflictError, match="holds a repository already"):
        stranger.init()
    only = FrontDoors(pg18, replace(other, s3_bucket=None))
    only.init()
    with pytest.raises(PreconditionError, match="another repository"):
        stranger.backup()
    assert len(only.backups()) == 1
    with pytest.raises(PreconditionError, match="another repository"):
        stranger.backups()
