"""Where replicas are configured, tokens, and how lag is counted."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pgproof.errors import PreconditionError
from pgproof.model.config import PostgresConfig
from pgproof.model.lag import NO_LAG, Lag, PrimaryTrack
from pgproof.model.lsn import Lsn
from pgproof.model.node import NodeState, record_end
from pgproof.model.replication_config import ReplicaInfo, ReplicationConfig, parse_place
from pgproof.model.token import Token

_MB = 1 << 20


def replica(replayed: int, age: float | None = None) -> NodeState:
    return NodeState(
        "r", datetime.now(UTC), True, 1, 1, 180000, 16 * _MB, Lsn(replayed), Lsn(replayed), replayed_age=age
    )


def test_replicas_of_the_environment() -> None:
    found = ReplicationConfig.from_env(
        {
            "READ_REPLICA_HOSTS": "replica1:5433, [::1]:5434,10.0.0.7",
            "READ_REPLICA_USER": "reader",
            "READ_REPLICA_PASSWORD": "geheim",
            "REPLICA_MAX_LAG_SECONDS": "2.5",
            "REPLICA_PATRONI_URLS": "http://a:8008/,https://b:8008",
        }
    )
    assert [(each.host, each.port) for each in found.replicas] == [
        ("replica1", 5433),
        ("::1", 5434),
        ("10.0.0.7", 5432),
    ]
    assert found.max_lag_seconds == 2.5
    assert found.patroni_urls == ("http://a:8008", "https://b:8008")
    assert "geheim" not in repr(found)
    primary = PostgresConfig(
        host="p", port=1, user="app", password="other", database="shop",
        options={"sslmode": "require", "target_session_attrs": "primary", "hostaddr": "10.0.0.1"},
    )  # fmt: skip
    assert list(found.servers(primary)) == ["primary", "replica1:5433", "[::1]:5434", "10.0.0.7"]
    assert found.replicas[0].config(primary) == PostgresConfig(
        host="replica1", port=5433, user="reader", password="geheim", database="shop",
        options={"sslmode": "require"},
    )  # fmt: skip


def test_the_primarys_password_is_for_its_user_only() -> None:
    primary = PostgresConfig(host="p", user="app", password="secret")
    assert ReplicaInfo("a", "h").config(primary).password == "secret"
    assert ReplicaInfo("a", "h", username="other").config(primary).password is None


@pytest.mark.parametrize("text", ["", "a:0", "a:65536", "a:x", "::1", "a b", "[::1", "a:1:2"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(PreconditionError):
        parse_place(text)


@pytest.mark.parametrize(
    "values",
    [
        {"host": "a"},
        {"hosts": "a,a"},
        {"max_lag_seconds": "0"},
        {"max_lag_seconds": "nan"},
        {"max_lag_bytes": "many"},
        {"patroni_urls": "host:8008"},
        {"replicas": [{"id": "a"}]},
        {"replicas": [{"id": "primary", "host": "a"}]},
        {"replicas": [{"id": "a", "host": "a", "replica_type": "fast"}]},
        {"replicas": [{"id": "a", "host": "a", "weight": -1}]},
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(PreconditionError):
        ReplicationConfig.from_mapping(values)


def test_a_token_survives_its_text() -> None:
    token = Token(17, Lsn.parse("AB/1234"))
    assert Token.parse(str(token)) == token
    for wrong in ("", "1-2", "1-2-x", "1-2-3-4", "-1-2-3"):
        with pytest.raises(PreconditionError):
            Token.parse(wrong)


def test_behind_a_page_header_is_the_start_of_the_page() -> None:
    assert record_end(Lsn(16 * _MB + 40), 16 * _MB) == Lsn(16 * _MB)
    assert record_end(Lsn(16 * _MB + 8192 + 24), 16 * _MB) == Lsn(16 * _MB + 8192)
    # Forty bytes into a page that begins no segment are a short header and the end of a record.
    for within in (8192 + 40, 24, 48, 8192):
        assert record_end(Lsn(16 * _MB + within), 16 * _MB) == Lsn(16 * _MB + within)


def test_lag_is_counted_by_what_was_seen() -> None:
    track = PrimaryTrack(1)
    assert track.lag(replica(100), 0.0) == Lag(0, None)
    for moment, position in enumerate((1000, 2000, 2000, 2000, 3000)):
        track.saw(Lsn(position), float(moment))
    assert track.lag(replica(3000), 4.5) == NO_LAG
    assert track.lag(replica(2500), 4.5) == Lag(500, 1.5)
    assert track.lag(replica(1999), 4.5) == Lag(1001, 4.5)
    # Behind all that was seen: what its own clock says, or nothing.
    assert track.lag(replica(10, age=77.0), 4.5) == Lag(2990, 77.0)
    assert not track.lag(replica(10), 4.5).within(1 << 40, 1e9)


def test_an_idle_primary_is_no_lag_and_its_looks_need_no_room() -> None:
    track = PrimaryTrack(1)
    for moment in range(10_000):
        track.saw(Lsn(5000), float(moment))
    assert track.lag(replica(5000, age=3600.0), 10_000.0) == NO_LAG
    assert len(track._moments) == 2
    # The first record after the long pause: late by the time since the last look, not by the pause.
    track.saw(Lsn(6000), 10_000.0)
    assert track.lag(replica(5000, age=10_000.0), 10_000.2) == Lag(1000, pytest.approx(1.2))


def test_old_looks_are_forgotten_and_a_bound_stays() -> None:
    track = PrimaryTrack(1, keep=10.0)
    for moment in range(1000):
        track.saw(Lsn(1000 + moment), float(moment))
    assert len(track._moments) < 50
    found = track.lag(replica(1000, age=2000.0), 999.0)
    assert found.seconds is not None and found.seconds >= 10.0
