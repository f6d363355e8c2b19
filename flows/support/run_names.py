"""What a run is called in the UI, where a list of runs shows little else."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import runtime


def run_name(what: str, of: str = "repository") -> str:
    """The repository (or another parameter), what is done, and when it was due: `main-full-2026-11-27-0230`, in UTC."""
    whose = runtime.flow_run.parameters[of] or "environment"
    due = runtime.flow_run.scheduled_start_time or datetime.now(UTC)
    return f"{whose}-{what}-{due:%Y-%m-%d-%H%M}"
