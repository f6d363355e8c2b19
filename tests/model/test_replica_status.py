"""How the nodes of a replicated cluster are judged, and which of their problems are told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pgproof.errors import DataError
from pgproof.model.lag import Lag
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.replica_alarms import alarms, open_keys
from pgproof.model.replica_history import (
    Look,
    NodeLook,
    highest_timelines,
    look_of,
    timelines_of_nodes,
    track_of,
)
from pgproof.model.replica_problems import problems_of
from pgproof.model.replica_roles import judge_roles
from pgproof.model.replica_status import (
    NodeDetails,
    NodeStatus,
    ReplicaLimits,
    ReplicaStatus,
    Role,
    Sender,
)
from pgproof.model.replication_config import ReplicaType
from pgproof.model.synchronous import needed
from pgproof.model.wal_status import SlotStatus

_MB = 1 << 20
NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
LIMITS = ReplicaLimits(64 * _MB, 30.0)


def primary(
    timeline: int = 1, at: int = 100 * _MB, system: int = 7, branched: int | None = None
) -> NodeState:
    branch = None if branched is None else Lsn(branched)
    return NodeState("p", NOW, False, system, timeline, 180000, 16 * _MB, Lsn(at), branch)


def standby(
    timeline: int = 1, at: int = 100 * _MB, system: int = 7, *, paused: bool = False, delay: float = 0
) -> NodeState:
    return NodeState(
        "r", NOW, True, system, timeline, 180000, 16 * _MB, Lsn(at), Lsn(at), paused, apply_delay=delay
    )  # fmt: skip


def sender(sync: str | None = "async") -> Sender:
    return Sender(1, "walreceiver", "streaming", sync, None, None, None, None, None)


def slot(
    name: str = "r", *, active: bool = True, status: str = "reserved", kept: int = 0, safe: int | None = None
) -> SlotStatus:
    return SlotStatus(name, active, Lsn(1), status, safe, kept, None, None)


def status_of(*replicas: NodeStatus, at_primary: NodeDetails | None = None) -> ReplicaStatus:
    first = NodeStatus(
        "primary", "p:5432", Role.PRIMARY, state=primary(), details=at_primary or NodeDetails()
    )
    return ReplicaStatus("main", NOW, LIMITS, "primary", (first, *replicas))


def replica(
    state: NodeState | None = None,
    lag: Lag | None = None,
    details: NodeDetails | None = None,
    role: Role = Role.STANDBY,
) -> NodeStatus:
    details = details or NodeDetails(receiving=True, configured=True)
    return NodeStatus(
        "r1", "r1:5432", role, ReplicaType.READ_ONLY, state or standby(), lag=lag, details=details
    )


def kinds(status: ReplicaStatus) -> list[str]:
    return [each.kind for each in problems_of(status)]


def test_the_primary_is_who_is_out_of_recovery_on_the_highest_timeline() -> None:
    assert judge_roles({"primary": primary(), "a": standby(), "b": None}) == (
        "primary",
        {"primary": Role.PRIMARY, "a": Role.STANDBY, "b": Role.DOWN},
    )
    # Replica a was promoted; the old primary came back, and b did not follow.
    after = {"primary": primary(1), "a": primary(2, branched=100 * _MB), "b": standby(1, 100 * _MB)}
    assert judge_roles(after) == ("a", {"primary": Role.STALE, "a": Role.PRIMARY, "b": Role.STANDBY})
    # It has replayed more than the new primary had: it cannot follow.
    ahead = {**after, "b": standby(1, 101 * _MB)}
    assert judge_roles(ahead)[1]["b"] is Role.DIVERGED


def test_who_streams_without_telling_its_timeline_has_not_diverged() -> None:
    nodes = {"primary": primary(2, branched=100 * _MB), "a": standby(1, 101 * _MB)}
    assert judge_roles(nodes)[1]["a"] is Role.DIVERGED
    assert judge_roles(nodes, receiving={"a"})[1]["a"] is Role.STANDBY
    told = {**nodes, "a": replace(nodes["a"], receiver="streaming")}
    assert judge_roles(told, receiving={"a"})[1]["a"] is Role.DIVERGED


def test_a_timeline_that_was_once_seen_is_a_floor() -> None:
    assert judge_roles({"primary": primary(1), "a": standby(1)}, floors={7: 2, 8: 9}) == (
        None,
        {"primary": Role.STALE, "a": Role.STANDBY},
    )
    assert judge_roles({"primary": primary(1), "a": standby(1, system=8)}, floors={8: 9})[0] == "primary"
    # A standby that is further tells the same: another one was promoted, which is not seen now.
    assert judge_roles({"primary": primary(1), "a": standby(2)})[0] is None


def test_of_two_primaries_the_one_that_was_known_stays() -> None:
    both = {"primary": primary(2), "a": primary(2), "b": standby(2)}
    assert judge_roles(both)[0] == "primary" and judge_roles(both, known="a")[0] == "a"
    assert list(judge_roles(both)[1].values()) == [Role.PRIMARY, Role.PRIMARY, Role.STANDBY]


def test_another_cluster_is_foreign_and_more_than_the_primary_wrote_is_diverged() -> None:
    assert judge_roles({"primary": primary(), "a": standby(system=8)})[1]["a"] is Role.FOREIGN
    assert (
        judge_roles({"primary": None, "a": standby(), "b": standby(), "c": standby(system=8)})[1]["c"]
        is Role.FOREIGN
    )
    nodes = {"primary": primary(), "a": standby(1, 101 * _MB)}
    # The primary writes on between the two questions.
    assert judge_roles(nodes, ends={"primary": Lsn(102 * _MB)})[1]["a"] is Role.STANDBY
    assert judge_roles(nodes, ends={"primary": Lsn(100 * _MB)})[1]["a"] is Role.DIVERGED


def test_a_healthy_cluster_has_no_problem_and_one_without_replicas_has() -> None:
    assert kinds(status_of(replica(lag=Lag(0, 0.0)))) == []
    assert kinds(status_of()) == ["no-replicas"]


def test_lag_is_held_against_both_limits() -> None:
    assert kinds(status_of(replica(lag=Lag(65 * _MB, 1.0)))) == ["lag-bytes"]
    assert kinds(status_of(replica(lag=Lag(1, 31.0)))) == ["lag-seconds"]
    assert kinds(status_of(replica(lag=Lag(1, None)))) == []


def test_a_delayed_replica_is_judged_beyond_its_delay() -> None:
    state = replace(standby(at=10 * _MB, delay=3600.0), position=Lsn(99 * _MB))
    node = replica(state, Lag(90 * _MB, 3610.0))
    assert node.excess == Lag(_MB, 10.0)
    assert kinds(status_of(node)) == []
    late = problems_of(status_of(replica(state, Lag(90 * _MB, 3650.0))))
    assert [each.kind for each in late] == ["lag-seconds"] and "beyond its delay of 3,600 s" in late[
        0
    ].message


def test_a_standby_that_does_not_stream() -> None:
    silent = NodeDetails(receiving=False, configured=True, slot_name="r")
    with_slot, without = NodeDetails(slots=(slot(),)), NodeDetails(slots=())
    assert kinds(status_of(replica(details=silent), at_primary=with_slot)) == ["not-streaming"]
    assert kinds(status_of(replica(details=silent), at_primary=without)) == ["slot-missing"]
    # It lives by restore_command, or may do so as far as we are allowed to see.
    for configured in (False, None):
        archive = NodeDetails(receiving=False, configured=configured)
        assert kinds(status_of(replica(lag=Lag(0, 0.0), details=archive))) == []
    assert kinds(status_of(replica(standby(paused=True)))) == ["replay-paused"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (slot(kept=70 * _MB), []),
        (slot(active=False, kept=_MB), []),
        (slot(active=False, kept=70 * _MB), ["slot-inactive"]),
        (slot(status="unreserved", safe=-1, kept=100 * _MB), ["slot-at-risk"]),
        (slot(safe=10 * _MB, kept=30 * _MB), ["slot-at-risk"]),
        (slot(safe=30 * _MB, kept=10 * _MB), []),
        (slot(status="lost", active=False), ["slot-lost"]),
    ],
)
def test_slots_of_the_primary(found: SlotStatus, expected: list[str]) -> None:
    assert kinds(status_of(replica(), at_primary=NodeDetails(slots=(found,)))) == expected


@pytest.mark.parametrize(
    ("setting", "syncs", "expected"),
    [
        ("", [], []),
        ("r1", ["sync"], []),
        ("r1", ["async"], ["sync-missing"]),
        ("r1, r2", ["sync", "potential"], []),
        ("FIRST 2 (r1, r2)", ["sync"], ["sync-missing"]),
        ("ANY 1 (*)", ["quorum", "quorum"], []),
        ("2 (a, b, c)", ["sync", "sync", "potential"], []),
        ("r1", [None], []),
        ("r1", [], ["sync-missing"]),
    ],
)
def test_commits_that_wait_for_nobody(setting: str, syncs: list[str | None], expected: list[str]) -> None:
    details = NodeDetails(
        senders=tuple(map(sender, syncs)),
        settings={"synchronous_standby_names": setting, "synchronous_commit": "on"},
    )
    assert kinds(status_of(replica(), at_primary=details)) == expected
    local = replace(details, settings={**details.settings, "synchronous_commit": "local"})
    assert kinds(status_of(replica(), at_primary=local)) == []


def test_how_many_a_commit_waits_for() -> None:
    assert [needed(each) for each in ("", " ", "a,b", "3 (a,b,c)", "any 2 (*)", 'FIRST 1 ("x")')] == [
        0,
        0,
        1,
        3,
        2,
        1,
    ]


def test_roles_that_are_problems() -> None:
    lost = NodeStatus("r1", "r1:5432", Role.DOWN, error="it is away", hint="start it")
    (down,) = problems_of(status_of(lost))
    assert (down.kind, down.node, down.hint) == (
        "node-down",
        "r1",
        "start it",
    ) and "it is away" in down.message
    for role, kind in (
        (Role.FOREIGN, "foreign-cluster"),
        (Role.STALE, "stale-primary"),
        (Role.DIVERGED, "diverged"),
    ):
        assert kinds(status_of(replica(role=role))) == [kind]
    two = status_of(replace(replica(role=Role.PRIMARY), state=primary()))
    assert kinds(two) == ["two-primaries"]
    none = replace(status_of(replica()), primary=None, nodes=(lost, replica()))
    assert kinds(none) == ["no-primary", "node-down"]


# History.


def test_a_look_comes_back_from_its_line_and_anything_else_is_refused() -> None:
    found = replace(status_of(replica(lag=Lag(40 * _MB, 16.0)), replace(replica(), name="r2")))
    look = look_of(replace(found, problems=problems_of(found)))
    assert look.near == ("lag-bytes r1", "lag-seconds r1")
    assert look.nodes["r1"] == NodeLook("standby", 40 * _MB, 16.0, timeline=1)
    assert Look.parse(look.line()) == look
    for wrong in ("", "{}", "[1]", "nul", look.line()[:-5], look.line().replace("+00:00", ""), "7", '"x"'):
        with pytest.raises(DataError):
            Look.parse(wrong)


def a_look(
    minute: int,
    nodes: dict[str, NodeLook] | None = None,
    problems: tuple[str, ...] = (),
    near: tuple[str, ...] = (),
) -> Look:
    return Look(
        NOW + timedelta(minutes=minute), 64 * _MB, 30.0, 7, 1, "primary", Lsn(minute * _MB), nodes or {}, problems, near
    )  # fmt: skip


def test_looks_tell_since_when_a_replica_is_behind() -> None:
    looks = [a_look(minute) for minute in range(10)]
    now = NOW + timedelta(minutes=10)
    track = track_of(looks, 7, 1, now)
    track.saw(Lsn(10 * _MB), now.timestamp())
    assert track.lag(standby(at=7 * _MB + 5), now.timestamp()).seconds == 180.0
    # Neither another cluster, another timeline nor looks of the future count.
    assert track_of(looks, 8, 1, now).lag(standby(), 0.0).seconds is None
    assert track_of(looks, 7, 2, now).lag(standby(), 0.0).seconds is None
    assert track_of(looks, 7, 1, NOW).lag(standby(at=5), 0.0).seconds is None
    assert highest_timelines(looks) == {7: 1}
    two = [
        a_look(0, {"a": NodeLook("standby", timeline=2)}),
        a_look(1, {"a": NodeLook("standby", timeline=1)}),
    ]
    assert timelines_of_nodes(two) == {(7, "a"): 2}


SLOW, OK, DOWN = NodeLook("standby", 0, 40.0), NodeLook("standby", 0, 0.0), NodeLook("down")
KEY = "lag-seconds r1"


def lags(text: str) -> list[Look]:
    """`x` above the limit, `n` above half of it, `.` below, `d` down, `u` unknown."""
    made = {
        "x": ({"r1": SLOW}, (KEY,), (KEY,)),
        "n": ({"r1": SLOW}, (), (KEY,)),
        ".": ({"r1": OK}, (), ()),
        "d": ({"r1": DOWN}, ("node-down r1",), ()),
        "u": ({"r1": NodeLook("standby", 0, None)}, (), ()),
    }
    return [a_look(minute, *made[letter]) for minute, letter in enumerate(text)]


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("x", False),
        ("x.x", False),
        ("xx", True),
        ("xx.", True),
        ("xxn", True),
        ("xxnnnnn", True),
        ("xx..", False),
        ("xx.n.", True),
        ("xx.n..", False),
        ("xxdddd", True),
        ("xx.d.", False),
        ("nnnn", False),
        ("xxuu", True),
        ("xx.u.", False),
        ("xx..x", False),
    ],
)
def test_a_lag_opens_after_two_looks_and_closes_after_two_below_half(text: str, is_open: bool) -> None:
    assert (KEY in open_keys(lags(text), 2)) is is_open


def test_other_problems_open_and_close_by_count_and_urgent_ones_at_once() -> None:
    down = [a_look(0, problems=("node-down r1", "two-primaries"))]
    assert open_keys(down, 2) == ("two-primaries",)
    assert open_keys([*down, a_look(1, problems=("node-down r1",))], 2) == ("node-down r1", "two-primaries")
    assert open_keys([*down, a_look(1), a_look(2)], 2) == ()
    # A node that is no longer configured has no lag that could last.
    gone = [*lags("xx"), a_look(3), a_look(4)]
    assert open_keys(gone, 2) == ()


def test_an_alarm_that_lingers_is_not_told_as_gone() -> None:
    slow = status_of(replica(lag=Lag(0, 40.0)))
    slow = replace(slow, problems=problems_of(slow))
    (alarm,) = alarms(slow, lags("xx"))
    assert (alarm.key, alarm.text) == (KEY, slow.problems[0].message)
    (alarm,) = alarms(status_of(replica(lag=Lag(0, 20.0))), lags("xxn"))
    assert alarm.key == KEY and "not yet" in alarm.text
    assert alarms(status_of(replica(lag=Lag(0, 1.0))), lags("xx..")) == ()
