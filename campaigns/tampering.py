"""Objects are cut, lengthened, removed, exchanged, replayed and mixed: verification names them, restores refuse.

Done by somebody who holds the store but no key; without encryption the seals catch the same. Two things cannot be
noticed from the repository alone: that the newest backup was removed with its manifest (it is then unknown by its id
and the one before it is the latest), and that the report of a verification was removed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

from campaigns.campaign import Campaign
from campaigns.rot_judge import Change, judge_all, kind_of, restore
from campaigns.small_repository import MemoryBucket, Small, make_compacted, make_small
from pgproof.repository import layout
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind

POSITIONS = 10
_PARALLEL_FROM = 5000
_EVERY_LENGTH = 10_000
# Nothing says that there was one.
_NOT_MISSED = ("/verified/", "/leases/", "restore-without-")
_TAILS = (b"\0", b"\n", b" ", b"}", b"x", bytes(16), bytes(4096))


class Ground:
    """Two backups of one cluster, another cluster beside it, and another repository, with one suite.

    `compacted`: the first backup was removed, and what the second needs of it is in a pack that was rewritten.
    """

    def __init__(self, random: Random, *, encrypted: bool, compacted: bool = False) -> None:
        if compacted:
            self.small = make_compacted(random, encrypted=encrypted)
        else:
            self.small = make_small(random, encrypted=encrypted, backups=2)
        self.elsewhere = make_small(random, encrypted=encrypted, backups=2)
        neighbour = make_small(random, encrypted=encrypted, backups=2, cluster="other")
        self.neighbour = _moved(neighbour, self.small)

    @property
    def objects(self) -> dict[str, bytes]:
        return {key: data for key, (data, _at) in self.small.bucket.objects.items() if "/leases/" not in key}


def run(campaign: Campaign) -> None:
    suites = (True, False)
    grounds = [Ground(campaign.random(f"ground {e}"), encrypted=e) for e in suites]
    rewritten = [Ground(campaign.random(f"rewritten {e}"), encrypted=e, compacted=True) for e in suites]
    chosen: list[Change] = []
    for name, attack in ATTACKS.items():
        random = campaign.random(name)
        every = [
            change
            for number, ground in enumerate(grounds + rewritten)
            for change in attack(number, ground, random)
        ]
        some = random.sample(every, campaign.times(len(every), least=min(10, len(every))))
        chosen += some if campaign.share < 1 else every
    processes = (os.cpu_count() or 1) if len(chosen) >= _PARALLEL_FROM else 1
    wrong = []
    for verdict in judge_all([ground.small for ground in grounds + rewritten], chosen, processes=processes):
        campaign.count("changes")
        campaign.count(verdict.change.what)
        campaign.count("restores refused", verdict.refused)
        campaign.count("restores without harm", verdict.restored)
        if verdict.wrong:
            wrong.append(f"{verdict.change.what} of {verdict.change.named}: {verdict.wrong}")
    assert not wrong, f"{len(wrong)} changes: {wrong[:5]}"
    for ground in grounds:
        _roll_back(campaign, ground)
    for name in ATTACKS:
        campaign.require(name, 20, least=10)
    campaign.require("changes", 20_000, least=100)
    campaign.require("restores refused", 10_000)
    campaign.require("roll-backs", 2, least=2)


def _cut_anywhere(number: int, ground: Ground, random: Random) -> Iterator[Change]:
    for key, data in ground.objects.items():
        lengths = (
            range(len(data)) if len(data) <= _EVERY_LENGTH else sorted(random.sample(range(len(data)), 500))
        )
        for length in lengths:
            yield _put(number, "cut", key, data[:length])


def _lengthened(number: int, ground: Ground, random: Random) -> Iterator[Change]:
    for key, data in ground.objects.items():
        tails = [*_TAILS, data, data[-16:], random.randbytes(100)]
        for tail in tails:
            yield _put(number, "lengthened", key, data + tail)
        yield _put(number, "lengthened", key, b" " + data)


def _removed(number: int, ground: Ground, _random: Random) -> Iterator[Change]:
    missed = [key for key in ground.objects if not any(part in key for part in _NOT_MISSED)]
    for count in (1, 2):
        for keys in itertools.combinations(missed, count):
            yield Change(number, "removed", keys, dict.fromkeys(keys))


def _exchanged(number: int, ground: Ground, _random: Random) -> Iterator[Change]:
    for (one, first), (two, second) in itertools.combinations(ground.objects.items(), 2):
        yield Change(number, "exchanged", (one, two), {one: second, two: first})


def _replayed(number: int, ground: Ground, _random: Random) -> Iterator[Change]:
    """Every object in the place of every other one, which is there no more."""
    for (one, first), two in itertools.product(ground.objects.items(), ground.objects):
        if one != two:
            yield Change(number, "replayed under another name", (two,), {two: first})


def _foreign(number: int, ground: Ground, _random: Random) -> Iterator[Change]:
    """The same kind of object from another cluster of the repository, and from another repository."""
    for other in (ground.neighbour, ground.elsewhere.bucket):
        for key, (data, _at) in other.objects.items():
            for ours in ground.objects:
                if kind_of(ours) == kind_of(key) and ground.objects[ours] != data:
                    yield _put(number, "foreign", ours, data)


Edit = Callable[[bytes, int, int, Random], bytes]

# What is done at ten places of each object: at, and with how many bytes.
PIECES: dict[str, Edit] = {
    "piece taken out": lambda data, at, length, _random: data[:at] + data[at + length :],
    "piece put in": lambda data, at, length, random: data[:at] + random.randbytes(length) + data[at:],
    "piece zeroed": lambda data, at, length, _random: data[:at] + bytes(length) + data[at + length :],
    "turned round at a place": lambda data, at, _length, _random: data[at:] + data[:at],
}


def _pieces(what: str, edit: Edit, number: int, ground: Ground, random: Random) -> Iterator[Change]:
    for key, data in ground.objects.items():
        for _ in range(POSITIONS):
            content = edit(data, random.randrange(len(data)), random.randrange(1, 40), random)
            if not ground.small.alike(key, content):
                yield _put(number, what, key, content)


def _tails(number: int, ground: Ground, random: Random) -> Iterator[Change]:
    """The beginning of an object with the end of another one of its kind, joined at ten places."""
    for (one, first), (two, second) in itertools.permutations(ground.objects.items(), 2):
        if kind_of(one) == kind_of(two):
            for _ in range(POSITIONS):
                at = random.randrange(len(first))
                if first[at:] != second[at:]:
                    yield _put(number, "tail of another", one, first[:at] + second[at:])


def _abandoned(number: int, ground: Ground, _random: Random) -> Iterator[Change]:
    """A manifest that says the run was given up, as a collector seals it, in the place of the real one."""
    repository = ground.small.open(MemoryBucket(dict(ground.small.bucket.objects)))
    for backup in ground.small.backups:
        key = repository.layout.manifest(backup)
        repository.bucket.delete(key)
        repository.create_json(Kind.MANIFEST, key, {"format": 1, "abandoned": True})
        yield from (_put(number, "given up", key, repository.bucket.read(key)) for _ in range(5))


ATTACKS: dict[str, Callable[[int, Ground, Random], Iterator[Change]]] = {
    "cut": _cut_anywhere,
    "lengthened": _lengthened,
    "removed": _removed,
    "exchanged": _exchanged,
    "replayed under another name": _replayed,
    "foreign": _foreign,
    "given up": _abandoned,
    "tail of another": _tails,
    **{what: partial(_pieces, what, edit) for what, edit in PIECES.items()},
}


def _put(number: int, what: str, key: str, content: bytes) -> Change:
    return Change(number, what, (key,), {key: content})


def _moved(neighbour: Small, into: Small) -> MemoryBucket:
    """The other cluster's objects as they are made in the same repository: sealed with the same master key."""
    key, bucket = into.open().key, MemoryBucket()
    source = neighbour.open()
    target = Repository(bucket, key, neighbour.cluster)
    for name in neighbour.bucket.objects:
        if name.startswith(layout.CLUSTERS) and kind_of(name) in (
            "manifest",
            "intent",
            "cluster",
            "verification",
        ):
            kind = Kind[kind_of(name).upper()]
            target.create_json(kind, name, source.read_json(kind, name))
    for backup in neighbour.backups:
        manifest = source.read_manifest(backup)
        assert manifest is not None
        for ref in manifest.maps:
            target.create_map(source.read_map(ref.hash))
    return bucket


def _roll_back(campaign: Campaign, ground: Ground) -> None:
    """The store as it was before the newest backup: that backup is unknown, the one before it is whole."""
    small, place = ground.small, campaign.place / "rolled-back"
    old, new = small.backups
    bucket = small.bucket.copy()
    for key in [key for key in bucket.objects if new in key]:
        bucket.delete(key)
    assert "no such backup" in str(restore(small, bucket, new, place))
    assert restore(small, bucket, old, place) == small.contents[old]
    assert restore(small, bucket, "latest", place) == small.contents[old]
    campaign.count("roll-backs")
