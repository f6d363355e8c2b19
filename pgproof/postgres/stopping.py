"""Long queries that end when the job is stopped: a thread that waits for an answer cannot look by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from pgproof.errors import EngineError
from pgproof.model.job import Job
from pgproof.postgres.connection import server_error

_EVERY = 0.2
_AGAIN = 1.0


@contextmanager
def stopping(job: Job, what: str, *connections: psycopg.Connection[Any]) -> Iterator[None]:
    """Cancel whatever the connections run when `job` is stopped, and raise Cancelled then.

    Other errors of PostgreSQL become an EngineError about `what`.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_EVERY):
            if job.stop.is_set():
                for connection in connections:
                    connection.cancel()
                done.wait(_AGAIN)

    watcher = threading.Thread(target=watch, name="pgproof-stop", daemon=True)
    watcher.start()
    try:
        yield
    except psycopg.Error as error:
        job.checkpoint()
        raise sql_error(error, what) from error
    finally:
        done.set()
        watcher.join()


def sql_error(error: psycopg.Error, what: str) -> EngineError:
    """In the engine's words; with what the server says about the row, which it puts into a line of its own."""
    diagnosis = error.diag
    message = diagnosis.message_primary or str(error).partition("\n")[0]
    detail = f"; {diagnosis.message_detail}" if diagnosis.message_detail else ""
    return server_error(error.sqlstate, message + detail, what)
