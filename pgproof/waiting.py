"""Run synchronous work for an asynchronous caller, and stop it when the caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pgproof.errors import EngineError, PreconditionError
from pgproof.model.job import Job
from pgproof.model.report import ProgressCallback, no_progress

T = TypeVar("T")


async def in_thread(work: Callable[[Job], T], progress: ProgressCallback = no_progress) -> T:
    """The result of `work(job)`. If we are cancelled, the job is told to stop and waited for, so that its
    slot, lease and files are gone when the cancellation goes on. Errors are the engine's: a driver's own that
    nobody expected is put into its words here."""
    job = Job(progress)
    running = asyncio.ensure_future(asyncio.to_thread(_in_our_words, work, job))
    try:
        return await asyncio.shield(running)
    except BaseException:
        job.stop.set()
        if not running.done():
            await asyncio.wait([running])
        # Whatever the work ended with (mostly Cancelled), the caller's own exception goes on.
        running.cancelled() or running.exception()
        raise


def _in_our_words(work: Callable[[Job], T], job: Job) -> T:
    try:
        return work(job)
    except EngineError:
        raise
    except Exception as error:
        # Not at the top: not all work needs the driver, which takes long to import.
        from pgproof.postgres.connection import driver_error

        if (ours := driver_error(error)) is None:
            raise
        raise ours from error


async def within(seconds: float | None, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is stopped when it takes longer; it has cleaned up when PreconditionError is raised.

    No TransientError: the same again would take as long, and hold up what comes after it once more.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise PreconditionError(
            "this took longer than it may, and was stopped",
            hint="look what held it up (server, network, store, a lock), or let it run from the command line",
            seconds=seconds,
        ) from error
