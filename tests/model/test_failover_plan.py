"""Who takes over, what that would lose, and why it may not be done: by tables, without any server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pgproof.errors import ConflictError, EngineError, PreconditionError, TransientError
from pgproof.model.failover_evidence import Archived, FailoverRequest, LastPrimary, NodeFacts
from pgproof.model.failover_nodes import diverged
from pgproof.model.failover_plan import FailoverPlan, Kind, plan_failover
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.replication_config import ReplicaInfo, ReplicationConfig, ReplicaType
from pgproof.model.synchronous import required
from pgproof.model.timelines import Switch, TimelineHistory

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
CLUSTER = 7
FENCE = "stop it"
SEGMENT = 16 << 20
GONE = TransientError("the server cannot be reached", reason="Connection refused")
STARTING = TransientError("the server is starting up", reason="FATAL: the database system is starting up")


def standby(name: str, held: int = 1000, replayed: int | None = None, **more: Any) -> NodeState:
    seen: dict[str, Any] = {
        "in_recovery": True,
        "system_identifier": CLUSTER,
        "timeline": 1,
        "version": 180000,
        "segment_size": SEGMENT,
        "position": Lsn(SEGMENT + held),
        "replayed": Lsn(SEGMENT + (held if replayed is None else replayed)),
    }
    return NodeState(node=name, at=NOW, **{**seen, **more})


def primary(name: str = "primary", at: int = 2000, timeline: int = 1, **more: Any) -> NodeState:
    state = standby(name, at, timeline=timeline, in_recovery=False)
    return replace(state, **{"replayed": None, **more})


def configured(*names: str, **settings: Any) -> ReplicationConfig:
    kinds = settings.pop("kinds", {})
    listed = tuple(
        ReplicaInfo(name, name, replica_type=kinds.get(name, ReplicaType.READ_ONLY)) for name in names
    )
    return ReplicationConfig(replicas=listed, **{"fence_command": FENCE, **settings})


def planned(
    *answers: NodeState | EngineError,
    node: str = "",
    unfenced: bool = False,
    accept_loss: bool = False,
    config: Mapping[str, Any] | None = None,
    **more: Any,
) -> FailoverPlan:
    """The first answer is the configured primary's, the others are those of r1, r2, …"""
    names = ["primary", *(f"r{number}" for number in range(1, len(answers)))]
    replication = configured(*names[1:], **(config or {}))
    request = FailoverRequest(node, unfenced, accept_loss)
    return plan_failover(dict(zip(names, answers, strict=True)), replication, request, NOW, **more)


def refused(plan: FailoverPlan) -> str:
    with pytest.raises((PreconditionError, ConflictError)) as caught:
        plan.require()
    assert caught.value.hint
    return caught.value.message


def test_the_most_advanced_takes_over() -> None:
    plan = planned(
        GONE, standby("r1", 900), standby("r2", 1000, replayed=10), standby("r3", 1000, replayed=10)
    )
    plan.require()
    assert (plan.kind, plan.node) == (Kind.FAILOVER, "r2")
    assert (plan.fence, plan.follow) == (("primary",), ("r1", "r3"))
    assert plan.loss is not None and plan.loss.kept == Lsn(SEGMENT + 1000)
    there = planned(GONE, standby("r1"), standby("r2"), config={"kinds": {"r2": ReplicaType.STANDBY}})
    assert there.node == "r2", "of two that are equal the one that is there to take over"
    assert "r1" in "\n".join(plan.lines()) and plan.to_json()["allowed"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (standby("r1", 9000, replay_paused=True), "paused"),
        (standby("r1", 9000, apply_delay=60.0), "behind on purpose (60 s)"),
        (standby("r1", 9000, system_identifier=8), "another cluster"),
        (replace(standby("r1"), position=None, replayed=None), "no WAL yet"),
        (GONE, "Connection refused"),
    ],
)
def test_who_never_takes_over_and_why(state: NodeState | EngineError, reason: str) -> None:
    plan = planned(GONE, state, standby("r2", 500), standby("r3", 400))
    plan.require()
    assert plan.node == "r2"
    assert reason in plan.verdict("r1").reason
    assert "cannot take over" in refused(
        planned(GONE, state, standby("r2", 500), standby("r3", 1), node="r1")
    )
    alone = planned(GONE, state, GONE)
    if not isinstance(state, NodeState) or state.system_identifier == CLUSTER:
        assert refused(alone) == "no node can take over"


def test_a_delayed_one_by_configuration_never_does_and_what_it_holds_more_is_told() -> None:
    plan = planned(
        GONE, standby("r1", 1500), standby("r2", 1000), config={"kinds": {"r1": ReplicaType.DELAYED}}
    )
    plan.require()
    assert plan.node == "r2" and plan.loss is not None
    assert (plan.loss.other_node, plan.loss.other_bytes, plan.loss.known_bytes) == ("r1", 500, 500)


