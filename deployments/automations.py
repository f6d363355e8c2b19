"""Notify about failures and recoveries of runs, and about silence. Running it again updates what it made before.

    python deployments/automations.py --block slack-webhook/ops --repository main
    PGPROOF_WEBHOOK_URL=https://… python deployments/automations.py

A block is any notification block that the server knows: Slack, Teams, PagerDuty, mail, a webhook. Without one, the
webhook gets a POST with a JSON object of `title` and `text`; PGPROOF_WEBHOOK_TOKEN, if set, is sent as
a bearer token. Prefect keeps automations on the server and has no place for them in prefect.yaml.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import CompoundTrigger, EventTrigger, Posture
from prefect.settings import get_current_settings

from blocks import BackupRepository
from pgproof.model.objectives import in_words

# Prefect's default: a run says every 180 s that it is alive, and counts as dead after three silences.
HEARTBEAT = timedelta(seconds=180)
# How long a recovery is waited for. Without a length Prefect forgets after a minute that there was a failure.
PATIENCE = timedelta(days=366)
WEBHOOK_BLOCK = "pgproof-webhook"
# Only runs of our deployments: prefect.yaml tags them all.
_TAGGED: dict[str, str | list[str]] = {
    "prefect.resource.role": "tag",
    "prefect.resource.id": "prefect.tag.pgproof",
}
# Prefect's words for a failure, and those of our flows: an event bears the name of its state. ObjectiveBroken is none: that
# run has done its work, and tells recoveries itself.
FAILURES = (
    "Failed",
    "Crashed",
    "TimedOut",
    "VerificationFailed",
    "WalInDanger",
    "CleanupIncomplete",
    "NeedsApproval",
    "DrillFailed",
    "FleetFailed",
    "NobodyTold",
    "NotAsPlanned",
)


@dataclass(frozen=True)
class Silence:
    """Events that say that all is well, and how long they may be missing."""

    what: str
    events: frozenset[str]
    within: timedelta
    advice: str


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--block", metavar="TYPE/NAME", help="the notification block that is used")
    parser.add_argument(
        "--repository", metavar="NAME", help="Backup Repository block whose cluster and objectives are used"
    )
    parser.add_argument("--cluster", help="cluster that is watched (that of the block, else main)")
    parser.add_argument(
        "--max-age-hours", type=float, help="no backup succeeded for so long (the objective, else 26)"
    )
    parser.add_argument("--proof-days", type=float, help="no backup was proven (the objective, else 8)")
    parser.add_argument(
        "--wal-minutes", type=float, help="nobody looked at the WAL; only if given: where it is streamed"
    )
    parser.add_argument(
        "--replica-minutes",
        type=float,
        help="nobody looked at the replicas; only if given: where there are any",
    )
    parser.add_argument("--watch-hours", type=float, default=3, help="nobody looked at the objectives (3)")
    options = parser.parse_args(arguments)
    if not options.block and not os.environ.get("PGPROOF_WEBHOOK_URL"):
        sys.exit(
            "error: nowhere to notify\nHINT: give --block, or set PGPROOF_WEBHOOK_URL to the address of a webhook"
        )
    if get_current_settings().api.url is None:
        sys.exit("error: no Prefect server is configured\nHINT: set PREFECT_API_URL")
    block = find_block(options.block) if options.block else save_webhook()
    cluster, silences = wanted(options)
    for automation in (failed_run(block), recovered_run(block), dead_run()):
        print(f"automation {automation.name}: {ensure(automation)[0]}")
    for silence in silences:
        alarm = missing(block, cluster, silence)
        done, alarm_id = ensure(alarm)
        print(f"automation {alarm.name}: {done}")
        again = there_again(block, cluster, silence, alarm_id)
        print(f"automation {again.name}: {ensure(again)[0]}")


def wanted(options: argparse.Namespace) -> tuple[str, list[Silence]]:
    """The cluster, and what must not be missing of it: options before the block's objectives before defaults."""
    cluster, hours, days = "main", 26.0, 8.0
    if options.repository:
        try:
            repository = BackupRepository.load(options.repository)
        except ValueError:
            sys.exit("error: there is no such Backup Repository block\nHINT: correct --repository")
        assert isinstance(repository, BackupRepository)  # typed as maybe awaitable
        cluster = repository.cluster
        hours = repository.backup_max_age_hours or hours
        days = repository.proof_max_age_days or days
    hours = options.max_age_hours or hours
    days = options.proof_days or days
    return options.cluster or cluster, list(_silences(hours, days, options))


def _silences(hours: float, days: float, options: argparse.Namespace) -> Iterator[Silence]:
    yield Silence(
        "backup",
        frozenset({"pgproof.backup.completed"}),
        timedelta(hours=hours),
        "Look at the last runs of the deployment backup/daily-full, and at the worker.",
    )
    yield Silence(
        "proof",
        frozenset({"pgproof.backup.proven"}),
        timedelta(days=days),
        "Look at the last runs of the deployment verify/weekly, and at the worker.",
    )
    yield Silence(
        "look at the objectives",
        frozenset({"pgproof.objectives.looked"}),
        timedelta(hours=options.watch_hours),
        "Look at the last runs of the deployment watch-objectives/hourly, and at the worker.",
    )
    if options.wal_minutes:
        yield Silence(
            "look at the WAL",
            frozenset({"pgproof.wal.*"}),
            timedelta(minutes=options.wal_minutes),
            "Look at the last runs of the deployment watch-wal/often, and at the worker.",
        )
    if options.replica_minutes:
        yield _of_replicas(options.replica_minutes)


def _of_replicas(minutes: float) -> Silence:
    return Silence(
        "look at the replicas",
        frozenset({"pgproof.replicas.*"}),
        timedelta(minutes=minutes),
        "Look at the last runs of the deployment replica-health/every-minute, and at the worker.",
    )


