"""The demo's Prefect side, seen from the command line: a child process that tells what it does.

`flows/demo_run.py` prints one JSON object a line: `ready` when the server answers and the blocks
are saved (it then waits for a line), `progress`, and `result` for each flow.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgproof
from pgproof.cli.demo_servers import prefect_environment
from pgproof.cli.demo_state import DemoState
from pgproof.errors import DataError, PreconditionError, TransientError

_LINE_LIMIT = 4 << 20
ProgressNote = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class FlowResult:
    """What a flow answered (its JSON description) and where its run is shown."""

    value: dict[str, Any]
    url: str


def checkout() -> Path:
    """The checkout this program runs from. Raises PreconditionError in an installed wheel."""
    root = Path(pgproof.__file__).resolve().parent.parent
    if not (root / "flows" / "demo_run.py").is_file():
        raise PreconditionError(
            "the demo needs a checkout of pgproof: its flows and blocks are not in the wheel",
            hint="clone the repository and run there: make setup demo",
        )
    return root


class FlowRunner:
    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def ready(self) -> None:
        """Wait until the Prefect server answers and the blocks are saved."""
        await self._next("ready", _ignore)

    async def run(self, flow: str, progress: ProgressNote) -> FlowResult:
        """Run one of the flows to its end. Raises DataError if the run did not complete."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{flow}\n".encode())
        await self._process.stdin.drain()
        event = await self._next("result", progress)
        if event["state"] != "Completed":
            raise DataError(
                f"the flow {flow} ended as {event['state']}",
                hint=str(event["message"]),
                run=event["url"],
            )
        return FlowResult(event["value"], event["url"])

    async def _next(self, wanted: str, progress: ProgressNote) -> dict[str, Any]:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "progress":
                progress(event["percent"], event["note"])
            elif event["event"] == wanted:
                return event
        status = await self._process.wait()
        raise TransientError(
            "the process that runs the demo's flows ended",
            hint="start the demo again; the output says what it stumbled over",
            status=status,
            output=self._log.read_text(encoding="utf-8", errors="replace")[-800:].strip(),
        )


@asynccontextmanager
async def flow_runner(state: DemoState, settings: dict[str, str]) -> AsyncIterator[FlowRunner]:
    """Start the child process; `settings` configure the two blocks. It is stopped at the end."""
    root = checkout()
    log = Path(state.work) / "flows.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flows.demo_run"),
            env={**prefect_environment(state), **settings},
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            limit=_LINE_LIMIT,
            # A Ctrl-C reaches it once, from here, and not a second time from the terminal.
            start_new_session=True,
        )
    try:
        yield FlowRunner(process, log)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _ignore(_percent: float, _note: str) -> None:
    pass
