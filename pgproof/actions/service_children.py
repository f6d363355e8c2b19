"""The two Prefect processes of a service: started, watched, and started again when they end."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import monotonic

from pgproof.actions.process_tree import die_with_parent
from pgproof.errors import PreconditionError
from pgproof.model.service import BackOff

_log = logging.getLogger("pgproof.service")
_ASK_SECONDS = 5.0
_PAUSE = 0.25
_LAST_BYTES = 600


@dataclass(slots=True)
class Child:
    """A program that has to run all the time. `ready` is set while it does its work."""

    title: str
    command: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    output: Path | None = None
    back_off: BackOff = field(default_factory=BackOff)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    pid: int | None = None

    async def keep_running(
        self, before: Callable[[], Awaitable[None]], is_ready: Callable[[], Awaitable[None]]
    ) -> None:
        """For ever: wait for `before`, start the program, wait for `is_ready`, wait for its end, tell it, wait a while."""
        while True:
            await before()
            begun = monotonic()
            process = await self._start()
            self.pid = process.pid
            waiting = asyncio.ensure_future(is_ready())
            ending = asyncio.ensure_future(process.wait())
            try:
                await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
                if waiting.done():
                    waiting.result()
                    self.ready.set()
                    _log.info("%s is ready pid=%d", self.title, process.pid)
                status = await ending
            finally:
                self.ready.clear()
                waiting.cancel()
                ending.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            self.pid = None
            pause = self.back_off.after(timedelta(seconds=monotonic() - begun))
            _log.error(
                "%s ended with status %s; it is started again in %.0f s%s",
                self.title,
                status,
                pause.total_seconds(),
                self._last_words(),
            )
            await asyncio.sleep(pause.total_seconds())

    async def _start(self) -> asyncio.subprocess.Process:
        output = None if self.output is None else self.output.open("wb")
        try:
            return await asyncio.create_subprocess_exec(
                *self.command,
                env=dict(self.environment),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                # Standard output is for what the command itself says.
                stdout=sys.stderr if output is None else output,
                stderr=None if output is None else output,
                # A Ctrl-C reaches the children from here, in the right order, and not from the terminal.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        finally:
            if output is not None:
                output.close()

    def _last_words(self) -> str:
        if self.output is None:
            return ""
        try:
            with self.output.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
                text = log.read().decode(errors="replace").strip()
        except OSError:  # somebody has removed it
            return ""
        return f":\n{text}" if text else ""


async def wait_for_api(url: str) -> None:
    """Wait until a Prefect API answers, whatever it says; each half minute of silence is told."""
    told = monotonic()
    while (reason := await asyncio.to_thread(_silence, url)) is not None:
        if monotonic() - told > 30:
            told = monotonic()
            _log.warning("the Prefect API does not answer, so no backups are scheduled: %s (%s)", url, reason)
        await asyncio.sleep(_PAUSE)


def _silence(url: str) -> str | None:
    """Why the API does not answer; None if it does."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_ASK_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        # A gateway's word that nobody is behind it is no answer of the API.
        return None if error.code < 500 else str(error)
    except (OSError, ValueError) as error:
        return str(error)


async def configured_api(environ: Mapping[str, str]) -> str | None:
    """The Prefect API that the environment or the user's active profile names; None if there is none."""
    if url := environ.get("PREFECT_API_URL"):
        return url
    question = "from prefect.settings import get_current_settings as s; print(s().api.url or '')"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", question),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environ),
    )
    answer, errors = await process.communicate()
    if process.returncode:
        raise PreconditionError(
            "Prefect does not start here",
            hint="install it (uv sync), or correct its settings",
            reason=errors.decode(errors="replace")[-400:].strip(),
        )
    return answer.decode().strip() or None


def inherited(prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """Our environment without the variables that begin with one of `prefixes`."""
    return {name: value for name, value in os.environ.items() if not (prefixes and name.startswith(prefixes))}
