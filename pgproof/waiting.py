"""Run synchronous work for an asynchronous caller, and stop it when the caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pgproof.errors import EngineError
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
