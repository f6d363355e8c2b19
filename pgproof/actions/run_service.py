"""The service: a Prefect server where none is configured, a runner that serves the flows, and the WAL streamer.

It knows no Prefect itself: the two are children. WAL is streamed here, whatever becomes of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic, time
from typing import Any

from pgproof.actions.opening import open_repository
from pgproof.actions.process_tree import ProcessTree, children_of, send
from pgproof.actions.service_children import Child, configured_api, inherited, wait_for_api
from pgproof.actions.service_place import (
    ServicePlace,
    mark_of_this_service,
    only_one,
    port_is_free,
    service_place,
)
from pgproof.errors import EngineError, PreconditionError, TransientError
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.replication_config import ReplicationConfig
from pgproof.model.service import HANDED_OVER, BackOff, ServiceOptions, WallClock, hand_over

_log = logging.getLogger("pgproof.service")

# A run that is asked to end removes its slot, its lease and its scratch server.
_RUN_SECONDS, _REPORT_SECONDS, _SERVER_SECONDS = 15.0, 2.0, 5.0
_READY_PAUSE = 0.1
_CLOCK_PAUSE = 1.0
# The server holds no data of ours, so it gets none of our settings.
_NOT_THE_SERVERS = ("PREFECT_", "PG", "BACKUP_", "AWS_", "READ_REPLICA_", "REPLICA_")


@dataclass(frozen=True, slots=True)
class ServiceNews:
    """That the service is up: where its Prefect is, and a file to source for `prefect` commands if the server is ours."""

    api_url: str
    own_server: bool
    env_file: Path | None
    streams: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "api_url": self.api_url,
            "own_server": self.own_server,
            "env_file": None if self.env_file is None else str(self.env_file),
            "streams_wal": self.streams,
        }


def checkout() -> Path:
    """The checkout this program runs from. Raises PreconditionError in an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "deployments" / "serve.py").is_file():
        raise PreconditionError(
            "the service needs a checkout of pgproof: its flows are not in the wheel",
            hint="clone the repository and run `make setup` there; without Prefect see deployments/crontab",
        )
    return root


async def run_service(
    postgres: PostgresConfig,
    config: BackupConfig,
    replication: ReplicationConfig,
    options: ServiceOptions,
    stream: Callable[[], Awaitable[object]],
    tell: Callable[[ServiceNews], None],
) -> None:
    """Run until cancelled; `tell` is called when everything is up for the first time.

    `stream` streams WAL until it is cancelled. What ends is started again. Raises ConflictError where a service of this
    cluster runs already, PreconditionError for what must be changed first.
    """
    root = checkout()
    streams = options.stream and not config.logical_only
    if not any(config.schedules.values()):
        raise PreconditionError(
            "no backup would ever be taken",
            hint='set full_backup_interval or incremental_interval to something else than "never"',
        )
    with only_one(config):
        await _look_at_repository(config)
        place = service_place(options.state_dir, config.cluster, os.environ)
        settings = hand_over(postgres, config, replication)
        service = _Service(settings, config, options, root, place, streams)
        await service.run(stream, tell)


async def _look_at_repository(config: BackupConfig) -> None:
    """What is wrong for good (no repository, a wrong passphrase) is told now, and not by a failed run at night."""
    try:
        await asyncio.to_thread(open_repository, config)
    except TransientError as error:
        _log.warning("the repository does not answer at the moment: %s", error)


