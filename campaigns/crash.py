"""Kill -9 of the program at every named point of every command, and at random moments.

Whatever is killed: nothing half is listed, what was listed is whole, a half restore does not start, a passphrase
opens the repository, no server, slot or file outlives the dead, and the same command succeeds the next time.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from campaigns import crash_points as points
from campaigns.campaign import Campaign
from campaigns.crash_attacks import ATTACKS
from campaigns.crash_commands import Attack
from campaigns.crash_ground import Ended, Ground
from campaigns.crash_workers import on_grounds
from tests.support.s3 import S3Server

# A part of the campaign should see more than one version as well.
_ROUNDS_ON_A_GROUND, _ROUNDS_OF_A_PART = 40, 12
_MAJORS = (18, 18, 17, 18, 15)
_AT_POINTS, _AT_MOMENTS = 400, 300
# What takes longest, or holds most, is killed most often at random moments.
_WEIGHTS = {
    "create": 8,
    "create logical incremental": 3,
    "restore": 5,
    "restore --no-recover": 2,
    "restore database": 3,
    "clone": 3,
    "verify start": 3,
    "verify frames": 1,
}


@dataclass(frozen=True)
class Profile:
    """What one whole run of a command passes, and how long it takes."""

    passed: Counter[str]
    seconds: float


@dataclass(frozen=True)
class Round:
    """One kill: at the `nth` passing of a point, or without a point at a part of the command's time."""

    number: int
    command: str
    store: str
    point: str = ""
    nth: int = 1
    moment: float = 0.0


def run(campaign: Campaign) -> None:
    with ExitStack() as stack:
        # A sample need not pay for the start of an S3 server.
        s3 = stack.enter_context(S3Server()) if campaign.share >= 0.1 else None
        commands = _commands(campaign, s3)
        with Ground(18, campaign.place / "profiles", s3) as ground:
            profiles = {
                (command, store): _profile(ATTACKS[command](ground, store, campaign.random("profile")))
                for command in commands
                for store in ATTACKS[command].kinds
                if s3 or store == "local"
            }
        rounds = [*_at_points(campaign, profiles), *_at_moments(campaign, profiles)]
        campaign.random("order").shuffle(rounds)
        killed_at: set[str] = set()

        def ground_for(number: int) -> Ground:
            place = campaign.place / f"ground{number}"
            return Ground(_MAJORS[number % len(_MAJORS)], place, s3, seed=campaign.seed)

        def carry_out(ground: Ground, each: Round) -> Iterator[str]:
            attack = ATTACKS[each.command](ground, each.store, campaign.random(f"round {each.number}"))
            yield from _one(attack, each, profiles[each.command, each.store].seconds, killed_at)

        at_once = _ROUNDS_ON_A_GROUND if campaign.share >= 1 else _ROUNDS_OF_A_PART
        campaign.counts += on_grounds(rounds, at_once, ground_for, carry_out)
    campaign.count("points killed at", len(killed_at))
    campaign.require("kills at named points", _AT_POINTS)
    campaign.require("kills at random moments", _AT_MOMENTS)
    if campaign.share >= 1:
        # Those of the streamer, of resident workers and the like are killed at elsewhere.
        passed = {name for profile in profiles.values() for name in profile.passed}
        missed = (passed & points.names_in_source()) - killed_at
        assert not missed, f"points that no kill reached: {sorted(missed)}"
        assert len(killed_at) >= 60


def _commands(campaign: Campaign, s3: S3Server | None) -> list[str]:
    """Those that PGPROOF_CRASH_COMMANDS names, separated by commas; else all of them, or some in a part of a campaign."""
    wanted = os.environ.get("PGPROOF_CRASH_COMMANDS", "")
    if wanted:
        return wanted.split(",")
    commands = [name for name, attack in ATTACKS.items() if s3 or "local" in attack.kinds]
    return commands if campaign.share >= 1 else campaign.random("commands").sample(commands, 3)


