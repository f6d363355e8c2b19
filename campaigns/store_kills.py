"""The object store is killed in the middle of backups and of reading, again and again, and started on its files.

What it had acknowledged is compared with what it has afterwards: a store that loses data is told apart from an
engine that does, and the engine has to name every backup that was hit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random

from blake3 import blake3

from campaigns.campaign import Campaign
from campaigns.s3_ground import Ground, count, count_faults, ground
from campaigns.s3_life import Life
from campaigns.s3_whole import Whole, source_cluster
from pgproof.model.job import Job
from pgproof.repository.integrity import check_frames, check_objects
from pgproof.repository.store_answers import Patience
from tests.support import machine

_KILLS = 50
_KILLS_OF_A_LIFE = 5
# A store that is killed has to be back before the engine gives up in some rounds, and in others not.
_PATIENCE = (Patience(), Patience(request=5.0, tries=2, total=1.0))


def run(campaign: Campaign) -> None:
    with ground(campaign) as here, source_cluster() as source:
        calm = Life(campaign, "calm", campaign.random("calm"))
        small = _requests(here, _small_work(here, calm, _PATIENCE[0]))
        large = _requests(here, Whole(campaign, here, source, "calm-whole").live)
        assert calm.done and campaign.counts["whole restores compared"] == 1, (
            "it does not even work without kills"
        )
        life = whole = None
        for number, random in campaign.rounds(_KILLS, 2):
            if number % _KILLS_OF_A_LIFE == 0:
                life = Life(campaign, f"life-{number}", random)
                whole = Whole(campaign, here, source, f"whole-{number}")
            assert life is not None and whole is not None
            if number % _KILLS_OF_A_LIFE == _KILLS_OF_A_LIFE - 1:
                _kill_during(campaign, here, random, whole.live, most=large)
                whole.judge()
                whole.prove()
                here.forget(life.cluster)
                here.forget(whole.cluster)
            else:
                patience = random.choice(_PATIENCE)
                _kill_during(campaign, here, random, _small_work(here, life, patience), most=small)
                if not _lost(campaign, here, life):
                    life.judge(here.open(life.cluster, direct=True), again=True)
                    life.back_up(here.open(life.cluster))
                    life.judge(here.open(life.cluster, direct=True))
        count_faults(campaign, here.proxy)
    campaign.require("kills in the middle of work", round(_KILLS * 0.9), 1)
    campaign.require("backups judged whole", _KILLS * 2, 2)


def _requests(here: Ground, work: Callable[[], None]) -> int:
    """How many requests it makes when nothing happens."""
    before = here.proxy.requests.total()
    work()
    return here.proxy.requests.total() - before


def _small_work(here: Ground, life: Life, patience: Patience) -> Callable[[], None]:
    def work() -> None:
        for _ in range(2):
            life.attempt("backup", lambda: life.back_up(here.open(life.cluster, patience)))
        repository = life.attempt("open", lambda: here.open(life.cluster, patience))
        if repository is not None:
            life.look(repository)

    return work


def _kill_during(
    campaign: Campaign, here: Ground, random: Random, work: Callable[[], None], most: int
) -> None:
    """Run `work`, kill the store at some request of it, start it again, and wait for the end of the work."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    at = here.proxy.requests.total() + random.randint(1, most)
    thread = threading.Thread(target=guarded)
    thread.start()
    machine.wait_until(
        lambda: not thread.is_alive() or here.proxy.requests.total() >= at, "the work to get so far", 300
    )
    count(campaign, "kills")
    count(campaign, "kills in the middle of work", thread.is_alive())
    here.server.restart()
    thread.join()
    if failed:
        raise failed[0]


def _lost(campaign: Campaign, here: Ground, life: Life) -> bool:
    """Whether the store lost what it had acknowledged; then the engine names every backup that misses it."""
    repository = here.open(life.cluster, direct=True)
    present = {info.key for info in repository.bucket.list(repository.layout.root)}
    lost = []
    for key, (when, digest) in here.proxy.acknowledged.items():
        if not key.startswith(repository.layout.root):
            continue
        count(campaign, "acknowledged objects looked for")
        if key not in present or blake3(repository.bucket.read(key)).hexdigest() != digest:
            lost.append(key)
            print(f"store_kills: the store acknowledged {key} at {when} and lost it", flush=True)
    count(campaign, "acknowledged objects that the store lost", len(lost))
    for backup_id in life.done if lost else ():
        manifest = repository.read_manifest(backup_id)
        assert manifest is not None
        hurt = [key for key in lost if backup_id in key or any(ref.hash in key for ref in manifest.maps)]
        _text, missing = check_objects(repository, manifest, Job())
        _read, damage = check_frames(repository, manifest, Job())
        assert not hurt or missing or damage, f"{backup_id} lost {hurt}, and nobody says so"
    return bool(lost)
