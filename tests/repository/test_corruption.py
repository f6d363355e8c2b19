"""A flipped bit, a cut tail, a missing or a foreign object: each is found and named, and nothing is restored from it.

What single bytes of objects do is tried on every byte in test_objects.py; here whole runs are made.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.errors import DataError, PreconditionError
from pgproof.model.config import BackupConfig, BackupType, PostgresConfig, VerifyLevel
from pgproof.model.job import Job
from pgproof.model.recovery_request import RecoveryRequest
from pgproof.model.recovery_target import BACKUP_END
from tests.repository.places import new_repository, starts
from tests.support import machine
from tests.support.faults import flip_bit, put_back, replace
from tests.support.postgres import Cluster

HEADER = 76
KINDS = ("repository.json", "key slot", "cluster", "intent", "manifest", "map", "verification", "pack", "WAL")
# Without it there is nothing that could be damaged: no repository, no backup.
LAST_OF_ITS_KIND = ("repository.json", "manifest")
# A restore does without them: they say nothing about the content of a backup.
NOT_FOR_RESTORES = ("cluster", "intent", "verification")


@dataclass(frozen=True)
class Stored:
    """One backup and where its objects lie."""

    config: BackupConfig
    backup_id: str

    @property
    def root(self) -> Path:
        return Path(self.config.backup_dir or "")

    def object(self, kind: str) -> Path:
        """One object of a kind: the largest where there are several."""
        place = self.root / "clusters" / self.config.cluster
        backup = place / "backups" / self.backup_id
        manifest = open_repository(self.config).read_manifest(self.backup_id)
        assert manifest is not None
        found = {
            "repository.json": [self.root / "repository.json"],
            "key slot": (self.root / "keys").glob("*"),
            "cluster": [place / "cluster"],
            "intent": [backup / "intent"],
            "manifest": [backup / "manifest"],
            "verification": (backup / "verified").glob("*"),
            "map": [place / "maps" / ref.hash for ref in manifest.maps],
            "pack": (place / "packs" / self.backup_id).glob("*"),
            "WAL": [place / "wal" / f"{s.timeline:08X}" / s.name for s in manifest.wal_segments],
        }[kind]
        return max(found, key=lambda path: path.stat().st_size)


@dataclass(frozen=True)
class Ground:
    """The backup that is damaged, and where foreign objects come from."""

    stored: Stored
    others: dict[str, Stored]


@pytest.fixture(scope="module")
def encrypted() -> Iterator[Ground]:
    yield from _prepare(encryption=True)


@pytest.fixture(scope="module")
def plain() -> Iterator[Ground]:
    yield from _prepare(encryption=False)


# Fixtures of their own rather than parameters, so that tests in random order make each of them once.
@pytest.fixture(params=["encrypted", "plain"])
def ground(request: pytest.FixtureRequest) -> Ground:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Ground)
    return found


def _prepare(*, encryption: bool) -> Iterator[Ground]:
    place = machine.new_dir("repo")
    with Cluster(18, initdb_args=("--wal-segsize=1",)) as cluster:
        cluster.psql("CREATE TABLE facts AS SELECT g, md5(g::text) FROM generate_series(1, 1000) g")
        config = new_repository(place / "repo", encryption=encryption)
        elsewhere = new_repository(place / "elsewhere", encryption=encryption)
        namesake = dataclasses.replace(config, cluster="other")
        ground = Ground(
            stored=_back_up(cluster.config(), config),
            others={
                "the backup before": _back_up(cluster.config(), config),
                "another cluster": _back_up(cluster.config(), namesake),
                "another repository": _back_up(cluster.config(), elsewhere),
            },
        )
    yield ground
    shutil.rmtree(place)


def _back_up(postgres: PostgresConfig, config: BackupConfig) -> Stored:
    backup_id = take_backup(postgres, config, BackupType.FULL, Job()).backup_id
    assert verify_backup(config, backup_id, VerifyLevel.FRAMES, Job()).ok
    return Stored(config, backup_id)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_and_named(ground: Ground, kind: str) -> None:
    stored = ground.stored
    if kind == "key slot" and not stored.config.encryption:
        assert not (stored.root / "keys").exists()
        return
    path = stored.object(kind)
    for name, content in _damages(ground, kind, path.read_bytes()):
        if kind == "verification" and content is None:
            continue  # nothing says how many there were
        with put_back(stored.root):
            _apply(path, content)
            said = _what_verify_says(stored)
            assert _is_named(kind, path.relative_to(stored.root), said), f"{name}: {said}"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_restored_from_damage(ground: Ground, kind: str, work_dir: Path) -> None:
    stored = ground.stored
    if kind == "key slot" and not stored.config.encryption:
        return
    path = stored.object(kind)
    damages = dict(_damages(ground, kind, path.read_bytes()))
    chosen = ["missing", "cut by half", "a bit at the middle", "another repository"]
    for number, name in enumerate(chosen[:1] if kind in NOT_FOR_RESTORES else chosen):
        target = work_dir / f"{number}"
        with put_back(stored.root):
            _apply(path, damages[name])
            if kind in NOT_FOR_RESTORES:
                _restore(stored, target)
                continue
            with pytest.raises((DataError, PreconditionError)) as refused:
                _restore(stored, target)
            if name != "another repository":
                expected = PreconditionError if name == "missing" and kind in LAST_OF_ITS_KIND else DataError
                assert refused.type is expected, f"{name}: {refused.value}"
            assert not (target / "global/pg_control").exists(), name
            assert number or not starts(target)


def test_two_packs_that_changed_places(ground: Ground) -> None:
    one, two = ground.stored.object("pack"), ground.others["the backup before"].object("pack")
    with put_back(ground.stored.root):
        first, second = one.read_bytes(), two.read_bytes()
        replace(one, second)
        replace(two, first)
        for stored in (ground.stored, ground.others["the backup before"]):
            assert f"packs/{stored.backup_id}/00000000" in _what_verify_says(stored)


def test_two_maps_that_changed_places(ground: Ground) -> None:
    maps = ground.stored.root / "clusters/main/maps"
    hashes: list[str] = []
    # Where files are cut into maps depends on the key: a backup of a small cluster may have one only.
    for stored in (ground.stored, ground.others["the backup before"]):
        manifest = open_repository(stored.config).read_manifest(stored.backup_id)
        assert manifest is not None
        hashes += [ref.hash for ref in manifest.maps if ref.hash not in hashes]
    one, two = (maps / each for each in hashes[:2])
    with put_back(ground.stored.root):
        first, second = one.read_bytes(), two.read_bytes()
        replace(one, second)
        replace(two, first)
        assert one.name in _what_verify_says(ground.stored)


def test_a_second_pack_of_the_same_number(ground: Ground) -> None:
    pack = ground.stored.object("pack")
    with put_back(ground.stored.root):
        (pack.parent / f"00000000-{'0' * 64}").write_bytes(pack.read_bytes())
        assert "two packs have the same number" in _what_verify_says(ground.stored)


def test_a_damaged_slot_beside_a_good_one(encrypted: Ground) -> None:
    """It opens nothing on the day when the other secret is lost, so it is told now."""
    slot = encrypted.stored.object("key slot")
    rotten = slot.with_name("0badc0de")
    with put_back(encrypted.stored.root):
        for content in (flip_bit(slot.read_bytes(), slot.stat().st_size // 2), slot.read_bytes()[:-1], b""):
            rotten.write_bytes(content)
            assert "keys/0badc0de" in _what_verify_says(encrypted.stored)
            assert _restorable(encrypted.stored)


def _restorable(stored: Stored) -> bool:
    return open_repository(stored.config).read_manifest(stored.backup_id) is not None


def test_damage_in_one_frame_names_its_files_and_leaves_the_rest(ground: Ground) -> None:
    path = ground.stored.object("pack")
    with put_back(ground.stored.root):
        replace(path, flip_bit(path.read_bytes(), HEADER + 1000))
        report = verify_backup(ground.stored.config, ground.stored.backup_id, VerifyLevel.FRAMES, Job())
        assert len(report.damage) == 1
        assert "frame=0" in report.damage[0]
        assert " pages 0 to " in report.damage[0]


def _damages(ground: Ground, kind: str, content: bytes) -> Iterator[tuple[str, bytes | None]]:
    size = len(content)
    places = {"the beginning": 0, "the middle": size // 2, "the end": size - 1}
    places |= {f"byte {at}": at for at in random.sample(range(size), 2)}
    if kind in ("pack", "WAL"):
        places |= {"the header": 40, "the index": size - 16 - 40, "the trailer": size - 10}
    elif kind not in ("repository.json", "key slot"):
        places |= {"the header": 40, "the prefix": HEADER + 2}
    yield from ((f"a bit at {name}", flip_bit(content, at)) for name, at in places.items())
    yield "cut by a byte", content[:-1]
    yield "cut by half", content[: size // 2]
    yield "empty", b""
    yield "a byte more", content + b"\0"
    yield "twice", content * 2
    yield "missing", None
    for name, other in ground.others.items():
        foreign = other.object(kind).read_bytes()
        if foreign != content:
            yield name, foreign
    yield "another kind", ground.stored.object("map" if kind == "cluster" else "cluster").read_bytes()


def _apply(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        replace(path, content)


def _what_verify_says(stored: Stored) -> str:
    """The damage that a verification reports, or the error it ends with."""
    try:
        report = verify_backup(stored.config, stored.backup_id, VerifyLevel.FRAMES, Job())
    except (DataError, PreconditionError) as error:
        return f"{type(error).__name__}: {error}"
    assert report.ok != bool(report.damage)
    return "\n".join(report.damage)


def _is_named(kind: str, key: Path, said: str) -> bool:
    if kind == "repository.json":
        # What belongs elsewhere opens nothing, or nothing opens: its own words are for what is broken.
        return any(
            words in said for words in ("repository.json", "no repository", "passphrase", "belongs somewhere")
        )
    if kind == "key slot":
        return str(key) in said or "passphrase does not open" in said or "key slots are missing" in said
    if "no such backup" in said:
        return kind == "manifest" and key.parent.name in said
    if kind == "pack":
        return str(key).partition("-")[0] in said and ("files=" in said or "missing" in said)
    return str(key) in said


def _restore(stored: Stored, target: Path) -> None:
    restore_cluster(
        stored.config,
        stored.backup_id,
        target,
        tablespaces={},
        recover=False,
        owner=None,
        request=RecoveryRequest(BACKUP_END),
        job=Job(),
    )