def find_block(slug: str) -> UUID:
    try:
        block = Block.load(slug)
    except ValueError:
        block = None
    if not isinstance(block, NotificationBlock) or block._block_document_id is None:
        sys.exit(
            f"error: there is no notification block {slug}\n"
            "HINT: create it in the UI, and give its type and name, such as slack-webhook/ops"
        )
    return block._block_document_id


def save_webhook() -> UUID:
    """Create or update the notification block of the environment; stock servers know its type."""
    token = os.environ.get("PGPROOF_WEBHOOK_TOKEN")
    block = CustomWebhookNotificationBlock.model_validate(
        {
            "name": "pgproof",
            "url": os.environ["PGPROOF_WEBHOOK_URL"],
            "json_data": {"title": "{{subject}}", "text": "{{body}}"},
            "headers": {"Authorization": "Bearer {{token}}"} if token else None,
            "secrets": {"token": token} if token else {},
        }
    )
    saved = block.save(WEBHOOK_BLOCK, overwrite=True)
    assert isinstance(saved, UUID)  # typed as maybe awaitable
    return saved


def _telling(
    block: UUID,
    name: str,
    description: str,
    trigger: EventTrigger | CompoundTrigger,
    *,
    subject: str,
    body: str,
) -> Automation:
    message = SendNotification(block_document_id=block, subject=subject, body=body)
    return Automation(name=name, description=description, trigger=trigger, actions=[message])


def failed_run(block: UUID) -> Automation:
    """Notify when a run fails or crashes: its message has the HINT."""
    return _telling(
        block,
        "pgproof: failed run",
        "A run of a pgproof deployment failed or crashed.",
        EventTrigger(
            # The type, not the event's name: a state called VerificationFailed has an event of that name.
            expect={"prefect.flow-run.*"},
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": ["FAILED", "CRASHED"]},
            match_related=_TAGGED,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
        ),
        subject="{{ flow.name }} {{ flow_run.name }}: {{ flow_run.state.name }}",
        body="{{ flow_run.state.message }}\n{{ flow_run | ui_url }}",
    )


def recovered_run(block: UUID) -> Automation:
    """Notify once when a deployment completes a run after failed ones."""
    return _telling(
        block,
        "pgproof: recovered",
        "A pgproof deployment has completed a run, and the one before had failed.",
        EventTrigger(
            # What is awaited after something has to match like it, so here only names can tell them apart.
            after={f"prefect.flow-run.{name}" for name in FAILURES},
            expect={"prefect.flow-run.Completed"},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_TAGGED,
            for_each={"related:deployment:prefect.resource.id"},
            posture=Posture.Reactive,
            within=PATIENCE,
        ),
        subject="{{ flow.name }} {{ flow_run.name }}: recovered",
        body="{{ deployment.name }} has completed a run again.\n{{ flow_run | ui_url }}",
    )


def missing(block: UUID, cluster: str, silence: Silence) -> Automation:
    """Notify when what says that all is well did not come for `within`, and again while it does not come.

    Prefect counts in windows, one after the other, and for a window behind one that had such an event it does not look at
    all: that alone would tell one to three times `within` after the last one. So each event also begins a window of
    its own. The others, twice as long so that they do not tell the same a little later, tell again, and where there never
    was one.
    """
    length = in_words(silence.within)

    def window(within: timedelta, *, after: Iterable[str] = ()) -> EventTrigger:
        return EventTrigger(
            after=set(after),
            expect=set(silence.events),
            match={"prefect.resource.id": f"pgproof.cluster.{cluster}"},
            posture=Posture.Proactive,
            within=within,
        )

    return _telling(
        block,
        f"pgproof: no {silence.what} of {cluster}",
        f"There was no {silence.what} of {cluster} for {length}.",
        CompoundTrigger(
            require="any",
            within=None,
            triggers=[window(silence.within, after=silence.events), window(2 * silence.within)],
        ),
        subject=f"no {silence.what} of {cluster} for {length}",
        body=silence.advice,
    )


def there_again(block: UUID, cluster: str, silence: Silence, alarm: UUID) -> Automation:
    """Notify once when it comes after the automation `alarm` has missed it."""
    return _telling(
        block,
        f"pgproof: {silence.what} of {cluster} again",
        f"There is a {silence.what} of {cluster} again, after it was missed.",
        EventTrigger(
            after={"prefect.automation.triggered"},
            expect=set(silence.events),
            match={"prefect.resource.id": [f"prefect.automation.{alarm}", f"pgproof.cluster.{cluster}"]},
            posture=Posture.Reactive,
            within=PATIENCE,
        ),
        subject=f"{silence.what} of {cluster}: recovered",
        body=f"There is a {silence.what} of {cluster} again.",
    )


def dead_run() -> Automation:
    """Crash a run that no longer says it is alive: else it would hold its deployment's slot for ever."""
    action: ActionTypes = ChangeFlowRunState(
        force=False,
        state=StateType.CRASHED,
        name="Crashed",
        message="no heartbeat: its worker or host is gone\nHINT: see whether the worker runs",
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


def ensure(automation: Automation) -> tuple[str, UUID]:
    """Create the automation, or update the one of the same name; say which, and its id."""
    try:
        existing = Automation.read(name=automation.name)
    except ValueError:
        created = automation.create()
        assert isinstance(created, Automation) and created.id is not None  # typed as maybe awaitable
        return "created", created.id
    assert isinstance(existing, Automation) and existing.id is not None  # typed as maybe awaitable
    automation.id = existing.id
    automation.update()
    return "updated", existing.id


if __name__ == "__main__":
    main()
