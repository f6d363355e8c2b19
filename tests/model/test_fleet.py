"""Which clusters of a fleet may begin."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.fleet import FleetLimits, Target, may_start, select, stagger

HOUR = timedelta(hours=1)
TARGETS = st.lists(
    st.builds(Target, st.text(min_size=1, max_size=8), st.sampled_from("abc"), st.sampled_from("xy")),
    unique_by=lambda target: target.name,
    max_size=40,
)
LIMITS = st.builds(
    FleetLimits, st.integers(1, 9), st.integers(1, 3), st.integers(1, 5), st.just(timedelta(minutes=40))
)


@given(TARGETS, LIMITS, st.integers(1, 60))
def test_no_limit_is_passed_and_everybody_has_a_turn(
    targets: list[Target], limits: FleetLimits, minutes: int
) -> None:
    waiting, running, elapsed, done = list(targets), list[Target](), timedelta(0), 0
    while waiting or running:
        for each in may_start(waiting, running, limits, elapsed):
            assert stagger(each.name, limits.spread) <= elapsed
            waiting.remove(each)
            running.append(each)
        assert len(running) <= limits.at_once
        assert max(Counter(each.host for each in running).values(), default=0) <= limits.per_host
        assert max(Counter(each.store for each in running).values(), default=0) <= limits.per_store
        done += len(running[:1])
        running = running[1:]
        elapsed += timedelta(minutes=minutes)
        assert elapsed < 100 * HOUR, "somebody never had a turn"
    assert done == len(targets)


def test_a_thousand_starts_are_spread_evenly_and_always_the_same() -> None:
    places = [stagger(f"cluster-{number}", HOUR) for number in range(1000)]
    assert places == [stagger(f"cluster-{number}", HOUR) for number in range(1000)]
    of_each_quarter = Counter(int(place / HOUR * 4) for place in places)
    assert set(of_each_quarter) == {0, 1, 2, 3}
    assert max(of_each_quarter.values()) < 320


def test_names_and_patterns_select() -> None:
    names = ["shop-1", "shop-2", "blog"]
    assert select(names, ["*"]) == ["blog", "shop-1", "shop-2"]
    assert select(names, ["shop-*", "shop-1"]) == ["shop-1", "shop-2"]
    assert select(names, ["shop-[2]", "gone"]) == ["gone", "shop-2"], (
        "a name that somebody counts on must fail"
    )
