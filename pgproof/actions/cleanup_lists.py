"""Whether a store's clock and lists can be trusted with what a cleanup deletes by them."""

from __future__ import annotations

from collections.abc import Iterable

from pgproof.errors import DataError, PreconditionError
from pgproof.model.retention import CLOCK_SLACK
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.survey import Survey


def refuse_wrong_clock(copy: Survey) -> None:
    if abs(copy.skew) > CLOCK_SLACK:
        raise PreconditionError(
            "the store's clock differs from this machine's by too much to judge ages",
            hint="set the wrong one of the two (NTP), then run this again; nothing was removed",
            location=copy.repository.bucket.location,
            seconds=round(copy.skew.total_seconds()),
        )


def kept_last(repository: Repository) -> list[str]:
    """What the last cleanup kept; nothing if its record rotted, which proves nothing."""
    last = max((info.key for info in repository.bucket.list(repository.layout.cleanups)), default=None)
    try:
        kept = repository.read_json(Kind.CLEANUP, last).get("kept") if last is not None else None
    except DataError:
        return []
    return [str(each) for each in kept] if isinstance(kept, list) else []


def refuse_holes(copy: Survey, kept: Iterable[str]) -> None:
    """What the last cleanup kept is listed, or really gone. A list with holes would have us delete what is needed."""
    repository = copy.repository
    for backup_id in kept:
        if backup_id in copy.listed.manifests:
            continue
        manifest = repository.layout.manifest(backup_id)
        if repository.bucket.head(manifest) is not None:
            raise DataError(
                "the store's list lacks a backup that is there",
                hint="nothing may be deleted by such lists: see what is wrong with the store",
                key=manifest,
                location=repository.bucket.location,
            )
