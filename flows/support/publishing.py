"""Reports and events for the UI. They follow work that is already durable, so they may fail, visibly."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

# What Prefect's client raises while its API is away or refuses: RuntimeError is its "Failed to reach API".
UNREACHABLE = (httpx.HTTPError, PrefectException, RuntimeError, OSError)


def publish_report(kind: str, cluster: str, markdown: str, description: str) -> None:
    """Store `markdown` as the newest version of the artifact `<kind>-<cluster>`."""
    key = artifact_key(kind, cluster)
    # File names that are no UTF-8 reach us with surrogates, which JSON cannot carry.
    markdown = markdown.encode(errors="replace").decode()
    if _attempt(f"the report {key}", lambda: create_markdown_artifact(markdown, key, description)):
        get_run_logger().info("the report is the artifact %s", key)


def publish_table(kind: str, cluster: str, rows: list[dict[str, str]], description: str) -> None:
    """Store a table as the newest version of the artifact `<kind>-<cluster>`."""
    key = artifact_key(kind, cluster)
    if _attempt(f"the table {key}", lambda: create_table_artifact(rows, key, description)):
        get_run_logger().info("the report is the artifact %s", key)


def publish_event(event: str, cluster: str, payload: dict[str, Any]) -> None:
    """Emit `event` about `cluster`, for automations to react to (and to miss)."""
    resource = {"prefect.resource.id": f"pgproof.cluster.{cluster}", "prefect.resource.name": cluster}
    _attempt(f"the event {event}", lambda: emit_event(event, resource=resource, payload=payload))


def artifact_key(kind: str, cluster: str) -> str:
    """Prefect admits lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", f"{kind}-{cluster}".lower()).strip("-")


def _attempt(what: str, publish: Callable[[], object]) -> bool:
    try:
        publish()
    except UNREACHABLE as error:
        get_run_logger().warning("%s could not be published: %s", what, error)
        return False
    return True
