"""Leases keep runs out of each other's way (docs/format.md, section 8). Safety never depends on them."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgproof.errors import ConflictError, DataError, EngineError
from pgproof.failpoints import failpoint
from pgproof.repository.bucket import ObjectInfo
from pgproof.repository.layout import is_number
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.store_clock import CLOCK, store_now

TTL_SECONDS = 120
BEAT_SECONDS = 30


@dataclass
class Lease:
    """A held lease. `check` raises ConflictError once somebody else has taken over."""

    repository: Repository
    prefix: str
    epoch: int
    lost: str = ""

    def check(self) -> None:
        if self.lost:
            raise ConflictError(
                "another run has taken over from this one",
                hint="this process was silent too long (suspended, or the store unreachable); run it again",
                reason=self.lost,
            )


# The nonces of the leases that this process holds. A lease of ours that is not among them was left by a
# run that could not delete it: its repetition in this process must not wait for it.
_held: set[str] = set()


@contextlib.contextmanager
def hold_lease(repository: Repository, purpose: str) -> Iterator[Lease]:
    """Hold `leases/<purpose>` while the block runs, with a sign of life twice a minute.

    Raises ConflictError if another run holds it and is not proven dead.
    """
    prefix = repository.layout.leases(purpose)
    nonce = secrets.token_hex(8)
    _held.add(nonce)
    try:
        epoch = _acquire(repository, prefix, purpose, nonce)
        lease = Lease(repository, prefix, epoch)
        done = threading.Event()
        heart = threading.Thread(target=_beat, args=(lease, done), name="pgproof-lease", daemon=True)
        heart.start()
        try:
            failpoint("lease.held")
            yield lease
        finally:
            done.set()
            heart.join()
            # What was done stands, or has an error of its own; a lease that stays ends by itself.
            with contextlib.suppress(EngineError):
                failpoint("lease.ending")
                _release(repository, prefix, epoch)
                failpoint("lease.released")
    finally:
        _held.discard(nonce)


def _release(repository: Repository, prefix: str, epoch: int) -> None:
    # Beats first: the epoch itself is what says that somebody is here.
    mine = [i.key for i in repository.bucket.list(prefix) if _epoch_of(i.key, prefix) == epoch]
    for key in sorted(mine, key=len, reverse=True):
        repository.bucket.delete(key)


def _acquire(repository: Repository, prefix: str, purpose: str, nonce: str) -> int:
    bucket = repository.bucket
    present = _by_epoch(list(bucket.list(prefix)), prefix)
    last = max(present, default=0)
    if last:
        _refuse_if_alive(repository, prefix, purpose, present[last], last)
    failpoint("lease.free")
    epoch = last + 1
    key = f"{prefix}{epoch:010d}"
    try:
        repository.create_json(Kind.LEASE, key, {"format": 1, **identity(), "nonce": nonce})
    except (ConflictError, DataError) as error:
        # Somebody created this epoch since we looked, and may be gone again already.
        raise _simultaneous(purpose) from error
    failpoint("lease.created")
    # Whoever listed before an older lease was taken over could create an epoch that is gone already.
    listed = list(bucket.list(prefix))
    now = _by_epoch(listed, prefix)
    if max(now, default=0) != epoch:
        bucket.delete(key)
        raise _simultaneous(purpose)
    failpoint("lease.won")
    made = now[epoch][0].modified
    for info in listed:
        stale_clock = CLOCK in info.key and (made - info.modified).total_seconds() > TTL_SECONDS
        if stale_clock or 0 < _epoch_of(info.key, prefix) < epoch:
            bucket.delete(info.key)
    return epoch


def _simultaneous(purpose: str) -> ConflictError:
    return ConflictError(
        f"another {purpose} began at the same moment", hint="wait for it to end, then run this again"
    )


def _refuse_if_alive(
    repository: Repository, prefix: str, purpose: str, objects: list[ObjectInfo], epoch: int
) -> None:
    try:
        holder = repository.read_json(Kind.LEASE, f"{prefix}{epoch:010d}")
    except DataError:
        holder = {}  # released while we looked, or damaged: then its age decides
    if _proven_dead(holder):
        return
    newest = max(info.modified for info in objects)
    age = (store_now(repository.bucket, prefix).timestamp() - newest.timestamp()) if objects else 0.0
    if age > TTL_SECONDS:
        return
    raise ConflictError(
        f"another {purpose} of this cluster is running",
        hint=f"wait for it; if it is dead, it counts as gone {TTL_SECONDS} s after its last sign of life",
        host=holder.get("host"),
        pid=holder.get("pid"),
        last_sign_of_life=f"{max(age, 0):.0f} s ago",
    )


def _beat(lease: Lease, done: threading.Event) -> None:
    bucket, number, previous = lease.repository.bucket, 0, ""
    while not done.wait(BEAT_SECONDS):
        number += 1
        key = f"{lease.prefix}{lease.epoch:010d}.{number:010d}"
        try:
            bucket.create(key, b"")
            epochs = _by_epoch(list(bucket.list(lease.prefix)), lease.prefix)
            if max(epochs) > lease.epoch:
                lease.lost = f"epoch {max(epochs)} was created"
                return
            if previous:
                bucket.delete(previous)
            previous = key
        except EngineError:
            # A store that does not answer is the main thread's business; without signs of life the
            # lease ends by itself, and the next beat may get through.
            continue


def identity() -> dict[str, Any]:
    """Who we are, so that a successor on the same host can tell that we are gone."""
    return {
        "host": socket.gethostname(),
        "boot_id": _read("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "ttl_seconds": TTL_SECONDS,
    }


def _proven_dead(holder: dict[str, Any]) -> bool:
    me = identity()
    if not me["boot_id"] or any(me[k] != holder.get(k) for k in ("host", "boot_id", "pid_namespace")):
        return False
    pid = holder.get("pid")
    if not isinstance(pid, int) or _process_start(pid) != holder.get("process_start"):
        return isinstance(pid, int)
    return pid == me["pid"] and str(holder.get("nonce")) not in _held


def _process_start(pid: int) -> str:
    """When a process began, in clock ticks since boot; empty if there is none or it is a zombie."""
    text = _read(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _by_epoch(objects: list[ObjectInfo], prefix: str) -> dict[int, list[ObjectInfo]]:
    found: dict[int, list[ObjectInfo]] = {}
    for info in objects:
        epoch = _epoch_of(info.key, prefix)
        if epoch:
            found.setdefault(epoch, []).append(info)
    return found


def _epoch_of(key: str, prefix: str) -> int:
    text = key.removeprefix(prefix).partition(".")[0]
    return int(text) if is_number(text) else 0
