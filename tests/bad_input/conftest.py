"""A server with roles of every kind, and a repository with two backups of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bad_input.program import Program
from tests.support import machine
from tests.support.postgres import STREAM_PASSWORD, STREAM_USER, Cluster

ROLE_PASSWORD = "a role's test secret"
PASSPHRASE = "a passphrase for tests"

# A line of its own for each kind of role, so that what is missing is missing on purpose.
_HBA = f"""\
local all,replication postgres                       trust
local all,replication +by_peer                       peer
host  all,replication +welcome,{STREAM_USER} 127.0.0.1/32 scram-sha-256
host  replication     +rejected         127.0.0.1/32 reject
host  all             +rejected         127.0.0.1/32 scram-sha-256
host  all             +no_line          127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class Roles:
    """Makes roles on `cluster`: members of the group that their pg_hba.conf lines name."""

    cluster: Cluster

    def make(self, name: str, group: str = "welcome", options: str = "LOGIN REPLICATION") -> dict[str, str]:
        """A new role; return the variables that connect as it over TCP."""
        quoted = '"' + name.replace('"', '""') + '"'
        password = ROLE_PASSWORD.replace("'", "''")
        self.cluster.psql(f"CREATE ROLE {quoted} {options} PASSWORD '{password}' IN ROLE {group}")
        return {"PGUSER": name, "PGPASSWORD": ROLE_PASSWORD}

    def let_in(self, line: str) -> None:
        """Put a line first in pg_hba.conf and make it count."""
        path = self.cluster.config_dir / "pg_hba.conf"
        path.write_text(f"{line}\n{path.read_text()}")
        self.cluster.psql("SELECT pg_reload_conf()")


def over_tcp(cluster: Cluster) -> dict[str, str]:
    """The variables that connect as the replication role of the test clusters."""
    return {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(cluster.port),
        "PGUSER": STREAM_USER,
        "PGPASSWORD": STREAM_PASSWORD,
        "PGCONNECT_TIMEOUT": "5",
    }


@pytest.fixture(scope="package")
def server() -> Iterator[Cluster]:
    with Cluster(18) as cluster:
        (cluster.config_dir / "pg_hba.conf").write_text(_HBA)
        for group in ("by_peer", "welcome", "rejected", "no_line"):
            cluster.psql(f"CREATE ROLE {group}")
        cluster.psql("SELECT pg_reload_conf()")
        yield cluster


@pytest.fixture
def roles(server: Cluster) -> Roles:
    return Roles(server)


@pytest.fixture(scope="package")
def plain(server: Cluster) -> Program:
    """The program with an unencrypted repository that no test puts a backup into: of the two methods only the
    physical one may be tried."""
    repository = machine.new_dir("bad") / "repository"
    program = Program(
        **over_tcp(server),
        BACKUP_DIR=str(repository),
        BACKUP_ENCRYPTION="false",
        BACKUP_METHOD="physical",
    )
    program.run("init")
    return program


@pytest.fixture(scope="package")
def stocked(server: Cluster) -> Program:
    """The program with an encrypted repository that holds two backups; tests only read it."""
    repository = machine.new_dir("bad") / "repository"
    program = Program(**over_tcp(server), BACKUP_DIR=str(repository), BACKUP_PASSPHRASE=PASSPHRASE)
    program.run("init")
    for _ in range(2):
        program.run("create")
    return program


@pytest.fixture
def repository(plain: Program) -> Path:
    """The directory of `plain`."""
    return Path(plain.environ["BACKUP_DIR"])
