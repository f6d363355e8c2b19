"""What a restore drill publishes: the times beside their forecast, the checks, and how to do it again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from xml.etree import ElementTree

from flows.support.drill_chart import recovery_chart
from flows.support.drill_reports import drill_report
from pgproof.model.drill import DrillReport, DrillStep
from pgproof.model.report import Check
from pgproof.model.rto import RtoForecast

PASSED = DrillReport(
    cluster="main",
    at=datetime(2026, 11, 26, 12, tzinfo=UTC),
    by="backup@db",
    seed=7,
    backup_id="20261126T113000Z-full-000001",
    target="lsn 0/5000148",
    again="pgproof drill --backup 20261126T113000Z-full-000001 --to-lsn 0/5000148",
    seconds=190.0,
    steps=(
        DrillStep("choose", True, 0.5),
        DrillStep("restore", True, 100.0, 5 * 10**9),
        DrillStep("replay", True, 20.0, 10**9),
        DrillStep("start", True, 1.5),
        DrillStep("checks", True, 68.0),
    ),
    checks=(Check("pg_amcheck", True, "", seconds=60.0), Check("dump of shop", True, "", seconds=8.0)),
    rto_seconds=122.0,
    forecast=RtoForecast(5 * 10**9, 2 * 10**9, 5e7, 5e7, False, 0.5, 100.0, 40.0, 1.5),
)


def test_each_step_stands_beside_its_forecast_and_checks_are_no_part_of_the_recovery() -> None:
    lines = drill_report(PASSED, rto_minutes=30).splitlines()
    assert (
        "**✓ Passed: recovered in 2 min 02 s, a recovery now would take 2 min 22 s; 2 checks passed**"
        in lines
    )
    table = lines[lines.index("| ✓ | Choose the backup, find the moment | 0.50 s |  | 0.50 s |") :]
    assert table[1:7] == [
        "| ✓ | Read the backup, write its files | 1 min 40 s | 5 GB at 50 MB/s | 1 min 40 s (5 GB) |",
        "| ✓ | Replay WAL to the moment | 20.0 s | 1 GB at 50 MB/s | 40.0 s (2 GB) |",
        "| ✓ | Start until connections are taken | 1.5 s |  | 1.5 s |",
        "|  | **Recovery (RTO)** | **2 min 02 s** |  | **2 min 22 s** |",
        "|  | Objective | 30 min |  | 30 min |",
        "| ✓ | Ask the server everything | 1 min 08 s |  |  |",
    ]
    assert "| ✓ | pg_amcheck | 1 min 00 s |" in lines
    assert lines[-2] == PASSED.again


def test_a_drill_that_did_not_recover_says_where_it_stopped() -> None:
    stopped = replace(
        PASSED,
        failed_step="restore",
        failure="no room",
        hint="free some",
        steps=(PASSED.steps[0], replace(PASSED.steps[1], ok=False)),
        checks=(Check("room", False, "1 GB | 5 GB"),),
        rto_seconds=None,
        forecast=None,
    )
    report = drill_report(stopped)
    for words in (
        "**✗ Failed at the step restore: no room**",
        "What to do: free some",
        "| ✗ failed | Read the backup, write its files |",
        "**it did not recover**",
        "| ✗ failed | room | 0.00 s |",
        "- **room** 1 GB \\| 5 GB",
    ):
        assert words in report
    assert "base64," not in report and "The forecast is for" not in report


def test_the_bars_are_as_long_as_the_times() -> None:
    svg = ElementTree.fromstring(recovery_chart(PASSED).svg())
    paths = [
        each for each in svg.iter("{http://www.w3.org/2000/svg}path") if each.get("stroke-width") == "22"
    ]
    lengths = []
    for path in paths:
        start, end = str(path.get("d")).removeprefix("M").split("H")
        lengths.append(float(end) - float(start.split(" ")[0]))
    measured, forecast = lengths[:4], lengths[4:]
    assert abs(measured[1] - 5 * measured[2]) < 1 and abs(forecast[2] - 2 * measured[2]) < 1
    assert "measured 2 min 02 s; forecast 2 min 22 s" in recovery_chart(PASSED).markdown()
