from __future__ import annotations

import io
import json
import re
import sys
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from pgproof.cli.backups import backup_table, verified_words
from pgproof.cli.overview import window_words
from pgproof.cli.progress import Phases, progress_bar
from pgproof.cli.screen import Screen
from pgproof.cli.verify import conclusion
from pgproof.errors import PreconditionError
from pgproof.model.config import BackupType, VerifyLevel
from pgproof.model.lsn import Lsn
from pgproof.model.report import (
    BackupInfo,
    Check,
    Finding,
    Progress,
    VerificationReport,
    VerificationSummary,
    no_progress,
)
from pgproof.model.wal_status import Restorable

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def info(**changes: object) -> BackupInfo:
    values: dict[str, object] = {
        "backup_id": "b1",
        "cluster": "main",
        "type": BackupType.FULL,
        "method": "physical",
        "status": "ok",
        "parent_id": None,
        "started_at": NOW - timedelta(hours=1, seconds=90),
        "finished_at": NOW - timedelta(hours=1),
        "size_bytes": 380_000_000,
        "stored_bytes": 95_000_000,
        "start_lsn": Lsn(1),
        "stop_lsn": Lsn(2),
        "timeline": 1,
        "server_version": "18.6",
        "system_identifier": "7",
        "change_detection": "none",
    }
    return BackupInfo(**(values | changes))  # type: ignore[arg-type]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_nothing_but_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=False)
    screen.say("RECOVERY KEY", "bold green")
    screen.table(backup_table([info(findings=(Finding("notice", "x"),))], NOW))
    screen.checks([Check("connection", False, "refused\x1b[2J", "add a line", 0.5), Check("amcheck", None)])
    screen.warn("careful")
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "✗ connection: refused\\x1b[2J  0.50 s\n  HINT: add a line\n– amcheck\n" in captured.out
    assert "1 min 30 s  380 MB  95.0 MB  4.0 : 1  never            1" in captured.out


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", terminal)
    Screen(as_json=False).checks([Check("connection", False)])
    assert "\x1b[" in terminal.getvalue()


def test_with_json_only_the_document_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(as_json=True)
    screen.say("for people")
    screen.table(backup_table([info()], NOW))
    screen.checks([Check("x", True)])
    screen.document([info().to_json()])
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["backup_id"] == "b1"
    assert captured.err == ""


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        (None, "never"),
        (VerificationSummary(VerifyLevel.FRAMES, NOW, True), "passed (frames, just now)"),
        (VerificationSummary(VerifyLevel.START, NOW, True), "proven (start, just now)"),
        (VerificationSummary(VerifyLevel.FULL, NOW, True), "proven (full, just now)"),
        (VerificationSummary(VerifyLevel.FULL, NOW, False), "FAILED (full, just now)"),
    ],
)
def test_proven_means_started(summary: VerificationSummary | None, words: str) -> None:
    assert verified_words(summary, NOW) == words


@pytest.mark.parametrize(
    ("ok", "proven", "words"),
    [(True, True, "is proven"), (True, False, "was not started"), (False, False, "did NOT pass")],
)
def test_the_conclusion_says_what_was_proven(ok: bool, proven: bool, words: str) -> None:
    report = VerificationReport("b1", VerifyLevel.START, ok, proven, NOW, 2.0, 95_000_000)
    assert words in conclusion(report)


def test_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(PreconditionError) as caught:
        Screen(as_json=False).confirm("Remove?")
    assert "--yes" in caught.value.hint
    Screen(as_json=False, assume_yes=True).confirm("Remove?")


@pytest.mark.parametrize(("answer", "agreed"), [("y\n", True), ("YES\n", True), ("n\n", False), ("", False)])
def test_only_yes_is_yes(answer: str, agreed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    screen = Screen(as_json=False)
    if agreed:
        screen.confirm("Remove?")
    else:
        with pytest.raises(PreconditionError, match="nothing was changed"):
            screen.confirm("Remove?")


def test_no_bar_without_a_terminal() -> None:
    with progress_bar(Screen(as_json=False)) as report:
        assert report is no_progress


def test_one_bar_a_phase_and_pulsing_while_the_total_is_unknown() -> None:
    bars = Bars(console=Console(file=io.StringIO()), auto_refresh=False)
    phases = Phases(bars)
    for progress in (
        Progress("checkpoint"),
        Progress("copy", 10, 100),
        Progress("copy", 60, 100),
        Progress("copy", 120, 100),  # the estimate was too small
        Progress("commit", 5, 10),
    ):
        phases.report(progress)
    phases.end()
    assert [(task.description, task.completed, task.total) for task in bars.tasks] == [
        ("checkpoint", 1, 1),
        ("copy", 120, 120),
        ("commit", 5, 5),
    ]
    phases.report(Progress("copy", 120, 100))
    assert bars.tasks[-1].total is None


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(0), r"only ....-..-.. ..:.. \(1 h ago\)"),
        (timedelta(seconds=40), r"....-..-.. ..:..:.. \(1 h ago\) to ....-..-.. ..:..:.. \(59 min ago\)"),
        (timedelta(minutes=40), r"....-..-.. ..:.. \(1 h ago\) to ....-..-.. ..:.. \(20 min ago\)"),
    ],
)
def test_a_stretch_of_time_has_two_ends_that_differ(length: timedelta, words: str) -> None:
    oldest = NOW - timedelta(hours=1)
    window = Restorable(1, Lsn(100), oldest, Lsn(900), oldest + length)
    assert re.fullmatch(words, window_words(window, NOW))
