"""A real S3 server for tests: SeaweedFS in one process, on free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import obstore
from obstore.store import S3Store

from pgproof.model.config import BackupConfig
from tests.support import machine

_PORTS = ("master", "volume", "filer", "s3", "admin")
_PROBE = "readiness-probe"
_OPTIONS = (
    f"-bucket={_PROBE}",
    # As on AWS: a bucket that does not exist is an error.
    "-s3.autoCreateBucket=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-webdav=false",
    "-admin.ui=false",
    "-master.telemetry=false",
)
_REGION = "us-east-1"


class S3Server:
    """An S3 endpoint with one administrator; entering it starts it, leaving it removes its data.

    `options` are further options of `weed mini`.
    """

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = tuple(options)
        self.access_key = "pgproof-test"
        self.secret_key = "s3 test secret"
        self.root = machine.new_dir("s3")
        self.log = self.root / "log"
        ports = machine.free_ports(2 * len(_PORTS))
        self._ports = dict(zip(_PORTS, ports[::2], strict=True))
        self._grpc_ports = dict(zip(_PORTS, ports[1::2], strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def start(self) -> None:
        """Start the server on its data and ports and wait until it stores objects."""
        assert self._process is None, "the S3 server is running"
        weed = Path(sys.executable).with_name("weed")
        command = [str(weed), "mini", f"-dir={self.root / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-{name}.port={port}" for name, port in self._ports.items()]
        command += [f"-{name}.port.grpc={port}" for name, port in self._grpc_ports.items()]
        variables = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        variables["TMPDIR"] = str(self.root)  # its own log files
        # It need not change users, unlike PostgreSQL: only the end of our life concerns it.
        process = machine.spawn(
            ["setpriv", "--pdeathsig=KILL", "--", *command, *_OPTIONS, *self._options],
            self.log,
            machine.environment(**variables),
        )
        self._process = process
        machine.wait_until(lambda: process.poll() is not None or self._stores(), "the S3 server to start")
        if process.poll() is not None:
            self._process = None
            raise RuntimeError(f"the S3 server did not start:\n{self.log_tail()}")

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the S3 server is not running"
        return self._process.pid

    def kill9(self) -> None:
        """Kill the server; what it acknowledged must be there after `start`."""
        assert self._process is not None, "the S3 server is not running"
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        self.kill9()
        self.start()

    def remove(self) -> None:
        """Stop the server if it runs and remove what it stored."""
        if self._process is not None:
            self.kill9()
        shutil.rmtree(self.root, ignore_errors=True)
        # SeaweedFS puts sockets named by port into /tmp and leaves them there when it is killed.
        for port in (*self._ports.values(), *self._grpc_ports.values()):
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink(missing_ok=True)

    def make_bucket(self, name: str) -> str:
        """Create a bucket (3 to 63 lower-case letters, digits, dots and dashes) and return its name."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=_REGION,
        )
        with contextlib.closing(client):
            client.create_bucket(Bucket=name)
        return name

    def store(self, bucket: str, **options: Any) -> S3Store:
        """The bucket as an obstore store, for tests that look at or damage objects."""
        ours: dict[str, Any] = {
            "endpoint": self.endpoint,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "region": _REGION,
            "virtual_hosted_style_request": False,
            "client_options": {"allow_http": True},
        }
        return S3Store(bucket, **{**ours, **options})

    def backup_config(self, **overrides: Any) -> BackupConfig:
        """A configuration that stores here; `s3_bucket` is the one field a caller must give."""
        ours = {
            "s3_endpoint": self.endpoint,
            "s3_access_key_id": self.access_key,
            "s3_secret_access_key": self.secret_key,
            "s3_region": _REGION,
        }
        return BackupConfig(**{**ours, **overrides})

    def log_tail(self, lines: int = 40) -> str:
        """The end of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _stores(self) -> bool:
        """Whether an object can be stored: the gateway answers before its volumes are writable."""
        try:
            obstore.put(self.store(_PROBE, retry_config={"max_retries": 0}), "probe", b"probe")
        except (obstore.exceptions.BaseError, FileNotFoundError):  # the bucket comes last
            return False
        return True
