"""Actors that share a store and take turns call by call, in an order that randomness decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import TypeVar

from campaigns.small_repository import MemoryBucket
from pgproof.errors import TransientError
from pgproof.repository.bucket import ObjectInfo

T = TypeVar("T")
_SLEEPS, _SLEEPS_BEFORE_WEIGHTY = 0.003, 0.3
# Words in the names of objects that promise something, or take a promise back.
_WEIGHTY = ("/intent", "/manifest", "/condemned/", "/pins/")
_PAGE = 7  # keys that come at once in a list: others act between two pages


class Turns:
    """Who may call the store now. An actor keeps its turn with the probability `stay`, and sometimes stands still while the
    others go on: most often just before the calls on which it all depends."""

    def __init__(self, random: Random, stay: float) -> None:
        self._random = random
        self._stay = stay
        self._free = threading.Condition(threading.RLock())
        self._actors: set[str] = set()
        self._asleep: dict[str, int] = {}
        self._who = ""
        self._number = 0

    def act(self, work: dict[str, Callable[[], None]]) -> dict[str, BaseException]:
        """Let everybody work at once; return what each failed with."""
        failures: dict[str, BaseException] = {}

        def one(name: str) -> None:
            try:
                work[name]()
            except BaseException as error:  # noqa: BLE001 - it is raised or judged by the caller
                failures[name] = error
            finally:
                with self._free:
                    self._actors.discard(name)
                    self._pass_on()

        self._actors = set(work)
        self._pass_on()
        threads = [threading.Thread(target=one, args=(name,), name=name) for name in sorted(work)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), f"{thread.name} hangs"
        return failures

    def take(self, actor: str, call: Callable[[], T], weighty: bool = False) -> T:
        with self._free:
            if self._random.random() < (_SLEEPS_BEFORE_WEIGHTY if weighty else _SLEEPS):
                self._asleep[actor] = self._number + self._random.randrange(10, 300)
                if self._who == actor:
                    self._pass_on()
            self._free.wait_for(lambda: self._who == actor or actor not in self._actors)
            try:
                return call()
            finally:
                self._number += 1
                if self._random.random() > self._stay:
                    self._pass_on()

    def _pass_on(self) -> None:
        with self._free:
            awake = [actor for actor in self._actors if self._asleep.get(actor, 0) <= self._number]
            if self._actors:
                self._who = self._random.choice(sorted(awake or self._actors))
            self._free.notify_all()


class TurnBucket:
    """A store as one actor sees it. After `calls` changes its plug is pulled; None is never."""

    def __init__(self, bucket: MemoryBucket, turns: Turns, actor: str, calls: int | None = None) -> None:
        self._bucket = bucket
        self._turns = turns
        self._actor = actor
        self._left = calls
        self.location = bucket.location

    def read(self, key: str) -> bytes:
        return self._turns.take(self._actor, lambda: self._bucket.read(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._turns.take(self._actor, lambda: self._bucket.read_range(key, start, length))

    def create(self, key: str, data: bytes) -> None:
        self._change(key, lambda: self._bucket.create(key, data))

    def head(self, key: str) -> ObjectInfo | None:
        return self._turns.take(self._actor, lambda: self._bucket.head(key))

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        last = after
        while True:
            some = self._turns.take(
                self._actor, partial(self._page, prefix, last), prefix.endswith("/condemned/")
            )
            yield from some
            if len(some) < _PAGE:
                return
            last = some[-1].key

    def _page(self, prefix: str, after: str) -> list[ObjectInfo]:
        return sorted(self._bucket.list(prefix, after), key=lambda info: info.key)[:_PAGE]

    def delete(self, key: str) -> None:
        self._change(key, lambda: self._bucket.delete(key))

    def _change(self, key: str, call: Callable[[], None]) -> None:
        def guarded() -> None:
            if self._left is not None:
                if self._left == 0:
                    raise TransientError("plug pulled", hint="this is a test")
                self._left -= 1
            call()

        self._turns.take(self._actor, guarded, any(word in key for word in _WEIGHTY))
