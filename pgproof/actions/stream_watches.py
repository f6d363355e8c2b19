"""What the streamer looks at beside the stream, over connections of its own: these threads never stop it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Self

from pgproof.errors import EngineError
from pgproof.model.config import PostgresConfig
from pgproof.model.servers import place
from pgproof.model.synchronous import Listed, listed
from pgproof.model.wal_legs import Position
from pgproof.model.wal_stream import StreamOptions
from pgproof.postgres.connection import connect_replication
from pgproof.postgres.standby_slots import keep_slot
from pgproof.postgres.wal_stream import show

_log = logging.getLogger(__name__)

_LOOK_AT_LIST_SECONDS = 15.0
_MOVE_SLOTS_SECONDS = 10.0


class _Watch:
    """Looks from time to time, as long as the block lasts. A look that hangs keeps nobody."""

    def __init__(self, first: float, seconds: float) -> None:
        self._first = first
        self._seconds = seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._done.set()

    def _run(self) -> None:
        pause = self._first
        while not self._done.wait(pause):
            self._look()
            pause = self._seconds

    def _look(self) -> None:
        raise NotImplementedError


class ListWatch(_Watch):
    """Whether synchronous_standby_names has changed: commits may wait for us now.

    A server that does not answer is the stream's business.
    """

    def __init__(self, postgres: PostgresConfig, name: str, role: Listed | None) -> None:
        super().__init__(_LOOK_AT_LIST_SECONDS, _LOOK_AT_LIST_SECONDS)
        self._postgres = postgres
        self._name = name
        self._role = role
        self.changed = False

    def _look(self) -> None:
        try:
            with closing(connect_replication(self._postgres)) as connection:
                setting = show(connection.pgconn, "synchronous_standby_names")
        except EngineError:
            return
        if listed(setting, self._name) is not self._role:
            self.changed = True


class StandbySlots(_Watch):
    """Keeps the slot on the standbys, moved forward to what is stored: `stored` says how far that is.

    What does not work is told once here, and for as long as it lasts by `wal status`.
    """

    def __init__(
        self,
        standbys: Sequence[PostgresConfig],
        options: StreamOptions,
        system_identifier: str,
        stored: Callable[[], Position | None],
    ) -> None:
        super().__init__(0.0, _MOVE_SLOTS_SECONDS)
        self._standbys = standbys
        self._options = options
        self._system_identifier = system_identifier
        self._stored = stored
        self._told: dict[tuple[str, str], str] = {}

    def _look(self) -> None:
        options = self._options
        for standby in self._standbys:
            problem = ""
            try:
                keep_slot(
                    standby,
                    options.slot,
                    self._system_identifier,
                    self._stored(),
                    create=options.create_slot,
                )
            except EngineError as error:
                problem = error.message
            server = place(standby)
            if problem and problem != self._told.get(server):
                _log.warning("the slot is not kept on %s:%s: %s", *server, problem)
            self._told[server] = problem
