"""The catalog's reports: every fact, charts that are well-formed images, and a failure that fails nothing."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree

import pytest

from flows.support.catalog_charts import backups_chart, growth_chart, window_chart
from flows.support.catalog_reports import catalog_report, storage_report
from flows.support.charts import Chart, TimeScale, nice_ceiling
from pgproof.model.overview import Overview
from pgproof.model.report import Finding
from tests.support.catalogs import NOW, made_up

SVG = "{http://www.w3.org/2000/svg}"


def images(markdown: str) -> list[ElementTree.Element]:
    found = re.findall(r"!\[[^\]\n]*\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert len(found) == markdown.count("base64,")
    return [ElementTree.fromstring(base64.b64decode(each)) for each in found]


def test_the_catalog_shows_the_newest_first_and_says_how_many_it_leaves_out() -> None:
    catalog = made_up().catalog
    report = catalog_report(catalog)
    rows = [line for line in report.splitlines() if line.startswith("| `")]
    assert len(rows) == 20 and catalog.backups[-1].backup_id in rows[0]
    assert "… and 20 older: the oldest is of 2026-10-17 12:00:00 UTC" in report
    assert "40 backups; newest 2026-11-25 12:00 UTC, newest proven 2026-11-21 12:00 UTC" in report
    proven = next(row for row in rows if "full" in row)
    for cell in (
        "-full-00002",
        "| 5 d |",
        "10 GB",
        "2 GB",
        "1 min 30 s",
        "✓ proven (full) 4 d ago",
    ):
        assert cell in proven
    assert "all of them hold 400 GB, stored in 12.3 GB (32.4 : 1)" in report
    assert "| 2026-11-11 12:00:00 | 2026-11-26 12:00:00 | 0/4B0 to 0/2328 | 1 |" in report
    assert len(images(report)) == 2


def test_what_is_wrong_or_special_is_marked() -> None:
    catalog = made_up(3).catalog
    assert catalog.backups[0].verified is not None
    bad = replace(catalog.backups[0].verified, ok=False)
    backups = (
        replace(catalog.backups[0], verified=bad, status="degraded"),
        replace(catalog.backups[1], pinned_until=NOW + timedelta(days=1)),
        replace(catalog.backups[2], findings=(Finding("local-only", "x"),), method="logical"),
    )
    report = catalog_report(replace(catalog, backups=backups, windows=(), window_problem="no | cluster"))
    for words in (
        "` | ! degraded, ✗ FAILED (full)",
        "` | never, pinned |",
        "` | never, logical, local only |",
        "no \\| cluster",
    ):
        assert words in report
    assert "none proven" in report


def test_an_empty_repository_has_reports() -> None:
    found = made_up(0)
    assert "No backup yet" in catalog_report(found.catalog)
    report = storage_report("main", found.storage, NOW)
    assert "nothing is stored yet" in report and not images(report)


def test_storage_shows_forecast_and_cost() -> None:
    storage = made_up(60).storage
    report = storage_report("main", storage, NOW)
    for row in (
        "| in all, now | 60 GB | 1.20 |",
        "| in 30 days | 90 GB (90 GB to 90 GB) | 1.80 |",
        "| in 90 days | 150 GB (150 GB to 150 GB) | 3.00 |",
        "+1 GB a day",
        "1,234 objects in s3://bucket/prefix",
    ):
        assert row in report
    (image,) = images(report)
    assert "about 150 GB in 90 days" in str(image.findtext(f"{SVG}desc"))


def test_what_costs_next_to_nothing_is_not_free() -> None:
    report = storage_report("main", made_up(5, price=0.0001).storage, NOW)
    assert "| WAL | 500 MB | &lt; 0.01 |" in report and "| other | 0 B | 0.00 |" in report


def test_when_a_backup_was_verified_is_said_if_it_was_not_at_once() -> None:
    catalog = made_up(1).catalog
    backup = catalog.backups[0]
    assert backup.verified is not None
    at_once = replace(backup, verified=replace(backup.verified, at=backup.finished_at))
    assert "| ✓ proven (full) 22 h ago |" in catalog_report(catalog)
    assert "| ✓ proven (full) |" in catalog_report(replace(catalog, backups=(at_once,)))


def test_without_a_price_no_cost_and_without_a_history_no_forecast() -> None:
    report = storage_report("main", made_up(5, price=None).storage, NOW)
    assert "Cost" not in report and "in 30 days" not in report
    assert "No forecast that far: 4 days of history tell too little" in report
    assert len(images(report)) == 1


@pytest.mark.parametrize("count", [1, 2, 40, 500])
def test_charts_are_well_formed_small_and_told_to_those_who_cannot_see(count: int) -> None:
    found = made_up(count)
    growth = found.storage.growth
    for chart in (
        window_chart(found.catalog),
        backups_chart(found.catalog.backups),
        growth_chart(growth, NOW),
    ):
        root = ElementTree.fromstring(chart.svg())
        assert root.findtext(f"{SVG}title") and root.findtext(f"{SVG}desc")
        assert root.attrib["role"] == "img" and "prefers-color-scheme:dark" in chart.svg()
        assert "http" not in chart.svg().replace("http://www.w3.org/2000/svg", "")
        assert len(chart.markdown()) < 30_000
    assert len(catalog_report(found.catalog)) < 40_000


def test_no_name_gets_out_of_a_chart() -> None:
    chart = Chart("a <b> & ]( \n`x`", "d\n\n# y", 50)
    chart.text(1, 2, "<script>&")
    root = ElementTree.fromstring(chart.svg())
    assert root.findtext(f"{SVG}text") == "<script>&"
    assert re.fullmatch(r"!\[[^][<>`\n]*\]\(data:[^)]*\)", chart.markdown())


@pytest.mark.parametrize("seconds", [0, 59, 3600, 5 * 3600, 86400, 9 * 86400, 400 * 86400, 9000 * 86400])
def test_a_time_axis_has_few_ticks_in_order_and_inside(seconds: int) -> None:
    scale = TimeScale.over([NOW, NOW + timedelta(seconds=seconds)])
    moments = [at for at, _label in scale.ticks()]
    assert len(moments) <= 8 and moments == sorted(moments)
    assert all(scale.start <= at <= scale.end for at in moments)


@pytest.mark.parametrize(("value", "ceiling"), [(0, 1), (0.3, 0.3), (1, 1), (1.01, 1.5), (7, 8), (83, 100)])
def test_ceilings_are_round(value: float, ceiling: float) -> None:
    assert nice_ceiling(value) == pytest.approx(ceiling)


def test_an_overview_is_json() -> None:
    document = made_up(60).to_json()
    assert isinstance(made_up(), Overview)
    assert (document["backups"], document["stored_bytes"], document["cost_per_month"]) == (
        60,
        60 * 10**9,
        1.2,
    )
    assert document["growth"]["forecasts"][1] == {
        "days": 90,
        "bytes": 150 * 10**9,
        "low_bytes": 150 * 10**9,
        "high_bytes": 150 * 10**9,
    }
