"""The S3 server under the tests does what the product relies on."""

import obstore
import pytest

from tests.support.s3 import S3Server


def test_an_object_is_created_once(s3: S3Server) -> None:
    store = s3.store(s3.make_bucket("created-once"))
    obstore.put(store, "some/key", b"first", mode="create")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(store, "some/key", b"second", mode="create")

    assert bytes(obstore.get(store, "some/key").bytes()) == b"first"
    assert bytes(obstore.get_range(store, "some/key", start=1, end=3)) == b"ir"


def test_a_bucket_that_is_not_there_is_an_error(s3: S3Server) -> None:
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        obstore.put(s3.store("never-made"), "key", b"data")


def test_a_wrong_key_is_refused(s3: S3Server) -> None:
    bucket = s3.make_bucket("refused")
    with pytest.raises(obstore.exceptions.PermissionDeniedError, match="SignatureDoesNotMatch"):
        obstore.put(s3.store(bucket, secret_access_key="wrong"), "key", b"data")


def test_what_was_acknowledged_survives_a_kill() -> None:
    with S3Server() as server:
        store = server.store(server.make_bucket("survivors"))
        for number in range(50):
            obstore.put(store, f"object-{number}", b"%d" % number, mode="create")
        server.kill9()
        server.start()
        for number in range(50):
            assert bytes(obstore.get(store, f"object-{number}").bytes()) == b"%d" % number
        obstore.put(store, "object-50", b"50", mode="create")
    assert not server.root.exists()


def test_it_yields_a_configuration(s3: S3Server) -> None:
    config = s3.backup_config(s3_bucket="some-bucket", compression_level=1)

    assert config.s3_endpoint == s3.endpoint
    assert config.s3_bucket == "some-bucket"
    assert config.compression_level == 1
    assert s3.secret_key not in repr(config)
