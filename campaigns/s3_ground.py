"""What the S3 campaigns stand on: a store with a repository behind a breaking proxy, and attempts that may fail."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from campaigns.campaign import Campaign
from pgproof.errors import EngineError
from pgproof.repository import keyring, writer
from pgproof.repository.bucket import Bucket
from pgproof.repository.layout import ClusterLayout
from pgproof.repository.object_store import s3_bucket
from pgproof.repository.repository import Repository
from pgproof.repository.store_answers import Patience
from pgproof.repository.unlocking import list_slots, make_repository, remove_slot, unlock
from tests.support.s3 import S3Server
from tests.support.s3_proxy import S3Proxy

T = TypeVar("T")

CALM = Patience()
# So short that a store which never answers is given up within a second or two.
HASTY = Patience(request=1.0, tries=3, total=1.5)
QUICK = Patience(request=8.0, tries=4, total=8.0)
_PACK_SIZE = 256 << 10
# Far beyond every time-out of a round: what lasts so long hangs.
_HANGS_SECONDS = 600.0


@dataclass
class Ground:
    """A store with one repository, reached through `proxy` or, by the judge, directly."""

    server: S3Server
    bucket_name: str
    proxy: S3Proxy
    secret: str

    def bucket(self, patience: Patience = CALM, *, direct: bool = False) -> Bucket:
        return s3_bucket(
            self.bucket_name,
            endpoint=self.server.endpoint if direct else self.proxy.endpoint,
            access_key_id=self.server.access_key,
            secret_access_key=self.server.secret_key,
            patience=patience,
        )

    def open(self, cluster: str, patience: Patience = CALM, *, direct: bool = False) -> Repository:
        bucket = self.bucket(patience, direct=direct)
        return Repository(bucket, unlock(bucket, self.secret, True).key, cluster)

    @contextlib.contextmanager
    def beside(self, seed: int) -> Iterator[Ground]:
        """The same repository behind another proxy, whose faults hit nobody else."""
        with S3Proxy(self.server, self.bucket_name, seed=seed) as proxy:
            yield replace(self, proxy=proxy)

    def forget(self, cluster: str) -> None:
        """Remove all objects of a cluster."""
        bucket = self.bucket(direct=True)
        for info in list(bucket.list(ClusterLayout(cluster).root)):
            bucket.delete(info.key)
            self.proxy.acknowledged.pop(info.key, None)


@contextlib.contextmanager
def ground(campaign: Campaign) -> Iterator[Ground]:
    """Start a store and a proxy, and make a repository that its recovery key alone opens, quickly."""
    with S3Server() as server, small_packs():
        name = server.make_bucket(f"campaign-{secrets.token_hex(4)}")
        with S3Proxy(server, name, seed=campaign.seed) as proxy:
            made = Ground(server, name, proxy, "")
            bucket = made.bucket(direct=True)
            made.secret = make_repository(bucket, "of the operator", True, datetime.now(UTC)) or ""
            for slot in list_slots(bucket):
                if slot.kind == keyring.PASSPHRASE:
                    remove_slot(bucket, slot.slot_id)
            yield made


@contextlib.contextmanager
def small_packs() -> Iterator[None]:
    """Packs of a size that lets a small backup have several."""
    usual, writer.PACK_SIZE = writer.PACK_SIZE, _PACK_SIZE
    try:
        yield
    finally:
        writer.PACK_SIZE = usual


_counting = threading.Lock()


def count(campaign: Campaign, what: str, by: int = 1) -> None:
    """Count from any thread."""
    with _counting:
        campaign.count(what, by)


def attempt(campaign: Campaign, what: str, work: Callable[[], T]) -> T | None:
    """The result, or None where the engine said clearly that there is none. Any other end is a defect."""
    count(campaign, f"{what} tried")
    try:
        found = _bounded(work)
    except EngineError as error:
        assert error.message, f"an error without a message: {error!r}"
        kind = type(error).__mro__[-5].__name__
        count(campaign, f"failed with {kind}")
        count(campaign, f"{kind}: {error.message}" + ("" if error.hint else " (no hint)"))
        return None
    count(campaign, f"{what} succeeded")
    return found


def _bounded(work: Callable[[], T]) -> T:
    """The result of `work`, which must come some time."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="attempt")
    try:
        return pool.submit(work).result(_HANGS_SECONDS)
    finally:
        pool.shutdown(wait=False)


def positions(calls: int) -> Sequence[tuple[str, int]]:
    """The first, the middle and the last of so many calls, counted from 1."""
    return [("first", 1), ("middle", (calls + 1) // 2), ("last", calls)]


def count_faults(campaign: Campaign, proxy: S3Proxy) -> None:
    """Put what the proxy did into the campaign's counts."""
    for (fault, verb), number in proxy.faults.items():
        count(campaign, f"fault {fault} on {verb}", number)
    count(campaign, "faults injected", sum(proxy.faults.values()))
    count(campaign, "requests", sum(proxy.requests.values()))
