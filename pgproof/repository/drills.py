"""The records of restore drills (docs/format.md, section 7); none is changed, and none removed."""

from __future__ import annotations

import secrets

from pgproof.errors import DataError
from pgproof.model.drill import DrillReport
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind


def store_drill(repository: Repository, report: DrillReport) -> None:
    key = repository.layout.drill(report.at, secrets.token_hex(6))
    repository.create_json(Kind.DRILL, key, {"format": 1, **report.to_json()})


def list_drills(repository: Repository, limit: int | None = None) -> list[DrillReport]:
    """The newest `limit` drills, the newest first. One that cannot be read is left out: it is a figure, and no backup."""
    found: list[DrillReport] = []
    for key in sorted((info.key for info in repository.bucket.list(repository.layout.drills)), reverse=True):
        if limit is not None and len(found) >= limit:
            break
        try:
            found.append(DrillReport.from_json(repository.read_json(Kind.DRILL, key)))
        except DataError:
            continue
    return found
