"""Half an hour on a store where one request in twenty goes wrong in some way: backups, lists, verifications, restores.

The cluster of small backups changes every few of them, so that the judge looks at everything while it is fresh.
"""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

from campaigns.campaign import Campaign
from campaigns.s3_ground import Ground, count, count_faults, ground
from campaigns.s3_life import Life
from campaigns.s3_whole import Whole, source_cluster
from pgproof.repository.store_answers import Patience
from tests.support.s3_proxy import Fault, Rule

_MINUTES = 30
_SHARE_OF_FAULTS = 0.05
_BACKUPS_OF_A_LIFE = 6
# Lives beside each other, because most of the time is spent waiting for a store that does not answer.
_LIVES_AT_ONCE = 3
_PATIENCE = Patience(request=2.0, tries=6, total=12.0)


def run(campaign: Campaign) -> None:
    with ground(campaign) as here, source_cluster() as source:
        rules = [Rule(fault, probability=_SHARE_OF_FAULTS / len(Fault)) for fault in Fault]
        with here.proxy.breaking(*rules), ThreadPoolExecutor(_LIVES_AT_ONCE) as pool:
            ended = threading.Event()
            lives = [pool.submit(_lives, campaign, here, f"{n}", ended) for n in range(_LIVES_AT_ONCE)]
            try:
                for number in campaign.until(_MINUTES * 60, least=6):
                    _whole(campaign, here, Whole(campaign, here, source, f"whole-{number}"))
                    if any(life.done() for life in lives):
                        break
            finally:
                ended.set()
            for life in lives:
                life.result()
        count_faults(campaign, here.proxy)
    campaign.require("backup succeeded", 300, 3)
    campaign.require("read back succeeded", 300, 1)
    campaign.require("whole restores compared", 15, 1)
    campaign.require("faults injected", 2_500, 10)
    if campaign.share >= 1:
        struck = {fault for fault in Fault if any(f"fault {fault} on" in what for what in campaign.counts)}
        assert struck == set(Fault), f"never struck: {set(Fault) - struck}"


def _lives(campaign: Campaign, here: Ground, name: str, ended: threading.Event) -> None:
    for number in itertools.count():
        if ended.is_set():
            return
        _life(campaign, here, f"life-{name}-{number}", ended)


def _life(campaign: Campaign, here: Ground, cluster: str, ended: threading.Event) -> None:
    life = Life(campaign, cluster, campaign.random(cluster))
    for _ in range(_BACKUPS_OF_A_LIFE):
        if ended.is_set():
            break
        life.attempt("backup", lambda: life.back_up(here.open(cluster, _PATIENCE)))
        repository = life.attempt("open", lambda: here.open(cluster, _PATIENCE))
        if repository is not None:
            life.look(repository)
    life.judge(here.open(cluster, direct=True))
    life.back_up(here.open(cluster, direct=True))
    life.judge(here.open(cluster, direct=True))
    here.forget(cluster)
    count(campaign, "lives")


def _whole(campaign: Campaign, here: Ground, whole: Whole) -> None:
    whole.live()
    whole.judge()
    whole.prove()
    here.forget(whole.cluster)
