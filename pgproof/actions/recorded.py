"""Do something, and keep who did it. A record that cannot be written takes nothing back: the action is over by then."""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TypeVar

from pgproof.actions.opening import last_opened, open_repository
from pgproof.errors import Cancelled, DataError, EngineError, TransientError
from pgproof.failpoints import failpoint
from pgproof.model.action_record import ActionRecord, Outcome
from pgproof.model.config import BackupConfig
from pgproof.repository import action_log
from pgproof.whoami import PROGRAM, whoami

_log = logging.getLogger(__name__)

T = TypeVar("T")
_LONGEST = 500
# A store that was the reason of a failure, or stalls while a run is cancelled, is not waited for once more.
_SECONDS_AFTER_A_FAILURE = 5.0


def recorded(
    config: BackupConfig,
    command: str,
    work: Callable[[], T],
    subject: Callable[[T], str] | None = None,
    *,
    asked: str = "",
    apart: bool = False,
    unrecorded: Callable[[T, str], T] = lambda result, _why: result,
) -> T:
    """The result of `work`, with a record in the repository that it opened.

    `subject` tells from the result what the action was about, `asked` is what is known of that beforehand. One that works
    `apart` opens no repository by itself: the configured one is opened for the record, if there is one.
    `unrecorded` says in the result that there is no record, and why.
    """
    begun, at, outcome, error = time.monotonic(), datetime.now(UTC), Outcome.FAILED, ""
    about = asked
    last_opened.set(None)

    def keep() -> str:
        record = ActionRecord(
            at=at,
            seconds=time.monotonic() - begun,
            by=whoami(),
            pid=os.getpid(),
            program=PROGRAM.get(),
            version=version("pgproof"),
            command=command,
            subject=about[:_LONGEST],
            outcome=outcome,
            error=error[:_LONGEST],
        )
        return _keep(config, record, apart)

    try:
        result = work()
    except BaseException as raised:
        if isinstance(raised, Cancelled):
            outcome = Outcome.CANCELLED
        # The facts of an error may name much, its message does not.
        error = raised.message if isinstance(raised, EngineError) else type(raised).__name__
        keep()
        raise
    outcome = Outcome.DONE
    if subject is not None:
        about = subject(result)
    why = keep()
    return unrecorded(result, why) if why else result


def _keep(config: BackupConfig, record: ActionRecord, apart: bool) -> str:
    """Why it was not kept; empty if it was, or if there is no repository to keep it in."""
    opened = last_opened.get()
    if opened is None and not (apart and (config.repository_url or config.backup_dir or config.s3_bucket)):
        return ""

    def store() -> None:
        repository = opened or open_repository(config)
        failpoint("action.recording")
        action_log.store_action(repository, record)

    try:
        if record.outcome is Outcome.DONE:
            store()
        else:
            _within_seconds(store)
    except EngineError as error:
        # What failed tells more by its own error.
        level = logging.WARNING if record.outcome is Outcome.DONE else logging.INFO
        _log.log(level, "%s is not in the action log: %s", record.command, error)
        return error.message
    return ""


def _within_seconds(store: Callable[[], None]) -> None:
    """Do it in a thread that nobody waits for longer than some seconds, not even the end of the process."""
    stored: Future[None] = Future()

    def try_it() -> None:
        try:
            store()
        except EngineError as error:
            stored.set_exception(error)
        else:
            stored.set_result(None)

    inside = contextvars.copy_context()
    threading.Thread(target=inside.run, args=(try_it,), name="pgproof-action", daemon=True).start()
    try:
        stored.result(_SECONDS_AFTER_A_FAILURE)
    except TimeoutError as error:
        raise TransientError("the store did not take it within seconds", hint="see what failed") from error


def list_actions(
    config: BackupConfig, since: datetime | None = None
) -> tuple[list[ActionRecord], list[DataError]]:
    """What was done since then, the oldest first, and what of it cannot be read."""
    return action_log.list_actions(open_repository(config), since)
