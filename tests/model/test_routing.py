"""Where reads and writes go, decided of what was measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.cluster_memory import Memory, Standing, has_replayed, standing
from pgproof.model.lag import NO_LAG, Lag
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState
from pgproof.model.routing import GOLDEN, Health, ReadPolicy, Role, Routing, Rules, Seen, Tier, decide
from pgproof.model.timelines import Switch, TimelineHistory

RULES = Rules(max_lag_bytes=1000, max_lag_seconds=10.0)


def state(
    node: str, timeline: int = 1, *, standby: bool = True, at: int = 500, **fields: object
) -> NodeState:
    found = NodeState(
        node, datetime.now(UTC), standby, 7, timeline, 180000, 16 << 20, Lsn(at), Lsn(at) if standby else None
    )
    return replace(found, **fields)  # type: ignore[arg-type]


def seen(found: NodeState | None, name: str = "", health: Health = Health.UP, **fields: object) -> Seen:
    return replace(Seen(found.node if found else name, health, found, NO_LAG), **fields)  # type: ignore[arg-type]


NOTHING = Memory()


def routed(*nodes: Seen, memory: Memory = NOTHING, rules: Rules = RULES) -> Routing:
    return decide(nodes, memory.after([each.state for each in nodes if each.state]), rules)


PRIMARY = seen(state("primary", standby=False))
ONE, TWO = seen(state("one")), seen(state("two"))


def order(found: Routing) -> list[tuple[str, ...]]:
    return [tier.nodes for tier in found.tiers]


def test_reads_go_to_replicas_and_to_the_primary_when_none_is_left() -> None:
    found = routed(PRIMARY, ONE, TWO)
    assert (found.primary, found.writable, order(found)) == ("primary", True, [("one", "two"), ("primary",)])
    sick = replace(ONE, health=Health.SUSPECT)
    assert order(routed(PRIMARY, sick, TWO)) == [("two",), ("primary",), ("one",)]
    away = replace(ONE, health=Health.DOWN)
    assert order(routed(PRIMARY, away, TWO)) == [("two",), ("primary",)]
    assert order(routed(PRIMARY, sick, rules=replace(RULES, primary_reads=False))) == [("one",)]
    nobody = routed(PRIMARY, away, rules=replace(RULES, primary_reads=False))
    assert nobody.tiers == () and nobody.unread == {"one": "it is down"}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"lag": Lag(1001, 0.0)}, "1001 bytes"),
        ({"lag": Lag(10, 10.5)}, "10.5 s behind"),
        ({"lag": Lag(0, None)}, "not known"),
        ({"lag": None}, "not known"),
        ({"reads": False}, "other things"),
        ({"health": Health.DOWN}, "down"),
        ({"state": replace(state("one"), system_identifier=8)}, "foreign"),
        ({"state": state("one", standby=False)}, "rival"),
    ],
)
def test_a_replica_that_takes_no_reads_says_why(changed: dict[str, object], why: str) -> None:
    memory = Memory(system_identifier=7, written=("primary", 1), floor=1, whole=True)
    found = routed(PRIMARY, replace(ONE, **changed), TWO, memory=memory)  # type: ignore[arg-type]
    assert why in found.unread["one"]
    assert order(found) == [("two",), ("primary",)]


def test_a_weight_of_nothing_reads_only_when_no_other_replica_can() -> None:
    spare = replace(ONE, weight=0)
    assert order(routed(PRIMARY, spare, TWO)) == [("two",), ("one",), ("primary",)]


def test_policies_choose_among_the_usable() -> None:
    behind = replace(ONE, lag=Lag(5, 1.0), latency=0.001)
    level = replace(TWO, latency=0.009)
    assert order(routed(PRIMARY, behind, level, rules=replace(RULES, policy=ReadPolicy.LEAST_LAG)))[0] == (
        "two",
    )
    assert order(routed(PRIMARY, behind, level, rules=replace(RULES, policy=ReadPolicy.NEAREST)))[:2] == [
        ("one",),
        ("two",),
    ]


def test_the_highest_timeline_is_the_primary_and_a_lower_one_is_stale() -> None:
    promoted = seen(state("one", 2, standby=False, replayed=Lsn(400)))
    found = routed(PRIMARY, promoted)
    assert (found.primary, found.roles["primary"]) == ("one", Role.STALE)
    # Also when the new primary is away, or when a standby alone tells of the new timeline.
    assert routed(PRIMARY, replace(promoted, health=Health.DOWN)).primary is None
    follower = seen(state("two", 2))
    found = routed(PRIMARY, follower)
    assert found.primary is None and "timeline" in found.reason
    assert found.roles["primary"] is Role.STALE and order(found) == [("two",)]


def test_two_primaries_of_one_timeline() -> None:
    other = seen(state("one", standby=False))
    assert routed(PRIMARY, other).rivals
    memory = Memory(written=("one", 1), floor=1, system_identifier=7)
    found = routed(PRIMARY, other, memory=memory)
    assert (found.primary, found.roles["primary"]) == ("one", Role.RIVAL)
    # The one that was written to is away: the other one is no successor.
    found = routed(PRIMARY, replace(other, health=Health.DOWN), memory=memory)
    assert found.rivals and found.primary is None


def test_a_read_only_primary_is_the_primary_and_takes_no_writes() -> None:
    found = routed(seen(state("primary", standby=False, read_only=True)), ONE)
    assert (found.primary, found.writable) == ("primary", False)
    assert "read-only" in found.reason


def test_a_configured_primary_that_is_a_standby_is_read_from() -> None:
    found = routed(seen(state("primary", 2)), seen(state("one", 2, standby=False)), TWO)
    assert order(found) == [("primary",), ("one",)]


def test_the_system_is_the_configured_primarys() -> None:
    alien = replace(state("one"), system_identifier=8)
    assert Memory().after([alien, state("two")]).system_identifier is None
    assert Memory().after([alien, state("primary", standby=False)]).system_identifier == 7
    assert Memory().after([alien]).system_identifier == 8
    assert routed(seen(alien), TWO).reason == "the nodes are of different systems"


WATCHED = Memory(system_identifier=7, floor=1, whole=True).promoted(
    state("one"), state("one", 2, standby=False, replayed=Lsn(400))
)


def test_a_standby_beyond_the_branch_has_diverged() -> None:
    new = seen(state("one", 2, standby=False, replayed=Lsn(400)))
    before, beyond = seen(state("two", 1, at=400)), seen(state("three", 1, at=401))
    found = routed(new, before, beyond, memory=WATCHED)
    assert (found.roles["two"], found.roles["three"]) == (Role.STANDBY, Role.DIVERGED)
    # Where the branch is is not known to one that came later: it takes no risk.
    assert routed(new, before, beyond).roles["two"] is Role.DIVERGED


def test_what_became_of_positions_on_earlier_timelines() -> None:
    assert (WATCHED.floor, WATCHED.left, WATCHED.whole) == (2, {1: Lsn(400)}, True)
    assert standing(1, Lsn(400), WATCHED) is Standing.KEPT
    assert standing(1, Lsn(401), WATCHED) is Standing.LOST
    assert standing(2, Lsn(9), WATCHED) is Standing.KEPT
    assert standing(3, Lsn(9), WATCHED) is Standing.AHEAD
    unseen = Memory(system_identifier=7, floor=4)
    assert standing(2, Lsn(9), unseen) is Standing.UNKNOWN
    read = unseen.read(TimelineHistory(4, (Switch(1, Lsn(100)), Switch(3, Lsn(200)))))
    assert standing(3, Lsn(200), read) is Standing.KEPT
    assert standing(2, Lsn(9), read) is Standing.LOST
    # A promotion that skipped a timeline, or was not watched, tells nothing.
    assert unseen.promoted(state("one", 2), state("one", 4, standby=False, replayed=Lsn(400))) == unseen
    assert read.after([state("one", 5)]).left == {}


def test_a_node_shows_a_token_of_its_own_timeline_and_of_one_that_it_kept() -> None:
    old, new = state("one", 1, at=450), state("one", 2, at=450)
    assert has_replayed(old, old.reached, 1, Lsn(450), WATCHED)
    assert not has_replayed(old, old.reached, 1, Lsn(451), WATCHED)
    assert not has_replayed(old, old.reached, 2, Lsn(410), WATCHED)
    assert has_replayed(new, new.reached, 1, Lsn(400), WATCHED)
    assert not has_replayed(new, new.reached, 1, Lsn(410), WATCHED)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.floats(0, 1, exclude_max=True))
def test_shares_are_those_of_the_weights(weights: list[int], turn: float) -> None:
    nodes = [replace(ONE, node=str(number), weight=weight) for number, weight in enumerate(weights)]
    tier = Tier.of(nodes)
    counted: Counter[str] = Counter()
    for _ in range(10_000):
        turn = (turn + GOLDEN) % 1.0
        counted[tier.pick(turn)] += 1
    for number, weight in enumerate(weights):
        assert abs(counted[str(number)] - 10_000 * weight / sum(weights)) <= 50
        assert tier.share(str(number)) == pytest.approx(weight / sum(weights))


def test_without_some_the_rest_share() -> None:
    tier = Tier.of(
        [replace(ONE, node="a", weight=1), replace(ONE, node="b", weight=2), replace(ONE, node="c", weight=1)]
    )
    rest = tier.without(["a"])
    assert rest is not None and rest.share("b") == pytest.approx(2 / 3)
    assert tier.without(["a", "b", "c"]) is None
