"""An object store that is not there, has no such bucket, or refuses us."""

from __future__ import annotations

import pytest

from tests.bad_input.program import Program
from tests.support import machine
from tests.support.s3 import S3Server

REFUSED = "check the access key and secret"


@pytest.fixture(scope="module")
def in_s3(plain: Program, s3: S3Server) -> Program:
    program = plain.with_(
        BACKUP_DIR="",
        AWS_S3_BUCKET=s3.make_bucket("bad-input"),
        AWS_ENDPOINT_URL=s3.endpoint,
        AWS_ACCESS_KEY_ID=s3.access_key,
        AWS_SECRET_ACCESS_KEY=s3.secret_key,
    )
    program.run("init")
    return program


def test_the_bucket_is_missing(in_s3: Program) -> None:
    env = {"AWS_S3_BUCKET": "no-such-bucket"}
    for command in ("init", "create", "list"):
        in_s3.refused(command, message="the bucket does not exist", hint="create it", env=env)
    in_s3.fails_check("repository", "create it", env=env)


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_the_store_refuses_our_keys(in_s3: Program, variable: str) -> None:
    env = {variable: "a-planted-wrong-key"}
    for command in ("init", "create"):
        in_s3.refused(command, message="the object store refused the request", hint=REFUSED, env=env)
    in_s3.fails_check("repository", REFUSED, env=env)


def test_no_keys_are_given(in_s3: Program) -> None:
    env = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    in_s3.refused("list", message="no credentials", hint="AWS_ACCESS_KEY_ID", env=env)


def test_nobody_answers(in_s3: Program) -> None:
    (port,) = machine.free_ports(1)
    env = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    in_s3.refused("list", status=4, message="did not answer", hint="check the endpoint", env=env)


@pytest.mark.parametrize("address", ["127.0.0.1:8333", "nonsense", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none(in_s3: Program, address: str) -> None:
    in_s3.refused(
        "list",
        message="the object store's address is not understood",
        hint="such as https://s3.example.com",
        env={"AWS_ENDPOINT_URL": address},
    )


def test_an_address_with_a_secret_in_it(in_s3: Program) -> None:
    error = in_s3.refused(
        "list",
        message="holds a password",
        hint="AWS_SECRET_ACCESS_KEY",
        env={"AWS_ENDPOINT_URL": "http://someone:planted-secret@127.0.0.1:8333"},
    )
    assert "planted-secret" not in str(error)


def test_init_twice(in_s3: Program) -> None:
    in_s3.refused("init", status=6, message="there is a repository already", hint="choose another")
