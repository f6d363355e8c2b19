"""The ring in the run's timeline that shows how far the engine is."""

from __future__ import annotations

import threading
from types import TracebackType
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger
from prefect.logging.loggers import LoggingAdapter

from flows.support.publishing import UNREACHABLE
from flows.support.reports import human_size
from pgproof.model.report import Progress

_INTERVAL = 1.0


def shown(progress: Progress) -> tuple[float, str]:
    """The percentage and the words for one report; the percentage stays 0 while the total is unknown."""
    if not progress.total:
        return 0.0, f"{progress.phase}: {human_size(progress.done)}" if progress.done else progress.phase
    percent = min(100.0, 100 * progress.done / progress.total)
    return round(percent), f"{progress.phase}: {human_size(progress.done)} of {human_size(progress.total)}"


class ProgressRing:
    """Publishes the newest report about once a second, from a thread of its own.

    The engine only leaves its report here: a slow or absent Prefect API must never slow a backup
    down. The thread dies with the process for the same reason.
    """

    def __init__(self) -> None:
        self._newest: Progress | None = None
        self._succeeded = False
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ProgressRing:
        try:
            created = create_progress_artifact(0.0, description="starting")
        except UNREACHABLE as error:
            get_run_logger().warning("no progress is shown for this run: %s", error)
            return self
        assert isinstance(created, UUID)  # typed as maybe awaitable
        # The run's logger is found here because the thread has no run context.
        arguments = (created, get_run_logger())
        self._thread = threading.Thread(
            target=self._publish, args=arguments, name="progress-ring", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._succeeded = kind is None
        self._finished.set()
        if self._thread and self._succeeded:
            # Bounded: with the API away, the last update keeps trying for minutes.
            self._thread.join(timeout=5)

    def report(self, progress: Progress) -> None:
        self._newest = progress

    def _publish(self, artifact: UUID, logger: LoggingAdapter) -> None:
        before: tuple[float, str] | None = None
        while True:
            last = self._finished.wait(_INTERVAL)
            newest = self._newest
            now = shown(newest) if newest else None
            if self._succeeded:
                now = 100.0, "finished"
            if now and now != before:
                before = now
                try:
                    update_progress_artifact(artifact, now[0], description=now[1])
                except UNREACHABLE as error:
                    logger.warning("the progress of this run is no longer shown: %s", error)
                    return
            if last:
                return
