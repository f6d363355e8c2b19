"""Work of the engine in a process of its own, on a disk that may lose its power or fail meanwhile."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from pgproof.actions import manage_keys
from pgproof.actions.init_repository import init_repository
from pgproof.actions.opening import open_repository
from pgproof.actions.restore_cluster import restore_cluster
from pgproof.actions.take_backup import take_backup
from pgproof.actions.verify_backup import verify_backup
from pgproof.errors import EngineError, PreconditionError
from pgproof.model.config import BackupConfig, BackupType, PostgresConfig, VerifyLevel
from pgproof.model.job import Job
from pgproof.repository.local import LocalBucket
from tests.support.forgetful_fs import ForgetfulDisk, pass_on_syncfs

# What a child needs is imported once and for all of them: that would cost more than most of the work does.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.support.faults", "campaigns.disk_work"])
_PATIENCE = 120.0


@dataclass(frozen=True)
class Outcome:
    """How work ended: `done` with what it acknowledged, with an `error` of the engine, or killed.

    `told` is what it acknowledged on the way.
    """

    done: bool = False
    value: Any = None
    error: EngineError | None = None
    bug: str = ""
    told: tuple[Any, ...] = ()


def run(
    disks: Sequence[ForgetfulDisk], work: Callable[..., Any], *arguments: Any, dies_at_cut: bool = False
) -> Outcome:
    """Run `work(tell, *arguments)` to its end. When one disk loses its power, all do.

    A real power cut ends the process at that moment (`dies_at_cut`); one that lives on sees errors, and must
    acknowledge nothing then.
    """
    ours, theirs = Pipe()
    process = _forks.Process(target=_child, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    told: list[Any] = []
    outcome = Outcome()
    watched: list[Any] = [ours, *(disk.events for disk in disks)]
    try:
        while True:
            ready = wait(watched, _PATIENCE)
            assert ready, f"{work.__name__} hangs"
            if ours in ready:
                kind, content = ours.recv()
                if kind == "told":
                    told.append(content)
                    continue
                outcome = Outcome(**{kind: content, "done": kind == "value"})
                break
            for disk in disks:
                disk.cut()
            watched = [ours]
            if dies_at_cut:
                process.kill()
    except EOFError:
        pass  # it was killed
    finally:
        ours.close()
        if not dies_at_cut:
            process.join(_PATIENCE)
        process.kill()
        process.join()
        process.close()
    assert not outcome.bug, outcome.bug
    return Outcome(outcome.done, outcome.value, outcome.error, "", tuple(told))


def _child(answer: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    pass_on_syncfs()
    try:
        answer.send(("value", work(lambda value: answer.send(("told", value)), *arguments)))
    except EngineError as error:
        answer.send(("error", error))
    # What else comes out is a bug, which the parent is to tell with its campaign's seed.
    except BaseException:  # noqa: BLE001
        answer.send(("bug", traceback.format_exc()))


Tell = Callable[[Any], None]


def back_up(_tell: Tell, postgres: PostgresConfig, config: BackupConfig) -> str:
    return take_backup(postgres, config, BackupType.FULL, Job()).backup_id


def restore(
    _tell: Tell, config: BackupConfig, target: Path, tablespaces: dict[str, str], recover: bool
) -> bool:
    restore_cluster(config, "latest", target, tablespaces=tablespaces, recover=recover, owner=None, job=Job())
    return True


def verify(_tell: Tell, config: BackupConfig, level: VerifyLevel, temporary: Path) -> str:
    """What is wrong with the backup; empty if nothing is."""
    tempfile.tempdir = str(temporary)
    report = verify_backup(config, "latest", level, Job())
    return "" if report.ok else f"{report.damage} {[check for check in report.checks if not check.ok]}"


def init(_tell: Tell, config: BackupConfig) -> str | None:
    return init_repository(config).recovery_key


def change_key(_tell: Tell, config: BackupConfig, new_passphrase: str) -> str:
    return manage_keys.change_key(config, new_passphrase).slot_id


def create_objects(tell: Tell, root: Path, seed: str, count: int) -> int:
    """Objects in new and old folders, by several threads at once; each is told when it is acknowledged."""
    bucket, lock = LocalBucket(root), threading.Lock()

    def writer(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        for _ in range(count):
            key = f"{chance.choice('abc')}/{chance.randrange(6)}/{seed}-{number}-{chance.randrange(1 << 30)}"
            try:
                bucket.create(key, content_of(key))
            except EngineError:
                return
            with lock:
                tell(key)

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count


def opens(config: BackupConfig, secret: str | None = None) -> bool:
    """Whether there is a repository that this secret, or the configured one, opens."""
    try:
        open_repository(replace(config, passphrase=secret) if secret else config)
    except PreconditionError:
        return False
    return True


def content_of(key: str) -> bytes:
    chance = random.Random(key)
    return chance.randbytes(chance.choice([10, 5000, 100_000]))
