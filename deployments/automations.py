"""Notify about failures, missing backups and dead runs. Running it again updates what it made before.

    PGPROOF_WEBHOOK_URL=https://… python deployments/automations.py

The webhook gets a POST with a JSON object of `title` and `text`; PGPROOF_WEBHOOK_TOKEN, if set, is sent as
a bearer token. Prefect keeps automations on the server and has no place for them in prefect.yaml.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.settings import get_current_settings

# Prefect's default: a run says every 180 s that it is alive, and counts as dead after three silences.
HEARTBEAT = timedelta(seconds=180)
WEBHOOK_BLOCK = "pgproof-webhook"
# Only runs of our deployments: prefect.yaml tags them all.
_TAGGED: dict[str, str | list[str]] = {
    "prefect.resource.role": "tag",
    "prefect.resource.id": "prefect.tag.pgproof",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cluster", default="main", help="cluster whose backups are expected")
    parser.add_argument(
        "--max-age-hours", type=float, default=26, help="notify when no backup succeeded for so long"
    )
    options = parser.parse_args(arguments)
    url = os.environ.get("PGPROOF_WEBHOOK_URL")
    if not url:
        sys.exit("error: nowhere to notify\nHINT: set PGPROOF_WEBHOOK_URL to the address of a webhook")
    if get_current_settings().api.url is None:
        sys.exit("error: no Prefect server is configured\nHINT: set PREFECT_API_URL")
    webhook = save_webhook(url, os.environ.get("PGPROOF_WEBHOOK_TOKEN"))
    for automation in (
        failed_run(webhook),
        missing_backup(webhook, options.cluster, timedelta(hours=options.max_age_hours)),
        dead_run(),
    ):
        print(f"automation {automation.name}: {ensure(automation)}")


def save_webhook(url: str, token: str | None) -> UUID:
    """Create or update the notification block; stock servers know its type."""
    block = CustomWebhookNotificationBlock.model_validate(
        {
            "name": "pgproof",
            "url": url,
            "json_data": {"title": "{{subject}}", "text": "{{body}}"},
            "headers": {"Authorization": "Bearer {{token}}"} if token else None,
            "secrets": {"token": token} if token else {},
        }
    )
    saved = block.save(WEBHOOK_BLOCK, overwrite=True)
    assert isinstance(saved, UUID)  # typed as maybe awaitable
    return saved


def failed_run(webhook: UUID) -> Automation:
    """Notify when a run fails or crashes."""
    return Automation(
        name="pgproof: failed run",
        description="A run of a pgproof deployment failed or crashed.",
        trigger=EventTrigger(
            # The type, not the event's name: a state called VerificationFailed has an event of that name.
            expect={"prefect.flow-run.*"},
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": ["FAILED", "CRASHED"]},
            match_related=_TAGGED,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            SendNotification(
                block_document_id=webhook,
                subject="{{ flow.name }} {{ flow_run.name }}: {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}\n{{ flow_run | ui_url }}",
            )
        ],
    )


def missing_backup(webhook: UUID, cluster: str, within: timedelta) -> Automation:
    """Notify when no backup has succeeded for `within`; again after each further `within`."""
    hours = within.total_seconds() / 3600
    return Automation(
        name=f"pgproof: no backup of {cluster}",
        description=f"No backup of {cluster} was completed for {hours:g} hours.",
        trigger=EventTrigger(
            expect={"pgproof.backup.completed"},
            match={"prefect.resource.id": f"pgproof.cluster.{cluster}"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            SendNotification(
                block_document_id=webhook,
                subject=f"no backup of {cluster} for {hours:g} hours",
                body="Look at the last runs of the deployment backup/daily-full, and at the worker.",
            )
        ],
    )


def dead_run() -> Automation:
    """Crash a run that no longer says it is alive: else it would hold its deployment's slot for ever."""
    action: ActionTypes = ChangeFlowRunState(
        force=False,
        state=StateType.CRASHED,
        name="Crashed",
        message="no heartbeat: its worker or host is gone",
    )
    return Automation(
        name="pgproof: dead run",
        description="A run has stopped sending heartbeats.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_TAGGED,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=3 * HEARTBEAT,
        ),
        actions=[action],
    )


def ensure(automation: Automation) -> str:
    """Create the automation, or update the one of the same name; say which."""
    try:
        existing = Automation.read(name=automation.name)
    except ValueError:
        automation.create()
        return "created"
    assert isinstance(existing, Automation)  # typed as maybe awaitable
    automation.id = existing.id
    automation.update()
    return "updated"


if __name__ == "__main__":
    main()
