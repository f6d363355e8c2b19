"""The proxy forwards what it is not told to break, and breaks what it is told to."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError
from obstore.exceptions import PreconditionError as Refused
from obstore.store import S3Store

from tests.support.s3 import S3Server
from tests.support.s3_proxy import Fault, Rule, S3Proxy, applies

_ERRORS = (BaseError, FileNotFoundError)


@dataclass
class Place:
    proxy: S3Proxy
    store: S3Store
    direct: S3Store


@pytest.fixture(scope="module")
def place(s3: S3Server) -> Iterator[Place]:
    bucket = s3.make_bucket(f"proxied-{secrets.token_hex(4)}")
    with S3Proxy(s3, bucket, seed=1, delay=0.01) as proxy:
        options: dict[str, Any] = {
            "endpoint": proxy.endpoint,
            "retry_config": {"max_retries": 0},
            "client_options": {"allow_http": True, "timeout": timedelta(seconds=2)},
            "disable_bulk_delete": True,
        }
        yield Place(proxy, s3.store(bucket, **options), s3.store(bucket))


def put(store: S3Store, key: str, data: bytes = b"data") -> None:
    obstore.put(store, key, data, mode="create", use_multipart=False)


def read(store: S3Store, key: str) -> bytes:
    return bytes(obstore.get(store, key).bytes())


def listed(store: S3Store, prefix: str) -> list[str]:
    return [each["path"] for chunk in obstore.list(store, prefix) for each in chunk]


def stored(place: Place, key: str) -> bool:
    return key in listed(place.direct, key.rpartition("/")[0])


def test_without_rules_it_is_the_store(place: Place) -> None:
    put(place.store, "calm/a", b"some data" * 100_000)
    put(place.store, "calm/empty", b"")
    assert read(place.store, "calm/a") == b"some data" * 100_000
    assert bytes(obstore.get_range(place.store, "calm/a", start=5, length=4)) == b"data"
    assert obstore.head(place.store, "calm/a")["size"] == 900_000
    assert listed(place.store, "calm") == ["calm/a", "calm/empty"]
    with pytest.raises(AlreadyExistsError):
        put(place.store, "calm/a")
    obstore.delete(place.store, "calm/a")
    assert listed(place.direct, "calm") == ["calm/empty"]


# What a PUT ends with, and whether the object is there afterwards.
_PUTS: dict[Fault, tuple[tuple[type[BaseException], ...] | None, bool]] = {
    Fault.DELAY: (None, True),
    Fault.STALL: (_ERRORS, False),
    Fault.STALL_IN_BODY: (_ERRORS, True),
    Fault.RESET_BEFORE: (_ERRORS, False),
    Fault.RESET_AFTER: (_ERRORS, True),
    Fault.ERROR_500: (_ERRORS, False),
    Fault.ERROR_500_AFTER: (_ERRORS, True),
    Fault.SLOW_DOWN: (_ERRORS, False),
    Fault.TOO_MANY: (_ERRORS, False),
    Fault.FORBIDDEN: ((PermissionDeniedError,), False),
    Fault.SKEW_REFUSED: ((PermissionDeniedError,), False),
    Fault.CONFLICT: ((AlreadyExistsError,), False),
    Fault.PRECONDITION: ((AlreadyExistsError,), False),
    Fault.NOT_FOUND: ((FileNotFoundError,), False),
    Fault.OK_WITH_ERROR: (_ERRORS, False),
    Fault.TRUNCATED: (_ERRORS, True),
    Fault.CUT_SHORT: (None, True),
    Fault.FLIPPED: (None, True),
    Fault.DUPLICATE: ((AlreadyExistsError,), True),
    Fault.STALE: (None, True),
    Fault.IGNORED_CONDITION: (None, True),
    Fault.SKEWED_DATE: (None, True),
}


@pytest.mark.parametrize("fault", [fault for fault in Fault if applies(fault, "PUT")])
def test_what_becomes_of_a_put(place: Place, fault: Fault) -> None:
    errors, there = _PUTS[fault]
    key, before = f"put/{fault}", place.proxy.faults[fault, "PUT"]
    with place.proxy.breaking(Rule(fault, "PUT", key, nth=1)):
        if errors is None:
            put(place.store, key)
        else:
            with pytest.raises(errors):
                put(place.store, key)
        assert stored(place, key) == there
    assert place.proxy.faults[fault, "PUT"] == before + 1


_LIES = {Fault.CUT_SHORT, Fault.FLIPPED}
_HARMLESS = {Fault.DELAY, Fault.DUPLICATE, Fault.SKEWED_DATE}


@pytest.mark.parametrize("fault", [fault for fault in Fault if applies(fault, "GET")])
def test_what_becomes_of_a_read(place: Place, fault: Fault) -> None:
    key, before = f"get/{fault}", place.proxy.faults[fault, "GET"]
    put(place.direct, key, b"x" * 1000)
    with place.proxy.breaking(Rule(fault, "GET", key, nth=2)):
        assert read(place.store, key) == b"x" * 1000
        if fault in _HARMLESS:
            assert read(place.store, key) == b"x" * 1000
        elif fault in _LIES or fault is Fault.OK_WITH_ERROR:
            assert read(place.store, key) != b"x" * 1000
        else:
            with pytest.raises((*_ERRORS, Refused)):
                read(place.store, key)
        assert read(place.store, key) == b"x" * 1000
    assert place.proxy.faults[fault, "GET"] == before + 1


def test_a_lasting_fault_lasts_until_the_end(place: Place) -> None:
    put(place.direct, "lasting/a")
    with place.proxy.breaking(Rule(Fault.ERROR_500, "GET", "^lasting/", nth=2, lasting=True)):
        read(place.store, "lasting/a")
        for _ in range(3):
            with pytest.raises(BaseError):
                read(place.store, "lasting/a")
    read(place.store, "lasting/a")


def test_random_faults_are_as_frequent_as_they_should_be(place: Place) -> None:
    before = place.proxy.faults[Fault.DELAY, "HEAD"]
    put(place.direct, "random/a")
    with place.proxy.breaking(Rule(Fault.DELAY, "HEAD", "^random/", probability=0.2)):
        for _ in range(200):
            obstore.head(place.store, "random/a")
    assert 15 <= place.proxy.faults[Fault.DELAY, "HEAD"] - before <= 70


def test_a_written_object_does_not_show_for_some_time(place: Place) -> None:
    with place.proxy.breaking(Rule(Fault.STALE, "PUT", "^stale/", nth=1)):
        put(place.store, "stale/a")
        with pytest.raises(FileNotFoundError):
            read(place.store, "stale/a")
        assert listed(place.store, "stale") == []
        with pytest.raises(FileNotFoundError):
            obstore.head(place.store, "stale/a")
        assert read(place.store, "stale/a") == b"data"
        assert listed(place.store, "stale") == ["stale/a"]


def test_a_deleted_object_shows_for_some_time_and_is_gone_at_the_end(place: Place) -> None:
    put(place.store, "late/a")
    with place.proxy.breaking(Rule(Fault.STALE, "DELETE", "^late/", nth=1)):
        obstore.delete(place.store, "late/a")
        assert read(place.store, "late/a") == b"data"
    assert not stored(place, "late/a")


def test_a_list_of_earlier(place: Place) -> None:
    put(place.store, "old/a")
    with place.proxy.breaking(Rule(Fault.STALE, "LIST", "^old", nth=2)):
        assert listed(place.store, "old") == ["old/a"]
        put(place.store, "old/b")
        assert listed(place.store, "old") == ["old/a"]
        assert listed(place.store, "old") == ["old/a", "old/b"]


def test_a_page_of_a_list_is_dropped(place: Place) -> None:
    for name in "abcd":
        put(place.store, f"page/{name}")
    with place.proxy.breaking(Rule(Fault.DROPPED_PAGE, "LIST", "^page", nth=1)):
        assert listed(place.store, "page") == ["page/a", "page/b"]


def test_an_ignored_condition_overwrites(place: Place) -> None:
    put(place.store, "twice/a", b"first")
    with place.proxy.breaking(Rule(Fault.IGNORED_CONDITION, "PUT", "^twice/", nth=1)):
        put(place.store, "twice/a", b"second")
    assert read(place.direct, "twice/a") == b"second"


def test_dates_are_skewed(place: Place) -> None:
    put(place.store, "date/a")
    true = obstore.head(place.store, "date/a")["last_modified"]
    with place.proxy.breaking(Rule(Fault.SKEWED_DATE, "", "^date", nth=1, lasting=True)):
        assert abs(obstore.head(place.store, "date/a")["last_modified"] - true) > timedelta(hours=1)
        (skewed,) = [each for chunk in obstore.list(place.store, "date") for each in chunk]
        assert abs(skewed["last_modified"] - true) > timedelta(days=300)


def test_it_knows_what_the_server_acknowledged(place: Place) -> None:
    with place.proxy.breaking(Rule(Fault.ERROR_500_AFTER, "PUT", "^told/", nth=1)):
        with pytest.raises(BaseError):
            put(place.store, "told/a")
        put(place.store, "told/b")
    assert {"told/a", "told/b"} <= set(place.proxy.acknowledged)
    obstore.delete(place.store, "told/a")
    assert "told/a" not in place.proxy.acknowledged
