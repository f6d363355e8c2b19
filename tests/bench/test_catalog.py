"""The benchmark of a repository of many backups, with few."""

from __future__ import annotations

from bench import catalog


def test_a_repository_is_listed_planned_over_and_cleaned() -> None:
    (found,) = catalog.measurements(24 * 40, 1)
    assert found.backups == 24 * 40 and 0 < found.removed < found.backups < found.objects
    shown = catalog.markdown([found])
    assert "960 backups" in shown and shown.count("| listing") == 2 and "| peak memory |" in shown
