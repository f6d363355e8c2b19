"""pgbench: tables of a wanted size, and a background load on them."""

from __future__ import annotations

import signal
import subprocess
from types import TracebackType
from typing import Self

from tests.support import machine
from tests.support.postgres import Cluster

DBNAME = "bench"


def initialize(cluster: Cluster, scale: int = 1, *, dbname: str = DBNAME) -> None:
    """Create the database and pgbench's tables in it; a scale of 1 is about 15 MB."""
    cluster.run("createdb", dbname)
    cluster.run("pgbench", "--initialize", "--quiet", f"--scale={scale}", dbname=dbname)


class Pgbench:
    """pgbench's TPC-B-like load while the `with` block runs.

    Leaving the block raises RuntimeError if the load had ended before, unless `may_fail`
    (the server is going to be killed).
    """

    def __init__(
        self, cluster: Cluster, *, clients: int = 4, dbname: str = DBNAME, may_fail: bool = False
    ) -> None:
        self.log = machine.new_dir("pgbench") / "log"
        self._command = [str(cluster.bin / "pgbench"), f"--client={clients}", "--time=86400", "--no-vacuum"]
        self._environment = machine.environment(**cluster.libpq_environment(dbname))
        self._may_fail = may_fail
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = machine.as_service_user(self._command, die_with_us="KILL")
        self._process = machine.spawn(command, self.log, self._environment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        status = self._process.poll()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        if status is not None and not self._may_fail and error is None:
            raise RuntimeError(f"pgbench ended with status {status}:\n{self.log.read_text()}")
