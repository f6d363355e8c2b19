"""Single bits of stored objects are turned: verification names the object, and a restore that needs it refuses.

Every bit of every object up to 64 KiB, of every kind, encrypted and not, and random bits of larger packs and WAL;
a bit of each byte of the restore program, which is no secret and the same in every repository.
There are no bits that may not matter: repository.json and key slots carry a checksum and nothing may surround
them, and of everything else each byte is sealed; only the empty frames of a pack that was rewritten are opened by
nobody. A damaged lease is no finding of a verification, for it says nothing about a backup; it must keep others out
for as long as its age says, and no longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from random import Random

from campaigns.campaign import Campaign
from campaigns.rot_judge import Change, judge_all, kind_of
from campaigns.small_repository import Small, make_compacted, small_and_large
from pgproof.errors import ConflictError
from pgproof.repository.leases import TTL_SECONDS, hold_lease

FLIPS = 200_000
_SMALL_OBJECT = 64 << 10
_IN_PARALLEL_FROM = 5000
KINDS = (
    "repository.json", "key slot", "cluster", "intent", "manifest", "map", "pack", "rewritten pack", "WAL",
    "verification", "lease", "script",
)  # fmt: skip


def run(campaign: Campaign) -> None:
    random = campaign.random("repositories")
    suites = (True, False)
    variants = [each for encrypted in suites for each in small_and_large(random, encrypted=encrypted)]
    variants += [make_compacted(random, encrypted=encrypted) for encrypted in suites]
    chosen = _choose(variants, campaign)
    campaign.count("objects tried", len({(flip.variant, flip.named) for flip in chosen}))
    _flip_leases(campaign, variants, [flip for flip in chosen if kind_of(flip.named[0]) == "lease"])
    others = [flip for flip in chosen if kind_of(flip.named[0]) != "lease"]
    processes = (os.cpu_count() or 1) if len(others) >= _IN_PARALLEL_FROM else 1
    wrong = []
    for verdict in judge_all(variants, others, processes=processes):
        campaign.count("flips")
        campaign.count(f"flips in a {kind_of(verdict.change.named[0])}")
        campaign.count("restores refused", verdict.refused)
        campaign.count("restores without harm", verdict.restored)
        if verdict.wrong:
            wrong.append(f"{verdict.change.named[0]} {verdict.change.bit}: {verdict.wrong}")
    assert not wrong, f"{len(wrong)} flips: {wrong[:5]}"
    campaign.require("flips", FLIPS, least=100)
    campaign.require("restores refused", FLIPS // 2)
    for kind in KINDS:
        campaign.require(f"flips in a {kind}", 500)


def _choose(variants: list[Small], campaign: Campaign) -> list[Change]:
    """Every bit of the small objects and random ones of the large; of a smaller campaign, some of each kind."""
    random = campaign.random("flips")
    every = [*_every_bit(variants), *_every_byte(variants, random, "script")]
    large = list(_random_bits(variants, random, max(FLIPS - len(every), FLIPS // 10)))
    wanted = campaign.times(len(every) + len(large), least=100)
    if campaign.share >= 1:
        return every + large
    kinds: dict[str, list[Change]] = {}
    for flip in every + large:
        kinds.setdefault(kind_of(flip.named[0]), []).append(flip)
    return [
        flip
        for some in kinds.values()
        for flip in random.sample(some, min(len(some), -(-wanted // len(kinds))))
    ]


def _every_bit(variants: list[Small]) -> Iterator[Change]:
    for number, small in enumerate(variants):
        for key, (data, _at) in small.bucket.objects.items():
            # Of a repository with a rewritten pack the other objects are like those of the first.
            if (
                len(data) <= _SMALL_OBJECT
                and kind_of(key) != "script"
                and (not small.unread or key in small.unread)
            ):
                yield from (
                    Change(number, "bit", (key,), bit=(at, bit))
                    for at in range(len(data))
                    if not any(at in empty for empty in small.unread.get(key, ()))
                    for bit in range(8)
                )


def _every_byte(variants: list[Small], random: Random, kind: str) -> Iterator[Change]:
    for key, (data, _at) in variants[0].bucket.objects.items():
        if kind_of(key) == kind:
            yield from (Change(0, "bit", (key,), bit=(at, random.randrange(8))) for at in range(len(data)))


def _random_bits(variants: list[Small], random: Random, count: int) -> Iterator[Change]:
    large = [
        (number, key, len(data))
        for number, small in enumerate(variants)
        for key, (data, _at) in small.bucket.objects.items()
        if len(data) > _SMALL_OBJECT
    ]
    for _ in range(count):
        number, key, size = random.choice(large)
        yield Change(number, "bit", (key,), bit=(random.randrange(size), random.randrange(8)))


def _flip_leases(campaign: Campaign, variants: list[Small], flips: list[Change]) -> None:
    """While a damaged lease is young nobody else begins; once it is old, somebody does."""
    for flip in flips:
        small = variants[flip.variant]
        bucket = small.bucket.copy()
        flip.apply(bucket)
        repository = small.open(bucket)
        before = set(bucket.objects)
        try:
            with hold_lease(repository, "backup"):
                raise AssertionError(f"two runs at once: {flip}")
        except ConflictError:
            assert set(bucket.objects) == before
        bucket.now += timedelta(seconds=TTL_SECONDS + 1)
        with hold_lease(repository, "backup") as lease:
            assert lease.epoch == 2
        campaign.count("flips")
        campaign.count("flips in a lease")
