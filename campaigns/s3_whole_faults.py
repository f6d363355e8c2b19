"""Single faults of an object store during whole runs with a PostgreSQL server: create, list, verify, restore.

What s3_faults does to small backups in all combinations is done here to real ones in some: after each, every backup
is whole, and the next run succeeds and comes back with its rows.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from random import Random

from campaigns.campaign import Campaign
from campaigns.s3_faults import OPERATIONS, STALLS
from campaigns.s3_ground import Ground, count, count_faults, ground, positions
from campaigns.s3_whole import Whole, source_cluster
from tests.support.postgres import Cluster
from tests.support.s3_proxy import Fault, Rule, applies

_ROUNDS = 80
# A lasting fault costs all the patience that the engine has, again for every step.
_ONE_IN_LASTS = 8


def run(campaign: Campaign) -> None:
    with ground(campaign) as here, source_cluster() as source:
        calls = _calls_without_a_fault(campaign, here, source)
        combinations = [
            (fault, name, verb, key)
            for fault, (name, verb, key) in itertools.product(Fault, OPERATIONS)
            if applies(fault, verb) and calls[name]
        ]
        campaign.random("order").shuffle(combinations)
        for number, random in campaign.rounds(_ROUNDS, 1):
            fault, name, verb, key = combinations[number % len(combinations)]
            rule = _rule(random, fault, verb, key, calls[name])
            whole = Whole(campaign, here, source, f"whole-{number}")
            try:
                if not _struck(here, whole, rule):
                    # How often an operation is called depends on time too; its first call always comes.
                    rule = replace(rule, nth=1, seen=0)
                    count(campaign, "rounds whose fault struck at the second try")
                    assert _struck(here, whole, rule), "the fault never came to its turn"
                count(campaign, "rounds whose fault struck")
                whole.judge()
                whole.prove()
            except BaseException:
                print(f"s3_whole_faults: the rule was {rule}", flush=True)
                raise
            here.forget(whole.cluster)
            count(campaign, "rounds")
        count_faults(campaign, here.proxy)
    campaign.require("rounds whose fault struck", _ROUNDS)
    campaign.require("whole restores compared", round(_ROUNDS * 1.2))


def _struck(here: Ground, whole: Whole, rule: Rule) -> bool:
    """Live with that rule; whether it broke anything."""
    before = here.proxy.faults.total()
    with here.proxy.breaking(rule):
        whole.live()
    return here.proxy.faults.total() > before


def _rule(random: Random, fault: Fault, verb: str, key: str, calls: int) -> Rule:
    _position, nth = random.choice(positions(calls))
    lasting = fault not in STALLS and random.randrange(_ONE_IN_LASTS) == 0
    return Rule(fault, verb, key, nth=nth, lasting=lasting)


def _calls_without_a_fault(campaign: Campaign, here: Ground, source: Cluster) -> Counter[str]:
    watching = [Rule(Fault.DELAY, verb, key, nth=1 << 60) for _name, verb, key in OPERATIONS]
    whole = Whole(campaign, here, source, "calm")
    with here.proxy.breaking(*watching):
        whole.live()
    calls = Counter({name: rule.seen for (name, _v, _k), rule in zip(OPERATIONS, watching, strict=True)})
    assert campaign.counts["whole restores compared"] == 1, "it does not even work without a fault"
    return calls
