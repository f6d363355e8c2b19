"""Leases: one writer at a time, a dead one in nobody's way, and a zombie that learns of its successor."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgproof.actions.opening import open_repository
from pgproof.errors import ConflictError, TransientError
from pgproof.model.config import BackupConfig
from pgproof.repository.leases import TTL_SECONDS, hold_lease, identity
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.faults import FailingBucket, run_armed

PREFIX = "clusters/main/leases/backup/"


@pytest.fixture
def config(tmp_path: Path) -> BackupConfig:
    return new_repository(tmp_path / "repo", encryption=False)


@pytest.fixture
def repository(config: BackupConfig) -> Repository:
    return open_repository(config)


def _objects(repository: Repository) -> list[str]:
    return [info.key.removeprefix(PREFIX) for info in repository.bucket.list(PREFIX)]


def _leave(repository: Repository, **changes: object) -> None:
    """A lease that its holder never released."""
    holder = {"format": 1, **identity(), "nonce": "x", **changes}
    repository.create_json(Kind.LEASE, f"{PREFIX}0000000007", holder)


def _make_old(config: BackupConfig, seconds: float) -> None:
    for path in (Path(config.backup_dir or "") / PREFIX).iterdir():
        old = path.stat().st_mtime - seconds
        os.utime(path, (old, old))


def test_a_lease_is_gone_after_its_block(repository: Repository) -> None:
    for _ in range(2):
        with hold_lease(repository, "backup") as lease:
            lease.check()
            assert _objects(repository) == ["0000000001"]
        assert _objects(repository) == []
    with pytest.raises(ZeroDivisionError), hold_lease(repository, "backup"):
        _ = 1 / 0
    assert _objects(repository) == []


def test_a_second_holder_is_refused(repository: Repository) -> None:
    with hold_lease(repository, "backup"):
        with (
            pytest.raises(ConflictError, match="another backup") as refused,
            hold_lease(repository, "backup"),
        ):
            pass
        assert f"pid={os.getpid()}" in str(refused.value)
        assert refused.value.hint
        with hold_lease(repository, "verify"):
            pass
        assert _objects(repository) == ["0000000001"]


def test_of_many_at_once_at_most_one_holds(repository: Repository) -> None:
    inside = threading.Semaphore(1)

    def attempt(_number: int) -> str:
        everybody.wait(60)
        try:
            with hold_lease(repository, "backup"):
                assert inside.acquire(blocking=False), "two held it at once"
                everybody.wait(60)  # nobody leaves before all have tried
                inside.release()
                return ""
        except ConflictError as error:
            everybody.wait(60)
            return error.hint

    for _ in range(5):
        everybody = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            hints = list(pool.map(attempt, range(8)))
        assert sum("wait for it" in hint for hint in hints) >= 7
        assert _objects(repository) == []


def _hold_for_ever(config: BackupConfig) -> None:
    with hold_lease(open_repository(config), "backup"):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_holder_is_in_nobodys_way(config: BackupConfig, repository: Repository) -> None:
    assert run_armed("", _hold_for_ever, config) == -signal.SIGKILL
    assert _objects(repository) == ["0000000001"]
    with hold_lease(repository, "backup") as lease:
        assert _objects(repository) == ["0000000002"]
        lease.check()
    assert _objects(repository) == []


def test_a_process_of_the_same_number_is_not_the_holder(repository: Repository) -> None:
    _leave(repository, process_start="1")
    with hold_lease(repository, "backup"):
        pass


@pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"boot_id": "other"}, {"pid_namespace": "other"}])
def test_a_holder_elsewhere_counts_until_its_time_is_over(
    config: BackupConfig, repository: Repository, elsewhere: dict[str, str]
) -> None:
    """Its process cannot be looked for, so only its silence says that it is gone."""
    _leave(repository, **elsewhere, pid=2**22 + 1)
    _make_old(config, TTL_SECONDS - 60)
    with pytest.raises(ConflictError, match="last_sign_of_life"), hold_lease(repository, "backup"):
        pass
    _make_old(config, 120)
    with hold_lease(repository, "backup"):
        assert _objects(repository) == ["0000000008"]


def test_a_sign_of_life_keeps_an_old_lease(config: BackupConfig, repository: Repository) -> None:
    _leave(repository, host="other")
    _make_old(config, 10 * TTL_SECONDS)
    repository.bucket.create(f"{PREFIX}0000000007.0000000042", b"")
    with pytest.raises(ConflictError), hold_lease(repository, "backup"):
        pass


def test_a_lease_that_cannot_be_read_counts_by_its_age(config: BackupConfig, repository: Repository) -> None:
    repository.bucket.create(f"{PREFIX}0000000007", b"rotten")
    with pytest.raises(ConflictError), hold_lease(repository, "backup"):
        pass
    _make_old(config, 2 * TTL_SECONDS)
    with hold_lease(repository, "backup"):
        assert _objects(repository) == ["0000000008"]


def test_who_was_taken_over_learns_it(
    config: BackupConfig, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgproof.repository.leases.BEAT_SECONDS", 0.05)
    with hold_lease(repository, "backup") as lease:
        lease.check()
        repository.create_json(
            Kind.LEASE, f"{PREFIX}0000000002", {"format": 1, **identity(), "host": "other"}
        )
        machine.wait_until(lambda: bool(lease.lost), "the next beat to see it")
        with pytest.raises(ConflictError, match="has taken over"):
            lease.check()
    # Its own objects go, the successor's stay.
    assert _objects(repository) == ["0000000002"]


def test_a_lease_that_could_not_be_released_is_in_nobodys_way_in_this_process(repository: Repository) -> None:
    """A task that is tried again runs in the same, living process."""
    bucket = FailingBucket(repository.bucket, 2)
    with hold_lease(Repository(bucket, repository.key, "main"), "backup"):
        bucket.create("last", b"")  # from here on the store is gone, so the release fails: the work stands
    assert _objects(repository) == ["0000000001"]
    with hold_lease(repository, "backup"):
        assert _objects(repository) == ["0000000002"]
    assert _objects(repository) == []


def test_an_acquisition_that_failed_halfway_can_be_repeated(repository: Repository) -> None:
    halfway = Repository(FailingBucket(repository.bucket, 1), repository.key, "main")
    with pytest.raises(TransientError), hold_lease(halfway, "backup"):
        pass
    assert _objects(repository) == ["0000000001"]
    with hold_lease(repository, "backup"):
        pass
    assert _objects(repository) == []
