"""From the words of a configuration to cron lines and lengths of time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.errors import PreconditionError
from pgproof.model.config import BackupConfig, BackupType, PostgresConfig, UserCheck
from pgproof.model.replication_config import ReplicaInfo, ReplicationConfig, ReplicaType
from pgproof.model.schedules import FULL, INCREMENTAL, Schedule, schedule_of
from pgproof.model.service import HANDED_OVER, BackOff, WallClock, hand_over, handed_over

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("daily", Schedule(cron="30 2 * * *", period=24 * HOUR)),
        (" Weekly", Schedule(cron="30 2 * * 0", period=7 * 24 * HOUR)),
        ("never", None),
        ("90m", Schedule(every=1.5 * HOUR, period=1.5 * HOUR)),
        ("6 hours", Schedule(every=6 * HOUR, period=6 * HOUR)),
        ("15  3 * * mon-fri", Schedule(cron="15 3 * * mon-fri")),
        ("*/10 * * * *", Schedule(cron="*/10 * * * *")),
        ("0-30/5,59 22-4 L JAN-mar,12 5#2,L5,7", Schedule(cron="0-30/5,59 22-4 L JAN-mar,12 5#2,L5,7")),
    ],
)
def test_an_interval(text: str, expected: Schedule | None) -> None:
    assert schedule_of(text, FULL, "full_backup_interval") == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "dayly", "0h", "5s", "1.5h", "-1h", "1 2 3", "1 2 3 4 5 6", "* * * * $x", "a b c d e"),
        # A scheduler would refuse these as well, but only when the service runs.
        *(
            "60 3 * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "*/0 * * * *",
            "1,2,70 * * * *",
        ),
        *("0 0 jan * *", "*-3 * * * *", "1- * * * *", "0,, * * * *"),
    ],
)
def test_what_is_no_interval_is_refused_at_once(text: str) -> None:
    with pytest.raises(PreconditionError, match="incremental_interval") as error:
        BackupConfig(incremental_interval=text or " ")
    assert "hourly" in error.value.hint


def test_the_promised_configuration_has_its_schedules() -> None:
    config = BackupConfig(full_backup_interval="daily", incremental_interval="hourly")
    assert config.schedules == {
        BackupType.FULL: Schedule(cron=FULL["daily"], period=24 * HOUR),
        BackupType.DIFFERENTIAL: None,
        BackupType.INCREMENTAL: Schedule(cron=INCREMENTAL["hourly"], period=HOUR),
    }
    environ = {
        "BACKUP_FULL_INTERVAL": "weekly",
        "BACKUP_DIFFERENTIAL_INTERVAL": "daily",
        "BACKUP_CLUSTER": "c",
    }
    read = BackupConfig.from_env(environ)
    assert (read.full_backup_interval, read.differential_interval, read.cluster) == ("weekly", "daily", "c")


@given(st.integers(10, 999_999))
def test_a_late_run_leaves_its_place_to_the_next_one(seconds: int) -> None:
    schedule = schedule_of(f"{seconds}s", FULL, "full_backup_interval")
    assert schedule is not None and schedule.every == timedelta(seconds=seconds)
    assert timedelta(minutes=1) <= schedule.max_lateness <= 12 * HOUR


def test_settings_are_handed_over_whole_and_an_unreadable_text_is_not_shown() -> None:
    postgres = PostgresConfig(host="h", port=5433, password="geheim", options={"sslmode": "require"})
    config = BackupConfig(
        backup_dir="/b",
        passphrase="geheim",
        databases=("a", "b"),
        checks=(UserCheck("n", "d", "SELECT true"),),
        s3_options={"x": "y"},
    )
    replication = ReplicationConfig(
        (ReplicaInfo("a", "h", replica_type=ReplicaType.STANDBY, options={"x": "y"}),),
        fence_command="stop it",
        patroni_urls=("http://h:8008",),
    )
    text = hand_over(postgres, config, replication)
    assert handed_over({HANDED_OVER: text}) == (postgres, config, replication)
    assert handed_over({}) is None
    with pytest.raises(PreconditionError) as error:
        handed_over({HANDED_OVER: '{"postgres": {"geheim": 1}, "backup": {}}'})
    assert "geheim" not in str(error.value)


def test_a_clock_that_is_set_back_is_noticed_and_its_corrections_are_not() -> None:
    clock = WallClock(wall=1000, steady=50)
    looks = [(1001, 51), (900, 52), (901, 53), (90_000, 54), (90_000.5, 85), (3_600, 86), (3_601, 87)]
    lost = [clock.set_back(wall, steady) for wall, steady in looks]
    assert lost == [None, timedelta(seconds=102), None, None, None, timedelta(seconds=86_401.5), None]


def test_a_pause_grows_until_something_lives_for_a_while() -> None:
    back_off = BackOff(longest=timedelta(seconds=5))
    pauses = [back_off.after(timedelta(seconds=each)).total_seconds() for each in (0, 0, 0, 0, 0, 500, 0)]
    assert pauses == [1, 2, 4, 5, 5, 1, 2]
