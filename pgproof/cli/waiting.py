"""Run one coroutine of the engine until it is done, or until a signal asks it to stop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`.

    SIGINT, SIGTERM and SIGHUP cancel it; it is then awaited until it has cleaned up, and
    KeyboardInterrupt is raised. Further signals change nothing. A signal that was ignored when
    the program started (nohup) stays ignored.
    """
    import asyncio
    import signal

    async def supervised() -> T:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        stopped = False

        def stop() -> None:
            nonlocal stopped
            if not stopped:
                stopped = True
                task.cancel()

        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                loop.add_signal_handler(signum, stop)
        return await work

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