class _Service:
    def __init__(
        self,
        settings: str,
        config: BackupConfig,
        options: ServiceOptions,
        root: Path,
        place: ServicePlace,
        streams: bool,
    ) -> None:
        self._options = options
        self._place = place
        self._streams = streams
        mark = mark_of_this_service()
        self._tree = ProcessTree(mark)
        name, _, value = mark.partition("=")
        self._common = {name: value, "DO_NOT_TRACK": "1", "PREFECT_LOGGING_EXTRA_LOGGERS": "pgproof"}
        self._ready_file = place.root / "serving"
        wal = ["--wal"] if streams else []
        self._runner = Child(
            "the runner of the schedules",
            [sys.executable, "-m", "deployments.serve", "--at-once", str(options.at_once), *wal],
            {},
            root,
        )
        self._settings = {HANDED_OVER: settings, "PGPROOF_READY": str(self._ready_file)}
        self._server: Child | None = None

    async def run(self, stream: Callable[[], Awaitable[object]], tell: Callable[[ServiceNews], None]) -> None:
        tasks: list[asyncio.Future[None]] = []
        try:
            # First of all: WAL waits for nobody.
            if self._streams:
                tasks.append(asyncio.ensure_future(_keep_streaming(stream)))
            url = await configured_api(os.environ)
            own = url is None
            api_url = url or self._own_server()
            if own:
                self._runner.command = [*self._runner.command, "--only-here"]
            self._runner.environment = {**inherited(), **self._server_access(api_url, own), **self._settings}
            if self._server is not None:
                tasks.append(
                    asyncio.ensure_future(self._server.keep_running(_at_once, lambda: wait_for_api(api_url)))
                )
            tasks.append(
                asyncio.ensure_future(
                    self._runner.keep_running(lambda: self._before_serving(api_url), self._serving)
                )
            )
            news = ServiceNews(api_url, own, self._place.env_file if own else None, self._streams)
            telling = asyncio.ensure_future(self._tell(news, tell))
            tasks += [telling, asyncio.ensure_future(self._watch_the_clock())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            await self._end(tasks)

    def _own_server(self) -> str:
        port = self._options.ui_port
        if not port_is_free(port):
            raise PreconditionError(
                "the port for the Prefect server is in use",
                hint="choose another one with --ui-port; if a Prefect server runs there, use it: set "
                f"PREFECT_API_URL=http://127.0.0.1:{port}/api",
                port=port,
            )
        url = f"http://127.0.0.1:{port}"
        environment = {
            **inherited(_NOT_THE_SERVERS),
            **self._server_access(f"{url}/api", own=True),
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            # The server's UI takes the API's port from these settings, not from --port.
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_UI_URL": url,
            "PREFECT_SERVER_API_AUTH_STRING": self._place.password(),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            # A run every few minutes for years would fill the disk: runs older than 90 days go.
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        }
        self._server = Child(
            "the Prefect server",
            [sys.executable, "-m", "prefect", "--no-prompt", "server", "start"],
            environment,
            self._place.root,
            output=self._place.server_log,
        )
        self._place.write_env_file(self._to_use_it(f"{url}/api"))
        return f"{url}/api"

    def _to_use_it(self, api_url: str) -> dict[str, str]:
        return {
            "PREFECT_HOME": str(self._place.prefect_home),
            "PREFECT_API_URL": api_url,
            "PREFECT_API_AUTH_STRING": self._place.password(),
        }

    def _server_access(self, api_url: str, own: bool) -> dict[str, str]:
        return {**self._common, **(self._to_use_it(api_url) if own else {"PREFECT_API_URL": api_url})}

    async def _before_serving(self, api_url: str) -> None:
        self._ready_file.unlink(missing_ok=True)
        await wait_for_api(api_url)

    async def _serving(self) -> None:
        while not self._ready_file.exists():
            await asyncio.sleep(_READY_PAUSE)

    async def _tell(self, news: ServiceNews, tell: Callable[[ServiceNews], None]) -> None:
        await self._runner.ready.wait()
        tell(news)
        await asyncio.Event().wait()

    async def _watch_the_clock(self) -> None:
        """A Prefect server waits for times of day, and makes no run while later ones are there: of a clock that is set back by
        a day, it would sleep for that day. Both are started again, and the runner has its runs made anew."""
        clock = WallClock(time(), monotonic())
        while True:
            await asyncio.sleep(_CLOCK_PAUSE)
            lost = clock.set_back(time(), monotonic())
            if lost is None:
                continue
            _log.warning("the clock was set back by %.0f s: Prefect is started again", lost.total_seconds())
            if self._runner.pid is not None:
                await self._end_runs(self._runner.pid)
            children = (self._runner, self._server)
            send([each.pid for each in children if each and each.pid is not None], signal.SIGTERM)

    async def _end(self, tasks: list[asyncio.Future[None]]) -> None:
        """Runs first, then the runner, then the server: each can then still tell the next one what became of it."""
        runner, server = self._runner.pid, None if self._server is None else self._server.pid
        for task in tasks:
            task.cancel()
        if runner is not None:
            await self._end_runs(runner)
            send([runner], signal.SIGTERM)
            deadline = monotonic() + _SERVER_SECONDS
            while runner in self._tree.look([runner]) and monotonic() < deadline:
                await asyncio.sleep(_READY_PAUSE)
        roots = [pid for pid in (runner, server) if pid is not None]
        send(self._tree.look(roots), signal.SIGTERM)
        await self._tree.end(roots, _SERVER_SECONDS)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ready_file.unlink(missing_ok=True)

    async def _end_runs(self, runner: int) -> None:
        """Ask every run to end, those that begin meanwhile too, until the runner has had time to report them."""
        asked: set[int] = set()
        deadline = monotonic() + _RUN_SECONDS
        busy_until = 0.0
        while (runs := children_of(runner)) or monotonic() < busy_until:
            self._tree.look([runner])
            send(runs - asked, signal.SIGTERM)
            asked |= runs
            if monotonic() > deadline:
                return
            if runs:
                busy_until = monotonic() + _REPORT_SECONDS
            await asyncio.sleep(_READY_PAUSE)


async def _keep_streaming(stream: Callable[[], Awaitable[object]]) -> None:
    """Stream, and again when it ends. Lost connections it survives by itself: what ends it, somebody must look at."""
    back_off = BackOff(shortest=timedelta(seconds=2))
    while True:
        begun = monotonic()
        try:
            await stream()
            reason: object = "it ended"
        except EngineError as error:
            reason = error
        pause = back_off.after(timedelta(seconds=monotonic() - begun))
        _log.error("WAL is NOT streamed; next try in %.0f s: %s", pause.total_seconds(), reason)
        await asyncio.sleep(pause.total_seconds())


async def _at_once() -> None:
    """Nothing has to be waited for."""
