"""Serve a server's wishes out of a spool folder, and have there what it will ask for next.

Ahead are only whole segments, which never change, at most so many bytes of them. What the server takes it takes by
renaming, without asking, so that the folder is looked at: a file that is gone was consumed.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

from pgproof.actions.wal_fetch import WalFetcher
from pgproof.errors import EngineError, PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.lsn import WalSegment
from pgproof.model.wal_commands import ABSENT, FAILED_FETCH, SERVED
from pgproof.postgres.wal_spool import Spool

_log = logging.getLogger(__name__)

AHEAD_BYTES = 64 << 20
_THREADS = 2
_LOOK_SECONDS = 0.005


class WalServer:
    """Answers wishes, one at a time, by a status: 0 and the file lies in the spool as `served.<name>`, 44 it is
    proven not to be there, 255 anything else. Use as a context manager."""

    def __init__(self, fetcher: WalFetcher, spool: Spool, ahead_bytes: int = AHEAD_BYTES) -> None:
        self._fetcher = fetcher
        self._spool = spool
        self._most = ahead_bytes // fetcher.archive.segment_size
        self._lock = threading.Lock()
        self._ahead: dict[WalSegment, Future[bool]] = {}
        self._on_the_way: set[Future[bool]] = set()
        self._next: WalSegment | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="pgproof-fetch")
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="pgproof-ahead", daemon=True)
        self._watcher.start()
        self.failure: EngineError | None = None

    def answer(self, name: str) -> tuple[int, str]:
        """The status, and what is wrong."""
        try:
            status = 0 if self._serve(name) else ABSENT
        except EngineError as error:
            self.failure = error
            return FAILED_FETCH, str(error)
        self.failure = None
        return status, "" if status == 0 else f"{name} is not in the repository"

    def _serve(self, name: str) -> bool:
        if self._took_from_ahead(name):
            return True
        for last_try in (False, True):
            found = self._fetcher.find(name)
            if found is None:
                return False
            try:
                self._spool.put(f"{SERVED}{name}", found.chunks)
            except PreconditionError:
                # The disk is full, maybe of what nobody has asked for yet.
                if last_try or not self._give_up_ahead():
                    raise
                continue
            failpoint("fetch.served")
            if found.whole and len(name) == 24:
                self._follow(self._fetcher.segment(name))
            return True
        raise AssertionError("not reached")

    def _took_from_ahead(self, name: str) -> bool:
        with self._lock:
            begun = next((each for each in self._ahead if each.name == name), None)
            future = self._ahead[begun] if begun else None
        if begun is None or future is None or not _arrived(future):
            return False
        with self._lock:
            if not self._spool.has(name):
                return False
            self._spool.rename(name, f"{SERVED}{name}")
        self._follow(begun)
        return True

    # ahead

    def _follow(self, segment: WalSegment) -> None:
        """The server has got this segment: what lies further ahead than it will ask for is given up."""
        with self._lock:
            wanted = {segment.number + n + 1 for n in range(self._most)}
            for each in list(self._ahead):
                if each.timeline != segment.timeline or each.number not in wanted:
                    self._give_up(each)
            self._next = max(self._ahead, default=segment).next()
            self._fill()

    def _fill(self) -> None:
        while self._next is not None and len(self._ahead) < self._most and not self._closing.is_set():
            segment, self._next = self._next, self._next.next()
            future = self._ahead[segment] = self._pool.submit(self._fetch_ahead, segment)
            self._on_the_way.add(future)
            future.add_done_callback(self._on_the_way.discard)

    def _fetch_ahead(self, segment: WalSegment) -> bool:
        """Whether the segment is there now. What is wrong with it is told when the server asks for it."""
        try:
            found = self._fetcher.whole(segment)
            if found is None:
                return False
            self._spool.put(segment.name, found.chunks)
            failpoint("fetch.ahead")
        except EngineError as error:
            _log.info("a segment could not be fetched ahead: %s", error)
            return False
        with self._lock:
            if segment not in self._ahead:
                self._spool.drop(segment.name)
                return False
        return True

    def _give_up(self, segment: WalSegment) -> None:
        self._ahead.pop(segment).cancel()
        self._spool.drop(segment.name)

    def _give_up_ahead(self) -> bool:
        """Make room; whether there was anything to give up."""
        with self._lock:
            on_the_way = list(self._on_the_way)
            some = bool(self._ahead or on_the_way)
            for each in list(self._ahead):
                self._give_up(each)
            self._next = None
        # What is being fetched is dropped when it is there, and takes room until then.
        wait(on_the_way)
        return some

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            with self._lock:
                for segment, future in list(self._ahead.items()):
                    if not future.done():
                        continue
                    if not _arrived(future):
                        # The end, or trouble: nothing more ahead until the server has got something again.
                        self._next = None
                        del self._ahead[segment]
                    elif not self._spool.has(segment.name):
                        del self._ahead[segment]  # the server has taken it
                        self._next = self._next or max(self._ahead, default=segment).next()
                self._fill()

    def close(self) -> None:
        self._closing.set()
        self._watcher.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> WalServer:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _arrived(future: Future[bool]) -> bool:
    try:
        return future.result()
    except CancelledError:
        return False