def _profile(attack: Attack) -> Profile:
    process = attack.ground.begin(
        attack.store, attack.arguments, attack.environ | points.rules("*", 1, points.TELL)
    )
    begun = time.monotonic()
    ended = attack.ground.end(process)
    seconds = time.monotonic() - begun
    assert ended.status == 0, ended
    attack.judge(ended)
    return Profile(points.passed(ended.errors), seconds)


def _at_points(campaign: Campaign, profiles: dict[tuple[str, str], Profile]) -> Iterator[Round]:
    """Each point of each command at least once, then more of them at random; one in four on S3."""
    chance = campaign.random("points")
    pairs = sorted(
        (command, name)
        for (command, store), profile in profiles.items()
        if store == ATTACKS[command].kinds[0]
        for name in profile.passed
    )
    chance.shuffle(pairs)
    wanted = max(campaign.times(_AT_POINTS), len(pairs) if campaign.share >= 1 else 0)
    pairs += chance.choices(pairs, k=max(0, wanted - len(pairs)))
    for number, (command, name) in enumerate(pairs[:wanted]):
        remote = profiles.get((command, "s3"))
        store = ATTACKS[command].kinds[0]
        if remote and name in remote.passed and chance.random() < 0.25:
            store = "s3"
        hits = profiles[command, store].passed[name]
        # Half of the kills at the first passings, where most is decided; not quite at the last ones, which not
        # every run reaches.
        last = max(1, min(hits, 3) if chance.random() < 0.5 else hits * 4 // 5)
        yield Round(number, command, store, name, chance.randint(1, last))


def _at_moments(campaign: Campaign, profiles: dict[tuple[str, str], Profile]) -> Iterator[Round]:
    chance = campaign.random("moments")
    keys = sorted(profiles)
    weights = [_WEIGHTS.get(command, 1) * (1 if store == "s3" else 3) for command, store in keys]
    for number in range(campaign.times(_AT_MOMENTS)):
        ((command, store),) = chance.choices(keys, weights)
        yield Round(_AT_POINTS + number, command, store, moment=chance.uniform(0.05, 1.0))


def _one(attack: Attack, each: Round, seconds: float, killed_at: set[str]) -> Iterator[str]:
    """One kill and what comes after it; yields what happened, to be counted."""
    if each.point:
        ended = _kill_at_point(attack, each)
        killed_at.add(each.point)
        yield "kills at named points"
    else:
        ended = _kill_at_moment(attack, each, seconds)
        yield "kills at random moments"
    yield f"kills of {each.command}"
    yield f"kills on {each.store}"
    ground = attack.ground
    ground.require_no_orphans()
    yield from attack.judge(ended)
    yield from attack.repeat()
    ground.require_no_orphans()
    ground.ledger.wait_for(1)


def _kill_at_point(attack: Attack, each: Round) -> Ended:
    """Runs differ: where the n-th passing does not come, the first one does."""
    for nth in (each.nth, 1):
        ended = _run(attack, points.rules(each.point, nth))
        if ended.status == points.KILLED:
            return ended
        assert ended.status == 0, ended
        attack.judge(ended)
        attack = type(attack)(attack.ground, each.store, attack.chance)
    raise AssertionError(f"a kill did not happen: {ended}")


def _kill_at_moment(attack: Attack, each: Round, seconds: float) -> Ended:
    """A command that has ended already is killed earlier the next time."""
    part = each.moment
    while True:
        process = attack.ground.begin(attack.store, attack.arguments, attack.environ)
        try:
            process.wait(part * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        ended = attack.ground.end(process)
        if ended.status == points.KILLED:
            return ended
        assert ended.status == 0, ended
        attack.judge(ended)
        attack = type(attack)(attack.ground, each.store, attack.chance)
        part *= 0.8


def _run(attack: Attack, environ: dict[str, str]) -> Ended:
    return attack.ground.end(attack.ground.begin(attack.store, attack.arguments, attack.environ | environ))
