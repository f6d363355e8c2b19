"""The run's logs: the engine's lines at INFO, and secrets masked in all of them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prefect import runtime

_MASK = "********"
# Shorter values would blank out half of every line and so tell more than they hide.
_SHORTEST = 4


class MaskSecrets(logging.Filter):
    """Replaces known secrets in messages and tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: list[str] = []

    def learn(self, secrets: Iterable[str]) -> None:
        known = {*self._secrets, *(secret for secret in secrets if len(secret) >= _SHORTEST)}
        # The longest first, so that a secret that contains another one is masked whole.
        self._secrets = sorted(known, key=len, reverse=True)

    def mask(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.mask(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if record.exc_text:
            record.exc_text = self.mask(record.exc_text)
        return True


class NameTheRun(logging.Filter):
    """Tells Prefect which run the engine's lines belong to: it does not know in the engine's threads."""

    def __init__(self, flow_run_id: str | None, task_run_id: str | None) -> None:
        super().__init__()
        self._ids = {"flow_run_id": flow_run_id, "task_run_id": task_run_id}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] == "pgproof":
            record.__dict__.update(self._ids)
        return True


_masking = MaskSecrets()


def prepare_logs(secrets: Iterable[str]) -> None:
    """Let the engine's lines through and mask `secrets` from now on.

    PREFECT_LOGGING_EXTRA_LOGGERS attaches Prefect's handlers to `pgproof` but leaves its level at
    WARNING. The filter sits on handlers: one on a logger does not see the lines of its children.
    """
    _masking.learn(secrets)
    logging.getLogger("pgproof").setLevel(logging.INFO)
    for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs", "pgproof"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_masking)


@contextmanager
def engine_lines_in_this_run() -> Iterator[None]:
    """Send the engine's lines to the log of the current run, whichever thread they come from."""
    naming = NameTheRun(runtime.flow_run.id, runtime.task_run.id)
    handlers = logging.getLogger("pgproof").handlers
    for handler in handlers:
        handler.addFilter(naming)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(naming)
