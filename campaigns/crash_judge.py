"""What must hold whatever was killed: the invariants of a repository, of a restored cluster and of its keys."""

from __future__ import annotations

import random
from pathlib import Path

from campaigns.crash_ground import Ground, Store
from pgproof.errors import PreconditionError
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.repository.catalog import find_backup, list_backups
from pgproof.repository.integrity import check_frames, check_objects
from pgproof.repository.opening import open_bucket
from pgproof.repository.unlocking import unlock
from tests.support import machine
from tests.support.postgres import Cluster

_LOOKED_AT = 4


def require_whole_catalog(store: Store, chance: random.Random, *, new: int) -> list[str]:
    """All that is listed is whole, nothing that was listed is gone; returns at most `new` new backups."""
    repository = store.open()
    found = list_backups(repository)
    assert all(info.status == "ok" for info in found), found
    ids = [info.backup_id for info in found]
    assert set(store.listed) <= set(ids), f"listed backups are gone: {set(store.listed) - set(ids)}"
    added = [each for each in ids if each not in store.listed]
    assert len(added) <= new, f"a killed run left more than itself: {added}"
    older = chance.sample(store.listed, min(_LOOKED_AT, len(store.listed)))
    for backup_id in {*added, *older, *store.listed[-1:]}:
        _text, missing = check_objects(repository, find_backup(repository, backup_id), Job())
        assert not missing, f"{backup_id}: {missing}"
    for backup_id in {*added, *older[:1]}:
        require_whole(store, backup_id)
    store.listed += added
    return added


def require_whole(store: Store, backup_id: str) -> None:
    """Every byte of a backup is what was stored."""
    repository = store.open()
    nbytes, damage = check_frames(repository, find_backup(repository, backup_id), Job())
    assert nbytes and not damage, f"{backup_id}: {damage}"


def require_restorable(ground: Ground, store: Store, backup_id: str) -> None:
    """The backup restores, starts, and holds every commit acknowledged before its end, and none after it."""
    target = ground.new_target()
    arguments = ["restore", backup_id, f"--data-dir={target}", f"--bin-dir={ground.cluster.bin}"]
    answer = ground.run(store, *arguments).answer
    require_ledger(ground, store, backup_id, target, Lsn.parse(answer["end_lsn"]))


def require_ledger(ground: Ground, store: Store, backup_id: str, target: Path, end: Lsn | None) -> None:
    """A restored cluster starts and passes the oracle; `end` is where recovery ended, if it is over."""
    with Cluster.adopt(target, ground.major) as cluster:
        _judge_ledger(ground, store, backup_id, cluster, end)


def whole_if_it_starts(ground: Ground, store: Store, backup_id: str, target: Path, end: Lsn | None) -> bool:
    """Whether PostgreSQL starts on what lies there; then it passes the oracle."""
    if not (target / "pg_tblspc").is_dir():
        assert not (target / "global" / "pg_control").exists()
        return False
    cluster = Cluster.adopt(target, ground.major)
    try:
        try:
            cluster.start()
        except RuntimeError:
            return False
        _judge_ledger(ground, store, backup_id, cluster, end)
        return True
    finally:
        cluster.remove()


def _judge_ledger(ground: Ground, store: Store, backup_id: str, cluster: Cluster, end: Lsn | None) -> None:
    promised = find_backup(store.open(), backup_id).stop_lsn
    machine.wait_until(
        lambda: cluster.psql("SELECT pg_is_in_recovery()") == "f", "the restored server to be promoted"
    )
    reached = end or _left_first_timeline(cluster.data_dir)
    assert reached >= promised, f"recovered to {reached}, promised {promised}"
    with cluster.connect() as connection:
        ground.ledger.check(connection, reached, exact=True)


def opens(store: Store, secret: str) -> bool:
    """Whether a passphrase or recovery key opens the repository. Damage is raised."""
    try:
        unlock(open_bucket(store.config()), secret, True)
    except PreconditionError:
        return False
    return True


def _left_first_timeline(target: Path) -> Lsn:
    (history,) = (target / "pg_wal").glob("00000002.history")
    return Lsn.parse(history.read_text().split()[1])
