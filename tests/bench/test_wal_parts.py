"""The benchmarks of WAL that is streamed and replayed, for a few seconds each."""

from __future__ import annotations

from pathlib import Path

from bench import wal_commit, wal_replay, wal_stream
from bench.ours import NAME
from bench.parts import PARTS
from bench.recording import Results, about
from bench.streamers import RECEIVER
from bench.wal_commit import ALONE
from bench.wal_load import content
from bench.wal_replay import COPIED, LOCAL
from bench.wal_stream import Sample, lags, percentile, written_rate
from tests.support import machine


def test_lags_are_until_what_was_flushed_is_acknowledged() -> None:
    samples = [
        Sample(0.0, 100, 100),
        Sample(1.0, 200, 100),
        Sample(2.0, 300, 150),
        Sample(3.0, 300, 250),
        Sample(4.0, 300, 300),
    ]
    assert lags(samples) == [2.0, 2.0], "the last moments had nothing new"
    assert written_rate(samples) == 100
    assert [percentile([1, 2, 3, 4], share) for share in (0.0, 0.5, 0.99)] == [1, 3, 4]


def test_the_load_compresses_like_data() -> None:
    import zstandard

    rows = content(1 << 20, 1)
    assert len(rows) == 1 << 20
    assert 2 < len(rows) / len(zstandard.ZstdCompressor(level=3).compress(rows)) < 3
    assert content(1 << 20, 2) != rows


def test_wal_is_streamed_at_a_rate() -> None:
    found = list(wal_stream.measurements(10e6, 2, 1, ["directory"], machine.new_dir("bench")))
    assert [each.name for each in found] == [NAME, RECEIVER]
    ours = found[0]
    assert 0 <= ours.lag_p50 <= ours.lag_p99 <= ours.lag_max
    assert ours.cpu > 0 and ours.server_cpu > 0 and ours.memory_mb > 0
    assert 0.2 < ours.stored_share < 0.8, "compressed"
    assert f"| {NAME} | directory |" in wal_stream.markdown(found)


def test_commits_wait_for_the_streamer() -> None:
    found = list(wal_commit.measurements(20, 1, ["directory"], machine.new_dir("bench")))
    assert [each.name for each in found] == [ALONE, NAME, RECEIVER]
    assert all(0 < each.p50 <= each.p99 <= each.longest for each in found)
    assert wal_commit.markdown(found).count("\n") == 4


def test_wal_is_replayed_from_everywhere() -> None:
    found = list(wal_replay.measurements(0.04, 1, ["directory"], machine.new_dir("bench")))
    assert [each.name for each in found] == [LOCAL, COPIED, NAME]
    assert all(each.wall > 0 and each.wal_mb >= 3 * 16 for each in found)
    assert "by that from a local pg_wal" in wal_replay.markdown(found)


def test_a_part_that_runs_again_replaces_its_section(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    measured = wal_commit.Measured(ALONE, "", 0, 10, 1.0, 2.0, 3.0)
    for part in ("commit", "wal", "commit"):
        Results(file).begin(part, about([18], 1)).add(measured)
    sections = Results(file).sections
    assert {name: len(each["measurements"]) for name, each in sections.items()} == {"commit": 1, "wal": 1}
    stored = sections["commit"]
    assert "| 1.00 | 2.00 | 3.0 |" in PARTS["commit"].markdown(stored["about"], stored["measurements"])
