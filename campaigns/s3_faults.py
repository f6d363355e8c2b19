"""Every kind of fault of an object store, on every operation, at its first, middle and last call, once and lasting.

Each round lives through three small backups, a list, verifications and reading back with that one fault; then the
fault ends, a judge looks at everything without the proxy, and the next backup has to succeed by itself.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from campaigns.campaign import Campaign
from campaigns.s3_ground import HASTY, QUICK, Ground, count, count_faults, ground, positions
from campaigns.s3_life import Life
from tests.support.s3_proxy import Fault, Rule, applies

# Name, verb and pattern of the key.
OPERATIONS = (
    ("create pack", "PUT", "/packs/"),
    ("create WAL", "PUT", "/wal/"),
    ("create map", "PUT", "/maps/"),
    ("create manifest", "PUT", "/manifest$"),
    ("create lease", "PUT", "/leases/"),
    ("read pack or WAL", "GET", "/(packs|wal)/"),
    ("read small object", "GET", "(manifest|intent|cluster|repository.json|/maps/.*|^keys/.*)$"),
    ("head", "HEAD", ""),
    ("list", "LIST", ""),
    ("delete", "DELETE", ""),
)
STALLS = (Fault.STALL, Fault.STALL_IN_BODY)
# A store that answers, but with less than it has, is not to be seen through; what it hides is not lost.
_HIDES = (
    Fault.STALE,
    Fault.DROPPED_PAGE,
    Fault.FLIPPED,
    Fault.CUT_SHORT,
    Fault.OK_WITH_ERROR,
    Fault.NOT_FOUND,
)
# Rounds beside each other, because a store that does not answer is mostly waited for.
_AT_ONCE = 3
_FULL = 2 * 3 * sum(applies(fault, verb) for fault in Fault for _name, verb, _key in OPERATIONS)


@dataclass(frozen=True)
class Round:
    fault: Fault
    operation: str
    verb: str
    key: str
    position: str
    nth: int
    lasting: bool


def run(campaign: Campaign) -> None:
    with ground(campaign) as here, contextlib.ExitStack() as stack:
        rounds = _rounds(campaign, here)
        assert len(rounds) == _FULL
        campaign.random("order").shuffle(rounds)
        left = enumerate(rounds[: campaign.times(_FULL, _AT_ONCE * 2)])
        grounds = [stack.enter_context(here.beside(campaign.seed + n)) for n in range(_AT_ONCE)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for worker in [pool.submit(_work_off, campaign, each, left) for each in grounds]:
                worker.result()
        for each in grounds:
            count_faults(campaign, each.proxy)
    campaign.require("rounds", _FULL, _AT_ONCE * 2)
    # One in twenty never comes to its turn; of six rounds in a sample two may be such.
    struck = 0.9 if campaign.share >= 0.1 else 0.5
    campaign.require("rounds whose fault struck", round(_FULL * struck), _AT_ONCE)
    campaign.require("backups judged whole", _FULL * 2, 6)


def _work_off(campaign: Campaign, here: Ground, left: Iterator[tuple[int, Round]]) -> None:
    for number, each in left:
        try:
            _live(campaign, here, each, f"r{number}")
        except BaseException:
            print(f"s3_faults: the round was {each}", flush=True)
            raise


def _rounds(campaign: Campaign, here: Ground) -> list[Round]:
    """All combinations; how often each operation happens is counted in a round without a fault."""
    calls = _calls_without_a_fault(campaign, here)
    return [
        Round(fault, name, verb, key, position, nth, lasting)
        for fault, (name, verb, key), lasting in itertools.product(Fault, OPERATIONS, (False, True))
        if applies(fault, verb)
        for position, nth in positions(calls[name])
    ]


def _calls_without_a_fault(campaign: Campaign, here: Ground) -> Counter[str]:
    watching = [Rule(Fault.DELAY, verb, key, nth=1 << 60) for _name, verb, key in OPERATIONS]
    with here.proxy.breaking(*watching):
        life = Life(campaign, "calm", campaign.random("calm"))
        _scenario(here, life, "calm", hasty=False)
        calls = Counter({name: rule.seen for (name, _v, _k), rule in zip(OPERATIONS, watching, strict=True)})
    assert len(life.done) == 3 and min(calls.values()) >= 3, f"too little happens: {calls}, {life.done}"
    return calls


def _scenario(here: Ground, life: Life, cluster: str, *, hasty: bool) -> None:
    patience = HASTY if hasty else QUICK
    for _ in range(3):
        life.attempt("backup", lambda: life.back_up(here.open(cluster, patience)))
    repository = life.attempt("open", lambda: here.open(cluster, patience))
    if repository is not None:
        life.look(repository)


def _live(campaign: Campaign, here: Ground, each: Round, cluster: str) -> None:
    life = Life(campaign, cluster, campaign.random(f"{each}"))
    before = here.proxy.faults.total()
    rule = Rule(each.fault, each.verb, each.key, nth=each.nth, lasting=each.lasting)
    with here.proxy.breaking(rule):
        _scenario(here, life, cluster, hasty=each.fault in STALLS)
    count(campaign, "rounds")
    count(campaign, "rounds whose fault struck", here.proxy.faults.total() > before)
    if not each.lasting and len(life.done) == 3:
        count(campaign, "single faults that no backup noticed")
    if life.incomplete_lists:
        assert each.fault in _HIDES, "a list left backups out, and the store did not"
    life.judge(here.open(cluster, direct=True))
    # The fault is over: the next run succeeds without anybody's help.
    backup_id = life.back_up(here.open(cluster, QUICK))
    judge = here.open(cluster, direct=True)
    life.judge(judge)
    assert backup_id in life.done
    here.forget(cluster)
