"""Which way a replica is rebuilt: tables of directories, primaries and repositories, and the way that follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.control_file import ControlFile
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.rebuild_choice import plan_rebuild
from pgproof.model.rebuild_evidence import Directory, Primary, Source, Stage, Stored, StoredBackup
from pgproof.model.rebuild_plan import RebuildPlan, Way
from pgproof.model.rebuild_refusals import primary_among
from pgproof.model.recovery_request import Standby
from pgproof.model.replica_conf import following, setting
from pgproof.model.timelines import Switch, TimelineHistory
from pgproof.model.wal_coverage import Coverage, Piece

MB = 1 << 20
SEGMENT = 16 * MB
BRANCH = Lsn(100 * MB + 0x1000)
ON_ONE = TimelineHistory(1)
ON_TWO = TimelineHistory(2, (Switch(1, BRANCH),))


def control(state: str, at: int, timeline: int = 1, **more: Any) -> ControlFile:
    """Of a cluster whose checkpoint, or replay of a standby, is at `at` bytes."""
    standby = "recovery" in state
    values: dict[str, Any] = {
        "system_identifier": 7,
        "pg_control_version": 1800,
        "catalog_version": 1,
        "state": state,
        "checkpoint_lsn": Lsn(at),
        "redo_lsn": Lsn(at),
        "timeline": timeline,
        "checkpoint_time": datetime(2026, 11, 1, tzinfo=UTC),
        "min_recovery_point": Lsn(at if standby else 0),
        "min_recovery_timeline": timeline if standby else 0,
        "backup_start": Lsn(0),
        "backup_end": Lsn(0),
        "wal_level": "replica",
        "wal_log_hints": False,
        "max_connections": 100,
        "max_worker_processes": 8,
        "max_wal_senders": 10,
        "max_prepared_transactions": 0,
        "max_locks_per_transaction": 64,
        "track_commit_timestamp": False,
        "block_size": 8192,
        "segment_blocks": 131072,
        "wal_block_size": 8192,
        "wal_segment_size": SEGMENT,
        "data_checksum_version": 1,
    }
    return ControlFile(**{**values, **more})


def node(
    name: str, *, timeline: int = 2, recovery: bool = False, system: int = 7, at: int = 200 * MB
) -> NodeState:
    when = datetime(2026, 11, 1, tzinfo=UTC)
    return NodeState(name, when, recovery, system, timeline, 180000, SEGMENT, Lsn(at), None)


def primary(history: TimelineHistory = ON_TWO, oldest: int = 80 * MB, **more: Any) -> Primary:
    return Primary("new", node("new", timeline=history.timeline), history, Lsn(oldest), **more)


def directory(state: str, at: int, timeline: int = 1, **more: Any) -> Directory:
    return Directory(Path("/data"), control(state, at, timeline), **more)


def stored(*backups: StoredBackup, wal: tuple[Piece, ...] = ()) -> Stored:
    return Stored(backups, Coverage.of(wal), frozenset({1, 2}))


NEW_BACKUP = StoredBackup("new-backup", 2, Lsn(150 * MB))
LOST_BACKUP = StoredBackup("of the lost branch", 1, Lsn(130 * MB))


def plan(found: Directory, to: Primary, have: Stored | None = None, **options: Any) -> RebuildPlan:
    return plan_rebuild("old", found, to, have, slot="old", **options)


@pytest.mark.parametrize(
    ("found", "to", "have", "way", "because"),
    [
        (directory("shut down", BRANCH.value + 5000), primary(), None, Way.REWIND, "wrote on"),
        (directory("in production", 90 * MB), primary(), None, Way.REWIND, "did not end well"),
        (directory("shut down", BRANCH.value - 120), primary(), None, Way.START, "on the primary's way"),
        (directory("in archive recovery", 90 * MB), primary(), None, Way.START, "on the primary's way"),
        (directory("shut down in recovery", BRANCH.value + 1), primary(), None, Way.REWIND, "replayed"),
        (directory("shut down in recovery", 90 * MB, 2), primary(), None, Way.START, "on the primary's way"),
        (
            directory("shut down", 120 * MB, 2),
            primary(),
            stored(NEW_BACKUP),
            Way.RESTORE,
            "itself a primary on timeline 2",
        ),
        (
            directory("in archive recovery", 300 * MB, 2),
            primary(),
            stored(NEW_BACKUP),
            Way.RESTORE,
            "ahead of the primary",
        ),
        (
            directory("in archive recovery", 50 * MB),
            primary(),
            stored(NEW_BACKUP),
            Way.RESTORE,
            "neither the primary nor the repository has all the WAL from 0/3000000 on",
        ),
        (
            directory("in archive recovery", 50 * MB),
            primary(),
            stored(NEW_BACKUP, wal=(Piece(1, Lsn(48 * MB), Lsn(80 * MB)),)),
            Way.START,
            "on the primary's way",
        ),
        (
            directory("in production", 90 * MB, stage=Stage.REWINDING),
            primary(),
            stored(LOST_BACKUP, NEW_BACKUP),
            Way.RESTORE,
            "broken off",
        ),
        (
            directory("in production", 90 * MB, stage=Stage.REWINDING),
            primary(),
            None,
            Way.REWIND,
            "broken off",
        ),
        (
            directory("in production", 90 * MB, stage=Stage.READY),
            primary(),
            None,
            Way.START,
            "made its files ready",
        ),
        (Directory(Path("/data")), primary(), stored(NEW_BACKUP), Way.RESTORE, "no cluster"),
        (
            Directory(Path("/data"), stage=Stage.RESTORING),
            primary(),
            stored(NEW_BACKUP),
            Way.RESTORE,
            "a restore into the directory was broken off",
        ),
    ],
)
def test_the_way(found: Directory, to: Primary, have: Stored | None, way: Way, because: str) -> None:
    made = plan(found, to, have)
    assert made.way is way
    assert because in made.reasons[0]
    assert made.backup_id == ("new-backup" if have and way is Way.RESTORE else None)
    assert made.to_json()["way"] == str(way)
    assert any(because in line for line in made.lines())


@pytest.mark.parametrize(
    ("changed", "to", "obstacle"),
    [
        ({"data_checksum_version": 0}, primary(), "neither data checksums nor wal_log_hints"),
        ({}, primary(cannot_rewind=("full_page_writes is off on the primary",)), "full_page_writes"),
    ],
)
def test_what_cannot_be_rewound_is_restored(changed: dict[str, Any], to: Primary, obstacle: str) -> None:
    found = Directory(Path("/data"), control("shut down", 120 * MB, **changed))
    made = plan(found, to, stored(NEW_BACKUP))
    assert made.way is Way.RESTORE and obstacle in made.reasons[1]
    with pytest.raises(PreconditionError, match="cannot be rewound") as raised:
        plan(found, to, stored(NEW_BACKUP), source=Source.REWIND)
    assert obstacle in raised.value.hint
    with pytest.raises(PreconditionError, match="no repository is configured"):
        plan(found, to)
    with pytest.raises(PreconditionError, match="no backup of the repository leads to the primary"):
        plan(found, to, stored(LOST_BACKUP))
    with pytest.raises(PreconditionError, match="the store is down"):
        plan(found, to, None, why_not_stored="the store is down")


def test_hints_are_as_good_as_checksums() -> None:
    found = Directory(
        Path("/data"), control("shut down", 120 * MB, data_checksum_version=0, wal_log_hints=True)
    )
    assert plan(found, primary()).way is Way.REWIND


def test_two_timelines_of_one_number_are_told_apart() -> None:
    """Both were promoted from timeline 1, at different places: pg_rewind would take them for one."""
    own = TimelineHistory(2, (Switch(1, Lsn(90 * MB)),))
    found = directory("in archive recovery", 120 * MB, 2, history=own)
    made = plan(found, primary(), stored(NEW_BACKUP))
    assert made.way is Way.RESTORE and "another one" in made.reasons[0]
    same = replace(found, history=ON_TWO)
    assert plan(same, primary()).way is Way.START


def test_what_is_lost_is_told() -> None:
    tail = plan(directory("shut down", BRANCH.value + 5000), primary()).tail
    assert tail is not None
    assert (tail.start, tail.nbytes, tail.exact, tail.archived) == (BRANCH, 5000, True, None)
    for end, archived in ((5000, True), (4999, False)):
        have = stored(NEW_BACKUP, wal=(Piece(1, Lsn(96 * MB), BRANCH + end),))
        tail = plan(directory("shut down", BRANCH.value + 5000), primary(), have).tail
        assert tail is not None and tail.archived is archived
    crashed = directory("in production", 90 * MB, written=BRANCH + 8192)
    tail = plan(crashed, primary()).tail
    assert tail is not None and not tail.exact and str(tail).startswith("about 8,192 bytes")


def test_a_newer_timeline_is_given_up_by_its_operator_alone() -> None:
    """The primary that answers may be an old one that came back."""
    promoted = TimelineHistory(3, (*ON_TWO.switches, Switch(2, Lsn(110 * MB))))
    found = directory("shut down", 120 * MB, 3, history=promoted)
    with pytest.raises(PreconditionError, match="timeline 3 is newer") as raised:
        plan(found, primary())
    assert "--from rewind" in raised.value.hint
    made = plan(found, primary(), source=Source.REWIND)
    assert made.way is Way.REWIND and made.tail is not None
    assert (made.tail.start, made.tail.nbytes) == (Lsn(110 * MB), 10 * MB)
    good = directory("shut down in recovery", 90 * MB)
    standby = node("standby", timeline=3, recovery=True)
    for running in (good, replace(good, running=True)):
        with pytest.raises(PreconditionError, match="timeline 3 is newer"):
            plan(running, primary(), states=[standby, node("new")], streams=running.running)
    assert plan(good, primary(), states=[node("else", timeline=3, system=8), node("new")]).way is Way.START


@pytest.mark.parametrize(
    ("own", "parted"),
    [
        ((Switch(1, Lsn(90 * MB)),), Lsn(90 * MB)),
        ((Switch(1, BRANCH), Switch(2, Lsn(110 * MB))), Lsn(110 * MB)),
        ((Switch(1, BRANCH + 8), Switch(2, Lsn(110 * MB))), BRANCH),
        ((Switch(7, Lsn(90 * MB)),), None),
    ],
)
def test_where_a_timeline_of_its_own_left_the_way(own: tuple[Switch, ...], parted: Lsn | None) -> None:
    found = directory("shut down", 120 * MB, 8, history=TimelineHistory(8, own))
    tail = plan(found, primary(), source=Source.REWIND).tail
    assert (tail and tail.start) == parted


def test_what_was_made_ready_may_be_of_no_use_any_more() -> None:
    for late in (
        directory("in production", 130 * MB, stage=Stage.READY),
        directory("in archive recovery", 50 * MB, stage=Stage.READY),
    ):
        assert plan(late, primary(), stored(NEW_BACKUP)).way is Way.RESTORE
        with pytest.raises(PreconditionError, match="has to be restored"):
            plan(late, primary())


def test_a_restore_keeps_to_the_primarys_way() -> None:
    """Its timeline may not be in the repository yet, that of a cluster that was restored elsewhere may."""
    lost = Directory(Path("/data"))
    old = StoredBackup("old-backup", 1, Lsn(90 * MB))
    for timelines, kept in (({1, 2, 5}, 2), ({1, 5}, 1)):
        have = Stored((old,), Coverage.of(()), frozenset(timelines))
        assert plan(lost, primary(), have).timeline == kept


def test_what_is_refused() -> None:
    good = directory("shut down in recovery", 90 * MB)
    with pytest.raises(PreconditionError, match="another cluster"):
        plan(replace(good, control=control("shut down", 1, system_identifier=8)), primary())
    half = Directory(Path("/data"), stage=Stage.RESTORING, marked=8)
    with pytest.raises(PreconditionError, match="another cluster"):
        plan(half, primary(), stored(NEW_BACKUP))
    assert plan(replace(half, marked=7), primary(), stored(NEW_BACKUP)).way is Way.RESTORE
    with pytest.raises(PreconditionError, match="tablespaces"):
        plan(replace(good, tablespaces=1), primary())
    with pytest.raises(PreconditionError, match="tablespaces"):
        plan(good, primary(tablespaces=1))
    foreign = replace(good, running=True, stoppable=False)
    with pytest.raises(PreconditionError, match="none that can be stopped from here"):
        plan(foreign, primary())
    assert plan(foreign, primary(), can_stop=True).stops
    with pytest.raises(PreconditionError, match="nothing to rewind"):
        plan(Directory(Path("/data")), primary(), stored(NEW_BACKUP), source=Source.REWIND)


def test_one_that_streams_is_left_alone_unless_it_is_asked_for() -> None:
    good = directory("in archive recovery", 150 * MB, 2, running=True)
    assert plan(good, primary(), streams=True).way is Way.NOTHING
    assert (
        plan(good, primary(), stored(NEW_BACKUP), streams=True, source=Source.REPOSITORY).way is Way.RESTORE
    )


def test_the_primary_is_who_writes_on_the_highest_timeline() -> None:
    old, new, replica = node("old", timeline=1), node("new"), node("replica", recovery=True, timeline=3)
    assert primary_among([old, new, replica, node("else", timeline=9, system=8)], 7) is new
    with pytest.raises(PreconditionError, match="no primary of this cluster"):
        primary_among([replica], 7)
    with pytest.raises(PreconditionError, match="two servers claim"):
        primary_among([new, node("other")], 7)


def test_what_was_agreed_to_is_what_may_be_done() -> None:
    agreed = plan(directory("shut down", BRANCH.value + 5000), primary(), stored(NEW_BACKUP))
    agreed.refuse_another(agreed)
    agreed.refuse_another(replace(agreed, way=Way.START))
    for other in (replace(agreed, way=Way.RESTORE), replace(agreed, primary="another")):
        with pytest.raises(ConflictError, match="not what was agreed to"):
            agreed.refuse_another(other)


def test_a_replicas_configuration_is_led_to_another_primary() -> None:
    before = (
        b"# Added by a restore: how this standby gets its WAL.\nprimary_conninfo = 'host=old user=o''x'\n"
        b"work_mem = '7MB'\nrecovery_min_apply_delay = '1h'\nprimary_slot_name=mine\nrecovery_target_time = '2026'"
    )
    text = before.decode()
    assert setting([text], "primary_conninfo") == "host=old user=o'x"
    assert setting([text], "primary_slot_name") == "mine"
    assert setting(["port = 1 # x\n", "#port = 3\nPort 2\n"], "port") == "2"
    assert setting([text], "archive_command") == ""
    after = following(before, Standby("host=new", "slot"), "fetch '%f'")
    assert following(after, Standby("host=new", "slot"), "fetch '%f'") == after
    for name, value in {
        "primary_conninfo": "host=new",
        "primary_slot_name": "slot",
        "restore_command": "fetch '%f'",
        "recovery_target_timeline": "latest",
        "recovery_target_time": "",
        "recovery_min_apply_delay": "1h",
        "work_mem": "7MB",
    }.items():
        assert setting([after.decode()], name) == value, name
