"""Where a drill goes, what its record holds, and what a recovery is said to take."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import DataError
from pgproof.model.drill import DrillReport, DrillStep, draw_moment
from pgproof.model.lsn import Lsn
from pgproof.model.recovery_choice import Base, Reach
from pgproof.model.report import Check
from pgproof.model.rto import ASSUMED_REPLAY_RATE, Measured, forecast_rto
from pgproof.model.server_log import redo_seconds

_AT = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)


def _reach(start: int, end: int) -> Reach:
    return Reach((Base("b", 1, Lsn(max(0, start - 10)), Lsn(start), _AT),), Lsn(start), Lsn(end))


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 10**9), min_size=2, max_size=8, unique=True),
    st.lists(st.integers(0, 10**9), max_size=5),
)
def test_a_moment_lies_in_what_can_be_reached_and_a_seed_repeats_it(
    seed: int, edges: list[int], fingerprints: list[int]
) -> None:
    edges = sorted(edges)[: len(edges) // 2 * 2]
    reaches = [_reach(*edges[at : at + 2]) for at in range(0, len(edges), 2)]
    known = [Lsn(each) for each in fingerprints]
    moment = draw_moment(seed, reaches, known)
    assert any(reach.start <= moment.lsn <= reach.end for reach in reaches)
    assert not moment.compared or moment.lsn in known
    assert draw_moment(seed, reaches, known) == moment


def test_moments_spread_over_the_wal_and_fingerprints_are_taken_in_half_of_the_draws() -> None:
    reaches = [_reach(1000, 2000), _reach(8000, 8000), _reach(9000, 12000)]
    drawn = [draw_moment(seed, reaches, [Lsn(9500), Lsn(5000), Lsn(12000)]) for seed in range(1000)]
    compared = [moment for moment in drawn if moment.compared]
    assert 400 < len(compared) < 600 and {moment.lsn for moment in compared} == {Lsn(9500)}
    early = sum(moment.lsn.value <= 2000 for moment in drawn if not moment.compared)
    assert 0.15 < early / (1000 - len(compared)) < 0.35, "a quarter of the WAL lies there"
    assert draw_moment(1, [_reach(7, 7)], []).lsn == Lsn(7), "no WAL behind the backup"


def test_a_forecast_scales_what_was_measured() -> None:
    measured = Measured(2.0, 10**9, 10.0, 10**8, 5.0, 1.0)
    found = forecast_rto(measured, 3 * 10**9, 4 * 10**8)
    assert (found.restore_seconds, found.replay_seconds, found.assumed) == (30.0, 20.0, False)
    assert found.seconds == 2 + 30 + 20 + 1 and measured.seconds == 18
    little = forecast_rto(Measured(2.0, 10**9, 10.0, 1000, 0.001, 1.0), 10**9, 32 * 10**6)
    assert little.assumed and little.replay_seconds == 32e6 / ASSUMED_REPLAY_RATE
    assert forecast_rto(Measured(0, 0, 0, 0, 0, 0), 0, 0).seconds == 0


def test_a_record_is_read_as_it_was_written_and_nothing_else_is() -> None:
    forecast = forecast_rto(Measured(2.0, 1000, 10.0, 0, 0.0, 1.0), 500, 0)
    report = DrillReport(
        *(
            "main",
            _AT,
            "root@db1",
            7,
            "20261126T120000Z-full-abcdef",
            "lsn 0/5",
            "pgproof drill --seed 7",
            3.5,
        ),
        steps=(DrillStep("choose", True, 0.5), DrillStep("restore", False, 2.0, 1000)),
        checks=(Check("pg_amcheck", None, "not here", "install it", 0.1),),
        failed_step="restore",
        failure="no room",
        end_lsn=Lsn(5),
        last_commit_at=_AT,
        rto_seconds=13.0,
        forecast=forecast,
    )
    value = report.to_json()
    assert DrillReport.from_json(value).to_json() == value and value["ok"] is False
    for wrong in ({"at": "2026-11-26T12:00:00"}, {"seconds": float("nan")}, {"steps": [1]}, {"end_lsn": 5}):
        with pytest.raises(DataError, match="drill is damaged"):
            DrillReport.from_json({**value, **wrong})
    with pytest.raises(DataError):
        DrillReport.from_json({})


def test_the_server_tells_how_long_replay_took() -> None:
    line = "LOG:  redo done at 0/5000140 system usage: CPU: user: 0.02 s, system: 0.00 s, elapsed: 1.27 s"
    assert redo_seconds(f"LOG:  starting\n{line}\nLOG:  ready") == 1.27
    assert redo_seconds("LOG:  database system was shut down") == 0.0
