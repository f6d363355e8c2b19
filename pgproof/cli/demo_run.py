"""The demo itself: servers side by side, then the flows one after the other."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgproof.cli.demo_flows import FlowResult, FlowRunner, checkout, flow_runner
from pgproof.cli.demo_servers import (
    DATABASE,
    fail_when_it_ends,
    find_postgres,
    free_port,
    start_postgres,
    start_prefect,
)
from pgproof.cli.demo_state import DemoState, new_work_dir, remove_demo, save_state
from pgproof.cli.demo_steps import Steps
from pgproof.cli.screen import Screen
from pgproof.cli.settings import VARIABLES
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.job import Job

# What would lead libpq elsewhere although PGHOST and PGPORT are set.
_CONNECTION_VARIABLES = ("PGHOSTADDR", "PGSERVICE", "PGPASSWORD", "PGSSLMODE", "PGREQUIREAUTH", "PGOPTIONS")


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What the two flows answered, and how long the steps took."""

    backup: FlowResult
    verification: FlowResult
    steps: Steps


async def play(screen: Screen, *, keep: bool) -> tuple[DemoOutcome, DemoState]:
    """Run the demo; without `keep`, and whenever it does not come to its end, remove all of it."""
    checkout()
    programs = find_postgres()
    state = DemoState(str(new_work_dir()), str(programs.bin_dir), free_port())
    save_state(state)
    complete = False
    try:
        steps = Steps(screen)
        with steps.shown():
            server = await start_prefect(state)
            state = state.with_server(server.pid)
            save_state(state)
            outcome = await _unless(
                fail_when_it_ends(server, state), _act(state, steps, f"PostgreSQL {programs.version}")
            )
        complete = True
        return outcome, state
    finally:
        if not (keep and complete):
            remove_demo(state)


async def _act(state: DemoState, steps: Steps, postgres: str) -> DemoOutcome:
    settings = _settings(state)
    async with flow_runner(state, settings) as runner:
        await _together(
            _postgres(state, steps, f"{postgres} with a shop of sample data"),
            _prefect(runner, steps),
            _repository(settings, steps),
        )
        _write_env_file(state, settings)
        backup = await _flow(runner, steps, "backup", "backup flow")
        verification = await _flow(runner, steps, "verify", "verify flow, level full")
    return DemoOutcome(backup, verification, steps)


async def _postgres(state: DemoState, steps: Steps, title: str) -> None:
    with steps.step(title):
        await _in_thread(lambda job: start_postgres(state, job))


async def _prefect(runner: FlowRunner, steps: Steps) -> None:
    with steps.step("Prefect server with the blocks 'main'"):
        await runner.ready()


async def _repository(settings: dict[str, str], steps: Steps) -> None:
    from pgproof.backup import BackupManager

    with steps.step("encrypted repository"):
        manager = BackupManager(PostgresConfig.from_env(settings), BackupConfig.from_env(settings))
        await manager.init_repository()


async def _flow(runner: FlowRunner, steps: Steps, name: str, title: str) -> FlowResult:
    with steps.step(title):
        return await runner.run(name, lambda percent, note: steps.report(title, percent, note))


def _settings(state: DemoState) -> dict[str, str]:
    return {
        "PGHOST": str(state.cluster),
        "PGPORT": "5432",
        "PGUSER": "postgres",
        "PGDATABASE": DATABASE,
        "BACKUP_DIR": str(state.repository),
        "BACKUP_PASSPHRASE": secrets.token_urlsafe(24),
    }


def _write_env_file(state: DemoState, settings: dict[str, str]) -> None:
    """A file to source: the demo's settings instead of the user's own, and this program on the PATH."""
    exports = {**settings, "PREFECT_API_URL": state.api_url, "PREFECT_HOME": str(state.prefect_home)}
    others = sorted({*VARIABLES, *_CONNECTION_VARIABLES, "PGPROOF_CONFIG"} - exports.keys())
    lines = [f"unset {' '.join(others)}"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    lines.append(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    state.env_file.touch(mode=0o600)
    state.env_file.write_text("\n".join(lines) + "\n", encoding="utf-8")


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """Wait for all of `work`; if one fails, stop the others before its error goes on."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _unless(failure: Coroutine[Any, Any, None], work: Coroutine[Any, Any, DemoOutcome]) -> DemoOutcome:
    """The result of `work`, unless `failure` raises first."""
    watched, working = asyncio.ensure_future(failure), asyncio.ensure_future(work)
    try:
        await asyncio.wait((watched, working), return_when=asyncio.FIRST_COMPLETED)
        if watched.done() and not working.done():
            watched.result()
        return await working
    finally:
        for task in (watched, working):
            task.cancel()
        await asyncio.gather(watched, working, return_exceptions=True)


async def _in_thread(work: Callable[[Job], None]) -> None:
    """Run synchronous `work` in a thread; when cancelled, ask it to stop and wait until it has."""
    job = Job()
    running = asyncio.ensure_future(asyncio.to_thread(work, job))
    try:
        await asyncio.shield(running)
    finally:
        job.stop.set()
        await asyncio.gather(running, return_exceptions=True)