def test_a_named_one_that_is_behind_needs_to_be_accepted() -> None:
    answers = GONE, standby("r1", 1000), standby("r2", 900)
    assert refused(planned(*answers, node="r2")) == "r2 is 100 bytes behind r1"
    accepted = planned(*answers, node="r2", accept_loss=True)
    accepted.require()
    assert accepted.node == "r2" and accepted.loss is not None and accepted.loss.other_bytes == 100
    assert "no node of this name" in refused(planned(*answers, node="r9"))


def test_without_a_fence_it_is_refused_unless_told() -> None:
    answers, bare = (GONE, standby("r1")), {"fence_command": None}
    assert "there is no fence: primary may come back" in refused(planned(*answers, config=bare))
    planned(*answers, config=bare, unfenced=True).require()
    alive = STARTING, standby("r1")
    assert "primary is alive" in refused(planned(*alive, config=bare, unfenced=True))
    planned(*alive).require()
    assert "primary is alive, although it cannot be asked" in planned(*alive).notes[0]


def test_a_primary_that_answers_is_replaced_only_by_a_node_that_is_named() -> None:
    answers = primary(), standby("r1", 1000, receiver="streaming"), standby("r2", 1900, receiver="streaming")
    assert refused(planned(*answers)) == "the primary is alive and answers: primary"
    plan = planned(*answers, node="r1")
    plan.require()
    assert (plan.kind, plan.fence, plan.follow) == (Kind.SWITCHOVER, ("primary",), ("r2",))
    bare = {"fence_command": None}
    for unfenced in (False, True):
        assert "nothing would end it" in refused(planned(*answers, node="r1", config=bare, unfenced=unfenced))
    away = primary(), standby("r1", 1000), standby("r2", 1900, receiver="streaming")
    assert "r1 does not stream" in refused(planned(*away, node="r1"))
    may_not = {"r1": NodeFacts(user="app", may_checkpoint=False, may_promote=False)}
    plan = planned(*answers, node="r1", facts=may_not)
    assert [each.message.split(", ")[0] for each in plan.refusals] == [
        "the role app may not promote r1",
        "the role app may not ask r1 for a checkpoint",
    ]
    assert "GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer) TO app" in plan.refusals[0].hint


def test_what_was_broken_off_is_gone_on_with() -> None:
    promoted = primary("r1", 3000, timeline=2, replayed=Lsn(SEGMENT + 1000))
    plan = planned(GONE, promoted, standby("r2", 1000), config={"fence_command": None})
    plan.require()
    assert (plan.kind, plan.node, plan.fence, plan.follow) == (Kind.FINISH, "r1", ("primary",), ("r2",))
    again = planned(primary(), promoted, standby("r2", 1000))
    again.require()
    assert (again.node, again.fence) == ("r1", ("primary",)), (
        "the old one is back, on the timeline that was left"
    )
    further = planned(primary(), promoted, standby("r2", 1001))
    assert "branched off" in further.verdict("r2").reason


def test_two_that_write_on_one_timeline_are_a_conflict() -> None:
    two = primary("r1", timeline=2), primary("r2", timeline=2), standby("r3")
    with pytest.raises(ConflictError, match="more than one node"):
        planned(GONE, *two).require()


def test_an_old_primary_on_a_timeline_that_was_left_is_fenced_too() -> None:
    plan = planned(primary(), standby("r1", timeline=2), standby("r2", timeline=2))
    plan.require()
    assert (plan.kind, plan.fence) == (Kind.FAILOVER, ("primary",))


def test_replicas_on_different_timelines_are_a_question() -> None:
    answers = GONE, standby("r1", 1000, timeline=2), standby("r2", 2000)
    assert "different timelines: r1 on 2, r2 on 1" in refused(planned(*answers))
    plan = planned(*answers, accept_loss=True)
    plan.require()
    assert plan.node == "r1"


def test_what_would_be_lost_is_measured_against_all_that_is_known() -> None:
    last = LastPrimary(1, Lsn(SEGMENT + 1300), NOW)
    archive = Archived(CLUSTER, {1: Lsn(SEGMENT + 1500)})
    plan = planned(GONE, standby("r1", 1000), last=last, archive=archive)
    plan.require()
    loss = plan.loss
    assert loss is not None and (loss.primary_bytes, loss.archive_bytes, loss.known_bytes) == (300, 500, 500)
    text = "\n".join(plan.lines())
    assert "the archive is ahead of the new timeline by 500 bytes" in text
    assert "--to-lsn 0/10005DC --timeline 1" in text
    level = planned(GONE, standby("r1", 1500), last=last, archive=archive).loss
    assert level is not None and level.known_bytes == 0
    # An idle primary names the first byte behind the header of a page, its standby the page.
    idle = planned(GONE, standby("r1", 0), last=replace(last, position=Lsn(SEGMENT + 40))).loss
    assert idle is not None and idle.primary_bytes == 0
    unknown = planned(GONE, standby("r1")).loss
    assert unknown is not None and unknown.primary_bytes is None and "not known" in unknown.lines()[1]


