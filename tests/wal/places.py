"""A repository that a server's user can reach, and pgproof as that user runs it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

from pgproof.actions.wal_serving import config_as_toml
from pgproof.backup import BackupManager
from pgproof.model.config import BackupConfig, BackupType
from tests.repository.places import new_repository
from tests.support import machine
from tests.support.postgres import Cluster

ROOT = Path(__file__).resolve().parents[2]
_INJECTED = "import sys; sys.path[:0] = {paths!r}; from pgproof.cli.main import run; sys.exit(run())"


def interpreter() -> Path:
    """A Python that the servers' user can start: ours, or the system's of the same version."""
    for path in (Path(sys.executable), Path(f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}")):
        if machine.reachable(path):
            return path
    raise RuntimeError(f"the service user can run no Python {sys.version_info[:2]}: install python3")


def program(options: list[str]) -> list[str]:
    """`pgproof …` as a command that the servers' user can run."""
    packages = [str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return [str(interpreter()), "-I", "-c", _INJECTED.format(paths=packages), *options]


def client() -> list[str]:
    return [str(interpreter()), "-I", "-S", str(ROOT / "pgproof" / "actions" / "wal_client.py")]


def repository_of(cluster: Cluster, root: Path, **settings: object) -> BackupConfig:
    """A repository in a directory, with a first backup of the cluster; the servers' user may write to it."""
    config = new_repository(root, bin_dir=str(cluster.bin), **settings)
    asyncio.run(BackupManager(cluster.config(), config).create_backup(BackupType.FULL))
    machine.give_to_service(root)
    return config


def config_file(config: BackupConfig, place: Path) -> Path:
    """The configuration as a file of the servers' user."""
    place.write_text(config_as_toml(config))
    place.chmod(0o600)
    machine.give_to_service(place)
    return place


def run_as_service(
    command: list[str], cwd: Path, timeout: float = 60, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        machine.as_service_user(command),
        cwd=cwd,
        env=machine.environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def workers_of(data_dir: Path) -> set[int]:
    """The resident workers of a data directory, by the lock that each holds."""
    found = set()
    lock = data_dir / "pg_wal" / "pgproof" / "lock"
    for process in Path("/proc").glob("[0-9]*"):
        # It may end at any point, or be somebody else's.
        with suppress(OSError):
            if any(_links_to(entry, lock) for entry in (process / "fd").iterdir()):
                found.add(int(process.name))
    return found - {os.getpid()}


def _links_to(entry: Path, target: Path) -> bool:
    try:
        return entry.readlink() == target
    except OSError:  # closed meanwhile
        return False


def make_segments(cluster: Cluster, count: int) -> str:
    """Fill and end segments; return the name of the last one that is complete."""
    name = ""
    for _ in range(count):
        name = cluster.psql(
            "SELECT pg_logical_emit_message(false, 'x', repeat(md5(random()::text), 8000)) IS NULL;"
            "SELECT pg_walfile_name(pg_switch_wal())"
        ).splitlines()[-1]
    return name
