"""The action log (docs/format.md, section 7): records are created once, and neither changed nor removed."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from pgproof.errors import DataError
from pgproof.model.action_record import ActionRecord
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind


def store_action(repository: Repository, record: ActionRecord) -> None:
    key = repository.layout.action(record.at, secrets.token_hex(6))
    repository.create_json(Kind.ACTION, key, {"format": 1, **record.to_json()})


def list_actions(
    repository: Repository, since: datetime | None = None
) -> tuple[list[ActionRecord], list[DataError]]:
    """What was done since then, the oldest first, and what of it cannot be read: both are for people to look at."""
    prefix = repository.layout.actions
    first = "" if since is None else f"{prefix}{since.astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
    found: list[ActionRecord] = []
    damaged: list[DataError] = []
    for key in sorted(info.key for info in repository.bucket.list(prefix) if info.key >= first):
        try:
            found.append(ActionRecord.from_json(repository.read_json(Kind.ACTION, key)))
        except DataError as error:
            error.context.setdefault("key", key)
            damaged.append(error)
    return found, damaged
