"""Find what destroyed data, and where to restore to: the WAL of a window is read, from the oldest record on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgproof.actions.find_names import find_names
from pgproof.actions.find_stop import StopFinder, TooLate
from pgproof.actions.opening import open_for_reading
from pgproof.actions.recovery_choosing import all_bases, known_histories
from pgproof.actions.wal_reading import WalReading, wal_reading
from pgproof.model.config import BackupConfig, PostgresConfig
from pgproof.model.damage_question import Question
from pgproof.model.harm import DamageReport, HarmfulTransaction, judge, restore_command
from pgproof.model.harm_scan import HarmScan, Suspect
from pgproof.model.job import Job
from pgproof.model.lsn import Lsn
from pgproof.model.manifest import PHYSICAL
from pgproof.model.recovery_choice import Reach, choose_timeline, find_reaches, refuse
from pgproof.postgres.osuser import service_user
from pgproof.postgres.programs import find_programs
from pgproof.repository.catalog import find_backup
from pgproof.repository.wal_archive import WalArchive

_log = logging.getLogger(__name__)
_REPORT_EVERY = 20_000
_DAY = timedelta(days=1)
_LEAD = 256 << 20


@dataclass(frozen=True, slots=True)
class _Range:
    """Records are read from `read` on; transactions count that commit from `start` up to, not including, `end`."""

    read: Lsn
    start: Lsn
    end: Lsn


def find_damage(postgres: PostgresConfig, config: BackupConfig, question: Question, job: Job) -> DamageReport:
    """Raises PreconditionError where nothing can be restored, or pgproof lacks PostgreSQL's programs."""
    begun = time.monotonic()
    job.report("opening repository")
    repository = open_for_reading(config)
    newest = find_backup(repository, "latest", PHYSICAL)
    archive = WalArchive(repository, newest.system_identifier, newest.wal_segment_size)
    inventory, bases = archive.inventory(), all_bases(repository, newest)
    histories = known_histories(archive, inventory, newest, bases)
    history = choose_timeline(question.timeline, histories, bases, None)
    reaches = find_reaches(bases, inventory.coverage(), history, archive.segment_size)
    if not reaches:
        raise refuse(
            "nothing can be restored along this timeline", reaches, set(histories) - {history.timeline}
        )
    programs = find_programs(newest.major_version, config.bin_dir)
    user = service_user(config.scratch_user)
    since = question.since or (question.until or datetime.now(UTC)) - _DAY
    with wal_reading(archive, inventory, history, config, programs, user, job) as reading:
        ranges = list(_ranges(reading, reaches, since, question.until, job))
        suspects, older, notes = _scan(reading, ranges, question.min_rows, job)
    notes += _holes(reaches, ranges)
    names, unnamed = find_names(
        question.names, suspects, postgres, repository, config, reaches, newest.system_identifier, job
    )
    found = []
    for suspect in suspects:
        harms = judge(suspect, names, question.min_rows)
        if harms:
            command = restore_command(suspect.before, history.timeline, config.cluster)
            found.append(HarmfulTransaction(suspect.end, suspect.before, harms, command, suspect.at_least))
    report = DamageReport(
        history.timeline,
        ranges[0].start if ranges else reaches[-1].end,
        ranges[-1].end if ranges else reaches[-1].end,
        since,
        question.until,
        question.min_rows,
        sum(each.end - each.read for each in ranges),
        time.monotonic() - begun,
        tuple(found),
        older,
        (*notes, *unnamed),
    )
    _log.info(
        "damage looked for timeline=%d wal_bytes=%d found=%d seconds=%.1f",
        report.timeline,
        report.wal_bytes,
        len(found),
        report.seconds,
    )
    return report


def _ranges(
    reading: WalReading, reaches: Sequence[Reach], since: datetime, until: datetime | None, job: Job
) -> Iterator[_Range]:
    """Where the commits of the window lie, in what can be restored. Transactions that began not long before it
    are seen as a whole."""
    # When a backup began counts for targets only.
    finder = StopFinder(reading, reaches, (), lambda base: base.stopped_at, job)
    for reach in reaches:
        first = finder.first_too_late(reach, _from(since))
        if first is None:
            continue
        start = max(first.lsn, reach.start)
        last = finder.first_too_late(reach, _behind(until)) if until is not None else None
        end = last.lsn if last is not None else reach.end
        if start < end:
            # The WAL of a backup begins by telling what was running then.
            begins = [base.start for base in reach.bases if base.stop <= start]
            yield _Range(max(begins[-1], Lsn(max(0, start.value - _LEAD))), start, end)


def _from(moment: datetime) -> TooLate:
    return lambda commit: commit.time >= moment


def _behind(moment: datetime) -> TooLate:
    return lambda commit: commit.time > moment


def _scan(
    reading: WalReading, ranges: Sequence[_Range], min_rows: int, job: Job
) -> tuple[list[Suspect], int, list[str]]:
    suspects: list[Suspect] = []
    older, notes = 0, list[str]()
    done, total = 0, sum(each.end - each.read for each in ranges)
    for each in ranges:
        scan = HarmScan(each.start, min_rows)
        with closing(reading.records(each.read, each.end, HarmScan.RMGRS)) as records:
            for number, record in enumerate(records):
                if number % _REPORT_EVERY == 0:
                    job.report("reading WAL", done + (record.lsn - each.read), total)
                scan.take(record)
        done += each.end - each.read
        suspects += scan.suspects
        older += scan.older
        if scan.uncounted:
            notes.append(
                f"too many transactions were unfinished at one time: {scan.uncounted:,} changes of rows from "
                f"{scan.uncounted_at} on were not counted, so some transactions changed more rows than shown"
            )
    return suspects, older, notes


def _holes(reaches: Sequence[Reach], ranges: Sequence[_Range]) -> list[str]:
    ends = {each.end for each in ranges}
    return [
        f"WAL is missing from {reach.end} to {reach.missing}: what was done there is not known"
        for reach in reaches
        if reach.missing is not None and reach.end in ends
    ]
