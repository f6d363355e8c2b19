"""Where a service keeps what it needs, and that there is only one for a cluster on a machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shlex
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgproof.errors import ConflictError, PreconditionError
from pgproof.model.config import BackupConfig
from pgproof.postgres.wal_spool import write_atomically


@dataclass(frozen=True, slots=True)
class ServicePlace:
    """The directory of one service (mode 0700)."""

    root: Path

    @property
    def prefect_home(self) -> Path:
        return self.root / "prefect"

    @property
    def server_log(self) -> Path:
        return self.root / "prefect-server.log"

    @property
    def env_file(self) -> Path:
        """To be sourced before `prefect` commands: where the server is, and its password."""
        return self.root / "prefect.env"

    def password(self) -> str:
        """The password of the Prefect server, made once. User and password, as Prefect takes them."""
        path = self.root / "password"
        made = path.read_text(encoding="ascii").strip() if path.exists() else ""
        # By an empty one, whoever has emptied it, the server would be open to all.
        if not made:
            made = f"pgproof:{secrets.token_urlsafe(24)}"
            write_atomically(path, [f"{made}\n".encode()])
        return made

    def write_env_file(self, variables: Mapping[str, str]) -> None:
        write_atomically(
            self.env_file,
            (f"export {name}={shlex.quote(value)}\n".encode() for name, value in variables.items()),
        )


def service_place(given: str | None, cluster: str, environ: Mapping[str, str]) -> ServicePlace:
    """Make the directory: the one that is given, else systemd's StateDirectory=, else one below the user's state."""
    if given or environ.get("STATE_DIRECTORY"):
        base = Path(given or environ["STATE_DIRECTORY"])
    else:
        base = Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "pgproof" / "service"
    root = (base / cluster).absolute()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (root / "prefect").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise PreconditionError(
            "the state directory cannot be made",
            hint="name one that may be written with --state-dir",
            directory=root,
            reason=error.strerror,
        ) from error
    return ServicePlace(root)


@contextlib.contextmanager
def only_one(config: BackupConfig) -> Iterator[None]:
    """Be the only service of this repository and cluster on this machine. Raises ConflictError if there is one.

    A name in the abstract namespace belongs to no user and no directory, and goes with the process.
    """
    place = config.repository_url or config.backup_dir or f"s3://{config.s3_bucket}"
    if "://" not in place:
        place = str(Path(place).resolve())
    name = "\0pgproof-service-" + hashlib.sha256(f"{place}\n{config.cluster}".encode()).hexdigest()[:32]
    with socket.socket(socket.AF_UNIX) as mine:
        try:
            mine.bind(name)
        except OSError as error:
            raise ConflictError(
                "a service for this cluster runs already on this machine",
                hint="stop it first, or leave it to its work",
                cluster=config.cluster,
                repository=place,
                pid=_owner(name),
            ) from error
        mine.listen(8)
        yield


def _owner(name: str) -> int | None:
    """The process that holds the name; None if so many have asked already that it does not tell."""
    with socket.socket(socket.AF_UNIX) as asking:
        # Nobody takes the connections: when its queue is full, one would wait for ever.
        asking.setblocking(False)
        try:
            asking.connect(name)
        except OSError:
            return None
        size = struct.calcsize("3i")
        pid, _uid, _gid = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return int(pid)


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def mark_of_this_service() -> str:
    """An environment entry that no other service on this machine has."""
    return f"PGPROOF_SERVICE={os.getpid()}-{secrets.token_hex(8)}"