def test_an_archive_that_knows_more_timelines_is_a_question() -> None:
    history = TimelineHistory(2, (Switch(1, Lsn(SEGMENT + 800)),))
    archive = Archived(CLUSTER, {1: Lsn(SEGMENT + 800), 2: Lsn(SEGMENT + 4000)}, {2: history})
    on_the_way = planned(GONE, standby("r1", 700), archive=archive)
    assert "the archive knows timeline 2, r1 is on 1" in refused(on_the_way)
    beside = planned(GONE, standby("r1", 900), archive=archive)
    assert "not on the way to timeline 2" in beside.verdict("r1").reason


@pytest.mark.parametrize(
    ("setting", "gone", "guaranteed", "why"),
    [
        ("", [], False, "off"),
        ("r1", [], True, "waited for 1 of r1"),
        ("ANY 1 (r1, r2)", [], True, "waited for 1 of r1, r2"),
        ("FIRST 1 (r1, r2)", ["r2"], False, "for r2 alone"),
        ("ANY 2 (r1, r2)", ["r2"], True, "waited for 2 of"),
        ("2 (r1, r2, r3)", ["r2"], False, "r2, r3 alone"),
        ("*", [], False, "not all are known"),
        ("r9", [], False, "r9 alone"),
        ("ANY 1 (r1, pgproof_stream)", [], False, "pgproof_stream alone"),
    ],
)
def test_when_synchronous_replication_guarantees_that_nothing_is_lost(
    setting: str, gone: list[str], guaranteed: bool, why: str
) -> None:
    answers = [GONE if name in gone else standby(name, 1000) for name in ("r1", "r2")]
    facts = {name: NodeFacts(name=name.upper()) for name in ("r1", "r2") if name not in gone}
    last = LastPrimary(1, Lsn(SEGMENT + 1300), NOW, synchronous_standby_names=setting)
    loss = planned(GONE, *answers, last=last, facts=facts).loss
    assert loss is not None and loss.guaranteed == guaranteed, loss
    assert why in loss.why
    weak = planned(GONE, *answers, last=replace(last, synchronous_commit="local"), facts=facts).loss
    assert weak is not None and not weak.guaranteed


def test_the_archive_may_be_the_synchronous_standby() -> None:
    last = LastPrimary(1, Lsn(SEGMENT), NOW, synchronous_standby_names="ANY 1 (r1, pgproof_stream)")
    facts = {"r1": NodeFacts(name="r1")}
    for end, guaranteed in ((1000, True), (1001, False)):
        archive = Archived(CLUSTER, {1: Lsn(SEGMENT + end)})
        loss = planned(GONE, standby("r1", 1000), last=last, facts=facts, archive=archive).loss
        assert loss is not None and loss.guaranteed == guaranteed


def test_what_is_not_known_of_the_old_primary_is_no_guarantee() -> None:
    facts = {"r1": NodeFacts(name="r1", synchronous_standby_names="r1")}
    loss = planned(GONE, standby("r1"), facts=facts).loss
    assert loss is not None and not loss.guaranteed and "whether the old primary was" in loss.why


def test_patroni_decides_where_it_manages() -> None:
    urls = {"patroni_urls": ("http://h:8008",)}
    plan = planned(GONE, standby("r1"), config=urls, patroni_leader="node2")
    assert "Patroni manages this cluster" in refused(plan) and "now: node2" in refused(plan)
    assert "patronictl switchover" in plan.refusals[0].hint


def test_standbys_that_still_stream_are_a_warning_that_the_primary_lives() -> None:
    plan = planned(GONE, standby("r1", receiver="streaming"), standby("r2"))
    assert any("r1 still streams" in note for note in plan.notes)
    nobody = planned(standby("primary"), standby("r1"))
    assert "none is the primary" in refused(nobody)


def test_nodes_of_different_clusters_are_no_cluster() -> None:
    assert "different clusters" in refused(planned(GONE, standby("r1"), standby("r2", system_identifier=8)))
    known = planned(
        GONE, standby("r1"), standby("r2", 5000, system_identifier=8), archive=Archived(CLUSTER, {})
    )
    known.require()
    assert known.node == "r1"


def test_who_has_diverged() -> None:
    new = primary("r1", 3000, timeline=2, replayed=Lsn(SEGMENT + 1000))
    assert not diverged(standby("r2", 1000), new)
    assert diverged(standby("r2", 1001), new)
    # The beginning of a record that never came whole is no divergence, as long as the promoted one had it as well.
    assert not diverged(standby("r2", 1010, replayed=1000), new, kept=Lsn(SEGMENT + 1010))
    assert diverged(standby("r2", 1011, replayed=1000), new, kept=Lsn(SEGMENT + 1010))
    assert diverged(standby("r2", 1010, replayed=1005), new, kept=Lsn(SEGMENT + 1010))
    assert not diverged(standby("r2", 5000, timeline=2), new)


def test_the_list_of_synchronous_standbys_is_read_as_the_server_does() -> None:
    assert required("") == (0, ())
    assert required('r1, "R 2"') == (1, ("r1", "r 2"))
    assert required("ANY 2 (a, b, c)") == (2, ("a", "b", "c"))
    assert required("3 (*)") == (3, ("*",))
