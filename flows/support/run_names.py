"""What a run is called in the UI, where a list of runs shows little else."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import runtime


def run_name(what: str) -> str:
    """The repository, what is done, and when it was due: `main-full-2026-11-27-0230`, in UTC."""
    repository = runtime.flow_run.parameters["repository"] or "environment"
    due = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    return f"{repository}-{what}-{due:%Y-%m-%d-%H%M}"
