"""A bucket in an object store that fails: what one more try mends is mended, the rest is a clear error, soon."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgproof.errors import ConflictError, DataError, EngineError, PreconditionError, TransientError
from pgproof.repository.bucket import Bucket
from pgproof.repository.object_store import s3_bucket
from pgproof.repository.probe import probe_store, store_answers
from pgproof.repository.store_answers import Patience
from tests.support.s3 import S3Server
from tests.support.s3_proxy import Fault, Rule, S3Proxy, applies

_REFUSALS = (Fault.FORBIDDEN, Fault.SKEW_REFUSED)


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy(s3, s3.make_bucket(f"faults-{secrets.token_hex(4)}"), delay=0.01) as proxy:
        yield proxy


@pytest.fixture
def bucket(s3: S3Server, proxy: S3Proxy) -> Bucket:
    """Gives up after three tries, or when a try has taken a second and a half."""
    return _open(s3, proxy, Patience(request=1.5, tries=3, total=1.0))


def _open(s3: S3Server, proxy: S3Proxy, patience: Patience) -> Bucket:
    return s3_bucket(
        proxy.bucket,
        endpoint=proxy.endpoint,
        access_key_id=s3.access_key,
        secret_access_key=s3.secret_key,
        patience=patience,
    )


_STALLS = (Fault.STALL, Fault.STALL_IN_BODY)
# Neither an error nor another answer: only the hash of the content, or a later look, can tell.
_NOT_TO_BE_SEEN = {
    "GET": {Fault.OK_WITH_ERROR, Fault.CUT_SHORT, Fault.FLIPPED},
    "HEAD": {Fault.FLIPPED},
    "LIST": {Fault.FLIPPED, Fault.STALE, Fault.CUT_SHORT},
    # The second answer of a create that was taken twice says that the object exists, as for anybody's.
    "PUT": {Fault.DUPLICATE},
}


_VERBS = ("PUT", "GET", "HEAD", "LIST", "DELETE")
_SINGLE = [
    (verb, fault)
    for verb in _VERBS
    for fault in Fault
    if applies(fault, verb) and fault not in {*_STALLS, *_REFUSALS, *_NOT_TO_BE_SEEN.get(verb, ())}
]


@pytest.mark.parametrize(("verb", "fault"), _SINGLE)
def test_a_single_fault_is_not_noticed(verb: str, fault: Fault, proxy: S3Proxy, bucket: Bucket) -> None:
    # A refusal that a store gives for good reasons only is not asked about again.
    last_word = fault is Fault.PRECONDITION and verb != "PUT"
    folder = f"once/{verb}-{fault}/"
    for name in "abcd":
        bucket.create(f"{folder}{name}", b"some data")
    calls: dict[str, Callable[[], object]] = {
        "PUT": lambda: bucket.create(f"{folder}e", b"some data"),
        "GET": lambda: bucket.read(f"{folder}a"),
        "HEAD": lambda: bucket.head(f"{folder}a"),
        "LIST": lambda: sorted(info.key.removeprefix(folder) for info in bucket.list(folder)),
        "DELETE": lambda: bucket.delete(f"{folder}a"),
    }
    with proxy.breaking(Rule(fault, verb, folder, nth=1)):
        if last_word:
            with pytest.raises(TransientError):
                calls[verb]()
            return
        found = calls[verb]()
    if verb == "PUT":
        assert bucket.read(f"{folder}e") == b"some data"
    elif verb == "GET":
        assert found == b"some data"
    elif verb == "HEAD":
        assert found is not None
    elif verb == "LIST":
        assert found == list("abcd")
    elif fault is not Fault.OK_WITH_ERROR:  # then nothing tells that it was not carried out
        assert bucket.head(f"{folder}a") is None


_LASTING = [
    ("PUT", Fault.OK_WITH_ERROR),
    *(
        (verb, fault)
        for verb in _VERBS
        for fault in (Fault.RESET_BEFORE, Fault.ERROR_500, Fault.SLOW_DOWN, Fault.TOO_MANY, Fault.STALL)
    ),
]


@pytest.mark.parametrize(("verb", "fault"), _LASTING)
def test_a_store_that_goes_on_failing_is_given_up(
    verb: str, fault: Fault, proxy: S3Proxy, bucket: Bucket
) -> None:
    folder = f"lasting/{verb}-{fault}/"
    bucket.create(f"{folder}a", b"some data")
    calls: dict[str, Callable[[], object]] = {
        "PUT": lambda: bucket.create(f"{folder}b", b"some data"),
        "GET": lambda: bucket.read(f"{folder}a"),
        "HEAD": lambda: bucket.head(f"{folder}a"),
        "LIST": lambda: list(bucket.list(folder)),
        "DELETE": lambda: bucket.delete(f"{folder}a"),
    }
    before = proxy.faults.total()
    with proxy.breaking(Rule(fault, verb, folder, nth=1, lasting=True)):
        with pytest.raises(TransientError, match="did not answer") as given_up:
            calls[verb]()
        tried = proxy.faults.total() - before
    assert given_up.value.hint
    # After a stall of a second and a half there is no other try.
    assert tried == (1 if fault is Fault.STALL else 3)
    assert [info.key for info in bucket.list(folder)] == [f"{folder}a"]


def test_somebody_elses_object_is_a_conflict_even_if_answers_are_lost(proxy: S3Proxy, bucket: Bucket) -> None:
    bucket.create("theirs/a", b"theirs")
    rule = Rule(Fault.ERROR_500_AFTER, "PUT", "^theirs/", nth=1)
    with proxy.breaking(rule), pytest.raises(ConflictError):
        bucket.create("theirs/a", b"ours")
    assert bucket.read("theirs/a") == b"theirs"


@pytest.mark.parametrize(("fault", "hint"), [(Fault.FORBIDDEN, "access key"), (Fault.SKEW_REFUSED, "clock")])
def test_a_refusal_is_the_operators_business_at_once(
    fault: Fault, hint: str, proxy: S3Proxy, bucket: Bucket
) -> None:
    before = proxy.faults.total()
    rule = Rule(fault, "PUT", "^refused/", nth=1, lasting=True)
    with proxy.breaking(rule), pytest.raises(PreconditionError) as refused:
        bucket.create(f"refused/{fault}", b"x")
    assert hint in refused.value.hint
    assert proxy.faults.total() == before + 1


@pytest.mark.parametrize("fault", [Fault.CUT_SHORT, Fault.TRUNCATED, Fault.NOT_FOUND, Fault.STALE])
def test_a_range_that_comes_short_is_read_again(fault: Fault, proxy: S3Proxy, bucket: Bucket) -> None:
    data = secrets.token_bytes(10_000)
    bucket.create(f"range/{fault}", data)
    with proxy.breaking(Rule(fault, "GET", "^range/", nth=1)):
        assert bucket.read_range(f"range/{fault}", 500, 9_000) == data[500:9_500]
    with pytest.raises(DataError, match="shorter"):
        bucket.read_range(f"range/{fault}", 9_000, 1_001)


def test_a_long_list_goes_on_where_it_broke_off(proxy: S3Proxy, bucket: Bucket) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: bucket.create(f"long/{number:05d}", b""), range(1_020)))
    for fault in (Fault.RESET_BEFORE, Fault.TRUNCATED, Fault.OK_WITH_ERROR, Fault.ERROR_500):
        for page in (1, 2):
            with proxy.breaking(Rule(fault, "LIST", "^long/", nth=page)):
                keys = [info.key for info in bucket.list("long/")]
            assert keys == [f"long/{number:05d}" for number in range(1_020)]


def test_the_trial_of_a_store_sees_ignored_conditions(proxy: S3Proxy, bucket: Bucket) -> None:
    with proxy.breaking(Rule(Fault.IGNORED_CONDITION, "PUT", nth=1, lasting=True)):
        failed = [check.name for check in probe_store(bucket) if not check.ok]
    assert "create refuses an existing object" in failed
    assert list(bucket.list("probe/")) == []


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.ERROR_500_AFTER, Fault.DUPLICATE])
def test_the_trial_of_a_store_survives_lost_answers(fault: Fault, proxy: S3Proxy, s3: S3Server) -> None:
    patient = _open(s3, proxy, Patience(request=5.0, tries=5, total=20.0))
    with proxy.breaking(Rule(fault, "PUT", "(data|once|probe/[0-9a-f]+)$", nth=1, lasting=False)):
        assert [check for check in probe_store(patient) if not check.ok] == []
    with proxy.breaking(Rule(fault, "PUT", nth=1)):
        assert store_answers(patient).ok


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in _STALLS])
def test_every_error_of_a_store_is_one_of_ours(fault: Fault, proxy: S3Proxy, bucket: Bucket) -> None:
    folder = f"any-{fault}/"
    bucket.create(f"{folder}a", b"some data")
    calls: list[Callable[[], object]] = [
        lambda: bucket.create(f"{folder}b", b"x"),
        lambda: bucket.read(f"{folder}a"),
        lambda: bucket.read_range(f"{folder}a", 2, 5),
        lambda: bucket.head(f"{folder}a"),
        lambda: list(bucket.list(folder)),
        lambda: bucket.delete(f"{folder}a"),
    ]
    with proxy.breaking(Rule(fault, "", folder, nth=1, lasting=True)):
        for call in calls:
            try:
                call()
            except EngineError as error:
                assert error.message
