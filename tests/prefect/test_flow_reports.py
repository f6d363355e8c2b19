"""The reports that people read in the UI."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.support.progress import shown
from flows.support.publishing import artifact_key
from flows.support.reports import (
    backup_report,
    failure_message,
    human_duration,
    human_size,
    restore_plan_report,
    restore_report,
    verdict,
    verification_report,
)
from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.lsn import Lsn
from pgproof.model.report import (
    BackupInfo,
    Check,
    Finding,
    Progress,
    RestoreReport,
    VerificationReport,
)
from pgproof.model.restore_plan import RestorePlan

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
INFO = BackupInfo(
    backup_id="20261123T120000F",
    cluster="orders",
    type=BackupType.FULL,
    method="physical",
    status="ok",
    parent_id=None,
    started_at=NOON,
    finished_at=NOON + timedelta(seconds=80),
    size_bytes=4_000_000_000,
    stored_bytes=1_000_000_000,
    start_lsn=Lsn.parse("0/2000028"),
    stop_lsn=Lsn.parse("0/2000120"),
    timeline=3,
    server_version="18.1",
    system_identifier="7300000000000000001",
    change_detection="none",
)
PROVEN = VerificationReport(
    backup_id=INFO.backup_id,
    level=VerifyLevel.START,
    ok=True,
    proven=True,
    started_at=NOON,
    seconds=12.5,
    bytes_read=1_000_000_000,
    checks=(
        Check("objects", True, "312 objects", seconds=0.2),
        Check("collations", None, "ICU is not built in", hint="install postgresql-18"),
    ),
    sandbox="own user and network namespaces",
)
BROKEN = replace(PROVEN, ok=False, proven=False, damage=tuple(f"pack {n}: frame 7" for n in range(7)))


def test_a_backup_report_holds_the_figures() -> None:
    report = backup_report(INFO)
    for row in (
        "backup of `orders`",
        "| Status | ✓ ok |",
        "| Started | 2026-11-23 12:00:00 UTC |",
        "| Duration | 1 min 20 s |",
        "| Size | 4 GB |",
        "| Stored | 1 GB |",
        "| Ratio | 4.0 : 1 |",
        "| Rate | 50 MB/s |",
        "| WAL | 0/2000028 to 0/2000120, timeline 3 |",
        "| Server | PostgreSQL 18.1, system 7300000000000000001 |",
        "No findings.",
    ):
        assert row in report


def test_findings_are_listed_and_stay_in_their_cells() -> None:
    finding = Finding("page-checksum", "base/5/a|b: page 3\nis <bad>", degrades=True)
    report = backup_report(replace(INFO, status="degraded", findings=(finding,)))
    assert "! degraded" in report
    assert "| page-checksum | base/5/a\\|b: page 3 is &lt;bad> | yes |" in report


def test_a_backup_that_stored_nothing_and_took_no_time_has_a_report() -> None:
    report = backup_report(replace(INFO, stored_bytes=0, finished_at=NOON))
    assert "| Ratio | nothing new was stored |" in report
    assert "| Rate | – |" in report


def test_a_verification_report_lists_the_steps_with_their_durations() -> None:
    report = verification_report(PROVEN)
    assert "**✓ Proven: the backup was restored, started and recovered**" in report
    assert "| ✓ | objects | 0.20 s | 312 objects |" in report
    assert "| – not done | collations | 0.00 s | ICU is not built in. install postgresql-18 |" in report
    assert "| Sandbox | own user and network namespaces |" in report


def test_only_a_started_backup_is_called_proven() -> None:
    frames = replace(PROVEN, level=VerifyLevel.FRAMES, proven=False)
    assert "not proven" in verdict(frames)
    assert verdict(BROKEN).startswith("Failed")


def test_damage_is_named_in_the_report_and_shortly_in_the_message() -> None:
    assert "- pack 6: frame 7" in verification_report(BROKEN)
    message = failure_message(BROKEN)
    assert INFO.backup_id in message
    assert "pack 4: frame 7" in message
    assert "pack 5" not in message
    assert "2 more" in message


def test_a_failure_without_damage_names_the_failed_step() -> None:
    stopped = replace(BROKEN, damage=(), checks=(Check("start", False, "the server stopped by itself"),))
    assert "start: the server stopped by itself" in failure_message(stopped)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_700, "1 MB"),
        (3_921_000_000, "3.92 GB"),
        (5 * 10**15, "5 PB"),
    ],
)
def test_sizes_have_three_figures(count: int, text: str) -> None:
    assert human_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.042, "0.04 s"), (59.94, "59.9 s"), (61, "1 min 01 s"), (7322, "2 h 02 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress("checkpoint"), (0, "checkpoint")),
        (Progress("files", 5_000_000), (0, "files: 5 MB")),
        (Progress("files", 5_000_000, 10_000_000), (50, "files: 5 MB of 10 MB")),
        (Progress("files", 12_000_000, 10_000_000), (100, "files: 12 MB of 10 MB")),
    ],
)
def test_progress_is_a_percentage_and_words(progress: Progress, expected: tuple[float, str]) -> None:
    assert shown(progress) == expected


@pytest.mark.parametrize(
    ("cluster", "key"), [("main", "backup-main"), ("eu_1.orders", "backup-eu-1-orders"), ("a--", "backup-a")]
)
def test_artifact_keys_are_ones_that_prefect_takes(cluster: str, key: str) -> None:
    assert artifact_key("backup", cluster) == key


def test_a_restore_report_says_where_and_how_far() -> None:
    commit = {"lsn": "0/5000148", "xid": 738, "time": "2026-11-23T12:00:00+00:00"}
    report = RestoreReport(
        backup_id=INFO.backup_id,
        data_dir="/srv/restored",
        size_bytes=4_000_000_000,
        files=1200,
        seconds=80,
        recovered=True,
        end_lsn=Lsn.parse("0/5000170"),
        notes=("a <note>",),
        target="xid 738",
        last_commit=commit,
        written_bytes=1_000_000,
    )
    text = restore_report(report)
    for row in (
        "| Data directory | /srv/restored |",
        "| Target | xid 738 |",
        "| Recovery | ended at 0/5000170 |",
        "| Last commit | transaction 738, 2026-11-23T12:00:00+00:00 |",
        "| Size | 4 GB in 1,200 files |",
        "| Written | 1 MB |",
        "- a &lt;note>",
    ):
        assert row in text


def test_no_name_in_a_plan_ends_its_block() -> None:
    plan = RestorePlan(
        backup_id=INFO.backup_id,
        cluster="orders",
        server_version="18.1",
        data_dir=Path("/srv/a\n# Approved"),
        tablespaces={},
        moved={},
        size_bytes=1,
        wal_bytes=1,
        needed={},
        recover=True,
        stop_lsn=INFO.stop_lsn,
        owner=None,
    )
    text = restore_plan_report(plan, NOON)
    assert text.startswith("## Restore into an empty directory\n\n- **backup** ")
    assert all(line.startswith("- **") for line in text.strip().splitlines()[2:])
