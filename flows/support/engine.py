"""How a task calls the engine: to its end, with progress in the UI, and again only when that may help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from flows.support.logs import engine_lines_in_this_run
from flows.support.progress import ProgressRing
from pgproof.errors import TransientError
from pgproof.model.report import ProgressCallback
from pgproof.waiting import within

P = ParamSpec("P")
T = TypeVar("T")


def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether the same call may succeed if it is made again."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def engine_task(
    task_run_name: str | None = None, *, retries: int = 3, delay: float = 10
) -> Callable[[Callable[P, T]], Task[P, T]]:
    """Makes a task of a call that may be repeated: after a TransientError, first `delay` seconds later, then ever later."""
    return task(
        task_run_name=task_run_name,
        retries=retries,
        retry_delay_seconds=exponential_backoff(backoff_factor=delay),
        retry_jitter_factor=0.5,
        retry_condition_fn=worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def run_engine(
    call: Callable[[ProgressCallback], Coroutine[Any, Any, T]], *, hours: float | None = None
) -> T:
    """Run one of the front doors' calls to its end and show its progress; after `hours` it is stopped and has failed.

    Not by the flow's `timeout_seconds`: a run under test went on behind the alarm, and held its slot.

    Cancelling a run raises Prefect's TerminationSignal in the main thread. So flows and tasks are
    plain functions, and the event loop below runs in the main thread with nothing in it but this
    call: the signal interrupts the idle loop, `asyncio.run` cancels the call, and the engine has
    stopped and cleaned up before the signal goes on to Prefect. Two other ways lose it: a task
    that was submitted to a thread gets no exception at all, and in the loop of an async flow the
    signal may be raised inside an unrelated callback, which the loop logs and drops.
    """
    with engine_lines_in_this_run(), ProgressRing() as ring:
        return asyncio.run(within(None if hours is None else hours * 3600, call(ring.report)))
