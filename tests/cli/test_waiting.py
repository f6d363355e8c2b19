from __future__ import annotations

import asyncio
import os
import signal

import pytest

from pgproof.cli.waiting import wait_for


def test_the_result_comes_back() -> None:
    async def work() -> int:
        return 42

    assert wait_for(work()) == 42


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_work_after_it_has_cleaned_up(signum: signal.Signals) -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signum)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # An impatient person presses Ctrl-C again: the clean-up goes on all the same.
            os.kill(os.getpid(), signum)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            steps.append("cleaned up")
            raise

    # Whoever runs the tests in the background has it ignored.
    usual = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(signum, usual)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_for(work())
        assert steps == ["cleaned up"]
        assert signal.getsignal(signum) == usual
    finally:
        signal.signal(signum, before)


def test_an_ignored_signal_stays_ignored() -> None:
    async def work() -> str:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        return "done"

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert wait_for(work()) == "done"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
