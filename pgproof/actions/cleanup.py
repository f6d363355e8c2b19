"""Decide which backups stay, and take the others away with all that nobody needs any more.

Plan and execution are apart: what was shown, and perhaps agreed to, is what is done, less what a second look spares.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from dataclasses import dataclass, replace
from datetime import datetime

from pgproof.actions.cleanup_survey import CleanupSurvey, look
from pgproof.actions.compact import Compaction, compact, plan_compaction
from pgproof.errors import PreconditionError
from pgproof.failpoints import failpoint
from pgproof.model.cleanup_report import CleanupPlan, CleanupReport, CopyPlan, CopyReport
from pgproof.model.collection import Needed, StoredRun, needed
from pgproof.model.config import BackupConfig
from pgproof.model.job import Job
from pgproof.model.retention import RetentionPlan, plan_retention
from pgproof.model.retention_policy import RetentionPolicy
from pgproof.model.wal_retention import needed_wal
from pgproof.repository.collector import Collected, Collector
from pgproof.repository.garbage import Garbage, find_garbage
from pgproof.repository.leases import hold_lease
from pgproof.repository.repository import Repository
from pgproof.repository.sealing import Kind
from pgproof.repository.survey import Survey
from pgproof.whoami import whoami

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedCleanup:
    """A plan, and all that was seen to make it. It may be carried out later: what has come since is looked at then."""

    plan: CleanupPlan
    seen: CleanupSurvey
    needed: Needed
    dead: dict[str, StoredRun]
    garbage: tuple[Garbage, ...]
    compaction: Compaction


def prepare_cleanup(config: BackupConfig, job: Job, *, compacts: bool = False) -> PreparedCleanup:
    """Look at the repository, and its mirror if there is one, and decide. Nothing is changed. With `compacts` packs of
    which less than half is needed will be rewritten.

    Raises PreconditionError where clocks differ too much, DataError for a store whose lists have holes, and the errors of
    a repository that cannot be read.
    """
    seen = look(config, job)
    job.report("deciding")
    return decide(seen, config.retention, config.cluster, job, compacts=compacts)


def decide(
    seen: CleanupSurvey, policy: RetentionPolicy, cluster: str, job: Job, *, compacts: bool = False
) -> PreparedCleanup:
    """Which backups go, and what then may go with them. Reads no more, unless packs were rewritten or will be."""
    plan = plan_retention(seen.candidates(), policy, seen.now, seen.window_bases)
    # What is copied to a mirror and is not in the first copy any more will never be whole there.
    dead = {
        run.backup_id: run
        for number, copy in enumerate(seen.copies)
        for run in copy.runs.values()
        if run.backup_id in seen.running and (number > 0 or run.dead(seen.newest, copy.now))
    }
    still_needed = _needed(seen, plan, dead)
    withdrawn = frozenset(plan.removed)
    committed = {*seen.backups, *seen.unreadable}
    compaction = plan_compaction(seen, frozenset(plan.kept), still_needed, job, asked=compacts)
    oldest = seen.oldest_end(plan.kept)
    garbage = tuple(
        find_garbage(copy, still_needed, withdrawn, dead, committed, oldest, lock, replaced)
        for copy, lock, replaced in zip(seen.copies, seen.locks, compaction.replaced, strict=True)
    )
    notes = [*seen.notes, *compaction.notes]
    notes += [f"{backup_id} cannot be read: {why}" for backup_id, why in sorted(seen.unreadable.items())]
    if seen.unreadable:
        notes.append(
            "no maps and no WAL are removed, and no packs that these may name, until their manifests are repaired from the "
            "other copy, or removed by hand"
        )
    return PreparedCleanup(
        CleanupPlan(
            cluster=cluster,
            at=seen.now,
            policy=policy,
            retention=plan,
            copies=tuple(
                _copy_plan(copy, each, withdrawn) for copy, each in zip(seen.copies, garbage, strict=True)
            ),
            dead_runs=tuple(sorted(dead)),
            running=tuple(sorted(seen.running - dead.keys())),
            notes=tuple(notes),
            compaction=compaction.plan,
        ),
        seen,
        still_needed,
        dead,
        garbage,
        compaction,
    )


def cleanup(
    config: BackupConfig,
    prepared: PreparedCleanup | None,
    approved: bool,
    job: Job,
    *,
    compacts: bool = False,
) -> CleanupReport:
    """Carry out a plan, by default one that is made now, for which `compacts` counts.

    Raises PreconditionError if it takes more than half of what the backups have stored and is not `approved`, ConflictError if
    another cleanup runs. Killed at any point, it leaves whole backups and some garbage.
    """
    begun = time.monotonic()
    prepared = prepared or prepare_cleanup(config, job, compacts=compacts)
    if prepared.plan.large and not approved:
        raise PreconditionError(
            "this would remove more than half of what the backups have stored",
            hint="look at it with `pgproof cleanup --plan`; if it is meant, add --yes (as a flow: approved=true)",
            backups=len(prepared.plan.retention.removed),
        )
    report = carry_out(prepared, job, begun)
    _log.info(
        "cleanup cluster=%s removed=%d kept=%d freed=%d refused=%d seconds=%.1f",
        config.cluster,
        len(report.removed),
        len(prepared.plan.retention.kept),
        report.freed_bytes,
        sum(len(each.refused) for each in report.copies),
        report.seconds,
    )
    return report


def carry_out(prepared: PreparedCleanup, job: Job, begun: float) -> CleanupReport:
    """One copy after the other, the first one first: a crash leaves backups in the mirror only, never the other way."""
    seen = prepared.seen
    withdrawn = set(prepared.plan.retention.removed)
    primary = seen.copies[0].repository
    with hold_lease(Repository(primary.bucket, primary.key, primary.cluster), "cleanup"):
        failpoint("cleanup.leased")
        collector = Collector(
            seen.copies, seen.reader, prepared.needed, withdrawn, prepared.dead, job, seen.clock
        )
        collected = [
            collector.collect(copy, garbage)
            for copy, garbage in zip(seen.copies, prepared.garbage, strict=True)
        ]
        report = CleanupReport(
            plan=prepared.plan,
            copies=tuple(_copy_report(each) for each in collected),
            seconds=time.monotonic() - begun,
            spared=tuple(sorted({each for done in collected for each in done.spared})),
            by=f"{whoami()}, pid {os.getpid()}",
        )
        for copy in seen.copies:
            _record(copy, report, seen.clock())
        # Behind the record of what has gone: it may take hours, and nothing depends on it.
        return replace(report, compaction=compact(seen, prepared.compaction, collector.may_need_more, job))


def _needed(seen: CleanupSurvey, plan: RetentionPlan, dead: dict[str, StoredRun]) -> Needed:
    kept = [seen.backups[backup_id] for backup_id in plan.kept if backup_id in seen.backups]
    bases = [each.wal for each in kept if each.wal is not None]
    wal = needed_wal(bases, seen.window(plan), seen.histories, seen.segment_size)
    runs = {
        backup_id: run
        for copy in seen.copies
        for backup_id, run in copy.runs.items()
        if backup_id in seen.running and backup_id not in dead
    }
    found = needed(kept, runs.values(), [seen.intent_of(each) for each in seen.unreadable], wal)
    found.all_wal = found.all_wal or seen.unknown_histories
    return found


def _copy_plan(copy: Survey, garbage: Garbage, withdrawn: frozenset[str]) -> CopyPlan:
    packs = sum(info.size for packs in copy.packs.values() for info in packs.values())
    packs += sum(info.size for objects in copy.older.values() for info in objects)
    maps = sum(info.size for info in copy.maps.values())
    wal = sum(info.size for objects in copy.wal.values() for info in objects)
    return CopyPlan(
        location=copy.repository.bucket.location,
        objects=len(garbage),
        bytes=garbage.sizes,
        stored_bytes=packs + maps + wal,
        backup_bytes=packs,
        withdrawn_bytes=garbage.of(withdrawn),
        locked=len(garbage.locked),
    )


def _copy_report(done: Collected) -> CopyReport:
    return CopyReport(
        done.location,
        tuple(done.withdrawn),
        tuple(done.given_up),
        dict(done.objects),
        dict(done.bytes),
        tuple(done.refused),
    )


def _record(copy: Survey, report: CleanupReport, at: datetime) -> None:
    """Who removed what, and what was kept: the next cleanup compares the store's list with it."""
    failpoint("cleanup.recording")
    copy.repository.create_json(
        Kind.CLEANUP,
        copy.repository.layout.cleanup(at, secrets.token_hex(6)),
        {
            "format": 1,
            "at": at.isoformat(),
            "by": report.by,
            "policy": report.plan.policy.to_json(),
            "kept": [each for each in report.plan.retention.kept if each in copy.listed.manifests],
            "removed": {each: list(report.plan.retention.of(each).reasons) for each in report.removed},
            "copies": [each.to_json() for each in report.copies],
        },
    )
